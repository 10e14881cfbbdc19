"""How pictures go to a device: how many at once, what that takes, and how fast it may be.

A batch is what goes to the device together. Its small scales are described at once; of a scale
whose maps would not fit, and of many crops, a part at a time, in one program (`numerics.in_parts`).
The memory model is a rough one, by the run's own layer; the compiler decides. What it gets wrong is
met in `mpp_jax.describe.batches`: parts, then batches, that were too large are halved.
"""

import itertools
import math
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from mpp_jax.config import Pyramid
from mpp_jax.describe.dense import SIFT
from mpp_jax.describe.pyramid import scale_side
from mpp_jax.describe.wants import Wants, source_layer
from mpp_jax.devices import device_count
from mpp_jax.nets import NetSpec, Network
from mpp_jax.nets.spec import convolutions, map_channels, map_size

MOST = 16
"""Pictures of a batch on an accelerator, unless told otherwise: more gain nothing there."""
CROPS = 10
"""Crops of each picture of a batch that are described at once, where they fit."""
SHARE = 0.5
"""Of the free memory of a device, what a batch may take by this model."""
YARDSTICK = 4096
"""Rows and columns of the matrices whose product is timed."""
PRODUCTS = 8
"""Of them in one program, so that what it takes to start it hardly counts."""


