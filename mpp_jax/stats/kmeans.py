"""k-means: Lloyd's iteration, with fixed shapes under ``jit``.

Mathematics
-----------
Given descriptors ``x_i`` (N, D), find centres ``c_k`` (K, D) with a locally smallest inertia
``sum_i min_k |x_i - c_k|^2``.

* Seeding: `mpp_jax.stats.seeding`.
* Lloyd: assign, then average, until the centres move by less than `tolerance`, or no inertia is
  gained.
* An empty cluster takes half of the widest one (`split_widest`).

Squared distances are ``|x|^2 - 2 x.c + |c|^2`` by one matrix product, of data moved to its mean:
far from the origin the expanded square has no correct digit left in float32.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from mpp_jax.numerics import PRECISION, check_key, check_positive_integer, mask_rows
from mpp_jax.stats.chunks import (
    ArrayData,
    ChunkStream,
    DataStats,
    data_stats,
    open_data,
)
from mpp_jax.stats.fixed_point import Method, State, Valued, run
from mpp_jax.stats.seeding import starting_centres

SPLIT = 0.25
"""A split component's halves stand this many standard deviations from its mean. The pair then has
the mean, the variance and (to fourth order in SPLIT) the density of the one, so a mixture's
likelihood hardly changes; EM and Lloyd pull the halves apart."""


class ClusterStats(NamedTuple):
    """Additive statistics of hard assignments: what Lloyd's next step needs."""

    s0: Array  # (K,) descriptors per cluster
    s1: Array  # (K, D) sum of x_i - c_k
    s2: Array  # (K, D) sum of (x_i - c_k)^2
    inertia: Array  # () sum of squared distances to the nearest centre


class KMeansInfo(NamedTuple):
    """How a k-means fit went; of the best restart, where there were several."""

    inertia: np.ndarray  # (max_iterations + 1,) mean squared distance after t steps, then NaN
    iterations: Array  # () steps done
    converged: Array  # () bool
    reseeded: np.ndarray  # (max_iterations,) clusters found empty at step t, and re-seeded
    counts: Array  # (K,) descriptors of each returned cluster


def nearest(x: Array, centres: Array) -> tuple[Array, Array]:
    """Return index and squared distance (N,) of the nearest of `centres` (K, D); first on ties.

    Move both near the origin first. ``min`` and a comparison: XLA's ``argmin`` is several times
    slower on CPUs, as its pair-wise reduction is not vectorised.
    """
    product = jnp.matmul(x, centres.T, precision=PRECISION)
    score = jnp.sum(jnp.square(centres), axis=1)[None, :] - 2 * product
    smallest = jnp.min(score, axis=1)
    number = jnp.arange(centres.shape[0])[None, :]
    index = jnp.min(jnp.where(score <= smallest[:, None], number, centres.shape[0] - 1), axis=1)
    return index, jnp.maximum(smallest + jnp.sum(jnp.square(x), axis=1), 0)


def sum_by_cluster(
    rows: Array, index: Array, clusters: int, *, form: Literal["scatter", "product"] | None = None
) -> Array:
    """Return the sums (K, M) of those rows (N, M) that belong to each cluster, by `index` (N,).

    Args:
        rows: (N, M).
        index: (N,) int.
        clusters: K.
        form: "scatter" adds row by row. "product" is a matrix product with zeros and ones (N, K):
            on accelerators quicker, and the same from run to run, where a scatter adds in whatever
            order its threads come. None takes what suits the backend.
    """
    if form is None:
        form = "scatter" if jax.default_backend() == "cpu" else "product"
    if form == "scatter":
        return jax.ops.segment_sum(rows, index, num_segments=clusters)
    member = index[None, :] == jnp.arange(clusters)[:, None]
    return jnp.matmul(member.astype(rows.dtype), rows, precision=PRECISION)


