r"""The pointing game: does a map's highest point lie on the object?

A map ``M (H, W)`` points at a picture if its peak lies in a box of its class (J. Zhang et
al., "Top-down neural attention by excitation backprop", IJCV 126, 2018); accuracy is the share of
(picture, class present) pairs that do. Beside it stand two that look at no picture: a point drawn
uniformly, which hits with the share of the picture that the boxes of the class cover, and the
picture's centre.

Boxes are (ymin, xmin, ymax, xmax) as shares of height and width.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

Place = tuple[float, float, float, float]
CENTRE = (0.5, 0.5)


def peak(confidence: ArrayLike) -> tuple[float, float]:
    """Return the highest point of a map, (y, x) as shares of height and width.

    Maps are flat where the same windows overlap; the peak is the middle of the highest pixels.

    Args:
        confidence: (H, W), finite.

    Raises:
        ValueError: Another shape, no pixel, or NaN.
    """
    values = np.asarray(confidence)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"confidence must be a finite (H, W) map, got shape {values.shape}")
    rows, columns = np.nonzero(values == values.max())
    height, width = values.shape
    return (float(rows.mean()) + 0.5) / height, (float(columns.mean()) + 0.5) / width


def inside(point: tuple[float, float], boxes: Iterable[Place]) -> bool:
    """Return whether a point (y, x) lies in any of the boxes."""
    y, x = point
    return any(top <= y <= bottom and left <= x <= right for top, left, bottom, right in boxes)


def covered_share(boxes: Iterable[Place]) -> float:
    """Return the share of the picture that boxes cover together: a uniform point's chance."""
    places = np.array(list(boxes), np.float64).reshape(-1, 4)
    rows, columns = (np.unique(np.concatenate([places[:, k], places[:, k + 2]])) for k in (0, 1))
    # Between neighbouring edges everything is covered or nothing is.
    y, x = ((edges[:-1] + edges[1:]) / 2 for edges in (rows, columns))
    held = np.zeros((len(y), len(x)), bool)
    for top, left, bottom, right in places:
        held |= ((y > top) & (y < bottom))[:, None] & ((x > left) & (x < right))[None, :]
    return float(np.diff(rows) @ held @ np.diff(columns)) if len(places) else 0.0
