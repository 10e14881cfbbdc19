r"""The scale pyramid: sides of the squares, the resize, crops, and receptive windows.

Scale k = 0..6 is a square of ceil(base 2^{k/2}) pixels: each has twice the *area* of the one before
(Yoo et al., section 2.3; Table 1's counts fix the rounding). Pictures are warped to the square.

The resize is separable and antialiased as Pillow's and `jax.image.resize`'s: output pixel i of an
axis of n pixels resized to m is a weighted mean around c = (i + 1/2) n / m - 1/2,

    y_i = sum_j h((j - c) / s) x_j / sum_j h((j - c) / s),   s = max(1, n / m),

with h the triangle (bilinear) or Keys' cubic with a = -1/2 (bicubic). The true size n is an
*array*, so pictures of any size on a canvas of one static shape are resized by one program.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from mpp_jax.config import Resampling, Rounding
from mpp_jax.numerics import over_pictures

CROP_SIDE = 256
"""Side of the picture from which the crops of FC7, AP10 and AP50 are cut (for sides up to it)."""


def scale_side(base: int, k: int, rounding: Rounding = "ceil") -> int:
    """Return the side in pixels of scale k (from 0) of a network with this base side.

    Raises:
        ValueError: for k < 0, base < 1 or an unknown rounding.
    """
    if k < 0 or base < 1:
        raise ValueError(f"scale k must be 0 or more and base 1 or more, got k={k}, base={base}")
    # sqrt(base^2 2^k) in integers: base * 2.0**(k / 2) may round a whole number upwards.
    square = base * base * 2**k
    floor = math.isqrt(square)
    if rounding == "ceil":
        return floor + (floor * floor < square)
    if rounding == "round":
        return floor + ((2 * floor + 1) ** 2 < 4 * square)
    raise ValueError(f"rounding must be ceil or round, got {rounding!r}")


def resize_weights(sizes: Array, canvas: int, side: int, resampling: Resampling) -> Array:
    """Return the (B, side, canvas) matrices that resize axes of true sizes (B,) to ``side``."""
    size = sizes.astype(jnp.float32)[:, None, None]
    ratio = size / side
    centre = (jnp.arange(side, dtype=jnp.float32)[None, :, None] + 0.5) * ratio - 0.5
    pixel = jnp.arange(canvas, dtype=jnp.float32)[None, None, :]
    distance = jnp.abs(pixel - centre) / jnp.maximum(ratio, 1.0)
    if resampling == "bilinear":
        weights = jnp.maximum(1.0 - distance, 0.0)
    elif resampling == "bicubic":
        near = (1.5 * distance - 2.5) * distance**2 + 1.0
        far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
        weights = jnp.where(distance < 1, near, jnp.where(distance < 2, far, 0.0))
    else:
        raise ValueError(f"resampling must be bilinear or bicubic, got {resampling!r}")
    weights = jnp.where(pixel < size, weights, 0.0)
    return weights / jnp.sum(weights, axis=2, keepdims=True)


@partial(jax.jit, static_argnames=("side", "resampling"))
def resize_pictures(
    canvas: Array, sizes: Array, side: int, resampling: Resampling = "bilinear"
) -> Array:
    """Warp pictures to squares.

    Args:
        canvas: (B, S, S', 3) uint8 or float, pictures in the upper left corner.
        sizes: (B, 2) int, true (height, width).
        side: of the result.
        resampling: kernel.

    Returns:
        (B, side, side, 3) float32 in the canvas's range (bicubic overshoots and is clipped to
        0..255 at the end; Pillow's 8-bit resize clips and rounds between its two passes as well).
    """
    down = resize_weights(sizes[:, 0], canvas.shape[1], side, resampling)
    across = resize_weights(sizes[:, 1], canvas.shape[2], side, resampling)

    def one(pair: tuple[Array, Array, Array]) -> Array:
        picture, rows, columns = pair
        half = jnp.einsum(
            "yh,hwc->wyc", rows, picture.astype(jnp.float32), precision=lax.Precision.HIGHEST
        )
        return jnp.einsum("xw,wyc->yxc", columns, half, precision=lax.Precision.HIGHEST)

    warped = over_pictures(one, (canvas, down, across))
    return jnp.clip(warped, 0.0, 255.0) if resampling == "bicubic" else warped


def crop_corners(count: int, side: int, room: int) -> np.ndarray:
    """Return (n, 2) int upper left corners (y, x) of square crops.

    Args:
        count: 1 (centre), 5 (centre and corners) or 25 (5 x 5 grid).
        side: of a crop.
        room: side of the picture they are cut from.

    Raises:
        ValueError: for another count, or crops larger than the picture.
    """
    if room < side:
        raise ValueError(f"crops of {side} pixels do not fit a picture of {room}")
    last = room - side
    if count == 1:
        return np.array([[last // 2, last // 2]])
    if count == 5:
        ends = (0, last)
        return np.array([[last // 2, last // 2], *([y, x] for y in ends for x in ends)])
    if count == 25:
        grid = np.round(np.linspace(0, last, 5)).astype(int)
        return np.array([[y, x] for y in grid for x in grid])
    raise ValueError(f"count must be 1, 5 or 25 crops, got {count}")


def cut_crops(pictures: Array, side: int, count: int, *, flip: bool) -> Array:
    """Cut (B, R, R, 3) into (B, n, side, side, 3); with ``flip`` the mirror images follow."""
    corners = crop_corners(count, side, pictures.shape[1])
    crops = jnp.stack([pictures[:, y : y + side, x : x + side] for y, x in corners], axis=1)
    return jnp.concatenate([crops, crops[:, :, :, ::-1]], axis=1) if flip else crops


def receptive_windows(positions: int, stride: int, window: int, side: int) -> np.ndarray:
    """Return (positions**2, 4) float32 windows (top, left, bottom, right), row by row.

    Units are fractions of the picture's height and width, so that they hold for the original as
    well as for the warped square; windows that padding pushes over the edge are cut there.
    """
    start = np.arange(positions) * stride
    ends = np.stack([start, start + window], axis=1) / side
    top_bottom = np.repeat(ends, positions, axis=0)
    left_right = np.tile(ends, (positions, 1))
    windows = np.stack(
        [top_bottom[:, 0], left_right[:, 0], top_bottom[:, 1], left_right[:, 1]], axis=1
    )
    return np.clip(windows, 0.0, 1.0).astype(np.float32)
