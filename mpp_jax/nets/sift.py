r"""Dense SIFT: gradient histograms on a regular grid, in the place of a network's activations.

Mathematics
-----------
Of the grey picture, blurred to a standard deviation of `blur` pixels, let m and theta be the
magnitude and direction of the central differences (y upwards). A descriptor at pixel c holds 4 x 4
histograms of 8 directions (Lowe 2004, section 6). With b = `bin_size`, the histogram of row i and
column j has its centre (i - 3/2) b, (j - 3/2) b from c, and pixel c + (u, v) enters direction
o = 0..7 with the weight

    m  tri(u/b - (i - 3/2))  tri(v/b - (j - 3/2))  tri(4 theta / pi - o mod 8)  g(u/b)  g(v/b),

tri(t) = max(0, 1 - |t|), g(t) = exp(-t^2 / (2 s^2)), s = `window_size` bins (infinite: none).
The 128 numbers, in the order (i, j, o), are L2-normalised, clipped at `clip`, and L2-normalised
again; a descriptor of no gradient at all stays 0.

The spatial weights are a product of a function of u and one of v, so all descriptors of a picture
are, for each direction, one matrix product from the left (4 P x H) and one from the right
(W x 4 Q): exact, without the box approximation of the Gaussian window that makes VLFeat's
``dsift`` fast.

OpenCV's descriptor at an upright key point of ``size`` d in its first octave is that of
``bin_size = 3 d / 2`` and ``blur = 1.6`` (times 512, rounded); the defaults follow VLFeat's PHOW:
``blur = bin_size / 6``.

The grid has a descriptor every `step` pixels, the first at pixel (2 b, 2 b), as many as have
their 4 x 4 bins, ``4 b + 1`` pixels, inside the picture.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mpp_jax.nets.network import Network
from mpp_jax.nets.sift_spec import BINS, CHANNELS, DIRECTIONS, SIFT_SPEC, Sift, SiftSpec
from mpp_jax.numerics import PRECISION, l2_normalize, over_pictures

LUMA = (0.299, 0.587, 0.114)
"""ITU-R 601 luma of RGB, as in OpenCV, Pillow and MATLAB."""


def grey(pictures: Array) -> Array:
    """Return the luma of (..., 3) RGB, float32; the range stays."""
    return jnp.matmul(pictures.astype(jnp.float32), jnp.asarray(LUMA), precision=PRECISION)


def blur(picture: Array, deviation: float) -> Array:
    """Blur (H, W) by a Gaussian cut off at 4 standard deviations, mirrored at the border pixels."""
    radius = round(4 * deviation)
    if radius == 0:
        return picture
    offset = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offset / deviation) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (0, 1):
        length = picture.shape[axis]
        pad = [(radius, radius) if a == axis else (0, 0) for a in (0, 1)]
        # A mirror needs as many pixels; smaller pictures are continued by their border pixel.
        wide = jnp.pad(picture, pad, mode="reflect" if length > radius else "edge")
        slices = [jax.lax.slice_in_dim(wide, i, i + length, axis=axis) for i in range(len(offset))]
        picture = sum(w * part for w, part in zip(weights, slices, strict=True))
    return picture


def direction_planes(picture: Array) -> Array:
    """Return (8, H, W): the gradient magnitude of (H, W), split over the two nearest directions.

    Direction o is 45 o degrees counter-clockwise from the x axis. Border pixels have no gradient.
    """
    dx = jnp.pad(picture[1:-1, 2:] - picture[1:-1, :-2], 1)
    dy = jnp.pad(picture[:-2, 1:-1] - picture[2:, 1:-1], 1)
    square = dx**2 + dy**2
    some = square > 0
    # Where there is no gradient, neither root nor angle has a derivative.
    magnitude = jnp.where(some, jnp.sqrt(jnp.where(some, square, 1.0)), 0.0)
    angle = jnp.arctan2(dy, jnp.where(some, dx, 1.0)) * (DIRECTIONS / (2 * math.pi))
    direction = jnp.arange(DIRECTIONS, dtype=jnp.float32)[:, None, None]
    apart = jnp.abs((angle[None] - direction + DIRECTIONS / 2) % DIRECTIONS - DIRECTIONS / 2)
    return magnitude[None] * jnp.maximum(1.0 - apart, 0.0)


def bin_weights(centres: Sequence[int], side: int, config: Sift) -> Array:
    """Return (P, 4, side), an axis' pixels' weights in the 4 bins of descriptors at `centres`."""
    pixel = jnp.arange(side, dtype=jnp.float32)[None, None, :]
    offset = (
        pixel - jnp.asarray(np.asarray(centres), jnp.float32)[:, None, None]
    ) / config.bin_size
    middle = jnp.arange(BINS, dtype=jnp.float32)[None, :, None] - (BINS - 1) / 2
    triangle = jnp.maximum(1.0 - jnp.abs(offset - middle), 0.0)
    return triangle * jnp.exp(-0.5 * jnp.square(offset / config.window_size))


def normalize_histograms(x: Array, clip: float) -> Array:
    """Return L2-normalised histograms, cut off at `clip` and normalised again; zero stays zero."""
    return l2_normalize(jnp.minimum(l2_normalize(x), clip))


def sift_at(picture: Array, rows: Sequence[int], columns: Sequence[int], config: Sift) -> Array:
    """Return (P, Q, 128) descriptors of a grey picture (H, W) float at pixels `rows` x `columns`.

    Pure. What lies outside the picture counts as having no gradient.
    """
    planes = direction_planes(blur(picture, config.added_blur))
    down = bin_weights(rows, picture.shape[0], config)
    across = bin_weights(columns, picture.shape[1], config)
    half = jnp.einsum("pih,ohw->opiw", down, planes, precision=PRECISION)
    histograms = jnp.einsum("opiw,qjw->pqijo", half, across, precision=PRECISION)
    return normalize_histograms(histograms.reshape(len(rows), len(columns), CHANNELS), config.clip)


@partial(jax.jit, static_argnames="config")
def _dense(pictures: Array, config: Sift) -> Array:
    rows, columns = (config.centres(side) for side in pictures.shape[1:3])
    return over_pictures(lambda picture: sift_at(picture, rows, columns, config), pictures)


def dense_sift(pictures: Array, config: Sift | None = None) -> Array:
    """Return dense SIFT descriptors of grey or RGB pictures.

    Args:
        pictures: (B, H, W) grey or (B, H, W, 3) RGB, uint8 or float of any range.
        config: bin size, step, blur, window and clipping; None for the defaults.

    Returns:
        (B, P, Q, 128) float32 of unit length (or zero), P = `len(config.centres(H))`. Descriptor
        (p, q) stands for the pixels ``p step .. p step + 4 bin_size`` and the like columns.

    Raises:
        ValueError: other shapes, or pictures smaller than one descriptor.
        TypeError: complex or boolean pictures.
    """
    config = Sift() if config is None else config
    x = jnp.asarray(pictures)
    if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[-1] != 3):
        raise ValueError(f"pictures must be (B, H, W) or (B, H, W, 3), got shape {x.shape}")
    if not (jnp.issubdtype(x.dtype, jnp.floating) or jnp.issubdtype(x.dtype, jnp.integer)):
        raise TypeError(f"pictures must be uint8 or float, got {x.dtype}")
    if x.shape[0] == 0 or min(x.shape[1:3]) < config.window:
        raise ValueError(
            f"pictures must be at least {config.window} pixels high and wide for bins of "
            f"{config.bin_size}, got shape {x.shape}; resize them or take smaller bins"
        )
    return _dense(grey(x) if x.ndim == 4 else x.astype(jnp.float32), config)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "mean", "scale", "mean_image"],
    meta_fields=["spec", "weights_sha256", "precision", "forms"],
)
@dataclass(frozen=True)
class SiftNetwork(Network):
    """Dense SIFT in a network's place: everything that takes a network takes this.

    Its only activation is the descriptor map of the layer that is asked for.
    """

    @property
    def dtype(self) -> Any:
        """The descriptors' dtype."""
        return jnp.float32

    def activations(self, x: Array, until: str | None = None) -> dict[str, Array]:
        """Return ``{layer: (B, P, Q, 128)}`` of pictures (B, H, W, 3) RGB 0..255."""
        name = self.spec.layer(until).name
        return {name: self.layer_descriptors(x, (name,))[0]}

    def layer_descriptors(self, x: Array, layers: Sequence[str | None]) -> tuple[Array, ...]:
        """Return the descriptor maps (B, P, Q, 128) of several grids."""
        assert isinstance(self.spec, SiftSpec)
        return tuple(dense_sift(x, self.spec.settings(layer)) for layer in layers)


def sift_network() -> SiftNetwork:
    """Return dense SIFT as a network named ``sift``; for weights, its settings are hashed."""
    digest = hashlib.sha256(repr(Sift()).encode()).hexdigest()
    return SiftNetwork({}, jnp.zeros(3), jnp.ones(3), None, SIFT_SPEC, digest)
