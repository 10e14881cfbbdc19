"""Choosing C: a whole path of C values and k-fold cross-validation, all from one Gram matrix.

A fold's training set is the full problem with the held-out rows *ignored* (target 0, so that their
dual variables stay zero): every fold and every class is one more column of the same solve, and
one matrix product per iteration serves them all. Along the path each C starts from the solution
of the one before. The scores of held-out rows are K (alpha o y), so no weight vector is formed.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mpp_jax.metrics import mean_average_precision
from mpp_jax.svm.dual import exact_product
from mpp_jax.svm.machines import SVMInfo, check_gram, fit_svm_gram
from mpp_jax.svm.options import SVMOptions, resolve
from mpp_jax.svm.targets import check_targets

Metric = Callable[[np.ndarray, np.ndarray], float]
"""(scores (M, L), targets (M, L) in {-1, 0, +1}) -> a figure, the larger the better."""


class SVMPath(NamedTuple):
    """Solutions along a path of C.

    Attributes:
        cs: (P,) the values of C, ascending.
        coefficients: (P, N, L) signed dual coefficients, as of `fit_svm_gram`.
        info: the certificates, each field (P, L).
    """

    cs: np.ndarray
    coefficients: np.ndarray
    info: SVMInfo


class CrossValidation(NamedTuple):
    """Held-out performance along a path of C.

    Attributes:
        cs: (P,) the values of C, ascending.
        values: (P, F) the metric on each fold's held-out rows; NaN where a fold cannot be judged.
        mean: (P,) mean over the folds that can be judged.
        best_c: the C of the highest mean; the smallest one among equals.
        scores: (P, N, L) held-out scores: row i is scored by the machines that did not see it.
            Calibrate probabilities on these.
        folds: (N,) the fold that held out each row.
        info: the certificates, each field (P, F, L).
    """

    cs: np.ndarray
    values: np.ndarray
    mean: np.ndarray
    best_c: float
    scores: np.ndarray
    folds: np.ndarray
    info: SVMInfo


def svm_path(
    gram: ArrayLike,
    targets: ArrayLike,
    cs: Sequence[float],
    **options: Unpack[SVMOptions],
) -> SVMPath:
    """Train at every C of `cs`, each warm-started from the next smaller one.

    Args:
        gram: (N, N) inner products, as `gram_matrix` gives them.
        targets: (N, L) in {-1, 0, +1}.
        cs: values of C, in any order; the result is ascending.
        options: see `SVMOptions`.

    Raises:
        ValueError: as for `fit_svm_gram`; or `cs` is empty.
    """
    values = _ascending(cs)
    coefficients: list[np.ndarray] = []
    infos = []
    for c in values:
        before = coefficients[-1] if coefficients else None
        solution, info = fit_svm_gram(gram, targets, c, initial=before, **options)
        coefficients.append(solution)
        infos.append(info)
    return SVMPath(
        values, np.stack(coefficients), SVMInfo(*map(np.stack, zip(*infos, strict=True)))
    )


def cross_validate_svm(
    gram: ArrayLike,
    targets: ArrayLike,
    cs: Sequence[float],
    folds: int | ArrayLike = 5,
    *,
    key: jax.Array | None = None,
    metric: Metric = mean_average_precision,
    **options: Unpack[SVMOptions],
) -> CrossValidation:
    """Cross-validate C in k folds, for all classes at once.

    Args:
        gram: (N, N) inner products of all rows.
        targets: (N, L) in {-1, 0, +1}.
        cs: values of C.
        folds: the number of folds (drawn by `stratified_folds` with `key`), or (N,) integers
            0..F-1 naming the fold that holds out each row, for groups that must stay together.
        key: key for drawing folds; needed if `folds` is a number.
        metric: (scores, targets) of held-out rows -> figure, by default the mean 11-point AP;
            `accuracy_metric` is the top-1 accuracy of exclusive classes.
        options: see `SVMOptions`.

    Raises:
        ValueError: as for `fit_svm_gram`; a fold's training rows lack a side of some class; a
            fold is empty; `key` is missing.
    """
    n = check_gram(gram)
    y = check_targets(targets, n)
    if np.ndim(folds) == 0:
        if key is None:
            raise ValueError("key is needed to draw folds; pass jax.random.key(seed) or the folds")
        fold_of = stratified_folds(y, int(np.asarray(folds)), key)
    else:
        fold_of = np.asarray(folds)
        if fold_of.shape != (n,) or not np.issubdtype(fold_of.dtype, np.integer):
            raise ValueError(f"folds must be a number or ({n},) integers, got {fold_of.shape}")
    count = int(fold_of.max()) + 1
    held_out = fold_of[:, None] == np.arange(count)[None, :]  # (N, F)
    if count < 2 or fold_of.min() < 0 or not held_out.any(axis=0).all():
        raise ValueError(f"folds must cover 0..F-1, F >= 2, without gaps: {np.unique(fold_of)}")
    columns = np.where(held_out[:, :, None], 0, y[:, None, :])  # (N, F, L)
    _check_folds(columns)

    classes = y.shape[1]
    chosen = resolve(options)
    bias, weights = chosen["bias_multiplier"], chosen["class_weight"]
    if weights is not None and not isinstance(weights, str):
        chosen["class_weight"] = np.tile(np.asarray(weights), (count, 1))
    path = svm_path(gram, columns.reshape(n, count * classes), cs, **chosen)
    scores = np.stack(
        [
            np.where(
                held_out[:, :, None],
                gram_scores(gram, a, bias).reshape(n, count, classes),
                0,
            ).sum(axis=1)
            for a in path.coefficients
        ]
    )
    values = np.array(
        [[metric(s[held_out[:, f]], y[held_out[:, f]]) for f in range(count)] for s in scores]
    )
    mean = _nanmean(values)
    if np.isnan(mean).all():
        raise ValueError("no fold can be judged: every class lacks a positive in each; use fewer")
    shape = (len(path.cs), count, classes)
    return CrossValidation(
        cs=path.cs,
        values=values,
        mean=mean,
        best_c=float(path.cs[np.nanargmax(mean)]),
        scores=scores,
        folds=fold_of,
        info=SVMInfo(*(field.reshape(shape) for field in path.info)),
    )


def gram_scores(
    gram: ArrayLike, coefficients: ArrayLike, bias_multiplier: float = 1.0
) -> np.ndarray:
    """Return scores (M, L) float64 from products (M, N) with the training rows, bias included."""
    with jax.enable_x64(True):  # large coefficients cancel, see `mpp_jax.svm.dual`
        a = jnp.asarray(coefficients, jnp.float64)
        products = exact_product(jnp.asarray(gram), a)
        return np.asarray(products + bias_multiplier**2 * jnp.sum(a, axis=0, keepdims=True))


def accuracy_metric(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the top-1 accuracy of rows that have exactly one positive; NaN if none has."""
    single = (targets > 0).sum(axis=1) == 1
    if not single.any():
        return float("nan")
    hits = np.argmax(scores[single], axis=1) == np.argmax(targets[single], axis=1)
    return float(np.mean(hits))


