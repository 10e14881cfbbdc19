"""The codebook: how a descriptor enters the encoder (L2, PCA, L2), and the mixture there."""

from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mpp_jax.config import AUTOMATIC, Encoder
from mpp_jax.devices import collected, current_mesh, spread, spread_rows
from mpp_jax.numerics import all_finite, as_numbers, l2_normalize
from mpp_jax.stats.chunks import data_stats, open_data
from mpp_jax.stats.em import EMInfo
from mpp_jax.stats.gmm import fit_gmm
from mpp_jax.stats.kmeans import KMeansInfo, fit_kmeans
from mpp_jax.stats.mixture import GMM, settled
from mpp_jax.stats.pca import PCA, fit_pca, pca_transform


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["pca", "gmm"],
    meta_fields=["l2_before", "l2_after"],
)
@dataclass(frozen=True)
class Codebook:
    """PCA and mixture, fitted to the same descriptors.

    Attributes:
        pca: projection from C to P dimensions.
        gmm: mixture of K Gaussians in P dimensions.
        l2_before: whether descriptors are L2-normalised before the projection (static).
        l2_after: and after it (static).
    """

    pca: PCA
    gmm: GMM
    l2_before: bool = False
    l2_after: bool = False


Codebooks = dict[str, Codebook]
"""By source of the descriptors and recipe, see `mpp_jax.pooling.notation.Atom.codebook`."""


def settled_codebooks(codebooks: Codebooks) -> Codebooks:
    """Return them with mixtures of which is known how they are computed, where that saves waiting.

    Elsewhere than on a CPU, see `mpp_jax.stats.mixture.WellConditioned`. For many pictures: a
    mixture is looked at, and waited for, once.
    """
    if jax.default_backend() == "cpu":
        return codebooks
    return {key: replace(book, gmm=settled(book.gmm)) for key, book in codebooks.items()}


@dataclass(frozen=True)
class Recipe:
    """How the codebook of a pooling variant is fitted; variants of one recipe share it.

    Attributes:
        name: letters, digits and ``-``.
        pca: dimensions kept; None for those of the run's settings.
        components: of the mixture; None likewise.
        mixture: False for the centres of k-means alone, as equal and round components.
    """

    name: str
    pca: int | None = None
    components: int | None = None
    mixture: bool = True

    def settings(self, config: Encoder) -> Encoder:
        """Return a run's settings with this recipe's own sizes."""
        return replace(
            config,
            pca=self.pca or config.pca,
            components=self.components or config.components,
        )


FISHER = Recipe("fisher")


class CodebookInfo(NamedTuple):
    """How the fit went."""

    samples: int
    explained: float  # share of the descriptors' variance that the projection keeps
    em: EMInfo | KMeansInfo  # of the mixture, or of the centres that stand for it


def project(codebook: Codebook, x: Array) -> Array:
    """Bring descriptors (..., C) into the mixture's space: (..., P). Pure."""
    if codebook.l2_before:
        x = l2_normalize(x)
    y = pca_transform(codebook.pca, x)
    return l2_normalize(y) if codebook.l2_after else y


def check_sizes(n: int, channels: int, config: Encoder) -> None:
    """Raise a ValueError where n descriptors of so many channels cannot fit a codebook."""
    if config.components == AUTOMATIC:
        raise ValueError("components: 0 (automatic) is settled by a job; give a number")
    if n < max(config.components, config.pca) or channels < config.pca:
        raise ValueError(
            f"{n} descriptors of {channels} dimensions cannot fit --pca {config.pca} and "
            f"--components {config.components}; use more pictures or smaller numbers"
        )


def fit_codebook(
    key: Array, x: np.ndarray | Array, config: Encoder, *, mixture: bool = True
) -> tuple[Codebook, CodebookInfo]:
    """Fit PCA and mixture to sampled descriptors, over the devices of `mpp_jax.devices`.

    Args:
        key: of the mixture's initialisation.
        x: (N, C) descriptors, raw.
        config: sizes and tolerances.
        mixture: False for k-means centres, as components of equal weight and variance 1.

    Returns:
        the codebook and a `CodebookInfo`.

    Raises:
        ValueError: fewer descriptors than components or dimensions, or NaN among them.
    """
    x = as_numbers(x, "x")
    if np.ndim(x) != 2:
        raise ValueError(f"x must be (N, C) descriptors, got shape {np.shape(x)}")
    check_sizes(x.shape[0], x.shape[1], config)
    n, mesh, mask = x.shape[0], current_mesh(), None
    if mesh is None:
        x = jnp.asarray(x)
    else:
        x, mask = spread_rows(x, mesh)
    if not _all_finite(x):
        raise ValueError(
            "the descriptors hold NaN or infinity: the network overflows; check its weight file "
            "(mpp-jax weights verify FILE)"
        )
    before, after = config.l2 in ("before", "both"), config.l2 == "both"
    x = spread(_normalize(x), mesh) if before else x
    pca = fit_pca(x, config.pca, whiten=config.whiten, mask=mask)
    total = _total_variance(x, mask)
    y = _transform(pca, x)
    y = spread(_normalize(y) if after else y, mesh)
    steps: EMInfo | KMeansInfo
    if mixture:
        gmm, steps = fit_gmm(
            key,
            y,
            config.components,
            mask=mask,
            tolerance=config.tolerance,
            max_iterations=config.max_iterations,
            relative_variance_floor=config.variance_floor,
        )
    else:
        centres, steps = fit_kmeans(
            key, y, config.components, mask=mask, max_iterations=config.max_iterations
        )
        k = config.components
        gmm = GMM(jnp.full(k, 1 / k), centres, jnp.ones_like(centres))
    explained = float(np.sum(np.asarray(pca.explained_variance, np.float64))) / max(total, 1e-30)
    found = Codebook(pca, gmm, before, after), CodebookInfo(n, min(explained, 1.0), steps)
    return found if mesh is None else collected(found)


_all_finite = jax.jit(all_finite)
_normalize = jax.jit(l2_normalize)
_transform = jax.jit(pca_transform)
_variance = jax.jit(lambda x: jnp.var(x, axis=0, ddof=1).sum())


def _total_variance(x: Array, mask: Array | None) -> float:
    if mask is None:
        return float(_variance(x))
    stats = data_stats(open_data(x, mask))
    return float(np.sum(stats.variance)) * stats.count / max(stats.count - 1, 1)
