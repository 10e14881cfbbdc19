"""One-vs-rest linear support vector machines for few, very wide vectors.

For every class l, with targets y in {-1, 0, +1} (0: this picture is ignored for this class),

    minimise over w, b   1/2 (|w|^2 + (b / B)^2) + C sum_i max(0, 1 - y_i (w.x_i + b))

the bias being the regularised weight of a constant feature B (`bias_multiplier`). This is the
objective of liblinear (``sklearn.svm.LinearSVC(loss="hinge", C=C, intercept_scaling=B)``), and,
times lambda = 1 / (n C), that of VLFeat's ``vl_svm``. The squared hinge and the logistic loss are
options. With N vectors of D >> N dimensions the work is one Gram matrix, shared by all classes
(`mpp_jax.svm.gram`); each class's dual is then solved to a certified relative duality gap
(`mpp_jax.svm.dual`).

Several C and folds from one Gram matrix: `mpp_jax.svm.select`. More vectors than a Gram matrix
can hold: `mpp_jax.svm.primal`. Probabilities: `mpp_jax.svm.calibration`.
"""

from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mpp_jax.svm.blocks import Vectors, resident, vectors_shape
from mpp_jax.svm.certificate import certify
from mpp_jax.svm.dual import solve
from mpp_jax.svm.gram import (
    check_finite_rows,
    dual_to_weights,
    exact_gram_matrix,
    gram_matrix,
    recover,
    row_products,
)
from mpp_jax.svm.options import SVMOptions, loss_weights, resolve
from mpp_jax.svm.targets import check_targets

EXACT_ROWS = 16384
"""Up to this many vectors a Gram matrix may be made in float64 as well (2 GiB)."""


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
    initial: ArrayLike | None = None,
    gram: ArrayLike | None = None,
    **options: Unpack[SVMOptions],
) -> tuple[LinearSVM, SVMInfo]:
    """Train one linear machine per class (column of `targets`), all from one Gram matrix.

    Deterministic: equal input gives equal bytes on one machine. The certificate is that of the
    returned float32 machines on the vectors, in float64. Classes of which a Gram matrix in float32
    has told too little (raw features of large and unequal scales) are solved on with one in
    float64, up to `EXACT_ROWS` vectors; centring and scaling the features is faster and safer.

    Args:
        vectors: (N, D) array, memory map, list of row blocks, or a `RowReader`, which is read in
            blocks and never held whole (see `mpp_jax.svm.blocks`); computed in float32.
        targets: (N, L) or (N,) in {-1, 0, +1}; 0 ignores the vector for that class.
            `one_vs_rest_targets` makes them from labels.
        c: weight C of the losses, a scalar or one per class.
        initial: (N, L) signed dual coefficients of an earlier fit on the same vectors.
        gram: their `gram_matrix`, where it is at hand.
        options: see `SVMOptions`.

    Returns:
        the machines (weights (L, D), bias (L,)), and the certificate.

    Raises:
        TypeError: `vectors` is a one-pass iterator or not numeric; an option is unknown.
        ValueError: shapes disagree; values are not finite (rows are named); targets lie outside
            {-1, 0, +1}; a class has no positive or no negative; a parameter is out of range.
    """
    n, _ = vectors_shape(vectors)
    chosen = resolve(options)
    y = check_targets(targets, n)  # before the expensive part
    upper = loss_weights(y, c, chosen["class_weight"], chosen["sample_weight"])
    vectors = resident(vectors)
    gram = gram_matrix(vectors) if gram is None else gram
    coefficients, solved = fit_svm_gram(gram, targets, c, initial=initial, **options)
    svm, info = _certified(coefficients, solved, vectors, y, upper, chosen)
    doubtful = solved.converged & ~info.converged
    left = chosen["max_iterations"] - int(np.max(solved.iterations))
    if not doubtful.any() or n > EXACT_ROWS or left < 1:
        return svm, info
    del gram
    chosen["max_iterations"] = left
    part = _solve_kernel(
        _with_bias(exact_gram_matrix(vectors), chosen["bias_multiplier"]),
        y[:, doubtful],
        upper[:, doubtful],
        coefficients[:, doubtful],
        chosen,
    )
    coefficients[:, doubtful] = part[0]
    iterations = solved.iterations.copy()
    iterations[doubtful] += part[1].iterations
    converged = solved.converged.copy()
    converged[doubtful] = part[1].converged
    solved = solved._replace(iterations=iterations, converged=converged)
    return _certified(coefficients, solved, vectors, y, upper, chosen)


