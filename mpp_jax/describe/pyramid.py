r"""The scale pyramid: sides of the squares, the resize, crops, and receptive windows.

Scale k = 0..6 is a square of ceil(base 2^{k/2}) pixels: each has twice the *area* of the one before
(Yoo et al., section 2.3; Table 1's counts fix the rounding). Pictures are warped to the square.

The resize is separable and antialiased as Pillow's and `jax.image.resize`'s: output pixel i of an
axis of n pixels resized to m is a weighted mean around c = (i + 1/2) n / m - 1/2,

    y_i = sum_j h((j - c) / s) x_j / sum_j h((j - c) / s),   s = max(1, n / m),

with h the triangle (bilinear) or Keys' cubic with a = -1/2 (bicubic). The true size n is an
*array*, so pictures of any size on a canvas of one static shape are resized by one program. An
axis is resized in one of two forms, chosen by the static shapes alone:

    a matrix product   y = W x, with the weights of every pixel of the canvas's axis;
    gathered taps      the terms with |j - c| < r s alone (r = 1 bilinear, 2 bicubic): their number
                       is at most ceil(2 r max(1, S / m)), S the canvas's axis, since n <= S.

So 2 or 4 taps serve whatever a canvas no larger than the result holds; on a larger one the same
program enlarges one picture and shrinks another.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from mpp_jax.config import Resampling, Rounding
from mpp_jax.numerics import over_pictures

REACH = {"bilinear": 1, "bicubic": 2}
"""Half the width of a kernel, in pixels of the picture that is enlarged."""

Weights = Array | tuple[Array, Array]
"""How an axis is resized: a matrix (side, n), or places and weights of taps (side, T)."""

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
    pixel = jnp.arange(canvas, dtype=jnp.float32)[None, None, :]
    size = sizes.astype(jnp.float32)[:, None, None]
    centre, scale = _centres(size, side)
    return _normalized_weights(pixel, size, centre, scale, resampling)


def _centres(size: Array, side: int) -> tuple[Array, Array]:
    """Return c and s of the resize, (B, side, 1) and (B, 1, 1) of sizes (B, 1, 1)."""
    ratio = size / side
    centre = (jnp.arange(side, dtype=jnp.float32)[None, :, None] + 0.5) * ratio - 0.5
    return centre, jnp.maximum(ratio, 1.0)


def _normalized_weights(
    pixel: Array, size: Array, centre: Array, scale: Array, resampling: Resampling
) -> Array:
    """Return the weights of pixels (B or 1, side or 1, T), which sum to 1 over the last axis."""
    distance = jnp.abs(pixel - centre) / scale
    _check_resampling(resampling)
    if resampling == "bilinear":
        weights = jnp.maximum(1.0 - distance, 0.0)
    else:
        near = (1.5 * distance - 2.5) * distance**2 + 1.0
        far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
        weights = jnp.where(distance < 1, near, jnp.where(distance < 2, far, 0.0))
    weights = jnp.where((pixel >= 0) & (pixel < size), weights, 0.0)
    return weights / jnp.sum(weights, axis=2, keepdims=True)


def _check_resampling(resampling: str) -> None:
    if resampling not in REACH:
        raise ValueError(f"resampling must be bilinear or bicubic, got {resampling!r}")


def tap_count(canvas: int, side: int, resampling: Resampling) -> int:
    """Return of how many pixels of an axis, of `canvas` at most, a pixel of the result is made.

    Raises:
        ValueError: an unknown kernel.
    """
    _check_resampling(resampling)
    reach = REACH[resampling]
    return 2 * reach if canvas <= side else -(-2 * reach * canvas // side)


def resize_taps(
    sizes: Array, canvas: int, side: int, resampling: Resampling
) -> tuple[Array, Array]:
    """Return which pixels make each pixel of the result, and their weights.

    Args:
        sizes: (B,) int, true sizes of the axis.
        canvas: pixels of the axis.
        side: of the result.
        resampling: kernel.

    Returns:
        (B, side, T) int32 places on the canvas and float32 weights, T = `tap_count`; what is no
        term has weight 0.
    """
    size = sizes.astype(jnp.float32)[:, None, None]
    centre, scale = _centres(size, side)
    first = jnp.floor(centre - REACH[resampling] * scale) + 1
    count = tap_count(canvas, side, resampling)
    pixel = first + jnp.arange(count, dtype=jnp.float32)[None, None, :]
    weights = _normalized_weights(pixel, size, centre, scale, resampling)
    return jnp.clip(pixel, 0, canvas - 1).astype(jnp.int32), weights


@partial(jax.jit, static_argnames=("side", "resampling", "most_taps"))
def resize_pictures(
    canvas: Array,
    sizes: Array,
    side: int,
    resampling: Resampling = "bilinear",
    most_taps: int = 0,
) -> Array:
    """Warp pictures to squares.

    Args:
        canvas: (B, S, S', 3) uint8 or float, pictures in the upper left corner.
        sizes: (B, 2) int, true (height, width).
        side: of the result.
        resampling: kernel.
        most_taps: an axis is resized by gathering where a pixel of the result has no more terms,
            else by a matrix product; 0: always by a matrix product.

    Returns:
        (B, side, side, 3) float32 in the canvas's range (bicubic overshoots and is clipped to
        0..255 at the end; Pillow's 8-bit resize clips and rounds between its two passes as well).
        Both forms give the same numbers within 1e-3 of a grey level.
    """
    axes: list[Weights] = []
    for axis in (0, 1):
        true, size = sizes[:, axis], canvas.shape[1 + axis]
        if tap_count(size, side, resampling) <= most_taps:
            axes.append(resize_taps(true, size, side, resampling))
        else:
            axes.append(resize_weights(true, size, side, resampling))

    def one(arguments: tuple[Array, Weights, Weights]) -> Array:
        picture, down, across = arguments
        return _resize_first(_resize_first(picture, down), across)

    warped = over_pictures(one, (canvas, *axes))
    return jnp.clip(warped, 0.0, 255.0) if resampling == "bicubic" else warped


def _resize_first(x: Array, weights: Weights) -> Array:
    """Resize the first axis of `x` (n, k, 3), which becomes the second: (k, side, 3) float32."""
    if isinstance(weights, tuple):
        places, factors = weights
        terms = [
            factors[:, t, None, None] * jnp.take(x, places[:, t], axis=0, mode="clip")
            for t in range(places.shape[1])
        ]
        return sum(terms[1:], terms[0]).swapaxes(0, 1)
    return jnp.einsum(
        "ij,jkc->kic", weights, x.astype(jnp.float32), precision=lax.Precision.HIGHEST
    )


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
