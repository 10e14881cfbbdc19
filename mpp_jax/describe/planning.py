"""How pictures go to a device: how many at once, what that takes, and how fast it may be.

A batch is what goes to the device together. Its small scales are described at once; of a scale
whose maps would not fit, a part of the pictures at a time, in one program (`numerics.in_parts`).
The memory model is a rough one, for the compiler decides: what it gets wrong is met in
`mpp_jax.describe.batches`, which halves batches that were too large.
"""

import itertools
import math
import time
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mpp_jax.config import Pyramid
from mpp_jax.describe.dense import SIFT, Crops
from mpp_jax.describe.pyramid import scale_side
from mpp_jax.describe.wants import Wants, source_layer
from mpp_jax.devices import device_count
from mpp_jax.nets import NetSpec, Network
from mpp_jax.nets.spec import convolutions, map_channels, map_size

MOST = 16
"""Pictures of a batch on an accelerator, unless told otherwise: more gain nothing there."""
SHARE = 0.5
"""Of the free memory of a device, what a batch may take by this model."""
YARDSTICK = 4096
"""Rows and columns of the matrices whose product is timed."""


class Plan(NamedTuple):
    """How pictures go to a device.

    Attributes:
        batch: pictures at once on each device.
        parts: (number of a scale from 0, pictures of it at once), of every scale.
        nbytes: of a batch's descriptors and of the largest maps, about.
        free: bytes of device memory; None where the device does not say.
    """

    batch: int
    parts: tuple[tuple[int, int], ...]
    nbytes: int
    free: int | None

    def __str__(self) -> str:
        """Return it in one line."""
        fewer = [f"{n} at scale {k + 1}" for k, n in self.parts if n < self.batch]
        parts = f" (at once {', '.join(fewer)})" if fewer else ""
        there = "" if self.free is None else f" of {self.free / 2**30:.1f} GiB that are free"
        needed = f"about {self.nbytes / 2**30:.1f} GiB at a time{there}"
        return f"batches of {self.batch}{parts}; {needed}"


def scale_bytes(network: Network, pyramid: Pyramid, k: int) -> int:
    """Return the bytes that one picture takes while it is described at a scale, about.

    Twice the largest pair of neighbouring activation maps: compilers keep copies in other layouts.
    """
    spec: NetSpec = network.spec
    layer = spec.layer(pyramid.layer)
    side = scale_side(spec.side, k, pyramid.rounding)
    names = [item.name for item in spec.layers]
    below = names[: names.index(layer.name) + 1] if layer.name in names else []  # none of SIFT
    maps = [side**2 * 3]
    maps += [map_size(spec, side, name) ** 2 * map_channels(spec, name) for name in below]
    maps.append(spec.positions(side, layer.name) ** 2 * layer.channels)
    pairs = [a + b for a, b in itertools.pairwise(maps)]
    return 2 * max(pairs, default=maps[0]) * np.dtype(network.dtype).itemsize


def kept_bytes(network: Network, pyramid: Pyramid) -> int:
    """Return the bytes of one picture's descriptors at all scales, which a batch ends with."""
    spec: NetSpec = network.spec
    layer = spec.layer(pyramid.layer)
    sides = (scale_side(spec.side, k, pyramid.rounding) for k in pyramid.scales)
    positions = sum(spec.positions(side, layer.name) ** 2 for side in sides)
    return positions * layer.channels * np.dtype(network.dtype).itemsize


def free_bytes() -> int | None:
    """Return the free memory of the device with the least; None where devices do not say."""
    found = []
    for device in jax.local_devices()[: device_count()]:
        known: dict[str, int] = device.memory_stats() or {}
        if "bytes_limit" not in known:
            return None
        found.append(known["bytes_limit"] - known.get("bytes_in_use", 0))
    return min(found)


