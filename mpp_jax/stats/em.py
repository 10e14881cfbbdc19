"""Expectation maximisation of Gaussian mixtures with diagonal covariances: the steps and the loop.

Mathematics
-----------
Under a mixture with weights ``w`` (K,), means ``mu`` (K, D) and variances ``v`` (K, D), a
descriptor ``x_i`` has the responsibilities

    q_ik = w_k N(x_i; mu_k, v_k) / sum_j w_j N(x_i; mu_j, v_j),

and one EM step sets, with ``S0_k = sum_i q_ik``, ``S1_k = sum_i q_ik x_i``, ``S2_k = sum_i q_ik
x_i^2``,

    w_k = S0_k / N,   mu_k = S1_k / S0_k,   v_k = max(S2_k / S0_k - mu_k^2, floor).

The sums are additive, so chunks, masks and devices only add. No responsibility is pruned: this is
exact EM (VLFeat's drops those below 0.01/K), and the mean log-likelihood never falls, except where
a variance meets its floor or a component is re-seeded; :class:`EMInfo` says where.

The exponent is expanded, ``-x^2/2v + x mu/v - mu^2/2v``, to be one matrix product. So everything
here runs in a frame in which the data have mean 0 and variances near 1 (:func:`fit_gmm` of
``mpp_jax.stats.gmm`` gives it), and the evaluation in one in which the mixture has.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from mpp_jax.numerics import PRECISION
from mpp_jax.stats.chunks import (
    ArrayData,
    ChunkStream,
    Layout,
    history_size,
    sum_over_rows,
    sum_stream,
)
from mpp_jax.stats.kmeans import split_widest
from mpp_jax.stats.mixture import GMM, Frame, expanded_log_joint, living, posteriors, with_squares


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
    takes half of the widest component (:func:`mpp_jax.stats.kmeans.split_widest`).

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


class EMState(NamedTuple):
    """Where EM stands: the mixture, its statistics, and the history."""

    gmm: GMM
    stats: SuffStats
    info: EMInfo


def _begin(gmm: GMM, stats: SuffStats, floor: Array, room: int) -> EMState:
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
    return EMState(gmm, stats, info)


def _record(
    state: EMState, step: tuple[GMM, Array, Array], stats: SuffStats, tolerance: Array
) -> EMState:
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
    return EMState(gmm, stats, info)


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
) -> EMState:
    """EM from ``starts`` (leaves with a leading R, the restarts), in ``frame``'s coordinates."""

    def fit(gmm: GMM) -> EMState:
        def expect(gmm: GMM) -> SuffStats:
            return sum_over_rows(_framed_e_step, (gmm, frame), x, mask, rows, layout)

        def unfinished(state: EMState) -> Array:
            return ~state.info.converged & (state.info.iterations < max_iterations)

        def step(state: EMState) -> EMState:
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
) -> EMState:
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


def run_em(
    starts: GMM,
    frame: Frame,
    data: ArrayData | ChunkStream,
    floor: Array,
    tolerance: Array,
    smallest_share: Array,
    max_iterations: int,
) -> EMState:
    """EM from ``starts`` (leaves with a leading R, as those of the result), all in ``frame``.

    Args:
        starts: first mixtures.
        frame: in which they are, and the floor.
        data: the descriptors, outside of any frame.
        floor: (D,) smallest variance.
        tolerance: (), stop when the mean log-likelihood changes by less.
        smallest_share: (), see :func:`m_step`.
        max_iterations: M-steps at most.
    """
    settings = (floor, tolerance, smallest_share, max_iterations)
    if isinstance(data, ArrayData):
        return _em(
            starts,
            frame,
            data.x,
            data.mask,
            *settings,
            room=history_size(max_iterations),
            rows=data.rows,
            layout=data.layout,
        )
    restarts = starts.weights.shape[0]
    gmms = [jax.tree.map(lambda leaf, r=r: leaf[r], starts) for r in range(restarts)]
    runs = [_em_stream(gmm, frame, data, *settings) for gmm in gmms]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs)
