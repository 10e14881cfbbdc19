r"""Scores of receptive windows, accumulated over the pixels that the windows cover.

The windows of a scale are a grid, so no loop over windows is needed: for scores A (P x P) and
coverages R (H x P) of pixel rows and C (W x P) of pixel columns, the map is M = R A C^T. A pixel
that a window covers in part counts with that part, so the sum over a map is the sum over windows
of score times area.
"""

import math
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

from mpp_jax.numerics import PRECISION

Reading = Literal["sum", "vote"]
"""Of scores: themselves, or one vote for the class of the largest."""


def votes(scores: Array) -> Array:
    """Return one for the largest of (..., L) scores if it is above 0, zero for all others."""
    winner = jax.nn.one_hot(jnp.argmax(scores, axis=-1), scores.shape[-1], dtype=scores.dtype)
    return jnp.where(scores > 0, winner, 0.0)


def coverage(first: Array, last: Array, size: Array, length: int) -> Array:
    """Return the share (length, P) of each pixel of an axis that P intervals cover.

    Args:
        first: (P,) beginnings as fractions of the axis.
        last: (P,) ends.
        size: () pixels of the axis; those from ``size`` to ``length`` are outside: 0.
        length: static.
    """
    pixel = jnp.arange(length, dtype=first.dtype)[:, None]
    low = jnp.maximum(first[None, :] * size, pixel)
    high = jnp.minimum(last[None, :] * size, jnp.minimum(pixel + 1, size))
    return jnp.clip(high - low, 0.0, 1.0)


def accumulate(values: Array, window: Array, size: Array, side: int) -> Array:
    """Add values over their windows. Pure.

    Args:
        values: (T, L), T = P^2 positions row by row.
        window: (T, 4) fractions (top, left, bottom, right), a grid: rows alike in top and bottom.
        size: (2,) height and width of the map.
        side: of the square that it is laid on (static).

    Returns:
        (L, side, side), the map in the upper left corner and 0 elsewhere.
    """
    positions = math.isqrt(values.shape[0])
    rows = coverage(window[::positions, 0], window[::positions, 2], size[0], side)
    columns = coverage(window[:positions, 1], window[:positions, 3], size[1], side)
    grid = values.reshape(positions, positions, -1)
    half = jnp.einsum("hp,pql->lhq", rows, grid, precision=PRECISION)
    return jnp.einsum("lhq,wq->lhw", half, columns, precision=PRECISION)


@partial(jax.jit, static_argnames=("reading", "side"))
def accumulate_scores(
    scores: tuple[Array, ...],
    windows: tuple[Array, ...],
    sizes: Array,
    chosen: Array,
    reading: Reading,
    side: int,
) -> Array:
    """Return the maps (B, n, side, side) of the classes ``chosen`` (n,) from all classes' scores.

    ``scores`` are (B, T, L) and ``windows`` (T, 4), one a scale; ``sizes`` (B, 2) those of the
    maps.
    """

    def one(picture: tuple[tuple[Array, ...], Array]) -> Array:
        parts, size = picture
        total = jnp.zeros((len(chosen), side, side))
        for part, window in zip(parts, windows, strict=True):
            values = votes(part) if reading == "vote" else part
            total += accumulate(values[:, chosen], window, size, side)
        return total

    return lax.map(one, (scores, sizes))
