"""k-means: Lloyd's iteration, with fixed shapes under ``jit``.

Mathematics
-----------
Given descriptors ``x_i`` (N, D), find centres ``c_k`` (K, D) with a locally smallest inertia
``sum_i min_k |x_i - c_k|^2``.

* Seeding: :mod:`mpp_jax.stats.seeding`.
* Lloyd: assign, then average, until the centres move by less than ``tolerance``, or no inertia is
  gained.
* An empty cluster takes half of the widest one (:func:`split_widest`).

Squared distances are ``|x|^2 - 2 x.c + |c|^2`` by one matrix product, of data moved to its mean:
far from the origin the expanded square has no correct digit left in float32.
"""

from functools import partial
from typing import Any, NamedTuple

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
    Layout,
    data_stats,
    history_size,
    open_data,
    sum_over_rows,
    sum_stream,
)
from mpp_jax.stats.seeding import starting_centres

#: A split component's halves stand this many standard deviations from its mean. The pair then has
#: the mean, the variance and (to fourth order in SPLIT) the density of the one, so a mixture's
#: likelihood hardly changes; EM and Lloyd pull the halves apart.
SPLIT = 0.25


class ClusterStats(NamedTuple):
    """Additive statistics of hard assignments: what Lloyd's next step needs."""

    s0: Array  # (K,) descriptors per cluster
    s1: Array  # (K, D) sum of x_i - c_k
    s2: Array  # (K, D) sum of (x_i - c_k)^2
    inertia: Array  # () sum of squared distances to the nearest centre


class KMeansInfo(NamedTuple):
    """How a k-means fit went; of the best restart, where there were several."""

    inertia: Array  # (max_iterations + 1,) mean squared distance after t steps; NaN after the last
    iterations: Array  # () steps done
    converged: Array  # () bool
    reseeded: Array  # (max_iterations,) clusters found empty at step t, and re-seeded
    counts: Array  # (K,) descriptors of each returned cluster


def nearest(x: Array, centres: Array) -> tuple[Array, Array]:
    """Index (N,) and squared distance (N,) of the nearest of ``centres`` (K, D); first on ties.

    Move both near the origin first. ``min`` and a comparison: XLA's ``argmin`` is several times
    slower on CPUs, as its pair-wise reduction is not vectorised.
    """
    product = jnp.matmul(x, centres.T, precision=PRECISION)
    score = jnp.sum(jnp.square(centres), axis=1)[None, :] - 2 * product
    smallest = jnp.min(score, axis=1)
    number = jnp.arange(centres.shape[0])[None, :]
    index = jnp.min(jnp.where(score <= smallest[:, None], number, centres.shape[0] - 1), axis=1)
    return index, jnp.maximum(smallest + jnp.sum(jnp.square(x), axis=1), 0)


def assign_step(centres: Array, x: Array, mask: Array) -> ClusterStats:
    """Assign rows ``x`` (N, D) to ``centres`` (K, D); those outside ``mask`` (N,) count nothing."""
    index, _ = nearest(x, centres)
    k, d = centres.shape
    # Moments about the centre, not the origin: a narrow cluster far out keeps its digits.
    moved = (x - centres[index]) * mask[:, None]
    moments = jnp.concatenate([moved, jnp.square(moved), mask[:, None]], axis=1)
    sums = jax.ops.segment_sum(moments, index, num_segments=k)
    s2 = sums[:, d:-1]
    return ClusterStats(s0=sums[:, -1], s1=sums[:, :d], s2=s2, inertia=jnp.sum(s2))


