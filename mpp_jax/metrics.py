"""Evaluation: accuracies, confusion matrix, and average precision with ignored entries.

Average precision ranks the examples of one class by descending score; at rank r

    precision(r) = true positives among the first r / r,    recall(r) = ... / all positives.

- ``kind="11point"``: the mean over t = 0, 0.1, ..., 1 of the largest precision at any recall >= t
  (recall 1 is always reached): the VOC 2007 development kit's ``VOCevalcls.m``. The comparison is
  made in whole numbers, so a recall of exactly 3/10 reaches t = 0.3.
- ``kind="area"``: the mean over positives of the precision at their rank, the area under the
  un-interpolated curve: ``sklearn.metrics.average_precision_score`` (for distinct scores).

Ties: equal scores keep the order of the examples (a stable sort), as in the development kit, whose
MATLAB sort is stable. Examples with target 0 ("difficult" only) are taken out before ranking.
"""

from typing import Literal

import numpy as np
from jax.typing import ArrayLike


def top1_accuracy(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the fraction of examples whose highest score is that of their class.

    Args:
        scores: (N, L); among equal highest scores the first class counts as the prediction.
        labels: (N,) integers in 0..L-1.

    Raises:
        ValueError: shapes disagree, there is no example, a label is out of range, a score is NaN.
    """
    s, y = _check_labelled(scores, labels)
    return float(np.mean(np.argmax(s, axis=1) == y))


def mean_class_accuracy(scores: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean, over the classes that occur in `labels`, of the accuracy within.

    Args:
        scores: (N, L).
        labels: (N,) integers in 0..L-1.

    Raises:
        ValueError: as for `top1_accuracy`.
    """
    per_class = class_accuracies(scores, labels)
    return float(np.nanmean(per_class))


def class_accuracies(scores: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Return the accuracy (L,) within each class; NaN for a class without examples."""
    counts = confusion_matrix(scores, labels)
    total = counts.sum(axis=1)
    return np.where(total > 0, np.diagonal(counts) / np.maximum(total, 1), np.nan)


def confusion_matrix(scores: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Return counts (L, L) int64: row = true class, column = predicted class.

    Args:
        scores: (N, L).
        labels: (N,) integers in 0..L-1.

    Raises:
        ValueError: as for `top1_accuracy`.
    """
    s, y = _check_labelled(scores, labels)
    classes = s.shape[1]
    flat = np.bincount(y * classes + np.argmax(s, axis=1), minlength=classes * classes)
    return flat.reshape(classes, classes)


def average_precision(
    scores: ArrayLike, targets: ArrayLike, kind: Literal["11point", "area"] = "11point"
) -> np.ndarray:
    """Return the average precision of every class.

    Args:
        scores: (N, L) or (N,) of one class.
        targets: same shape, in {-1, 0, +1}; 0 takes the example out of that class's ranking.
        kind: "11point" (VOC 2007) or "area", see the module's head.

    Returns:
        (L,) float64; NaN for a class without a positive (its precision is undefined).

    Raises:
        ValueError: shapes disagree, a target is outside {-1, 0, +1}, a score is NaN, unknown kind.
    """
    if kind not in ("11point", "area"):
        raise ValueError(f"kind must be '11point' or 'area', got {kind!r}")
    s, y = np.asarray(scores), np.asarray(targets)
    if s.shape != y.shape or s.ndim not in (1, 2):
        raise ValueError(
            f"scores and targets must both be (N, L) or (N,), got {s.shape} and {y.shape}"
        )
    s, y = (v[:, None] if v.ndim == 1 else v for v in (s, y))
    if not np.isin(y, (-1, 0, 1)).all():
        raise ValueError("targets must be -1, 0 (ignored) or +1")
    _check_scores(s)
    one = _ap_11point if kind == "11point" else _ap_area
    return np.array([one(*_ranked(s[:, k], y[:, k])) for k in range(s.shape[1])])


def mean_average_precision(
    scores: ArrayLike, targets: ArrayLike, kind: Literal["11point", "area"] = "11point"
) -> float:
    """Return the mean `average_precision` of classes that have a positive; NaN if none has."""
    per_class = average_precision(scores, targets, kind)
    defined = per_class[~np.isnan(per_class)]
    return float(np.mean(defined)) if defined.size else np.nan


def _ranked(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (precision, is-positive) by descending score, ignored examples taken out."""
    used = targets != 0
    order = np.argsort(-scores[used].astype(np.float64), kind="stable")
    positive = targets[used][order] > 0
    return np.cumsum(positive) / np.arange(1, positive.size + 1), positive


def _ap_11point(precision: np.ndarray, positive: np.ndarray) -> float:
    found = np.cumsum(positive)
    if not positive.any():
        return np.nan
    reached = [10 * found >= tenth * found[-1] for tenth in range(11)]
    return float(np.mean([np.max(precision[r]) for r in reached]))


def _ap_area(precision: np.ndarray, positive: np.ndarray) -> float:
    return float(np.mean(precision[positive])) if positive.any() else np.nan


def _check_labelled(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    s, y = np.asarray(scores), np.asarray(labels)
    if s.ndim != 2 or y.shape != s.shape[:1] or s.shape[0] == 0 or s.shape[1] == 0:
        raise ValueError(
            f"scores must be (N, L) and labels (N,) with N, L >= 1, got {s.shape} and {y.shape}"
        )
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= s.shape[1]:
        raise ValueError(f"labels must be integers in 0..{s.shape[1] - 1}, one per row of scores")
    _check_scores(s)
    return s, y


def _check_scores(scores: np.ndarray) -> None:
    if np.isnan(scores).any():
        rows = np.unique(np.argwhere(np.isnan(scores))[:, 0])
        raise ValueError(f"scores hold NaN in {rows.size} row(s), first at row {rows[0]}")