def plan(network: Network, pyramid: Pyramid) -> Plan:
    """Return how many pictures go to each device at once, and how many of them at each scale.

    As many as ``pyramid.batch`` says; else one on a CPU (no padding, and its caches hold no more),
    and on an accelerator `MOST`, halved until their descriptors and one picture's maps fit into
    `SHARE` of its free memory. Of each scale as many at once as fit into what is left of that.
    """
    each = {k: scale_bytes(network, pyramid, k) for k in pyramid.scales}
    kept, largest, free = kept_bytes(network, pyramid), max(each.values()), free_bytes()
    batch = pyramid.batch or (1 if jax.default_backend() == "cpu" else MOST)
    room = math.inf if free is None else SHARE * free
    while not pyramid.batch and batch > 1 and batch * kept + largest > room:
        batch //= 2
    left = room - batch * kept
    parts = tuple((k, _part_of(batch, left / nbytes)) for k, nbytes in each.items())
    taken = max(rows * each[k] for k, rows in parts)
    return Plan(batch, parts, batch * kept + taken, free)


def _part_of(batch: int, most: float) -> int:
    """Return the largest part of a batch, in equal ones, that is not too large; at least 1."""
    return next((n for n in range(batch, 1, -1) if batch % n == 0 and n <= most), 1)


class Passes(NamedTuple):
    """What the network has to do for a run's pictures.

    Attributes:
        scales: numbers of scales from 0, of all its layers together.
        crops: sets of crops.
        layer: the last that is read.
    """

    scales: tuple[int, ...]
    crops: tuple[Crops, ...]
    layer: str


def passes(spec: NetSpec, pyramid: Pyramid, wants: Wants) -> Passes:
    """Return what of the network is run for what is wanted; dense SIFT is not of it."""
    mine = {source: want for source, want in wants.items() if source != SIFT}
    layers = [source_layer(spec, source, pyramid) for source in mine]
    place = [item.name for item in spec.layers].index if spec.layers else (lambda name: 0)
    return Passes(
        tuple(sorted({k for want in mine.values() for k in want.scales})),
        tuple(dict.fromkeys(key for want in mine.values() for key in want.crops)),
        max(layers, key=place, default=""),
    )


def picture_flop(spec: NetSpec, layer: str, side: int) -> float:
    """Return the operations of direct convolutions up to a layer, for a picture of this side.

    A multiplication and an addition are two. 0 for networks that are no lists of layers.
    """
    if not spec.layers:
        return 0.0
    total, last = 0.0, spec.index(layer)
    for path, item, channels in convolutions(spec):
        if spec.index(path[0]) <= last:
            positions = map_size(spec, side, path[0]) ** 2
            total += 2 * positions * item.kernel**2 * channels / item.groups * item.features
    return total


def run_flop(spec: NetSpec, pyramid: Pyramid, needed: Passes) -> float:
    """Return the operations of direct convolutions that one picture takes."""
    sides = [scale_side(spec.side, k, pyramid.rounding) for k in needed.scales]
    for count, flip in needed.crops:
        sides += [spec.side] * (count * (2 if flip else 1))
    return sum(picture_flop(spec, needed.layer, side) for side in sides)


def measured_peak(network: Network, side: int = YARDSTICK, repeats: int = 3) -> float:
    """Return the operations a second of a device's matrix products, as the network's are computed.

    Measured, in a fraction of a second: a square product of the network's dtype and precision.
    """
    x = jnp.ones((side, side), network.dtype)
    product = jax.jit(partial(jnp.matmul, precision=network.precision))
    jax.block_until_ready(product(x, x))
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(product(x, x))
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def forecast(network: Network, pyramid: Pyramid, wants: Wants, peak: float) -> str:
    """Return in one line what is compiled, and how many pictures a second there may be.

    Args:
        network: the network.
        pyramid: layer and scales.
        wants: what is described.
        peak: operations a second of one device, see `measured_peak`.
    """
    needed = passes(network.spec, pyramid, wants)
    programs = len(needed.scales) + len(needed.crops)
    line = f"{programs} programs of the network to compile"
    flop = run_flop(network.spec, pyramid, needed)
    if not flop:
        return line
    rate = device_count() * peak / flop
    return (
        f"{line}; {flop / 1e9:.1f} GFLOP a picture, {peak / 1e12:.2f} TFLOP/s in matrix products "
        f"on each device: up to {rate:.3g} pictures/s"
    )
