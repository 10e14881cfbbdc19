r"""Fisher vectors of descriptor sets under a Gaussian mixture with diagonal covariances.

Mathematics
-----------
With responsibilities ``q_ik`` of descriptors ``x_i``, i = 1..N, and ``y_ik = (x_i - mu_k) /
sigma_k``,

    alpha_k = sum_i (q_ik - w_k)            / (N sqrt(w_k))        (K,)     block "weight", optional
    u_k     = sum_i q_ik y_ik               / (N sqrt(w_k))        (K, D)   block "mean"
    v_k     = sum_i q_ik (y_ik^2 - 1)       / (N sqrt(2 w_k))      (K, D)   block "sigma"

are the gradients of the mean log-likelihood with respect to the (softmax) weights, means and
standard deviations, whitened by the diagonal approximation of the Fisher information (Perronnin and
Dance 2007; Sánchez et al., "Image Classification with the Fisher Vector", 2013). Layout, sign and
scale are those of VLFeat's ``fisher.c``: all mean blocks, k = 1..K, then all sigma blocks; ``2 K
D`` numbers. As there, components with a weight below 1e-6 are left out and their blocks are 0, and
responsibilities below 1e-6 count as 0 (the square root makes that visible: up to 3e-3 of an
improved vector of one descriptor). ``prune=0`` keeps them all, which is the exact gradient.

The sums are additive: scales, chunks and devices are encoded by themselves or together from one
E-step.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from mpp_jax.numerics import PRECISION, check_set
from mpp_jax.stats.mixture import (
    GMM,
    check_mixture,
    choose,
    gmm_frame,
    living,
    log_joint,
    posteriors,
    widened,
    with_squares,
)

SMALLEST_WEIGHT = 1e-6
"""Components lighter than this are left out (VLFeat's VL_GMM_MIN_PRIOR)."""

SMALLEST_POSTERIOR = 1e-6
"""Responsibilities smaller than this count as 0 (the threshold in VLFeat's ``fisher.c``)."""


class FisherStatistics(NamedTuple):
    """Additive statistics of one descriptor set under one mixture; sets add leaf by leaf."""

    count: Array  # type: ignore[assignment]  # () descriptors; hides tuple.count
    s0: Array  # (K,) sum_i q_ik
    s1: Array  # (K, D) sum_i q_ik y_ik
    s2: Array  # (K, D) sum_i q_ik (y_ik^2 - 1)


def fisher_statistics(
    x: ArrayLike, gmm: GMM, mask: ArrayLike | None = None, *, prune: float = SMALLEST_POSTERIOR
) -> FisherStatistics:
    """Return the statistics of the descriptors `x` (N, D). Pure; batches are ``vmap``.

    Args:
        x: (N, D), any real dtype; the arithmetic is float32 at least.
        gmm: the mixture, K components.
        mask: (N,), rows where it is 0 or False are left out, whatever they hold.
        prune: responsibilities below it count as 0, without renormalisation; 0 keeps them all.

    Raises:
        ValueError: `x` that is no set of the mixture's dimension, a mask of other rows, or, where
            its arrays are concrete, a mixture that cannot be one.
    """
    x = jnp.asarray(x)
    valid = None if mask is None else jnp.asarray(mask) != 0
    check_mixture(gmm)
    check_set(x, gmm.means.shape[-1], "mixture", valid)
    gmm = widened(gmm, x)
    frame = gmm_frame(gmm)
    inner, alive = living(frame.enter_gmm(gmm), SMALLEST_WEIGHT)
    z = frame.enter(x, valid)
    count = jnp.asarray(x.shape[0] if valid is None else jnp.sum(valid), z.dtype)

    q, _ = posteriors(log_joint(z, inner, alive))
    if prune:
        q = jnp.where(q >= prune, q, 0)
    if valid is not None:
        q = q * valid[None, :]
    return FisherStatistics(count, *weighted_sums(q, z, inner))


@partial(jax.jit, inline=True)
def weighted_sums(q: Array, z: Array, gmm: GMM) -> tuple[Array, Array, Array]:
    """Return `s0`, `s1`, `s2` of `FisherStatistics` for weights `q` (K, N); linear in `q`.

    `z` (N, D) and `gmm` are in one frame, `gmm` as `mpp_jax.stats.mixture.living` gives it.
    """
    sigma = jnp.sqrt(gmm.variances)

    def expanded() -> tuple[Array, Array, Array]:
        s0 = jnp.sum(q, axis=1)[:, None]
        moments = jnp.matmul(q, with_squares(z), precision=PRECISION)
        first, second = jnp.split(moments, 2, axis=1)
        s1 = (first - s0 * gmm.means) / sigma
        s2 = (second - gmm.means * (2 * first - s0 * gmm.means)) / gmm.variances - s0
        return s0[:, 0], s1, s2

    def direct() -> tuple[Array, Array, Array]:
        def one(component: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            q, mean, sigma = component
            y = (z - mean[None, :]) / sigma[None, :]
            first = jnp.matmul(q, y, precision=PRECISION)
            second = jnp.matmul(q, jnp.square(y) - 1, precision=PRECISION)
            return jnp.sum(q), first, second

        return lax.map(one, (q, gmm.means, sigma))

    return choose(gmm, expanded, direct)


def fisher_from_statistics(
    stats: FisherStatistics, gmm: GMM, *, blocks: tuple[str, ...] = ("mean", "sigma")
) -> Array:
    """Return the plain Fisher vector (no power, no L2) of statistics; of no descriptor, 0. Pure.

    Args:
        stats: from `fisher_statistics` under the same `gmm`, or a sum of such.
        gmm: the mixture.
        blocks: which gradients, in this order: "weight" (K numbers), "mean" (K D), "sigma" (K D).
    """
    unknown = set(blocks) - {"weight", "mean", "sigma"}
    if unknown or not blocks:
        raise ValueError(f"blocks must be some of 'weight', 'mean' and 'sigma'; got {blocks}.")
    weights = jnp.asarray(gmm.weights, stats.s0.dtype)
    alive = weights >= SMALLEST_WEIGHT
    scale = jnp.where(alive, 1 / jnp.sqrt(jnp.where(alive, weights, 1)), 0)
    scale = scale / jnp.maximum(stats.count, 1)
    parts = {
        "weight": scale * (stats.s0 - stats.count * weights),
        "mean": scale[:, None] * stats.s1,
        "sigma": scale[:, None] * stats.s2 / math.sqrt(2),
    }
    return jnp.concatenate([parts[block].ravel() for block in blocks])


def fisher_vector(
    x: ArrayLike,
    gmm: GMM,
    mask: ArrayLike | None = None,
    *,
    blocks: tuple[str, ...] = ("mean", "sigma"),
    prune: float = SMALLEST_POSTERIOR,
) -> Array:
    """Return the plain Fisher vector of `x`, ``(N, D) -> (2 K D,)``, in VLFeat's layout.

    Plain: no power, no L2; finish it with `mpp_jax.numerics.power_l2` for the "improved" Fisher
    vector. Pure and differentiable with respect to `x` and `gmm`; a batch of sets is ``vmap``.
    Arguments as for `fisher_statistics` and `fisher_from_statistics`.
    """
    stats = fisher_statistics(x, gmm, mask, prune=prune)
    return fisher_from_statistics(stats, gmm, blocks=blocks)


def fisher_vectors(
    x: ArrayLike,
    gmm: GMM,
    mask: ArrayLike | None = None,
    *,
    blocks: tuple[str, ...] = ("mean", "sigma"),
    prune: float = SMALLEST_POSTERIOR,
    batch: int | None = None,
) -> Array:
    """Return plain Fisher vectors of many sets, ``(B, N, D) -> (B, 2 K D)``. Pure; jit it.

    ``vmap`` of `fisher_vector` over groups of `batch` sets, one group after the other. By default
    the groups are single sets on CPUs, where the responsibilities of one set stay in the cache (a
    ``vmap`` over eight takes half as long again), and the whole batch elsewhere. `mask` is (B, N).
    """
    x = jnp.asarray(x)
    check_mixture(gmm)
    mask = jnp.ones(x.shape[:2], bool) if mask is None else jnp.asarray(mask) != 0
    size = batch or (1 if jax.default_backend() == "cpu" else x.shape[0])
    return _fisher_vectors(x, gmm, mask, tuple(blocks), float(prune), size)


@partial(jax.jit, static_argnames=("blocks", "prune", "size"), inline=True)
def _fisher_vectors(
    x: Array, gmm: GMM, mask: Array, blocks: tuple[str, ...], prune: float, size: int
) -> Array:
    def one(args: tuple[Array, Array]) -> Array:
        return fisher_vector(args[0], gmm, args[1], blocks=blocks, prune=prune)

    if size == 1:
        return lax.map(one, (x, mask))
    return lax.map(one, (x, mask), batch_size=size)
