"""Dense activations of a network at every scale of the pyramid.

The decoded picture goes to the device once, as uint8 on a canvas with its true size beside it; it
is resized there to each scale and sent through the network, whose fully connected layers are
convolutions. One compiled program a scale (the network) and one a canvas and scale (the resize,
which compiles in a moment) serve pictures of all sizes. The activations stay on the device.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from mpp_jax.config import Pyramid, Resampling, Rounding
from mpp_jax.describe.pyramid import (
    CROP_SIDE,
    cut_crops,
    receptive_windows,
    resize_pictures,
    scale_side,
)
from mpp_jax.nets.network import Network
from mpp_jax.nets.sift import sift_network
from mpp_jax.numerics import in_parts, over_pictures, over_shares

DEFAULT = "default"
"""Source of descriptors: the layer that the run's settings name."""
SIFT = "sift"
"""Source of descriptors: dense SIFT, whatever the network."""


class Descriptors(NamedTuple):
    """The local activations of a batch of pictures at one scale.

    Attributes:
        x: (B, T, C) float, T = P^2 positions row by row.
        mask: (B, T) bool, False where a row of the batch holds no picture.
        window: (T, 4) float32, receptive window of each position as fractions (top, left, bottom,
            right) of the picture's height and width.
    """

    x: Array
    mask: Array
    window: Array


Crops = tuple[int, bool]
"""(number of crops, whether their mirror images follow them)."""


class Activations(NamedTuple):
    """What one source (a layer, or SIFT) gives of a batch of pictures.

    Attributes:
        scales: one `Descriptors` a scale, coarsest first; empty where none were asked for.
        crops: (B, n, C) by (number of crops, flipped).
    """

    scales: tuple[Descriptors, ...]
    crops: dict[Crops, Array]


def describer(network: Network, source: str) -> Network:
    """Return what describes a source of descriptors: the network, or dense SIFT in its place."""
    return sift_network() if source == SIFT else network


@partial(jax.jit, static_argnames=("layers", "most"))
def describe_pictures(
    network: Network, pictures: Array, layers: tuple[str, ...], most: int | None = None
) -> tuple[Array, ...]:
    """Return the descriptors (B, T, C) of each layer of pictures (B, H, W, 3) RGB 0..255.

    Accelerators get the whole batch as one call, or ``most`` pictures of it on each device at once,
    one part after the other. A CPU gets the pictures one by one: a batch at once falls out of its
    caches, and each result is independent, to the bit, of the others.
    """

    def whole(pictures: Array) -> tuple[Array, ...]:
        maps = network.layer_descriptors(pictures, layers)
        return tuple(x.reshape(x.shape[0], -1, x.shape[-1]) for x in maps)

    def one(picture: Array) -> tuple[Array, ...]:
        alone = network.layer_descriptors(picture[None], layers)
        return tuple(x.reshape(-1, x.shape[-1]) for x in alone)

    if network.how.batch == "whole":
        at_once = partial(over_shares, whole)
    else:
        at_once = partial(over_pictures, one)
    return in_parts(at_once, pictures, most)


def describe_scale(
    network: Network,
    canvas: Array,
    sizes: Array,
    *,
    side: int,
    layers: Sequence[str | None] = (None,),
    resampling: Resampling = "bilinear",
    valid: Array | None = None,
    most: int | None = None,
) -> tuple[Descriptors, ...]:
    """Return the descriptors of one scale, for each layer.

    Args:
        network: the network.
        canvas: (B, S, S, 3) uint8, pictures in the upper left corner.
        sizes: (B, 2) int, true (height, width).
        side: of the square that pictures are warped to.
        layers: activations to pool, from one pass; None for the network's default.
        resampling: kernel of the resize.
        valid: (B,) bool, False for rows that hold no picture; None for all True.
        most: pictures at once on each device, one part after the other; None for all.
    """
    specs = [network.spec.layer(layer) for layer in layers]
    pictures = resize_pictures(canvas, sizes, side, resampling, network.how.taps)
    kept = jnp.ones(pictures.shape[0], bool) if valid is None else jnp.asarray(valid, bool)
    result = []
    described = describe_pictures(network, pictures, tuple(spec.name for spec in specs), most)
    for spec, x in zip(specs, described, strict=True):
        positions = network.spec.positions(side, spec.name)
        window = receptive_windows(positions, spec.stride, spec.window, side)
        mask = jnp.broadcast_to(kept[:, None], x.shape[:2])
        result.append(Descriptors(x, mask, jnp.asarray(window)))
    return tuple(result)


