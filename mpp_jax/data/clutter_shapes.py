r"""The ten kinds of object of the clutter scenes, as distance functions.

An object lives in the unit disc, in coordinates ``u`` (right) and ``v`` (down) of its own frame.
A shape is a function ``(u, v) -> (outline, surface)`` of float64 arrays of one size:

- ``outline``: signed distance to the object's edge, negative inside, with a gradient of about 1;
- ``surface``: the same for the part that carries the second colour, positive there.

A picture whose pixels are ``p`` units wide covers each pixel by ``clip(1/2 - outline / p, 0, 1)``:
anti-aliasing without sampling a pixel more than once. Intersection and union of shapes are ``max``
and ``min`` of their distances (J. C. Hart, "Sphere tracing", The Visual Computer 12, 1996).
"""

import math
from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np

Shape: TypeAlias = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def fold(x: np.ndarray, period: float) -> np.ndarray:
    """Return offsets from the nearest multiple of ``period``, in ``[-period / 2, period / 2)``."""
    return (x + period / 2) % period - period / 2


def stripes(x: np.ndarray, period: float) -> np.ndarray:
    """Return the signed distance to the edges of stripes: positive in half of each period."""
    return period / 4 - np.abs(fold(x, period))


def checks(u: np.ndarray, v: np.ndarray, period: float) -> np.ndarray:
    """Return the signed distance to the edges of a chequer of squares of half a period."""
    a, b = stripes(u, period), stripes(v, period)
    return np.sign(a) * np.sign(b) * np.minimum(np.abs(a), np.abs(b))


def dots(u: np.ndarray, v: np.ndarray, period: float, radius: float) -> np.ndarray:
    """Return the signed distance to a square lattice of dots, positive inside the dots."""
    return radius - np.hypot(fold(u, period), fold(v, period))


def arrow(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a straight arrow; its head has the second colour."""
    shaft = np.maximum(np.abs(v) - 0.22, np.maximum(-0.95 - u, u - 0.2))
    slant = ((u - 1.0) * 0.75 + np.abs(v) * 0.95) / math.hypot(0.75, 0.95)
    return np.minimum(shaft, np.maximum(slant, 0.05 - u)), u - 0.05


def checkers(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a disc with squares of two colours."""
    return np.hypot(u, v) - 1.0, checks(u + 0.2, v + 0.2, 0.8)


def crescent(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a moon with dots."""
    inner = 0.78 - np.hypot(u - 0.48, v)
    return np.maximum(np.hypot(u, v) - 1.0, inner), dots(u, v, 0.3, 0.09)


def cross(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a Greek cross with a border."""
    a, b = np.abs(u), np.abs(v)
    outline = np.maximum(np.minimum(a, b) - 0.3, np.maximum(a, b) - 0.94)
    return outline, outline + 0.11


def gear(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a wheel with eleven teeth, a hole and a groove."""
    r = np.hypot(u, v)
    along = r * fold(np.arctan2(v, u), 2 * math.pi / 11)
    teeth = np.maximum(r - 0.99, np.abs(along) - 0.12)
    outline = np.maximum(np.minimum(r - 0.78, teeth), 0.28 - r)
    return outline, 0.08 - np.abs(r - 0.52)


def grid(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a lattice that shows the ground; bars of one direction have the second colour."""
    a, b = np.abs(fold(u, 0.32)), np.abs(fold(v, 0.32))
    frame = np.maximum(np.abs(u), np.abs(v)) - 0.7
    return np.maximum(frame, np.minimum(a, b) - 0.06), a - b


def ring(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a ring whose outer half has the second colour."""
    r = np.hypot(u, v)
    return np.abs(r - 0.76) - 0.23, r - 0.76


def spiral(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a disc with an Archimedean spiral of two arms."""
    r = np.hypot(u, v)
    return r - 1.0, stripes(r + np.arctan2(v, u) * 0.5 / (2 * math.pi), 0.5)


def star(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a star of five points; each point has a light and a dark facet."""
    r, angle = np.hypot(u, v), fold(np.arctan2(v, u), 2 * math.pi / 5)
    x, y = r * np.cos(angle), r * np.sin(angle)
    # The edge runs from a point of the star (1, 0) to the notch beside it.
    notch = (0.42 * math.cos(math.pi / 5), 0.42 * math.sin(math.pi / 5))
    edge = math.hypot(1 - notch[0], notch[1])
    return ((x - 1) * notch[1] + np.abs(y) * (1 - notch[0])) / edge, y


def striped(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return an ellipse with stripes across."""
    value = u * u + (v / 0.6) ** 2 - 1.0
    slope = 2.0 * np.hypot(u, v / 0.36)
    return value / np.maximum(slope, 0.1), stripes(u, 0.4)


SHAPES: Final[dict[str, Shape]] = {
    shape.__name__: shape
    for shape in (
        *(arrow, checkers, crescent, cross, gear),
        *(grid, ring, spiral, star, striped),
    )
}
"""Class name -> shape, in the order of the labels (alphabetical)."""
