"""Gaussian mixtures with diagonal covariances, fitted by expectation maximisation (EM).

``p(x) = sum_k w_k N(x; mu_k, diag(v_k))``, from k-means, random or given starts. The steps and
their mathematics: `mpp_jax.stats.em`; densities, sampling, BIC, AIC: `mpp_jax.stats.mixture`.

A fit runs in a frame in which the data have mean 0 and variances near 1: there float32 can afford
the expanded square, whatever the origin and the units of the descriptors.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from mpp_jax.numerics import check_key, check_positive_integer
from mpp_jax.stats.chunks import (
    ArrayData,
    ChunkStream,
    DataStats,
    data_stats,
    move_rows,
    open_data,
    sample_rows,
)
from mpp_jax.stats.em import EM, EMInfo, EMSetting
from mpp_jax.stats.fixed_point import run
from mpp_jax.stats.kmeans import ClusterStats, cluster_moments, run_lloyd
from mpp_jax.stats.mixture import GMM, Frame, check_gmm
from mpp_jax.stats.seeding import starting_centres


@jax.jit
def _pooled_start(centres: Array, stats: ClusterStats, floor: Array) -> GMM:
    """Make a mixture of clusters (K, D): each gets a descriptor's worth of the pooled variance.

    A cluster of one or two descriptors says next to nothing about its variance.
    """
    means, variances = cluster_moments(stats, centres)
    share = stats.s0[:, None]
    pooled = jnp.sum(share * variances, axis=0) / jnp.sum(stats.s0)
    smoothed = (share * variances + pooled[None, :]) / (share + 1)
    weights = (stats.s0 + 1) / jnp.sum(stats.s0 + 1)
    return GMM(weights, means, jnp.maximum(smoothed, floor[None, :]))


def _starts(
    key: Array,
    data: ArrayData | ChunkStream,
    stats: DataStats,
    n_components: int,
    floor: np.ndarray,
    init: str | GMM,
    init_rows: int | None,
    restarts: int,
) -> GMM:
    """Return first mixtures, leaves with a leading R, relative to the data's mean (not scaled)."""
    if isinstance(init, GMM):
        if restarts != 1:
            raise ValueError("restarts need random starts: give restarts=1 with a GMM as init.")
        start = check_gmm(init, "init", len(stats.mean), n_components)
        weights, means, variances = (np.asarray(leaf, stats.dtype) for leaf in start)
        centred = (weights, means - stats.mean[None, :], variances)
        return GMM(*(jnp.asarray(leaf[None]) for leaf in centred))
    if init not in ("kmeans", "random"):
        raise ValueError(f"init must be 'kmeans', 'random' or a GMM; got {init!r}.")
    seeding = "k-means++" if init == "kmeans" else "random"
    sample_key, seed_key = jax.random.split(key)
    rows = sample_rows(data, sample_key, init_rows or 256 * n_components)
    some = open_data(move_rows(rows, stats.mean, stats.dtype), None, data.rows)
    moved = stats._replace(mean=np.zeros_like(stats.mean))
    starts = starting_centres(seed_key, some, moved, n_components, seeding, None, restarts)
    if init == "random":
        weights = np.full(starts.shape[:2], 1 / n_components, stats.dtype)
        variances = np.broadcast_to(np.maximum(stats.variance, floor), starts.shape)
        return GMM(jnp.asarray(weights), starts, jnp.asarray(variances))
    each = [starts] if restarts == 1 else [starts[r : r + 1] for r in range(restarts)]
    ends = [run_lloyd(start, some, moved, 1e-4, 30) for start in each]
    return _stacked(*[_pooled_start(end.point, end.stats, floor) for end in ends])