def describe_crops(
    network: Network,
    canvas: Array,
    sizes: Array,
    *,
    count: int,
    flip: bool,
    layers: Sequence[str | None] = (None,),
    resampling: Resampling = "bilinear",
    most: int | None = None,
) -> tuple[Array, ...]:
    """Return the descriptors (B, n, C) of crops of the base side, for each layer.

    They are means over the crops' positions. Pictures are warped to 256 x 256 (or to the base side
    where that is larger) first, as for the paper's FC7, AP10 and AP50. ``most`` crops are described
    at once on each device, None for all.
    """
    spec = network.spec
    room = max(CROP_SIDE, spec.side)
    pictures = resize_pictures(canvas, sizes, room, resampling, network.how.taps)
    crops = cut_crops(pictures, spec.side, count, flip=flip)
    flat = crops.reshape(-1, *crops.shape[2:])
    described = describe_pictures(network, flat, tuple(spec.layer(x).name for x in layers), most)
    return tuple(jnp.mean(x, axis=1).reshape(*crops.shape[:2], -1) for x in described)


def describe(
    network: Network,
    canvas: Array,
    sizes: Array,
    pyramid: Pyramid,
    valid: Array | None = None,
) -> tuple[Descriptors, ...]:
    """Return the descriptors of all scales of a pyramid; arguments as in `describe_scale`."""
    canvas = jnp.asarray(canvas)
    sizes = jnp.asarray(sizes)
    return tuple(
        describe_scale(
            network,
            canvas,
            sizes,
            side=scale_side(network.spec.side, k, pyramid.rounding),
            layers=(pyramid.layer,),
            resampling=pyramid.resampling,
            valid=valid,
        )[0]
        for k in pyramid.scales
    )


def dense_descriptors(
    network: Network,
    images: Array,
    sizes: Sequence[Sequence[int]] | Array | None = None,
    *,
    scales: Iterable[int] = range(7),
    layer: str | None = None,
    rounding: Rounding = "ceil",
    resampling: Resampling = "bilinear",
) -> tuple[Descriptors, ...]:
    """Return the dense activations of pictures at several scales.

    Args:
        network: from `load_network`.
        images: (B, H, W, 3) uint8 RGB; smaller pictures lie in the upper left corner.
        sizes: (B, 2) int, true (height, width) of each; None where all fill (H, W).
        scales: scale numbers k from 0.
        layer: activation to pool; None for the network's default.
        rounding: of the scales' sides.
        resampling: kernel of the resize.

    Returns:
        One `Descriptors` a scale, in the order of ``scales``.

    Raises:
        ValueError: for shapes that do not fit, sizes outside the canvas, or an unknown layer.
        TypeError: for pictures that are not uint8.
    """
    images = jnp.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images must be (B, H, W, 3) RGB pictures, got shape {images.shape}")
    if 0 in images.shape:
        raise ValueError(f"images must hold at least one pixel of one picture, got {images.shape}")
    if images.dtype != jnp.uint8:
        raise TypeError(f"images must be uint8 RGB in 0..255, got {images.dtype}")
    full = jnp.asarray(images.shape[1:3])
    true = jnp.tile(full[None], (images.shape[0], 1)) if sizes is None else jnp.asarray(sizes)
    if true.shape != (images.shape[0], 2):
        raise ValueError(f"sizes must be (B, 2) = {(images.shape[0], 2)}, got {true.shape}")
    if bool(jnp.any((true < 1) | (true > full[None]))):
        raise ValueError(f"sizes must lie in 1..{images.shape[1:3]}, the canvas; got {true}")
    pyramid = Pyramid(tuple(scales), layer, rounding, resampling)
    return describe(network, images, true, pyramid)
