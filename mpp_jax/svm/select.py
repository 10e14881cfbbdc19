"""Choosing C: a whole path of C values and k-fold cross-validation, all from one Gram matrix.

A fold's training set is the full problem with the held-out rows *ignored* (target 0, so that their
dual variables stay zero): every fold and every class is one more column of the same solve, and
one matrix product per iteration serves them all. Along the path each C starts from the solution
of the one before. The scores of held-out rows are K (alpha o y), so no weight vector is formed.

Where no Gram matrix fits, `cross_validate_svm_primal` trains fold by fold with `fit_svm_primal`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mpp_jax.metrics import mean_average_precision
from mpp_jax.svm.blocks import Vectors, vectors_shape
from mpp_jax.svm.dual import exact_product
from mpp_jax.svm.gram import row_products
from mpp_jax.svm.machines import SVMInfo, check_gram, fit_svm_gram
from mpp_jax.svm.options import ObjectiveOptions, SVMOptions, resolve
from mpp_jax.svm.primal import fit_svm_primal
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
        gram: (N, N) inner products, as `gram_matrix` gives them; taken in float32.
        targets: (N, L) in {-1, 0, +1}.
        cs: values of C, in any order; the result is ascending.
        options: see `SVMOptions`.

    Raises:
        ValueError: as for `fit_svm_gram`; or `cs` is empty.
    """
    check_gram(gram)
    values, gram = _ascending(cs), jnp.asarray(gram, jnp.float32)  # once to the device
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
    columns: int | None = None,
    **options: Unpack[SVMOptions],
) -> CrossValidation:
    """Cross-validate C in k folds, for all classes at once.

    Args:
        gram: (N, N) inner products of all rows; taken in float32.
        targets: (N, L) in {-1, 0, +1}.
        cs: values of C.
        folds: the number of folds (drawn by `stratified_folds` with `key`), or (N,) integers
            0..F-1 naming the fold that holds out each row, for groups that must stay together.
        key: key for drawing folds; needed if `folds` is a number.
        metric: (scores, targets) of held-out rows -> figure, by default the mean 11-point AP;
            `accuracy_metric` is the top-1 accuracy of exclusive classes.
        columns: problems, folds times classes, that are solved at once; None for all of them.
            Fewer take less memory, some hundred bytes for each row and column.
        options: see `SVMOptions`.

    Raises:
        ValueError: as for `fit_svm_gram`; a fold's training rows lack a side of some class; a
            fold is empty; `key` is missing.
    """
    n = check_gram(gram)
    y = check_targets(targets, n)
    fold_of, held_out = _folds_of(y, folds, key)
    count, classes = held_out.shape[1], y.shape[1]
    values, gram = _ascending(cs), jnp.asarray(gram, jnp.float32)  # once to the device
    chosen = resolve(options)
    each = classes if columns is None else max(1, columns // count)
    scores = np.zeros((len(values), n, classes))
    parts = []
    for first in range(0, classes, each):
        group = slice(first, first + each)
        own: SVMOptions = {**chosen, "class_weight": _tiled(chosen["class_weight"], group, count)}
        trained = np.where(held_out[:, :, None], 0, y[:, None, group])  # (N, F, some classes)
        shape = trained.shape
        trained, before, infos = trained.reshape(n, -1), None, []
        for i, c in enumerate(values):
            before, info = fit_svm_gram(gram, trained, c, initial=before, **own)
            found = gram_scores(gram, before, chosen["bias_multiplier"]).reshape(shape)
            scores[i, :, group] = np.where(held_out[:, :, None], found, 0).sum(axis=1)
            infos.append([field.reshape(shape[1:]) for field in info])
        parts.append(SVMInfo(*map(np.stack, zip(*infos, strict=True))))
    info = SVMInfo(*(np.concatenate(fields, axis=2) for fields in zip(*parts, strict=True)))
    return _judged(values, scores, fold_of, y, metric, info)


def cross_validate_svm_primal(
    vectors: Vectors,
    targets: ArrayLike,
    cs: Sequence[float],
    folds: int | ArrayLike = 5,
    *,
    key: jax.Array,
    metric: Metric = mean_average_precision,
    tolerance: float = 1e-2,
    max_epochs: int = 100,
    batch_size: int = 256,
    on_fit: Callable[[float, int], None] | None = None,
    **options: Unpack[ObjectiveOptions],
) -> CrossValidation:
    """Cross-validate C as `cross_validate_svm` does, without an N x N matrix.

    One fit for each C and fold, one after another, by mini-batches: memory is that of one fit, and
    time that of all of them.

    Args:
        vectors: (N, D), see `fit_svm_primal`, as are all arguments that are not named here.
        targets: (N, L) in {-1, 0, +1}.
        cs: values of C.
        folds: see `cross_validate_svm`, as is `metric`.
        key: key for drawing folds, and for the order of the examples.
        metric: (scores, targets) of held-out rows -> figure.
        tolerance: relative duality gap.
        max_epochs: of each fit.
        batch_size: rows per mini-batch.
        on_fit: called before each fit with its C and fold.
        options: `bias_multiplier`, `loss`, `class_weight` and `sample_weight`, see `SVMOptions`.

    Raises:
        TypeError: as for `fit_svm_primal`.
        ValueError: as for `fit_svm_primal` and `cross_validate_svm`.
    """
    n, _ = vectors_shape(vectors)
    y = check_targets(targets, n)
    fold_of, held_out = _folds_of(y, folds, key)
    values = _ascending(cs)
    scores = np.zeros((len(values), n, y.shape[1]))
    infos = []
    for i, c in enumerate(values):
        for fold, out in enumerate(held_out.T):
            if on_fit is not None:
                on_fit(float(c), fold)
            svm, fitted = fit_svm_primal(
                vectors,
                np.where(out[:, None], 0, y),
                c,
                key=jax.random.fold_in(key, fold),
                tolerance=tolerance,
                max_epochs=max_epochs,
                batch_size=batch_size,
                **options,
            )
            found = np.asarray(row_products(vectors, svm.weights)) + np.asarray(svm.bias)[None, :]
            scores[i, out] = found[out]
            infos.append(fitted.certificate)
    shape = (len(values), held_out.shape[1], y.shape[1])
    info = SVMInfo(*(np.stack(field).reshape(shape) for field in zip(*infos, strict=True)))
    return _judged(values, scores, fold_of, y, metric, info)


def _folds_of(
    y: np.ndarray, folds: int | ArrayLike, key: jax.Array | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the fold of each row (N,), and (N, F) whether it holds the row out."""
    n = len(y)
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
    _check_folds(y, held_out)
    return fold_of, held_out


def _tiled(class_weight: Any, group: slice, count: int) -> Any:
    """Return the weights (F x some classes, 2) of some classes' folds, where each has its own."""
    if class_weight is None or isinstance(class_weight, str):
        return class_weight
    return np.tile(np.asarray(class_weight)[group], (count, 1))


def _judged(
    cs: np.ndarray,
    scores: np.ndarray,
    fold_of: np.ndarray,
    y: np.ndarray,
    metric: Metric,
    info: SVMInfo,
) -> CrossValidation:
    held_out = [fold_of == fold for fold in range(int(fold_of.max()) + 1)]
    values = np.array([[metric(s[out], y[out]) for out in held_out] for s in scores])
    mean = _nanmean(values)
    if np.isnan(mean).all():
        raise ValueError("no fold can be judged: every class lacks a positive in each; use fewer")
    best = float(cs[np.nanargmax(mean)])
    return CrossValidation(cs, values, mean, best, scores, fold_of, info)


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


def _check_folds(y: np.ndarray, held_out: np.ndarray) -> None:
    """Raise unless the training targets of each fold hold both sides of every class."""
    trained = ~held_out.T.astype(bool)
    for value, side in ((1, "positive"), (-1, "negative")):
        left = trained.astype(np.float32) @ (y == value).astype(np.float32)  # (F, L)
        lacking = np.argwhere(left == 0)
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