def fit_gmm(
    key: Array,
    x: Any,
    n_components: int,
    *,
    mask: ArrayLike | None = None,
    tolerance: float = 1e-3,
    max_iterations: int = 100,
    variance_floor: ArrayLike = 0.0,
    relative_variance_floor: float = 1e-4,
    init: str | GMM = "kmeans",
    init_rows: int | None = None,
    restarts: int = 1,
    smallest_share: float = 0.01,
    rows: int | None = None,
) -> tuple[GMM, EMInfo]:
    """Fit a mixture of `n_components` diagonal Gaussians to `x`, by EM.

    Args:
        key: PRNG key; the same key and data give the same mixture.
        x: (N, D) array of any real dtype, which may be sharded over devices by rows, data frame or
            list of rows; or an iterable of such arrays (or a callable that returns one), read once
            per iteration in bounded memory.
        n_components: K.
        mask: (N,), rows where it is 0 or False are left out; arrays only.
        tolerance: stop when an M-step changes the mean log-likelihood (nats per descriptor) by
            less.
        max_iterations: M-steps at most.
        variance_floor: smallest variance, () or (D,), in squared units of `x`.
        relative_variance_floor: smallest variance as a share of the largest variance that the data
            have in any dimension. The larger of the two floors holds.
        init: "kmeans" (k-means++ and Lloyd), "random" (distinct rows as means, the variances of the
            data, equal weights), or a mixture to start from.
        init_rows: rows that the start is made from, drawn without replacement; 256 K by default.
        restarts: fits from as many starts, of which the most likely is kept.
        smallest_share: components with fewer than ``smallest_share max(1, N/K)`` descriptors are
            re-seeded by splitting the widest; 0 never re-seeds.
        rows: rows per chunk.

    Returns:
        `GMM` in float32 (float64 where that is enabled and given), and `EMInfo`.

    Raises:
        ValueError: an argument out of range, fewer rows than components, NaN, infinity or values
            above 1e15, or data without any variance and no `variance_floor`.
        TypeError: a generator, which can be read only once; a key that is none.
    """
    check_key(key)
    n_components = check_positive_integer(n_components, "n_components")
    restarts = check_positive_integer(restarts, "restarts")
    max_iterations = check_positive_integer(max_iterations, "max_iterations")
    if not relative_variance_floor >= 0 or np.min(variance_floor) < 0:
        raise ValueError("variance_floor and relative_variance_floor must not be negative.")
    if init_rows is not None and init_rows < n_components:
        raise ValueError(
            f"init_rows must be at least {n_components}, as n_components; got {init_rows}."
        )
    data = open_data(x, mask, rows)
    stats = data_stats(data)
    if stats.count < n_components:
        raise ValueError(
            f"x has {stats.count} rows, fewer than n_components={n_components}; "
            "give more descriptors or ask for fewer components."
        )
    if np.ndim(variance_floor) > 1 or np.size(variance_floor) not in (1, len(stats.mean)):
        raise ValueError(
            f"variance_floor must be one number or {len(stats.mean)}, one for each dimension; "
            f"got shape {np.shape(variance_floor)}."
        )
    lowest = np.maximum(variance_floor, relative_variance_floor * float(np.max(stats.variance)))
    if np.min(lowest) < np.finfo(np.float32).tiny:
        raise ValueError(
            "the variance floor is 0 or too small for float32: the descriptors are all equal or "
            "tiny, or relative_variance_floor is 0. Give a positive variance_floor, or rescale the "
            "descriptors."
        )
    floor = np.broadcast_to(lowest, stats.mean.shape).astype(stats.dtype)
    starts = _starts(key, data, stats, n_components, floor, init, init_rows, restarts)
    # At the floor's own scale a constant dimension is harmless.
    scale = np.sqrt(np.maximum(stats.variance, floor))
    frame = Frame(jnp.asarray(stats.mean), jnp.asarray(scale))
    setting = EMSetting(
        frame=frame,
        floor=jnp.asarray(floor / np.square(scale)),
        tolerance=jnp.asarray(tolerance, stats.dtype),
        smallest_share=jnp.asarray(smallest_share, stats.dtype),
    )
    state = run(EM, _scaled(starts, frame), setting, data, max_iterations)
    gmm, values = _unscaled(state.point, state.history.values, frame)
    history = state.history._replace(values=values).trimmed(max_iterations)
    return gmm, EMInfo(
        log_likelihood=history.values,
        iterations=history.iterations,
        converged=history.converged,
        floored=history.events["floored"],
        reseeded=history.events["reseeded"],
        floor=jnp.asarray(floor),
    )


@jax.jit
def _stacked(*gmms: GMM) -> GMM:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *gmms)


@jax.jit
def _scaled(starts: GMM, frame: Frame) -> GMM:
    """Bring mixtures relative to the mean of the data into the frame's scale too."""
    scale = frame.scale[None, None, :]
    return GMM(starts.weights, starts.means / scale, starts.variances / jnp.square(scale))


@jax.jit
def _unscaled(gmm: GMM, log_likelihood: Array, frame: Frame) -> tuple[GMM, Array]:
    """Bring a mixture and mean log-likelihoods out of the frame."""
    return frame.leave_gmm(gmm), log_likelihood - jnp.sum(jnp.log(frame.scale))