def stratified_folds(targets: ArrayLike, n_folds: int, key: jax.Array) -> np.ndarray:
    """Return folds (N,) int64 that share out each class's positives evenly, labels many or one.

    Iterative stratification (Sechidis, Tsoumakas & Vlahavas 2011) in its greedy form: classes from
    the rarest on, each not yet placed positive goes where that class has the fewest, then where
    there are the fewest rows. For exclusive classes the counts within a fold differ by at most one.

    Raises:
        ValueError: fewer than 2 folds or more folds than rows.
    """
    y = np.asarray(targets)
    n = y.shape[0]
    if not 2 <= n_folds <= n:
        raise ValueError(f"folds must be between 2 and the number of rows {n}, got {n_folds}")
    order = np.asarray(jax.random.permutation(key, n))
    fold_of = np.full(n, -1)
    sizes = np.zeros(n_folds, np.int64)
    positives = np.zeros((n_folds, y.shape[1]), np.int64)

    def place(row: int, wanted: np.ndarray) -> None:
        fold = int(np.lexsort((sizes, wanted))[0])
        fold_of[row] = fold
        sizes[fold] += 1
        positives[fold] += y[row] > 0

    for label in np.argsort((y > 0).sum(axis=0), kind="stable"):
        for row in order:
            if fold_of[row] < 0 and y[row, label] > 0:
                place(row, positives[:, label])
    for row in order:
        if fold_of[row] < 0:
            place(row, sizes)
    return fold_of


def _check_folds(columns: np.ndarray) -> None:
    """Raise unless `columns` (N, F, L), training targets of each fold, hold both sides."""
    for value, side in ((1, "positive"), (-1, "negative")):
        lacking = np.argwhere(~(columns == value).any(axis=0))
        if lacking.size:
            fold, label = lacking[0]
            raise ValueError(
                f"folds: without fold {fold}, class {label} has no {side} left to train on; use "
                "fewer folds, or leave the class out"
            )


def _ascending(cs: Any) -> np.ndarray:
    values = np.unique(np.asarray(cs, np.float64))
    if values.size == 0:
        raise ValueError("cs must name at least one value of C")
    return values


def _nanmean(values: np.ndarray) -> np.ndarray:
    judged = ~np.isnan(values)
    total = np.where(judged, values, 0).sum(axis=1)
    return np.where(judged.any(axis=1), total / np.maximum(judged.sum(axis=1), 1), np.nan)
