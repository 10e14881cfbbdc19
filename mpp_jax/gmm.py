"""Gaussian mixtures with diagonal covariances, fitted by expectation maximisation (EM).

Mathematics
-----------
``p(x) = sum_k w_k N(x; mu_k, diag(v_k))`` with weights ``w`` (K,), means ``mu`` (K, D) and
variances ``v`` (K, D). Under a mixture, a descriptor ``x_i`` has the responsibilities

    q_ik = w_k N(x_i; mu_k, v_k) / sum_j w_j N(x_i; mu_j, v_j),

and one EM step sets, with ``S0_k = sum_i q_ik``, ``S1_k = sum_i q_ik x_i``, ``S2_k = sum_i q_ik
x_i^2``,

    w_k = S0_k / N,   mu_k = S1_k / S0_k,   v_k = max(S2_k / S0_k - mu_k^2, floor).

The sums are additive, so chunks, masks and devices only add. No responsibility is pruned: this is
exact EM (VLFeat's drops those below 0.01/K), and the mean log-likelihood never falls, except where
a variance meets its floor or a component is re-seeded; :class:`EMInfo` says where.

The exponent is expanded, ``-x^2/2v + x mu/v - mu^2/2v``, to be one matrix product. So the fit runs
in a frame in which the data have mean 0 and variances near 1, and the evaluation in one in which
the mixture has.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from mpp_jax.chunks import (
    ArrayData,
    ChunkStream,
    DataStats,
    Layout,
    data_stats,
    history_size,
    open_data,
    sample_rows,
    sum_over_rows,
    sum_stream,
)
from mpp_jax.kmeans import ClusterStats, cluster_moments, run_lloyd, split_widest, starting_centres
from mpp_jax.mixture import (
    GMM,
    Frame,
    aic,
    bic,
    check_gmm,
    expanded_log_joint,
    living,
    log_prob,
    mean_log_likelihood,
    posteriors,
    responsibilities,
    sample,
    with_squares,
)
from mpp_jax.numerics import PRECISION, check_positive_integer

__all__ = [
    "GMM",
    "EMInfo",
    "SuffStats",
    "aic",
    "bic",
    "e_step",
    "fit_gmm",
    "log_prob",
    "m_step",
    "mean_log_likelihood",
    "responsibilities",
    "sample",
]


class SuffStats(NamedTuple):
    """Additive statistics of responsibilities: all that the M-step needs."""

    count: Array  # type: ignore[assignment]  # () descriptors; hides tuple.count
    s0: Array  # (K,) sum_i q_ik
    s1: Array  # (K, D) sum_i q_ik x_i
    s2: Array  # (K, D) sum_i q_ik x_i^2
    log_likelihood: Array  # () sum_i log p(x_i)


class EMInfo(NamedTuple):
    """How a fit went; of the best restart, where there were several. T is ``max_iterations``."""

    log_likelihood: Array  # (T + 1,) mean over descriptors after t M-steps; NaN after the last
    iterations: Array  # () M-steps done
    converged: Array  # () bool: the mean log-likelihood changed by less than the tolerance
    floored: Array  # (T,) variances that M-step t lifted to the floor
    reseeded: Array  # (T,) components that M-step t re-seeded
    floor: Array  # (D,) the variance floor


def e_step(gmm: GMM, z: Array, mask: Array) -> SuffStats:
    """Statistics of rows ``z`` (N, D) near the origin; rows outside ``mask`` (N,) do not count."""
    known, alive = living(gmm)
    q, log_p = posteriors(expanded_log_joint(z, known, alive))
    q = q * mask[None, :]
    moments = jnp.matmul(q, with_squares(z), precision=PRECISION)
    d = z.shape[1]
    return SuffStats(
        count=jnp.sum(mask),
        s0=jnp.sum(q, axis=1),
        s1=moments[:, :d],
        s2=moments[:, d:],
        log_likelihood=jnp.sum(log_p * mask),
    )


def m_step(
    stats: SuffStats, gmm: GMM, floor: Array, smallest_share: float | Array = 0.01
) -> tuple[GMM, Array, Array]:
    """The mixture that maximises the expected log-likelihood, with floors.

    A component with less than ``smallest_share max(1, N/K)`` descriptors (VLFeat's measure) is
    dead: too little is left of it to estimate a variance from, and EM cannot bring it back. It
    takes half of the widest component (:func:`mpp_jax.kmeans.split_widest`).

    Args:
        stats: from :func:`e_step`, summed.
        gmm: the mixture of that E-step.
        floor: (D,) smallest variance.
        smallest_share: 0 lets components die.

    Returns:
        the mixture, how many variances were lifted to the floor, and how many components re-seeded.
    """
    k = stats.s0.shape[0]
    dead = stats.s0 < smallest_share * jnp.maximum(1, stats.count / k)
    some = stats.s0 > 0
    mass = jnp.where(some, stats.s0, 1)[:, None]
    means = jnp.where(some[:, None], stats.s1 / mass, gmm.means)
    raw = jnp.where(some[:, None], stats.s2 / mass - jnp.square(means), gmm.variances)
    variances = jnp.maximum(raw, floor[None, :])
    weights, means, variances, still = lax.cond(
        jnp.any(dead),
        lambda: split_widest(stats.s0, means, variances, dead),
        lambda: (stats.s0, means, variances, dead),
    )
    # A half of a component at the floor is narrower than the floor.
    variances = jnp.maximum(variances, floor[None, :])
    floored = jnp.sum((raw < floor[None, :]) & ~dead[:, None], dtype=jnp.int32)
    new = GMM(weights / jnp.sum(weights), means, variances)
    return new, floored, jnp.sum(dead & ~still, dtype=jnp.int32)


class _State(NamedTuple):
    gmm: GMM
    stats: SuffStats
    info: EMInfo


def _begin(gmm: GMM, stats: SuffStats, floor: Array, room: int) -> _State:
    history = jnp.full((room + 1,), jnp.nan, gmm.means.dtype)
    none = jnp.zeros((room,), jnp.int32)
    info = EMInfo(
        log_likelihood=history.at[0].set(stats.log_likelihood / stats.count),
        iterations=jnp.zeros((), jnp.int32),
        converged=jnp.zeros((), bool),
        floored=none,
        reseeded=none,
        floor=floor,
    )
    return _State(gmm, stats, info)


def _record(
    state: _State, step: tuple[GMM, Array, Array], stats: SuffStats, tolerance: Array
) -> _State:
    gmm, floored, reseeded = step
    t, info = state.info.iterations, state.info
    now = stats.log_likelihood / stats.count
    change = jnp.abs(now - info.log_likelihood[t])
    info = info._replace(
        log_likelihood=info.log_likelihood.at[t + 1].set(now),
        iterations=t + 1,
        converged=(reseeded == 0) & (change < tolerance),
        floored=info.floored.at[t].set(floored),
        reseeded=info.reseeded.at[t].set(reseeded),
    )
    return _State(gmm, stats, info)


def _framed_e_step(params: tuple[GMM, Frame], x: Array, mask: Array) -> SuffStats:
    gmm, frame = params
    return e_step(gmm, frame.enter(x, mask), mask)


@partial(jax.jit, static_argnames=("room", "rows", "layout"))
def _em(
    starts: GMM,
    frame: Frame,
    x: Array,
    mask: Array,
    floor: Array,
    tolerance: Array,
    smallest_share: Array,
    max_iterations: Array,
    room: int,
    rows: int,
    layout: Layout,
) -> _State:
    """EM from ``starts`` (leaves with a leading R, the restarts), in ``frame``'s coordinates."""

    def fit(gmm: GMM) -> _State:
        def expect(gmm: GMM) -> SuffStats:
            return sum_over_rows(_framed_e_step, (gmm, frame), x, mask, rows, layout)

        def unfinished(state: _State) -> Array:
            return ~state.info.converged & (state.info.iterations < max_iterations)

        def step(state: _State) -> _State:
            new = m_step(state.stats, state.gmm, floor, smallest_share)
            return _record(state, new, expect(new[0]), tolerance)

        return lax.while_loop(unfinished, step, _begin(gmm, expect(gmm), floor, room))

    # A batch of one would turn every lax.cond into a select.
    if starts.weights.shape[0] == 1:
        return jax.tree.map(lambda leaf: leaf[None], fit(jax.tree.map(lambda a: a[0], starts)))
    return jax.vmap(fit)(starts)


_jitted_m_step = jax.jit(m_step)
_jitted_record = jax.jit(_record)


def _em_stream(
    gmm: GMM,
    frame: Frame,
    data: ChunkStream,
    floor: Array,
    tolerance: Array,
    smallest_share: Array,
    max_iterations: int,
) -> _State:
    """:func:`_em` for one start, with the data read from a stream."""

    def expect(gmm: GMM) -> SuffStats:
        return sum_stream(_framed_e_step, (gmm, frame), data)

    state = _begin(gmm, expect(gmm), floor, history_size(max_iterations))
    for _ in range(max_iterations):
        new = _jitted_m_step(state.stats, state.gmm, floor, smallest_share)
        state = _jitted_record(state, new, expect(new[0]), tolerance)
        if state.info.converged:
            break
    return state


@jax.jit
def _pooled_start(centres: Array, stats: ClusterStats, floor: Array) -> GMM:
    """A mixture from clusters (K, D): each gets one descriptor's worth of the pooled variance.

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
    """First mixtures, leaves with a leading R, relative to the mean of the data (not scaled)."""
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
    some = open_data(rows.astype(stats.dtype) - stats.mean[None, :], None, data.rows)
    moved = stats._replace(mean=np.zeros_like(stats.mean))
    starts = starting_centres(seed_key, some, moved, n_components, seeding, None, restarts)
    if init == "random":
        weights = np.full(starts.shape[:2], 1 / n_components, stats.dtype)
        variances = np.broadcast_to(np.maximum(stats.variance, floor), starts.shape)
        return GMM(jnp.asarray(weights), starts, jnp.asarray(variances))
    runs = [run_lloyd(start[None], some, moved, 1e-4, 30) for start in starts]
    gmms = [_pooled_start(run.centres, run.stats, floor) for run in runs]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *gmms)


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
    """A mixture of ``n_components`` diagonal Gaussians for ``x``, by EM.

    Args:
        key: PRNG key; the same key and data give the same mixture.
        x: (N, D) array of any real dtype, which may be sharded over devices by rows; or an iterable
            of such arrays (or a callable that returns one), read once per iteration in bounded
            memory.
        n_components: K.
        mask: (N,), rows where it is 0 or False are left out; arrays only.
        tolerance: stop when an M-step changes the mean log-likelihood (nats per descriptor) by
            less.
        max_iterations: M-steps at most.
        variance_floor: smallest variance, () or (D,), in squared units of ``x``.
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
        :class:`GMM` in float32 (float64 where that is enabled and given), and :class:`EMInfo`.

    Raises:
        ValueError: an argument out of range, fewer rows than components, NaN, infinity or values
            above 1e15, or data without any variance and no ``variance_floor``.
        TypeError: a generator, which can be read only once.
    """
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
    settings = (
        jnp.asarray(floor / np.square(scale)),
        jnp.asarray(tolerance, stats.dtype),
        jnp.asarray(smallest_share, stats.dtype),
    )
    starts = _scaled(starts, frame)
    if isinstance(data, ArrayData):
        states = _em(
            starts,
            frame,
            data.x,
            data.mask,
            *settings,
            max_iterations,
            room=history_size(max_iterations),
            rows=data.rows,
            layout=data.layout,
        )
    else:
        gmms = [jax.tree.map(lambda leaf, r=r: leaf[r], starts) for r in range(restarts)]
        runs = [_em_stream(gmm, frame, data, *settings, max_iterations) for gmm in gmms]
        states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs)
    gmm, info = _finish(states, frame, jnp.asarray(floor))
    return gmm, info._replace(
        log_likelihood=info.log_likelihood[: max_iterations + 1],
        floored=info.floored[:max_iterations],
        reseeded=info.reseeded[:max_iterations],
    )


@jax.jit
def _scaled(starts: GMM, frame: Frame) -> GMM:
    """Mixtures relative to the mean of the data, in the frame's scale too."""
    scale = frame.scale[None, None, :]
    return GMM(starts.weights, starts.means / scale, starts.variances / jnp.square(scale))


@jax.jit
def _finish(states: _State, frame: Frame, floor: Array) -> tuple[GMM, EMInfo]:
    """The most likely of the restarts, out of the frame."""
    info = states.info
    last = jnp.take_along_axis(info.log_likelihood, info.iterations[:, None], axis=1)[:, 0]
    best = jnp.argmax(jnp.where(jnp.isnan(last), -jnp.inf, last))
    gmm, info = jax.tree.map(lambda leaf: leaf[best], (states.gmm, info))
    history = info.log_likelihood - jnp.sum(jnp.log(frame.scale))
    return frame.leave_gmm(gmm), info._replace(log_likelihood=history, floor=floor)
