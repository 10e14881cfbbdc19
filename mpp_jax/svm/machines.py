"""One-vs-rest linear support vector machines for few, very wide vectors.

For every class l, with targets y in {-1, 0, +1} (0: this picture is ignored for this class),

    minimise over w, b   1/2 (|w|^2 + (b / B)^2) + C sum_i max(0, 1 - y_i (w.x_i + b))

the bias being the regularised weight of a constant feature B (``bias_multiplier``). This is the
objective of liblinear (``sklearn.svm.LinearSVC(loss="hinge", C=C, intercept_scaling=B)``), and,
times lambda = 1 / (n C), that of VLFeat's ``vl_svm``. The squared hinge and the logistic loss are
options. With N vectors of D >> N dimensions the work is one Gram matrix, shared by all classes
(``mpp_jax.svm.gram``); each class's dual is then solved to a certified relative duality gap
(``mpp_jax.svm.dual``).

Several C and folds from one Gram matrix: ``mpp_jax.svm.select``. More vectors than a Gram matrix
can hold: ``mpp_jax.svm.primal``. Probabilities: ``mpp_jax.svm.calibration``.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mpp_jax.svm.dual import solve
from mpp_jax.svm.gram import (
    Vectors,
    check_finite_rows,
    dual_to_weights,
    gram_matrix,
    row_products,
    vectors_shape,
)
from mpp_jax.svm.losses import LOSSES, Loss

__all__ = [
    "LinearSVM",
    "SVMInfo",
    "dual_to_weights",
    "fit_svm",
    "fit_svm_gram",
    "gram_matrix",
    "one_vs_rest_targets",
    "svm_from_dual",
    "svm_scores",
]

ClassWeight: TypeAlias = Literal["balanced"] | ArrayLike | None


class LinearSVM(NamedTuple):
    """L linear machines: the score of class l is ``weights[l] @ x + bias[l]``.

    Attributes:
        weights: (L, D) float32.
        bias: (L,) float32.
    """

    weights: ArrayLike
    bias: ArrayLike


class SVMInfo(NamedTuple):
    """How well each class was solved; NumPy arrays of length L.

    Attributes:
        primal_objective: float64, 1/2 |w|^2 + sum of weighted losses, bias included.
        dual_objective: float64, a lower bound on the optimum.
        relative_gap: float64, (primal - dual) / dual: the objective is at most this fraction above
            the optimum.
        iterations: int32, iterations (epochs, for solvers that have them) done for this class.
        converged: bool, whether the gap was below the tolerance.
    """

    primal_objective: np.ndarray
    dual_objective: np.ndarray
    relative_gap: np.ndarray
    iterations: np.ndarray
    converged: np.ndarray


# ------------------------------------------------------------------------------- fit and score


def fit_svm(
    vectors: Vectors,
    targets: ArrayLike,
    c: float | ArrayLike = 10.0,
    *,
    bias_multiplier: float = 1.0,
    loss: Loss = "hinge",
    class_weight: ClassWeight = None,
    sample_weight: ArrayLike | None = None,
    tolerance: float = 1e-3,
    max_iterations: int = 20_000,
    initial: ArrayLike | None = None,
) -> tuple[LinearSVM, SVMInfo]:
    """Train one linear machine per class (column of ``targets``), all from one Gram matrix.

    Deterministic: equal input gives equal bytes on one machine. The certificate holds for the Gram
    matrix as rounded to float32, and so for the returned weights to about 1e-7 x C x |x|^2 per
    violated margin: nothing for L2-normalised encodings, but centre and scale raw features.

    Args:
        vectors: (N, D) array, memory map, or list of row blocks (see ``mpp_jax.svm.gram``);
            computed in float32.
        targets: (N, L) or (N,) in {-1, 0, +1}; 0 ignores the vector for that class.
            ``one_vs_rest_targets`` makes them from labels.
        c: Weight C of the losses, a scalar or one per class.
        bias_multiplier: The constant feature B; 0 trains without bias.
        loss: "hinge", "squared_hinge" or "logistic".
        class_weight: None, "balanced" (scikit-learn's rule within each class's problem: each side
            weighs N / 2 in total), or (L, 2) factors on C for (negatives, positives).
        sample_weight: (N,) non-negative factors on C.
        tolerance: Relative duality gap at which a class is done.
        max_iterations: Stop here in any case; ``info.converged`` tells.
        initial: (N, L) signed dual coefficients of an earlier fit on the same vectors.

    Returns:
        The machines (weights (L, D), bias (L,)), and the certificate.

    Raises:
        TypeError: ``vectors`` is a one-pass iterator or not numeric.
        ValueError: Shapes disagree; values are not finite (rows are named); targets lie outside
            {-1, 0, +1}; a class has no positive or no negative; a parameter is out of range.
    """
    n, _ = vectors_shape(vectors)
    check_targets(targets, n)  # before the expensive part
    coefficients, info = fit_svm_gram(
        gram_matrix(vectors),
        targets,
        c,
        bias_multiplier=bias_multiplier,
        loss=loss,
        class_weight=class_weight,
        sample_weight=sample_weight,
        tolerance=tolerance,
        max_iterations=max_iterations,
        initial=initial,
    )
    return svm_from_dual(coefficients, vectors, bias_multiplier=bias_multiplier), info


def fit_svm_gram(
    gram: ArrayLike,
    targets: ArrayLike,
    c: float | ArrayLike = 10.0,
    *,
    bias_multiplier: float = 1.0,
    loss: Loss = "hinge",
    class_weight: ClassWeight = None,
    sample_weight: ArrayLike | None = None,
    tolerance: float = 1e-3,
    max_iterations: int = 20_000,
    initial: ArrayLike | None = None,
) -> tuple[np.ndarray, SVMInfo]:
    """``fit_svm`` from a Gram matrix (which may be a sum of several representations' matrices).

    Args:
        gram: (N, N) inner products, symmetric, without the bias feature.
        targets: See ``fit_svm``, as are all further arguments.
        c: Weight of the losses.
        bias_multiplier: The constant feature B.
        loss: "hinge", "squared_hinge" or "logistic".
        class_weight: None, "balanced" or (L, 2).
        sample_weight: (N,) or None.
        tolerance: Relative duality gap.
        max_iterations: Bound on the iterations.
        initial: (N, L) signed dual coefficients to start from.

    Returns:
        Signed dual coefficients alpha * y (N, L) float64, and the certificate. The weights are
        ``coefficients.T @ vectors`` (``dual_to_weights``), the bias ``B^2 coefficients.sum(0)``.

    Raises:
        ValueError: As for ``fit_svm``.
    """
    n = check_gram(gram)
    kernel = jnp.asarray(gram, dtype=jnp.float32)
    y = check_targets(targets, n)
    upper = loss_weights(y, c, class_weight, sample_weight)
    check_options(loss, bias_multiplier, tolerance, max_iterations)
    check_finite_rows(np.isfinite(np.asarray(jnp.sum(kernel, axis=1))), "gram")
    start = np.zeros(y.shape) if initial is None else np.asarray(initial, np.float64)
    if start.shape != y.shape or not np.isfinite(start).all():
        raise ValueError(f"initial must be finite and of shape {y.shape}, got {start.shape}")
    solution = solve(
        kernel + np.float32(bias_multiplier**2),
        y,
        upper,
        start * y,
        loss=loss,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    primal, dual = np.asarray(solution.primal), np.asarray(solution.dual)
    info = SVMInfo(
        primal_objective=primal,
        dual_objective=dual,
        relative_gap=relative_gap(primal, dual),
        iterations=np.asarray(solution.iterations),
        converged=np.asarray(solution.converged),
    )
    return np.asarray(solution.alpha) * y, info


def svm_from_dual(
    coefficients: ArrayLike, vectors: Vectors, *, bias_multiplier: float = 1.0
) -> LinearSVM:
    """The machines that signed dual coefficients (N, L) stand for, given the training vectors."""
    weights = dual_to_weights(coefficients, vectors)
    bias = bias_multiplier**2 * np.sum(np.asarray(coefficients, np.float64), axis=0)
    return LinearSVM(jnp.asarray(weights), jnp.asarray(bias, dtype=jnp.float32))


def svm_scores(svm: LinearSVM, vectors: Vectors) -> jax.Array:
    """Scores ``vectors @ weights.T + bias``: (N, D) -> (N, L) float32, at full float32 precision.

    Memory maps and lists of row blocks pass through the device a block of rows at a time.

    Raises:
        ValueError: The dimension is not the machine's, or a score is not finite.
    """
    _, d = vectors_shape(vectors)
    wanted = np.shape(svm.weights)[1]
    if d != wanted:
        raise ValueError(
            f"vectors have {d} dimensions, the machines were trained on {wanted}: encode them with "
            "the same codebook and pooling"
        )
    scores = row_products(vectors, svm.weights) + jnp.asarray(svm.bias, jnp.float32)[None, :]
    check_finite_rows(np.isfinite(np.asarray(scores)).all(axis=1), "vectors")
    return scores


# ------------------------------------------------------------------------- targets and weights


def one_vs_rest_targets(labels: ArrayLike, n_classes: int | None = None) -> np.ndarray:
    """Targets (N, L) in {-1, +1}, int8, from class indices (N,) in 0..L-1.

    Raises:
        ValueError: A label is not an integer in range, or there are fewer than two classes.
    """
    index = np.asarray(labels)
    if index.ndim != 1 or not np.issubdtype(index.dtype, np.integer):
        raise ValueError(
            f"labels must be (N,) integers, got shape {index.shape} of dtype {index.dtype}"
        )
    classes = int(index.max(initial=-1)) + 1 if n_classes is None else int(n_classes)
    if index.size and not (index.min() >= 0 and index.max() < classes):
        raise ValueError(f"labels must lie in 0..{classes - 1}, got {index.min()}..{index.max()}")
    if classes < 2:
        raise ValueError(f"one-vs-rest needs at least 2 classes, got {classes}")
    return np.where(index[:, None] == np.arange(classes)[None, :], 1, -1).astype(np.int8)


def check_gram(gram: ArrayLike) -> int:
    """The number of rows of a square Gram matrix, after checking that it is one."""
    if np.ndim(gram) != 2 or np.shape(gram)[0] != np.shape(gram)[1] or np.size(gram) == 0:
        raise ValueError(f"gram must be a square matrix, got shape {np.shape(gram)}")
    return int(np.shape(gram)[0])


def check_targets(targets: ArrayLike, n: int, *, need_both_sides: bool = True) -> np.ndarray:
    """``targets`` as (N, L) float64 after checking values, shape, and both sides of each class."""
    y = np.asarray(targets)
    y = y[:, None] if y.ndim == 1 else y
    if y.ndim != 2 or y.shape[0] != n or y.shape[1] == 0:
        raise ValueError(
            f"targets must be (N, L) with N = {n} (one row per vector), got shape "
            f"{np.shape(targets)}"
        )
    wrong = ~np.isin(y, (-1, 0, 1))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"targets must be -1, 0 (ignored) or +1, got {y[row, column]} at [{row}, {column}]; "
            "one_vs_rest_targets(labels) makes them from class indices"
        )
    y = y.astype(np.float64)
    if need_both_sides:
        for value, side in ((1, "positive"), (-1, "negative")):
            lacking = np.flatnonzero(~(y == value).any(axis=0))
            if lacking.size:
                raise ValueError(
                    f"targets: class(es) {lacking.tolist()} have no {side} example; leave such "
                    "columns out or add examples"
                )
    return y


def loss_weights(
    y: np.ndarray, c: Any, class_weight: ClassWeight = None, sample_weight: ArrayLike | None = None
) -> np.ndarray:
    """(N, L) float64 weights u of the losses: C x class weight x sample weight, 0 if ignored."""
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


def check_options(loss: str, bias_multiplier: float, tolerance: float, max_iterations: int) -> None:
    """Raise a ValueError for an unknown loss or a number out of range."""
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {LOSSES}, got {loss!r}")
    if not (np.isfinite(bias_multiplier) and bias_multiplier >= 0):
        raise ValueError(f"bias_multiplier must be finite and >= 0, got {bias_multiplier}")
    if not (np.isfinite(tolerance) and tolerance > 0):
        raise ValueError(f"tolerance must be positive, got {tolerance}")
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, got {max_iterations}")


def relative_gap(primal: np.ndarray, dual: np.ndarray) -> np.ndarray:
    """(primal - dual) / dual, infinite where the dual bound is still not positive."""
    positive = np.maximum(dual, np.finfo(np.float64).tiny)
    return np.where(dual > 0, (primal - dual) / positive, np.inf)
