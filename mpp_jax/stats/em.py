"""Expectation maximisation of Gaussian mixtures with diagonal covariances: its two steps.

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
a variance meets its floor or a component is re-seeded; `EMInfo` says where.

The exponent is expanded, ``-x^2/2v + x mu/v - mu^2/2v``, to be one matrix product. So everything
here runs in a frame in which the data have mean 0 and variances near 1 (`mpp_jax.stats.gmm.fit_gmm`
gives it), and the evaluation in one in which the mixture has.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from mpp_jax.numerics import PRECISION
from mpp_jax.stats.fixed_point import Method, Valued
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
    """How a fit went; of the best restart, where there were several. T is `max_iterations`."""

    log_likelihood: np.ndarray  # (T + 1,) mean over descriptors after t M-steps; NaN after the last
    iterations: Array  # () M-steps done
    converged: Array  # () bool: the mean log-likelihood changed by less than the tolerance
    floored: np.ndarray  # (T,) variances that M-step t lifted to the floor
    reseeded: np.ndarray  # (T,) components that M-step t re-seeded
    floor: Array  # (D,) the variance floor


def e_step(gmm: GMM, z: Array, mask: Array) -> SuffStats:
    """Return statistics of rows `z` (N, D) near the origin; outside `mask` (N,) none counts."""
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
    """Return the mixture that maximises the expected log-likelihood, with floors.

    A component with less than ``smallest_share max(1, N/K)`` descriptors (VLFeat's measure) is
    dead: too little is left of it to estimate a variance from, and EM cannot bring it back. It
    takes half of the widest component (`mpp_jax.stats.kmeans.split_widest`).

    Args:
        stats: from `e_step`, summed.
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


class EMSetting(NamedTuple):
    """What stays the same in all steps of a fit."""

    frame: Frame  # in which the mixtures are, and the floor; the descriptors are outside
    floor: Array  # (D,) smallest variance
    tolerance: Array  # () stop when the mean log-likelihood changes by less
    smallest_share: Array  # () see `m_step`


def _measure(params: tuple[GMM, EMSetting], x: Array, mask: Array) -> SuffStats:
    gmm, setting = params
    return e_step(gmm, setting.frame.enter(x, mask), mask)


def _value(stats: SuffStats) -> Array:
    return stats.log_likelihood / stats.count


def _step(gmm: GMM, stats: SuffStats, setting: EMSetting) -> tuple[GMM, dict[str, Array]]:
    new, floored, reseeded = m_step(stats, gmm, setting.floor, setting.smallest_share)
    return new, {"floored": floored, "reseeded": reseeded}


def _settled(
    old: Valued[GMM],
    new: Valued[GMM],
    events: dict[str, Array],
    setting: EMSetting,
) -> Array:
    return (events["reseeded"] == 0) & (jnp.abs(new.value - old.value) < setting.tolerance)


def _most_likely(values: Array) -> Array:
    return jnp.argmax(jnp.where(jnp.isnan(values), -jnp.inf, values))


EM = Method(measure=_measure, value=_value, step=_step, settled=_settled, best=_most_likely)
"""The iteration that `mpp_jax.stats.fixed_point.run` runs, with an `EMSetting`."""
