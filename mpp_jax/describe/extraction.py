"""From picture files to activations on the device, and the sample for a codebook.

An `ActivationSource` is all that the method asks for: `Extractor` computes, `MemoryCache` and
`DiskCache` keep what others computed.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from mpp_jax.config import Pyramid
from mpp_jax.data import Batch, Item, Skipped, canvas_batches
from mpp_jax.describe.dense import (
    DEFAULT,
    SIFT,
    Activations,
    Crops,
    Descriptors,
    describe_crops,
    describe_scale,
    describer,
)
from mpp_jax.describe.pyramid import scale_side
from mpp_jax.devices import current_mesh, device_count, on_mesh, replicated, spread
from mpp_jax.nets import NetSpec, Network

Result = TypeVar("Result")


class Wanted(NamedTuple):
    """What is wanted of one source of descriptors.

    Attributes:
        scales: numbers of scales, from 0, rising.
        crops: sets of crops.
    """

    scales: tuple[int, ...]
    crops: tuple[Crops, ...] = ()


Wants = dict[str, Wanted]
"""By source: a layer's name, "default" (the run's own layer) or "sift"."""


class Described(NamedTuple):
    """The activations of a batch of pictures, on the device.

    Attributes:
        index: (B,) position of each picture among the items, -1 for padding.
        sources: by source, as they were wanted.
    """

    index: np.ndarray  # type: ignore[assignment]  # hides tuple.index
    sources: dict[str, Activations]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.sources))

    def select(self, had: Wants, wants: Wants) -> "Described":
        """Return what is wanted alone, where more was described."""
        sources = {}
        for source, want in wants.items():
            found, place = self.sources[source], had[source].scales.index
            scales = tuple(found.scales[place(k)] for k in want.scales)
            sources[source] = Activations(scales, {key: found.crops[key] for key in want.crops})
        return Described(self.index, sources)


class ActivationSource(Protocol):
    """Where activations come from."""

    def describe(
        self, items: Sequence[Item], wants: Wants, on_skip: Callable[[Skipped], object]
    ) -> Iterator[Described]:
        """Yield what is wanted of pictures, batch by batch.

        Args:
            items: pictures.
            wants: what is wanted of each source of descriptors.
            on_skip: is told of every picture that could not be decoded.
        """
        ...


@dataclass(frozen=True)
class Extractor:
    """Computes activations and keeps none.

    Attributes:
        network: the network.
        pyramid: scales, layer and resize.
    """

    network: Network
    pyramid: Pyramid

    def describe(
        self, items: Sequence[Item], wants: Wants, on_skip: Callable[[Skipped], object]
    ) -> Iterator[Described]:
        """Decode pictures and yield what is wanted of them; see `ActivationSource`."""
        return describe_items(self.network, items, self.pyramid, wants=wants, on_skip=on_skip)


def batch_size(pyramid: Pyramid) -> int:
    """Return the pictures of a batch: of each device one on a CPU (no padding, caches), else 16."""
    each = pyramid.batch or (1 if jax.default_backend() == "cpu" else 16)
    return each * device_count()


def describe_items(
    network: Network,
    items: Sequence[Item],
    pyramid: Pyramid,
    *,
    wants: Wants | None = None,
    on_skip: Callable[[Skipped], object] | None = None,
) -> Iterator[Described]:
    """Decode pictures and yield their activations, over the devices of `mpp_jax.devices`.

    Args:
        network: the network.
        items: pictures.
        pyramid: scales, layer and resize.
        wants: what is computed; None for the pyramid's layer at all its scales.
        on_skip: is told of every picture that could not be decoded.
    """
    wanted = {DEFAULT: Wanted(pyramid.scales)} if wants is None else wants

    def describe_batch(network: Network, batch: Batch) -> Described:
        return Described(batch.index, describe_sources(network, batch, pyramid, wanted))

    yield from over_batches(describe_batch, network, items, pyramid, on_skip=on_skip)


def over_batches(
    function: Callable[[Network, Batch], Result],
    network: Network,
    items: Sequence[Item],
    pyramid: Pyramid,
    *,
    on_skip: Callable[[Skipped], object] | None = None,
) -> Iterator[Result]:
    """Decode pictures and yield what a function makes of each batch, a few batches ahead.

    Args:
        function: of the network and a batch, both on the devices of `mpp_jax.devices`, to arrays.
        network: the network.
        items: pictures.
        pyramid: sizes of batches.
        on_skip: is told of every picture that could not be decoded.
    """
    mesh = current_mesh()
    whole = replicated(network, mesh)

    def one(batch: Batch) -> Result:
        with on_mesh(mesh):
            return jax.block_until_ready(function(whole, _shares(batch, mesh)))

    batches = canvas_batches(items, batch_size=batch_size(pyramid))
    told = 0
    # Programs of several devices wait for one another: one at a time.
    workers = batches_at_once() if mesh is None else 1
    for result in _ahead(one, batches, workers):
        yield result
        told = _tell(batches.skipped, told, on_skip)
    _tell(batches.skipped, told, on_skip)


def _shares(batch: Batch, mesh: Mesh | None) -> Batch:
    """Return a batch on the devices, with rows of padding so that each has as many."""
    if mesh is None:
        return batch
    short = -len(batch.index) % mesh.size
    padded = Batch(
        np.concatenate([batch.canvas, np.zeros((short, *batch.canvas.shape[1:]), np.uint8)]),
        np.concatenate([batch.sizes, np.ones((short, 2), batch.sizes.dtype)]),
        np.concatenate([batch.index, np.full(short, -1, batch.index.dtype)]),
    )
    canvas, sizes = spread((padded.canvas, padded.sizes), mesh)
    return Batch(canvas, sizes, padded.index)


def describe_sources(
    network: Network, batch: Batch, pyramid: Pyramid, wants: Wants
) -> dict[str, Activations]:
    """Return what is wanted of a batch; layers of the network come from one pass a scale."""
    canvas, sizes, valid = (jnp.asarray(a) for a in (batch.canvas, batch.sizes, batch.valid))
    found: dict[str, Activations] = {}
    for sift in (False, True):
        mine = {source: want for source, want in wants.items() if (source == SIFT) == sift}
        network_of = describer(network, SIFT if sift else DEFAULT)
        layers = {source: source_layer(network_of.spec, source, pyramid) for source in mine}
        scales: dict[str, list[Descriptors]] = {source: [] for source in mine}
        for k in sorted({k for want in mine.values() for k in want.scales}):
            readers = [source for source, want in mine.items() if k in want.scales]
            parts = describe_scale(
                network_of,
                canvas,
                sizes,
                side=scale_side(network_of.spec.side, k, pyramid.rounding),
                layers=[layers[source] for source in readers],
                resampling=pyramid.resampling,
                valid=valid,
            )
            for source, part in zip(readers, parts, strict=True):
                scales[source].append(part)
        crops: dict[str, dict[Crops, Array]] = {source: {} for source in mine}
        for key in dict.fromkeys(key for want in mine.values() for key in want.crops):
            readers = [source for source, want in mine.items() if key in want.crops]
            cut = describe_crops(
                network_of,
                canvas,
                sizes,
                count=key[0],
                flip=key[1],
                layers=[layers[source] for source in readers],
                resampling=pyramid.resampling,
            )
            for source, x in zip(readers, cut, strict=True):
                crops[source][key] = x
        found |= {source: Activations(tuple(scales[source]), crops[source]) for source in mine}
    return {source: found[source] for source in wants}


def source_layer(spec: NetSpec, source: str, pyramid: Pyramid) -> str:
    """Return the name of the layer that a source of descriptors stands for."""
    chosen = pyramid.layer if source == DEFAULT else None if source == SIFT else source
    return spec.layer(chosen).name


def batches_at_once() -> int:
    """Return how many batches are described side by side.

    A CPU's programs have stretches that run on one core; several pictures at once fill the others.
    """
    return min(os.cpu_count() or 1, 4) if jax.default_backend() == "cpu" else 1


def _ahead(
    function: Callable[[Batch], Result], batches: Iterable[Batch], workers: int
) -> Iterator[Result]:
    """Map in order, a few batches ahead of the consumer.

    The first batch on each canvas runs alone: threads that meet a new shape together would each
    compile it.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="describe")
    under_way: deque[Future[Result]] = deque()
    seen: set[tuple[int, ...]] = set()
    try:
        for batch in batches:
            under_way.append(pool.submit(function, batch))
            if batch.canvas.shape not in seen:
                seen.add(batch.canvas.shape)
                under_way[-1].exception()  # wait; an error is raised in its turn, below
            if len(under_way) > workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        # Also where the consumer stops early or is interrupted.
        pool.shutdown(wait=True, cancel_futures=True)