def cluster_moments(stats: ClusterStats, centres: Array) -> tuple[Array, Array]:
    """Mean and variance (K, D) of each cluster; an empty one keeps its centre, with variance 0."""
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
    """Give each ``dead`` (K,) component half of the widest living one, one after the other.

    The widest is the one with the largest share ``w_k sum_d var_kd`` of the total variance. It is
    cut at its mean across its dimension of largest variance, and the mixture's mean and covariance
    stay what they were.

    Args:
        weights: (K,), any scale.
        means: (K, D).
        variances: (K, D).
        dead: (K,) bool.

    Returns:
        the new weights, means and variances, and ``dead`` of those that could not be revived,
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


class _State(NamedTuple):
    centres: Array
    stats: ClusterStats
    info: KMeansInfo


def lloyd_step(centres: Array, stats: ClusterStats) -> tuple[Array, Array]:
    """New centres (K, D) from the statistics under the old ones, and the number re-seeded."""
    means, variances = cluster_moments(stats, centres)
    dead = stats.s0 <= 0
    _, split, _, still = lax.cond(
        jnp.any(dead),
        lambda: split_widest(stats.s0, means, variances, dead),
        lambda: (stats.s0, means, variances, dead),
    )
    return split, jnp.sum(dead & ~still, dtype=jnp.int32)


def _begin(centres: Array, stats: ClusterStats, room: int) -> _State:
    history = jnp.full((room + 1,), jnp.nan, centres.dtype)
    info = KMeansInfo(
        inertia=history.at[0].set(stats.inertia / jnp.sum(stats.s0)),
        iterations=jnp.zeros((), jnp.int32),
        converged=jnp.zeros((), bool),
        reseeded=jnp.zeros((room,), jnp.int32),
        counts=stats.s0,
    )
    return _State(centres, stats, info)


def _record(
    state: _State, centres: Array, reseeded: Array, stats: ClusterStats, tolerance: Array
) -> _State:
    t, info = state.info.iterations, state.info
    moved = jnp.max(jnp.sum(jnp.square(centres - state.centres), axis=1))
    inertia = stats.inertia / jnp.sum(stats.s0)
    info = KMeansInfo(
        inertia=info.inertia.at[t + 1].set(inertia),
        iterations=t + 1,
        # At a fixed point the centres still move by roundings.
        converged=(reseeded == 0) & ((moved <= tolerance) | (inertia >= info.inertia[t])),
        reseeded=info.reseeded.at[t].set(reseeded),
        counts=stats.s0,
    )
    return _State(centres, stats, info)


def _centred_assign(params: tuple[Array, Array], x: Array, mask: Array) -> ClusterStats:
    centres, origin = params
    x = mask_rows(x.astype(centres.dtype), mask, origin) - origin[None, :]
    return assign_step(centres, x, mask)


@partial(jax.jit, static_argnames=("room", "rows", "layout"))
def _lloyd(
    centres: Array,
    origin: Array,
    x: Array,
    mask: Array,
    tolerance: Array,
    max_iterations: Array,
    room: int,
    rows: int,
    layout: Layout,
) -> _State:
    """The best of Lloyd's iterations from ``centres`` (R, K, D), relative to ``origin`` (D,)."""

    def fit(centres: Array) -> _State:
        def measure(centres: Array) -> ClusterStats:
            return sum_over_rows(_centred_assign, (centres, origin), x, mask, rows, layout)

        def unfinished(state: _State) -> Array:
            return ~state.info.converged & (state.info.iterations < max_iterations)

        def step(state: _State) -> _State:
            centres, reseeded = lloyd_step(state.centres, state.stats)
            return _record(state, centres, reseeded, measure(centres), tolerance)

        return lax.while_loop(unfinished, step, _begin(centres, measure(centres), room))

    # A batch of one would turn every lax.cond into a select.
    return fit(centres[0]) if centres.shape[0] == 1 else _best(jax.vmap(fit)(centres))


def _best(states: _State) -> _State:
    """Of states with a leading R, the one with the lowest inertia."""
    info = states.info
    last = jnp.take_along_axis(info.inertia, info.iterations[:, None], axis=1)
    best = jnp.argmin(last[:, 0])
    return jax.tree.map(lambda leaf: leaf[best], states)


def _lloyd_stream(
    centres: Array, origin: Array, data: ChunkStream, tolerance: Array, max_iterations: int
) -> _State:
    """:func:`_lloyd` for one start (K, D), with the data read from a stream."""

    def measure(centres: Array) -> ClusterStats:
        return sum_stream(_centred_assign, (centres, origin), data)

    state = _begin(centres, measure(centres), history_size(max_iterations))
    for _ in range(max_iterations):
        centres, reseeded = _jitted_lloyd_step(state.centres, state.stats)
        state = _jitted_record(state, centres, reseeded, measure(centres), tolerance)
        if state.info.converged:
            break
    return state


_jitted_lloyd_step = jax.jit(lloyd_step)
_jitted_record = jax.jit(_record)


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
    """Centres of ``x`` by k-means.

    Args:
        key: PRNG key; the same key and data give the same centres.
        x: (N, D) array of any real dtype, which may be sharded over devices by rows; or an iterable
            of such arrays (or a callable that returns one), read once per iteration in bounded
            memory.
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
        centres (K, D) float32 (float64 where that is enabled and given), and :class:`KMeansInfo`.

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
    info = state.info._replace(
        inertia=state.info.inertia[: max_iterations + 1],
        reseeded=state.info.reseeded[:max_iterations],
    )
    return state.centres + stats.mean[None, :], info


def run_lloyd(
    starts: Array,
    data: ArrayData | ChunkStream,
    stats: DataStats,
    tolerance: float,
    max_iterations: int,
) -> _State:
    """The best of Lloyd's iterations from ``starts`` (R, K, D); centres relative to the mean."""
    moved = jnp.asarray(tolerance * float(np.mean(stats.variance)), stats.dtype)
    origin = jnp.asarray(stats.mean)
    if isinstance(data, ArrayData):
        return _lloyd(
            starts,
            origin,
            data.x,
            data.mask,
            moved,
            max_iterations,
            room=history_size(max_iterations),
            rows=data.rows,
            layout=data.layout,
        )
    runs = [_lloyd_stream(start, origin, data, moved, max_iterations) for start in starts]
    return _best(jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs))
