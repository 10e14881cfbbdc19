"""From picture files to activations on the device, and the sample for a codebook.

An `ActivationSource` is all that the method asks for: `Extractor` computes, `MemoryCache` and
`DiskCache` keep what others computed.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mpp_jax.config import Pyramid
from mpp_jax.data import Batch, Item, Skipped
from mpp_jax.describe.batches import crops_at_once, over_batches, pictures_at_once
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
from mpp_jax.describe.wants import Wanted, Wants, source_layer
from mpp_jax.nets import Network

Result = TypeVar("Result")


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
    """Where activations come from.

    Attributes:
        rounded: the format that they were rounded to before anybody reads them, None for none:
            vectors that are compared must not differ in it.
    """

    rounded: ClassVar[str | None]

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

    rounded: ClassVar[str | None] = None

    network: Network
    pyramid: Pyramid

    def describe(
        self, items: Sequence[Item], wants: Wants, on_skip: Callable[[Skipped], object]
    ) -> Iterator[Described]:
        """Decode pictures and yield what is wanted of them; see `ActivationSource`."""
        return describe_items(self.network, items, self.pyramid, wants=wants, on_skip=on_skip)


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


def describe_sources(
    network: Network, batch: Batch, pyramid: Pyramid, wants: Wants
) -> dict[str, Activations]:
    """Return what is wanted of a batch; layers of the network come from one pass a scale."""
    canvas, sizes, valid = (jnp.asarray(a) for a in (batch.canvas, batch.sizes, batch.valid))
    found: dict[str, Activations] = {}
    for sift in (False, True):
        mine = {source: want for source, want in wants.items() if (source == SIFT) == sift}
        if not mine:
            continue
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
                most=None if sift else pictures_at_once(network, pyramid, k),
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
                most=None if sift else crops_at_once(network, pyramid),
            )
            for source, x in zip(readers, cut, strict=True):
                crops[source][key] = x
        found |= {source: Activations(tuple(scales[source]), crops[source]) for source in mine}
    return {source: found[source] for source in wants}


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

    def blank(self) -> "DescriptorSample":
        """Return a sample of the same kind without any descriptor."""
        blank = copy.copy(self)
        blank._parts = {}
        return blank

    def merge(self, other: "DescriptorSample") -> None:
        """Take the shares of other pictures that were added to a `blank` sample elsewhere."""
        self._parts |= {position: part.copy() for position, part in other._parts.items()}

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
