"""From picture files to activations on the device, batch by batch, and the sample for a codebook."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mpp_jax.config import Pyramid
from mpp_jax.data import Item, Skipped, canvas_batches
from mpp_jax.dense import Descriptors, describe, describe_crops
from mpp_jax.nets import Network

Crops = tuple[int, bool]
"""(number of crops, whether their mirror images follow)."""


class Described(NamedTuple):
    """The activations of a batch of pictures, on the device.

    Attributes:
        index: (B,) position of each picture among the items, -1 for padding.
        scales: one `Descriptors` a scale; empty where none were asked for.
        crops: (B, n, C) by (number of crops, flipped).
    """

    index: np.ndarray
    scales: tuple[Descriptors, ...]
    crops: dict[Crops, Array]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves((self.scales, self.crops)))


def batch_size(pyramid: Pyramid) -> int:
    """Return the pictures of a batch: a CPU is served best by one at a time (no padding, caches)."""
    return pyramid.batch or (1 if jax.default_backend() == "cpu" else 16)


def describe_items(
    network: Network,
    items: Sequence[Item],
    pyramid: Pyramid,
    *,
    crops: Sequence[Crops] = (),
    on_skip: Callable[[Skipped], None] | None = None,
) -> Iterator[Described]:
    """Decode pictures and yield their activations.

    Args:
        network: the network.
        items: pictures.
        pyramid: scales, layer and resize.
        crops: sets of crops wanted besides.
        on_skip: is told of every picture that could not be decoded.
    """
    batches = canvas_batches(items, batch_size=batch_size(pyramid))
    told = 0
    for batch in batches:
        canvas, sizes = jnp.asarray(batch.canvas), jnp.asarray(batch.sizes)
        scales = describe(network, canvas, sizes, pyramid, jnp.asarray(batch.valid))
        cut = {
            (count, flip): describe_crops(
                network,
                canvas,
                sizes,
                count=count,
                flip=flip,
                layer=pyramid.layer,
                resampling=pyramid.resampling,
            )
            for count, flip in crops
        }
        yield Described(batch.index, scales, cut)
        told = _tell(batches.skipped, told, on_skip)
    _tell(batches.skipped, told, on_skip)


def _tell(
    skipped: Sequence[Skipped], told: int, on_skip: Callable[[Skipped], None] | None
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

    def add(self, described: Described) -> None:
        """Take this batch's share."""
        total = sum(d.x.shape[1] for d in described.scales)
        take = min(self._quota, total)
        rows = np.zeros((len(described.index), take), np.int32)
        for row, position in enumerate(described.index):
            if position >= 0:
                rng = np.random.default_rng([self._seed, int(position)])
                rows[row] = np.sort(rng.permutation(total)[:take])
        taken = np.asarray(_take(described.scales, jnp.asarray(rows)), np.float32)
        for row, position in enumerate(described.index):
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
