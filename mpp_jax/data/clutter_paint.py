r"""Colours, grounds and clutter, and how a shape is laid over a picture.

All values are float64 in [0, 1] until the last step. Random numbers are the raw doubles of a PCG64
stream, whose values NumPy guarantees; the methods of ``Generator`` that shape them may change from
version to version. Doubles leave so much room that the last bit of a ``sin``, in which processors
differ, does not reach the 8 bits of a pixel.
"""

import math
from typing import NamedTuple

import numpy as np

from mpp_jax.data.clutter_shapes import Shape, fold, stripes


class Draws:
    """A stream of random numbers that is the same on every machine."""

    def __init__(self, *entropy: int) -> None:
        """Start the stream that belongs to these whole numbers."""
        self._raw = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Draw a number in [low, high)."""
        return low + (high - low) * self._raw.random()

    def geometric(self, low: float, high: float) -> float:
        """Draw a number in [low, high) whose logarithm is uniform."""
        return low * (high / low) ** self._raw.random()

    def whole(self, low: int, high: int) -> int:
        """Draw a whole number in low..high, both included."""
        return low + int(self._raw.random() * (high - low + 1))

    def array(self, *shape: int) -> np.ndarray:
        """Draw an array of numbers in [0, 1)."""
        return self._raw.random(shape)


class Placed(NamedTuple):
    """Where a shape lies: centre (y, x) and diameter in pixels, rotation in radians."""

    y: float
    x: float
    diameter: float
    angle: float


class Look(NamedTuple):
    """The two colours (3,) of a shape, and the light on it: brighter towards (y, x)."""

    first: np.ndarray
    second: np.ndarray
    light: tuple[float, float]


def colour(draws: Draws) -> np.ndarray:
    """Draw a (3,) RGB colour: any hue, pale to saturated, dark to light."""
    hue, saturation, value = 6 * draws.uniform(), draws.uniform(0.1, 0.9), draws.uniform(0.15, 1.0)
    turn = (np.array([5.0, 3.0, 1.0]) + hue) % 6.0  # HSV to RGB, one channel each
    return value - value * saturation * np.clip(np.minimum(turn, 4.0 - turn), 0.0, 1.0)


def colour_unlike(draws: Draws, others: list[np.ndarray], distance: float) -> np.ndarray:
    """Draw a colour at least ``distance`` away from others; the farthest of 24 where none is."""
    best, farthest = colour(draws), -1.0
    for _ in range(24):
        candidate = colour(draws)
        nearest = min(float(np.sqrt(np.sum((candidate - other) ** 2))) for other in others)
        if nearest > farthest:
            best, farthest = candidate, nearest
        if nearest >= distance:
            break
    return best


def noise(draws: Draws, height: int, width: int, cell: float, octaves: int = 1) -> np.ndarray:
    """Draw value noise (height, width) in [0, 1]: numbers on a lattice, smoothly interpolated.

    Each further octave has half the cell, in pixels, and half the weight (K. Perlin, "An image
    synthesizer", SIGGRAPH 1985).
    """
    total, weights = np.zeros((height, width)), 0.0
    for octave in range(octaves):
        step = max(cell / 2**octave, 1.0)
        rows, columns = (_lattice_weights(side, step) for side in (height, width))
        total += 2.0**-octave * (rows @ draws.array(rows.shape[1], columns.shape[1]) @ columns.T)
        weights += 2.0**-octave
    return total / weights


def _lattice_weights(side: int, step: float) -> np.ndarray:
    """Return the (side, nodes) weights of smooth interpolation between lattice nodes."""
    place = np.arange(side) / step
    node = np.floor(place).astype(int)
    part = place - node
    part = part * part * (3.0 - 2.0 * part)
    weights = np.zeros((side, int(node[-1]) + 2))
    weights[np.arange(side), node] = 1.0 - part
    weights[np.arange(side), node + 1] += part
    return weights


def ground(draws: Draws, height: int, width: int) -> np.ndarray:
    """Draw a textured ground (height, width, 3): mottled, striped, tiled, or mixed."""
    side = min(height, width)
    colours = [colour(draws) for _ in range(3)]
    kind = draws.whole(0, 3)
    mottled = noise(draws, height, width, side * draws.geometric(0.05, 0.6), octaves=5)
    if kind == 0:  # clouds, with more contrast than the noise itself has
        mix = np.clip(0.5 + 2.5 * (mottled - 0.5), 0.0, 1.0)
    else:
        angle, period = draws.uniform(0, math.pi), side * draws.geometric(0.02, 0.25)
        y, x = np.arange(height)[:, None], np.arange(width)[None, :]
        along = x * math.cos(angle) + y * math.sin(angle)
        across = y * math.cos(angle) - x * math.sin(angle)
        along = along + period * draws.uniform(0.0, 4.0) * mottled
        if kind == 1:  # wood or cloth
            mix = 0.5 + 0.5 * np.sin(2 * math.pi / period * along)
        elif kind == 2:  # tiles, each with a tone of its own
            tones = draws.array(64, 64)
            rows, columns = np.floor(along / period), np.floor(across / period)
            mix = tones[rows.astype(int) % 64, columns.astype(int) % 64]
            joint = np.minimum(np.abs(fold(along, period)), np.abs(fold(across, period)))
            mix = mix * np.clip(joint / (0.06 * period), 0.0, 1.0)
        else:  # bands of several widths
            mix = _coverage(-stripes(along, period), 1.0) * 0.6 + 0.4 * mottled
    spread = noise(draws, height, width, side * 0.7, octaves=2)[..., None]
    contrast = draws.uniform(0.15, 0.6)
    second = colours[0] + contrast * (colours[1] - colours[0])
    picture = colours[0] + mix[..., None] * (second - colours[0])[None, None, :]
    return picture + 0.4 * spread * (colours[2][None, None, :] - picture)


def clutter_shape(draws: Draws) -> Shape:
    """Draw a shape that is none of the classes: a blob, a polygon or a bar, plain or mottled."""
    kind, corners = draws.whole(0, 2), draws.whole(3, 6)
    turns = [draws.uniform(0, 2 * math.pi) for _ in range(4)]
    depths = [draws.uniform(0.04, 0.18) for _ in range(4)]
    cut = [draws.uniform(0.35, 0.75) for _ in range(corners)]
    slim = draws.uniform(0.06, 0.3)

    def surface(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        waves = np.sin(3 * u + turns[0]) + np.sin(4 * v + turns[1]) + np.sin(5 * (u - v) + turns[2])
        return 0.3 * waves

    def blob(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        angle = np.arctan2(v, u)
        bumps = sum(d * np.cos((k + 2) * angle + turns[k]) for k, d in enumerate(depths))
        return np.hypot(u, v) - (0.6 + np.asarray(bumps)), surface(u, v)

    def polygon(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        angles = [2 * math.pi * (k + 0.3 * depths[0]) / corners for k in range(corners)]
        sides = [u * math.cos(a) + v * math.sin(a) - c for a, c in zip(angles, cut, strict=True)]
        return np.maximum(np.max(sides, axis=0), np.hypot(u, v) - 1.0), surface(u, v)

    def bar(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        bent = v - 0.4 * slim * np.sin(3 * u + turns[3])
        return np.maximum(np.abs(bent) - slim, np.abs(u) - 0.9), surface(u, v)

    return (blob, polygon, bar)[kind]


def _coverage(distance: np.ndarray, pixel: float) -> np.ndarray:
    """Return the share of each pixel on the negative side of an edge."""
    return np.clip(0.5 - distance / pixel, 0.0, 1.0)


def lay(picture: np.ndarray, shape: Shape, place: Placed, look: Look) -> tuple[int, int, int, int]:
    """Paint a shape over a picture, in place.

    Args:
        picture: (H, W, 3) float64.
        shape: what.
        place: where; the part outside the picture is cut off.
        look: its colours and light.

    Returns:
        (top, left, bottom, right) in whole pixels, bottom and right excluded: the smallest box
        around the pixels that the shape covers by half or more; empty (zeros) where there is none.
    """
    radius = place.diameter / 2
    top, left = (max(math.floor(c - radius), 0) for c in (place.y, place.x))
    bottom, right = (
        min(math.ceil(c + radius), side)
        for c, side in zip((place.y, place.x), picture.shape[:2], strict=True)
    )
    if top >= bottom or left >= right:
        return (0, 0, 0, 0)
    y = ((np.arange(top, bottom) + 0.5 - place.y) / radius)[:, None]
    x = ((np.arange(left, right) + 0.5 - place.x) / radius)[None, :]
    cos, sin = math.cos(place.angle), math.sin(place.angle)
    outline, surface = shape(x * cos + y * sin, y * cos - x * sin)
    alpha = _coverage(outline, 1 / radius)
    second = _coverage(-surface, 1 / radius)[..., None]
    colours = look.first + second * (look.second - look.first)[None, None, :]
    colours = colours * (1.0 + look.light[0] * y + look.light[1] * x)[..., None]
    patch = picture[top:bottom, left:right]
    patch += alpha[..., None] * (colours - patch)
    rows, columns = (np.flatnonzero((alpha >= 0.5).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return (0, 0, 0, 0)
    return (
        *(top + int(rows[0]), left + int(columns[0])),
        *(top + int(rows[-1]) + 1, left + int(columns[-1]) + 1),
    )


def finish(picture: np.ndarray, draws: Draws) -> np.ndarray:
    """Add light from one side, exposure and grain; (H, W, 3) float64 -> uint8."""
    height, width = picture.shape[:2]
    angle, strength = draws.uniform(0, 2 * math.pi), draws.uniform(0.0, 0.35)
    y = np.linspace(-1, 1, height)[:, None] * math.sin(angle)
    x = np.linspace(-1, 1, width)[None, :] * math.cos(angle)
    lit = picture * (draws.uniform(0.75, 1.1) * (1.0 + strength * (x + y)))[..., None]
    grain = draws.uniform(0.0, 0.06) * (draws.array(height, width) - 0.5)
    values = np.clip(lit + grain[..., None], 0.0, 1.0)
    return np.floor(values * 255.0 + 0.5).astype(np.uint8)
