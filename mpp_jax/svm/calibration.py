"""Probabilities from SVM scores: Platt scaling, one sigmoid per class.

    p(y = +1 | s) = 1 / (1 + exp(slope s + offset))        (slope < 0 for a useful score)

The two numbers minimise the cross entropy against the smoothed targets
(n+ + 1) / (n+ + 2) and 1 / (n- + 2) that Platt (1999) derives from a uniform prior, by Newton's
method with backtracking in the stable form of Lin, Lin & Weng (2007, "A note on Platt's
probabilistic outputs for support vector machines"); all classes at once, in float64.

Fit on scores of examples that the machine was *not* trained on: an SVM's training scores crowd at
the margin and make the sigmoid far too steep. `CrossValidation.scores` are such scores.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mpp_jax.svm.targets import check_targets

ITERATIONS = 100
TOLERANCE = 1e-10
"""Largest gradient component, per example, at which a class is done."""


class PlattScaling(NamedTuple):
    """One sigmoid per class: ``p = sigmoid(-(slope * score + offset))``.

    Attributes:
        slope: (L,) float64.
        offset: (L,) float64.
    """

    slope: ArrayLike
    offset: ArrayLike


class _Newton(NamedTuple):
    point: jax.Array  # (L, 2) slope, offset
    value: jax.Array  # (L,) mean cross entropy
    gradient: jax.Array  # (L, 2)
    step: jax.Array  # ()


def fit_platt(scores: ArrayLike, targets: ArrayLike) -> PlattScaling:
    """Fit the sigmoids on held-out scores.

    Args:
        scores: (N, L) scores of held-out examples.
        targets: (N, L) in {-1, 0, +1}; 0 ignores the example for that class.

    Raises:
        ValueError: shapes disagree, a score is not finite, a target is outside {-1, 0, +1}, or a
            class lacks a side.
    """
    s = np.asarray(scores, np.float64)
    if s.ndim != 2:
        raise ValueError(f"scores must be (N, L), got shape {s.shape}")
    y = check_targets(targets, s.shape[0])
    if y.shape != s.shape:
        raise ValueError(f"scores and targets must agree in shape, got {s.shape} and {y.shape}")
    if not np.isfinite(s).all():
        raise ValueError("scores must be finite")
    positives, negatives = (y > 0).sum(axis=0), (y < 0).sum(axis=0)
    hoped = np.where(
        y > 0, ((positives + 1) / (positives + 2))[None, :], (1 / (negatives + 2))[None, :]
    )
    # Scores of any unit: standardised here, undone below.
    used = y != 0
    mean = np.where(used, s, 0).sum(axis=0) / used.sum(axis=0)
    spread = np.sqrt(np.where(used, (s - mean[None, :]) ** 2, 0).sum(axis=0) / used.sum(axis=0))
    spread = np.where(spread > 0, spread, 1.0)
    start = np.stack([np.zeros_like(mean), np.log((negatives + 1) / (positives + 1))], axis=1)
    with jax.enable_x64(True):  # the Hessian of separable classes is nearly singular
        points = np.asarray(
            _newton(*(jnp.asarray(v) for v in ((s - mean) / spread, hoped, used * 1.0, start)))
        )
    slope = points[:, 0] / spread
    return PlattScaling(slope, points[:, 1] - slope * mean)


def platt_probabilities(
    platt: PlattScaling, scores: ArrayLike, *, exclusive: bool = False
) -> np.ndarray:
    """Return probabilities (N, L) float64 of the classes.

    Args:
        platt: sigmoids of L classes.
        scores: (N, L).
        exclusive: whether exactly one class holds for each row; the probabilities are then scaled
            to sum to one.

    Raises:
        ValueError: `scores` has another number of classes.
    """
    s = np.asarray(scores, np.float64)
    slope, offset = np.asarray(platt.slope), np.asarray(platt.offset)
    if s.ndim != 2 or s.shape[1] != slope.shape[0]:
        raise ValueError(f"scores must be (N, {slope.shape[0]}), got {s.shape}")
    logit = -(slope[None, :] * s + offset[None, :])
    # log sigmoid, so that rows whose classes are all improbable still normalise
    log_p = -np.logaddexp(0, -logit)
    if exclusive:
        log_p = log_p - np.logaddexp.reduce(log_p, axis=1, keepdims=True)
    return np.exp(log_p)


@jax.jit
def _newton(s: jax.Array, hoped: jax.Array, used: jax.Array, start: jax.Array) -> jax.Array:
    count = jnp.sum(used, axis=0)

    def evaluate(point: jax.Array) -> jax.Array:
        f = s * point[None, :, 0] + point[None, :, 1]  # p = sigmoid(-f)
        # cross entropy: -t log p - (1 - t) log(1 - p) = softplus(f) - (1 - t) f
        return jnp.sum(used * (jax.nn.softplus(f) - (1 - hoped) * f), axis=0) / count

    def derivatives(point: jax.Array) -> tuple[jax.Array, jax.Array]:
        f = s * point[None, :, 0] + point[None, :, 1]
        p = jax.nn.sigmoid(-f)
        design = jnp.stack([s, jnp.ones_like(s)], axis=-1)  # (N, L, 2)
        gradient = jnp.einsum("nl,nlk->lk", used * (hoped - p), design) / count[:, None]
        curvature = used * p * (1 - p) / count[None, :]
        return gradient, jnp.einsum("nl,nlj,nlk->ljk", curvature, design, design)

    def step(state: _Newton) -> _Newton:
        gradient, hessian = derivatives(state.point)
        # 1e-12 on the diagonal: Lin, Lin & Weng's safeguard for a singular Hessian.
        ridge = 1e-12 * jnp.eye(2)[None, :, :]
        direction = -jnp.linalg.solve(hessian + ridge, gradient[:, :, None])[:, :, 0]
        slope = jnp.sum(gradient * direction, axis=1)

        # Backtracking on all classes at once: the longest of 1, 1/2, ... that descends enough.
        sizes = 0.5 ** jnp.arange(12)
        trials = jax.vmap(lambda size: evaluate(state.point + size * direction))(sizes)
        enough = trials <= state.value[None, :] + 1e-4 * sizes[:, None] * slope[None, :]
        size = jnp.where(enough.any(axis=0), sizes[jnp.argmax(enough, axis=0)], 0.0)
        point = state.point + size[:, None] * direction
        return _Newton(point, evaluate(point), derivatives(point)[0], state.step + 1)

    def unfinished(state: _Newton) -> jax.Array:
        return (jnp.max(jnp.abs(state.gradient)) > TOLERANCE) & (state.step < ITERATIONS)

    first = _Newton(start, evaluate(start), derivatives(start)[0], jnp.asarray(0))
    return jax.lax.while_loop(unfinished, step, first).point