class Plan(NamedTuple):
    """How pictures go to a device.

    Attributes:
        batch: pictures at once on each device.
        parts: (number of a scale from 0, pictures of it at once), of every scale.
        crops: pictures of the base side at once, where crops are described.
        nbytes: of a batch's descriptors, resized pictures and largest maps, about.
        free: free bytes of device memory; None where the device does not say.
    """

    batch: int
    parts: tuple[tuple[int, int], ...]
    crops: int
    nbytes: int
    free: int | None

    def __str__(self) -> str:
        """Return it in one line."""
        there = "" if self.free is None else f" of {self.free / 2**30:.1f} GiB that are free"
        return f"{self.sizes}; about {self.nbytes / 2**30:.1f} GiB at a time{there}"

    @property
    def sizes(self) -> str:
        """What is described at once, for people."""
        fewer = [f"{n} at scale {k + 1}" for k, n in self.parts if n < self.batch]
        return f"batches of {self.batch}" + (f" (at once {', '.join(fewer)})" if fewer else "")

    @property
    def divided(self) -> bool:
        """Whether there is a scale that is described in parts, which can be halved."""
        return any(1 < n < self.batch for _, n in self.parts)

    def halved(self, rows: int) -> "Plan":
        """Return the plan with half as large parts, after a batch of some rows was too large.

        Those of scales that are described in parts, and of crops.
        """
        parts = tuple(
            (k, max(1, min(n, rows) // 2) if n < self.batch else n) for k, n in self.parts
        )
        return self._replace(parts=parts, crops=max(1, self.crops // 2))


def scale_bytes(network: Network, pyramid: Pyramid, k: int) -> int:
    """Return the bytes of maps that one picture takes while it is described at scale k, about.

    Twice the largest pair of neighbouring activation maps: compilers keep copies in other layouts.
    As XLA compiles them for an H100, programs hold 0.5 to 0.8 of it
    (``experiments/device_programs.py``).
    """
    spec: NetSpec = network.spec
    layer = spec.layer(pyramid.layer)
    side = scale_side(spec.side, k, pyramid.rounding)
    names = [item.name for item in spec.layers]
    below = names[: names.index(layer.name) + 1] if layer.name in names else []  # none of SIFT
    maps = [side**2 * 3]
    maps += [map_size(spec, side, name) ** 2 * map_channels(spec, name) for name in below]
    maps.append(spec.positions(side, layer.name) ** 2 * layer.channels)
    largest = max(a + b for a, b in itertools.pairwise(maps))
    return 2 * largest * np.dtype(network.dtype).itemsize


def kept_bytes(network: Network, pyramid: Pyramid) -> int:
    """Return the bytes that one picture of a batch takes throughout.

    They are its descriptors at all scales, and the picture at the largest, float32.
    """
    spec: NetSpec = network.spec
    layer = spec.layer(pyramid.layer)
    sides = [scale_side(spec.side, k, pyramid.rounding) for k in pyramid.scales]
    positions = sum(spec.positions(side, layer.name) ** 2 for side in sides)
    return positions * layer.channels * np.dtype(network.dtype).itemsize + 12 * max(sides) ** 2


def free_bytes() -> int | None:
    """Return the free bytes of the device with the least; None where devices do not say."""
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
    and on an accelerator `MOST`, halved until what is kept of them and one picture's maps fit into
    `SHARE` of its free memory. Of each scale as many at once as fit into what is left of that.
    """
    each = {k: scale_bytes(network, pyramid, k) for k in pyramid.scales}
    kept, largest, free = kept_bytes(network, pyramid), max(each.values()), free_bytes()
    batch = pyramid.batch or (1 if jax.default_backend() == "cpu" else MOST)
    room = math.inf if free is None else SHARE * free
    while not pyramid.batch and batch > 1 and batch * kept + largest > room:
        batch //= 2
    left = room - batch * kept

    def fitting(most: int, nbytes: int) -> int:
        return max(1, int(min(most, left / nbytes)))

    parts = tuple((k, _evened(batch, fitting(batch, nbytes))) for k, nbytes in each.items())
    crops = fitting(CROPS * batch, scale_bytes(network, pyramid, 0))
    taken = max(rows * each[k] for k, rows in parts)
    return Plan(batch, parts, crops, batch * kept + taken, free)


def _evened(batch: int, most: int) -> int:
    """Return the size of the parts that `mpp_jax.numerics.in_parts` makes."""
    return -(-batch // -(-batch // most))


class Pass(NamedTuple):
    """A pass of the network over a picture.

    Attributes:
        side: of the square in pixels.
        squares: one, or the crops of a set.
        layer: the last that is read.
    """

    side: int
    squares: int
    layer: str


def passes(spec: NetSpec, pyramid: Pyramid, wants: Wants) -> list[Pass]:
    """Return the passes that what is wanted takes, each a program; dense SIFT is none."""
    mine = {source: want for source, want in wants.items() if source != SIFT}

    def last(readers: list[str]) -> str:
        names = {source_layer(spec, name, pyramid) for name in readers}
        return names.pop() if len(names) == 1 else max(names, key=spec.index)

    found = []
    for k in sorted({k for want in mine.values() for k in want.scales}):
        readers = [source for source, want in mine.items() if k in want.scales]
        found.append(Pass(scale_side(spec.side, k, pyramid.rounding), 1, last(readers)))
    for crops in dict.fromkeys(key for want in mine.values() for key in want.crops):
        readers = [source for source, want in mine.items() if crops in want.crops]
        found.append(Pass(spec.side, crops[0] * (2 if crops[1] else 1), last(readers)))
    return found


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


def measured_peak(network: Network, side: int = YARDSTICK, repeats: int = 3) -> float | None:
    """Return the operations a second of a device's matrix products, as the network's are computed.

    Measured, in a fraction of a second on an accelerator: `PRODUCTS` square products (side, side)
    of the network's dtype and precision, the fastest of some repeats. None where the device has not
    enough memory for them.
    """

    def products(x: Array) -> Array:
        def once(_: int, y: Array) -> Array:
            return jnp.matmul(x, y, precision=network.precision) / side

        return lax.fori_loop(0, PRODUCTS, once, x)

    compiled, best = jax.jit(products), math.inf
    try:
        x = jnp.ones((side, side), network.dtype)
        jax.block_until_ready(compiled(x))
        for _ in range(repeats):
            start = time.perf_counter()
            jax.block_until_ready(compiled(x))
            best = min(best, time.perf_counter() - start)
    except jax.errors.JaxRuntimeError:
        return None
    return 2 * PRODUCTS * side**3 / best


def forecast(network: Network, pyramid: Pyramid, wants: Wants) -> str:
    """Return in one line what is compiled, and about how many pictures a second there may be.

    The rate is that at which matrix products alone would be done; where convolutions are computed
    by fewer operations than the direct ones have, more is possible.

    Args:
        network: the network.
        pyramid: layer and scales.
        wants: what is described.
    """
    needed = passes(network.spec, pyramid, wants)
    line = f"{len(needed)} passes of the network over a picture, a program each"
    flop = sum(p.squares * picture_flop(network.spec, p.layer, p.side) for p in needed)
    peak = measured_peak(network) if flop else None
    if peak is None:
        return line
    return (
        f"{line}; {flop / 1e9:.1f} GFLOP, at {peak / 1e12:.2f} TFLOP/s of matrix products on each "
        f"device about {device_count() * peak / flop:.3g} pictures/s at best"
    )