def assign_step(centres: Array, x: Array, mask: Array) -> ClusterStats:
    """Assign rows `x` (N, D) to `centres` (K, D); those outside `mask` (N,) count nothing."""
    index, _ = nearest(x, centres)
    k, d = centres.shape
    # Moments about the centre, not the origin: a narrow cluster far out keeps its digits.
    moved = (x - centres[index]) * mask[:, None]
    moments = jnp.concatenate([moved, jnp.square(moved), mask[:, None]], axis=1)
    sums = sum_by_cluster(moments, index, k)
    s2 = sums[:, d:-1]
    return ClusterStats(s0=sums[:, -1], s1=sums[:, :d], s2=s2, inertia=jnp.sum(s2))


def cluster_moments(stats: ClusterStats, centres: Array) -> tuple[Array, Array]:
    """Return mean and variance (K, D) of clusters; an empty one keeps its centre, variance 0."""
    some = (stats.s0 > 0)[:, None]
    count = jnp.where(some, stats.s0[:, None], 1)
    moved = stats.s1 / count
    variances = stats.s2 / count - jnp.square(moved)
    means = centres + jnp.where(some, moved, 0)
    # Equal rows have no width that a split could use, but a rounding of their mean.
    rounding = jnp.square(8 * jnp.finfo(means.dtype).eps * means)
    return means, jnp.where(some & (variances > rounding), variances, 0)


def split_widest(
    weights: Array, means: Array, variances: Array, dead: Array
) -> tuple[Array, Array, Array, Array]:
    """Give each `dead` (K,) component half of the widest living one, one after the other.

    The widest is the one with the largest share ``w_k sum_d var_kd`` of the total variance. It is
    cut at its mean across its dimension of largest variance, and the mixture's mean and covariance
    stay what they were.

    Args:
        weights: (K,), any scale.
        means: (K, D).
        variances: (K, D).
        dead: (K,) bool.

    Returns:
        the new weights, means and variances, and `dead` of those that could not be revived,
        because no living component has any width.
    """
    k, d = means.shape

    def revive(i: Array, state: Any) -> Any:
        weights, means, variances, dead = state
        width = jnp.where(dead, -1.0, weights * jnp.sum(variances, axis=1))
        j = jnp.argmax(width)
        axis = (jnp.arange(d) == jnp.argmax(variances[j])).astype(means.dtype)
        step = SPLIT * jnp.sqrt(variances[j]) * axis
        variance = variances[j] * jnp.where(axis > 0, 1 - SPLIT**2, 1.0)
        half = weights[j] / 2
        split = (
            weights.at[j].set(half).at[i].set(half),
            means.at[i].set(means[j] - step).at[j].add(step),
            variances.at[i].set(variance).at[j].set(variance),
            dead.at[i].set(False),
        )
        # With nothing alive or no width at all there is nothing to split.
        useful = dead[i] & (width[j] > 0)
        return jax.tree.map(lambda new, old: jnp.where(useful, new, old), split, state)

    return lax.fori_loop(0, k, revive, (weights, means, variances, dead))


def lloyd_step(centres: Array, stats: ClusterStats) -> tuple[Array, Array]:
    """Return centres (K, D) from the statistics under the old ones, and the number re-seeded."""
    means, variances = cluster_moments(stats, centres)
    dead = stats.s0 <= 0
    _, split, _, still = lax.cond(
        jnp.any(dead),
        lambda: split_widest(stats.s0, means, variances, dead),
        lambda: (stats.s0, means, variances, dead),
    )
    return split, jnp.sum(dead & ~still, dtype=jnp.int32)


class LloydSetting(NamedTuple):
    """What stays the same in all steps of a fit."""

    origin: Array  # (D,) to which the centres are relative; the descriptors are not
    tolerance: Array  # () stop when no centre moves further than its root


def _measure(params: tuple[Array, LloydSetting], x: Array, mask: Array) -> ClusterStats:
    centres, (origin, _) = params
    x = mask_rows(x.astype(centres.dtype), mask, origin) - origin[None, :]
    return assign_step(centres, x, mask)


