"""Targets of one-vs-rest problems: one column of {-1, 0, +1} a class, 0 for rows it ignores."""

import numpy as np
from jax.typing import ArrayLike


def one_vs_rest_targets(labels: ArrayLike, n_classes: int | None = None) -> np.ndarray:
    """Return targets (N, L) in {-1, +1}, int8, of class indices (N,) in 0..L-1.

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


def check_targets(targets: ArrayLike, n: int, *, need_both_sides: bool = True) -> np.ndarray:
    """Return `targets` as (N, L) float64 after checking values, shape and sides of each class."""
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