def _tell(
    skipped: Sequence[Skipped], told: int, on_skip: Callable[[Skipped], object] | None
) -> int:
    if on_skip is not None:
        for entry in skipped[told:]:
            on_skip(entry)
    return len(skipped)


@jax.jit
def _take(scales: tuple[Descriptors, ...], rows: Array) -> Array:
    together = jnp.concatenate([d.x for d in scales], axis=1)
    return jnp.take_along_axis(together, rows[:, :, None], axis=1)


class DescriptorSample:
    """A seeded sample of descriptors: the same number from every picture, over all its scales.

    A picture's choice depends on the seed and its position alone, so the sample is the same in
    whatever batches the pictures come.
    """

    def __init__(self, pictures: int, samples: int, seed: int) -> None:
        """Prepare for a number of pictures that share ``samples`` descriptors evenly."""
        self._quota = -(-samples // max(pictures, 1))
        self._samples = samples
        self._seed = seed
        self._parts: dict[int, np.ndarray] = {}

    def add(self, index: np.ndarray, scales: tuple[Descriptors, ...]) -> None:
        """Take the share of a batch: pictures' positions (B,), -1 for padding, and descriptors."""
        total = sum(d.x.shape[1] for d in scales)
        take = min(self._quota, total)
        rows = np.zeros((len(index), take), np.int32)
        for row, position in enumerate(index):
            if position >= 0:
                rng = np.random.default_rng([self._seed, int(position)])
                rows[row] = np.sort(rng.permutation(total)[:take])
        taken = np.asarray(_take(scales, jnp.asarray(rows)), np.float32)
        for row, position in enumerate(index):
            if position >= 0:
                self._parts[int(position)] = taken[row].copy()

    def finish(self) -> np.ndarray:
        """Return the (N, C) float32 sample in the order of the pictures, at most ``samples`` rows.

        Raises:
            ValueError: no picture was added.
        """
        if not self._parts:
            raise ValueError("no training picture could be decoded, so there is nothing to fit")
        order = sorted(self._parts)
        sizes = [len(self._parts[position]) for position in order]
        kept = np.arange(sum(sizes))
        if len(kept) > self._samples:
            rng = np.random.default_rng([self._seed, len(kept), 1])
            kept = np.sort(rng.permutation(len(kept))[: self._samples])
        # Filled piece by piece: the sample may be gigabytes, and must not exist twice.
        result = np.empty((len(kept), next(iter(self._parts.values())).shape[1]), np.float32)
        start = filled = 0
        for position, size in zip(order, sizes, strict=True):
            stop = int(np.searchsorted(kept, start + size))
            result[filled:stop] = self._parts.pop(position)[kept[filled:stop] - start]
            start, filled = start + size, stop
        return result