def _certified(
    coefficients: np.ndarray,
    solved: SVMInfo,
    vectors: Vectors,
    y: np.ndarray,
    upper: np.ndarray,
    chosen: SVMOptions,
) -> tuple[LinearSVM, SVMInfo]:
    """Return the machines of dual coefficients, and their own certificate."""
    multiplier = chosen["bias_multiplier"]
    machines, bias = recover(coefficients, vectors), _bias(coefficients, multiplier)
    primal, dual = certify(
        machines,
        bias,
        coefficients * y,
        vectors,
        y,
        upper,
        bias_multiplier=multiplier,
        loss=chosen["loss"],
    )
    gap = relative_gap(primal, dual)
    info = SVMInfo(primal, dual, gap, solved.iterations, gap <= chosen["tolerance"])
    return LinearSVM(jnp.asarray(machines.weights), jnp.asarray(bias)), info


def fit_svm_gram(
    gram: ArrayLike,
    targets: ArrayLike,
    c: float | ArrayLike = 10.0,
    *,
    initial: ArrayLike | None = None,
    **options: Unpack[SVMOptions],
) -> tuple[np.ndarray, SVMInfo]:
    """Train as `fit_svm` does, from a Gram matrix (it may be a sum of several representations').

    Args:
        gram: (N, N) inner products, symmetric, without the bias feature.
        targets: see `fit_svm`, as are all further arguments.
        c: weight C of the losses.
        initial: (N, L) signed dual coefficients to start from.
        options: see `SVMOptions`.

    Returns:
        signed dual coefficients alpha * y (N, L) float64, and the certificate, which holds for the
        Gram matrix as rounded to float32. The weights are ``coefficients.T @ vectors``
        (`dual_to_weights`), the bias ``B^2 coefficients.sum(0)``.

    Raises:
        ValueError: as for `fit_svm`.
    """
    n = check_gram(gram)
    y = check_targets(targets, n)
    chosen = resolve(options)
    upper = loss_weights(y, c, chosen["class_weight"], chosen["sample_weight"])
    kernel = jnp.asarray(gram, dtype=jnp.float32)
    check_finite_rows(np.isfinite(np.asarray(jnp.sum(kernel, axis=1))), "gram")
    start = np.zeros(y.shape) if initial is None else np.asarray(initial, np.float64)
    if start.shape != y.shape or not np.isfinite(start).all():
        raise ValueError(f"initial must be finite and of shape {y.shape}, got {start.shape}")
    return _solve_kernel(_with_bias(kernel, chosen["bias_multiplier"]), y, upper, start, chosen)


def _with_bias(gram: jax.Array, bias_multiplier: float) -> jax.Array:
    with jax.enable_x64(True):  # of either precision, which stays
        return gram + np.asarray(bias_multiplier**2, gram.dtype)


def _solve_kernel(
    kernel: jax.Array, y: np.ndarray, upper: np.ndarray, start: np.ndarray, chosen: SVMOptions
) -> tuple[np.ndarray, SVMInfo]:
    """Return signed dual coefficients, from `start` on, and the solver's certificate."""
    solution = solve(
        kernel,
        y,
        upper,
        start * y,
        loss=chosen["loss"],
        tolerance=chosen["tolerance"],
        max_iterations=chosen["max_iterations"],
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
    """Return the machines that signed dual coefficients (N, L) stand for, given the vectors."""
    weights = dual_to_weights(coefficients, vectors)
    return LinearSVM(jnp.asarray(weights), jnp.asarray(_bias(coefficients, bias_multiplier)))


def _bias(coefficients: ArrayLike, bias_multiplier: float) -> np.ndarray:
    total = np.sum(np.asarray(coefficients, np.float64), axis=0)
    return (bias_multiplier**2 * total).astype(np.float32)


def svm_scores(svm: LinearSVM, vectors: Vectors) -> jax.Array:
    """Return ``vectors @ weights.T + bias``: (N, D) -> (N, L) float32, at full precision.

    Memory maps and lists of row blocks pass through the device a block of rows at a time.

    Raises:
        ValueError: the dimension is not the machine's, or a score is not finite.
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


def check_gram(gram: ArrayLike) -> int:
    """Return the number of rows of a square Gram matrix, after checking that it is one."""
    if np.ndim(gram) != 2 or np.shape(gram)[0] != np.shape(gram)[1] or np.size(gram) == 0:
        raise ValueError(f"gram must be a square matrix, got shape {np.shape(gram)}")
    return int(np.shape(gram)[0])


def relative_gap(primal: np.ndarray, dual: np.ndarray) -> np.ndarray:
    """Return (primal - dual) / dual, infinite where the dual bound is still not positive."""
    return np.where(dual > 0, (primal - dual) / np.where(dual > 0, dual, 1.0), np.inf)
