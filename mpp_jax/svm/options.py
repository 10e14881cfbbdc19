"""The options of a fit: listed, documented, given their defaults and checked here alone."""

from typing import Any, Literal, TypeAlias, TypedDict, Unpack

import numpy as np
from jax.typing import ArrayLike

from mpp_jax.svm.losses import LOSSES, Loss

ClassWeight: TypeAlias = Literal["balanced"] | ArrayLike | None


class ObjectiveOptions(TypedDict, total=False):
    """The part of `SVMOptions` that says what is minimised."""

    bias_multiplier: float
    loss: Loss
    class_weight: ClassWeight
    sample_weight: ArrayLike | None


class SVMOptions(ObjectiveOptions, total=False):
    """Keywords that every fit of `mpp_jax.svm` takes (`fit_svm_primal` has its own for stopping).

    Attributes:
        bias_multiplier: the constant feature B; 0 trains without bias. 1 by default.
        loss: "hinge" (the default), "squared_hinge" or "logistic".
        class_weight: None (the default), "balanced" (scikit-learn's rule within each class's
            problem: each side weighs N / 2 in total; in cross-validation by the counts of each
            fold's training rows), or (L, 2) factors on C for (negatives, positives).
        sample_weight: (N,) non-negative factors on C, or None, the default.
        tolerance: relative duality gap at which a class is done; 1e-3 by default.
        max_iterations: stop here in any case, 20,000 by default; `SVMInfo.converged` tells. Along a
            path of C it holds for each.
    """

    tolerance: float
    max_iterations: int


DEFAULTS: SVMOptions = {
    "bias_multiplier": 1.0,
    "loss": "hinge",
    "class_weight": None,
    "sample_weight": None,
    "tolerance": 1e-3,
    "max_iterations": 20_000,
}


def resolve(options: ObjectiveOptions, **own: Unpack[SVMOptions]) -> SVMOptions:
    """Return every option, those not given at their defaults, after checking names and numbers.

    What depends on the problem, the weights, is checked by `loss_weights`.

    Args:
        options: keywords as they came in.
        own: options for which the caller has arguments of its own; `options` may not name them.

    Raises:
        TypeError: an option is unknown.
        ValueError: the loss is unknown, or a number out of range.
    """
    known = [name for name in DEFAULTS if name not in own]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}; the options are {', '.join(known)}")
    chosen: SVMOptions = {**DEFAULTS, **options, **own}
    if chosen["loss"] not in LOSSES:
        raise ValueError(f"loss must be one of {LOSSES}, got {chosen['loss']!r}")
    bias, tolerance = chosen["bias_multiplier"], chosen["tolerance"]
    if not (np.isfinite(bias) and bias >= 0):
        raise ValueError(f"bias_multiplier must be finite and >= 0, got {bias}")
    if not (np.isfinite(tolerance) and tolerance > 0):
        raise ValueError(f"tolerance must be positive, got {tolerance}")
    if chosen["max_iterations"] < 1:
        raise ValueError(f"max_iterations must be at least 1, got {chosen['max_iterations']}")
    return chosen


def loss_weights(
    y: np.ndarray, c: Any, class_weight: ClassWeight = None, sample_weight: ArrayLike | None = None
) -> np.ndarray:
    """Return weights u (N, L) float64 of the losses: C x class x sample weight, 0 if ignored."""
    n, classes = y.shape
    c = np.asarray(c, np.float64)
    if c.shape not in ((), (1,), (classes,)):
        raise ValueError(f"c must be a scalar or one per class ({classes}), got shape {c.shape}")
    if not (np.isfinite(c).all() and (c > 0).all()):
        raise ValueError(f"c must be positive and finite, got {c}")
    negatives, positives = (y < 0).sum(axis=0), (y > 0).sum(axis=0)
    if class_weight is None:
        factors = np.ones((classes, 2))
    elif isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(f"class_weight must be None, 'balanced' or (L, 2): {class_weight!r}")
        counts = np.stack([negatives, positives], axis=1)
        factors = counts.sum(axis=1, keepdims=True) / (2 * np.maximum(counts, 1))
    else:
        factors = np.asarray(class_weight, np.float64)
        if factors.shape != (classes, 2) or not (np.isfinite(factors) & (factors > 0)).all():
            raise ValueError(
                f"class_weight must be ({classes}, 2) positive factors for (negatives, positives), "
                f"got shape {factors.shape}"
            )
    u = np.where(y > 0, factors[None, :, 1], factors[None, :, 0]) * (y != 0)
    u = u * np.broadcast_to(c, (classes,))[None, :]
    if sample_weight is not None:
        s = np.asarray(sample_weight, np.float64)
        if s.shape != (n,) or not (np.isfinite(s) & (s >= 0)).all():
            raise ValueError(f"sample_weight must be ({n},), finite and >= 0, got shape {s.shape}")
        u = u * s[:, None]
        lacking = ~((u > 0) & (y > 0)).any(axis=0) | ~((u > 0) & (y < 0)).any(axis=0)
        if lacking.any():
            raise ValueError(
                "sample_weight is zero for all positive or all negative examples of class(es) "
                f"{np.flatnonzero(lacking).tolist()}"
            )
    return u