def _value(stats: ClusterStats) -> Array:
    return stats.inertia / jnp.sum(stats.s0)


def _step(
    centres: Array, stats: ClusterStats, setting: LloydSetting
) -> tuple[Array, dict[str, Array]]:
    new, reseeded = lloyd_step(centres, stats)
    return new, {"reseeded": reseeded}


def _settled(
    old: Valued[Array],
    new: Valued[Array],
    events: dict[str, Array],
    setting: LloydSetting,
) -> Array:
    moved = jnp.max(jnp.sum(jnp.square(new.point - old.point), axis=1))
    # At a fixed point the centres still move by roundings.
    return (events["reseeded"] == 0) & ((moved <= setting.tolerance) | (new.value >= old.value))


LLOYD = Method(measure=_measure, value=_value, step=_step, settled=_settled, best=jnp.argmin)
"""Lloyd's iteration, of centres (K, D) with a `LloydSetting`."""


def fit_kmeans(
    key: Array,
    x: Any,
    n_clusters: int,
    *,
    mask: ArrayLike | None = None,
    tolerance: float = 1e-4,
    max_iterations: int = 100,
    init: str | ArrayLike = "k-means++",
    init_rows: int | None = None,
    restarts: int = 1,
    rows: int | None = None,
) -> tuple[Array, KMeansInfo]:
    """Fit centres to `x` by k-means.

    Args:
        key: PRNG key; the same key and data give the same centres.
        x: (N, D) array of any real dtype, which may be sharded over devices by rows, data frame or
            list of rows; or an iterable of such arrays (or a callable that returns one), read once
            per iteration in bounded memory.
        n_clusters: K.
        mask: (N,), rows where it is 0 or False are left out; arrays only.
        tolerance: stop when no centre moves further than ``sqrt(tolerance v)``, ``v`` the mean
            variance of a dimension, or when a step no longer lowers the inertia.
        max_iterations: Lloyd steps at most.
        init: "k-means++", "random" (distinct rows), or the first centres (K, D).
        init_rows: rows that the seeding looks at, drawn without replacement; 256 K by default.
        restarts: fits from as many seedings, of which the one with the lowest inertia is kept.
        rows: rows per chunk.

    Returns:
        centres (K, D) float32 (float64 where that is enabled and given), and `KMeansInfo`.

    Raises:
        ValueError: an argument out of range, fewer rows than clusters, NaN, infinity or values
            above 1e15.
        TypeError: a generator, which can be read only once; a key that is none.
    """
    check_key(key)
    n_clusters = check_positive_integer(n_clusters, "n_clusters")
    restarts = check_positive_integer(restarts, "restarts")
    max_iterations = check_positive_integer(max_iterations, "max_iterations")
    data = open_data(x, mask, rows)
    stats = data_stats(data)
    if stats.count < n_clusters:
        raise ValueError(
            f"x has {stats.count} rows, fewer than n_clusters={n_clusters}; "
            "give more descriptors or ask for fewer clusters."
        )
    starts = starting_centres(key, data, stats, n_clusters, init, init_rows, restarts)
    state = run_lloyd(starts, data, stats, tolerance, max_iterations)
    history = state.history.trimmed(max_iterations)
    info = KMeansInfo(
        inertia=history.values,
        iterations=history.iterations,
        converged=history.converged,
        reseeded=history.events["reseeded"],
        counts=state.stats.s0,
    )
    return state.point + stats.mean[None, :], info


def run_lloyd(
    starts: Array,
    data: ArrayData | ChunkStream,
    stats: DataStats,
    tolerance: float,
    max_iterations: int,
) -> State[Array, ClusterStats]:
    """Return the best of Lloyd's iterations from `starts` (R, K, D), relative to the mean."""
    moved = jnp.asarray(tolerance * float(np.mean(stats.variance)), stats.dtype)
    setting = LloydSetting(jnp.asarray(stats.mean), moved)
    return run(LLOYD, starts, setting, data, max_iterations)
