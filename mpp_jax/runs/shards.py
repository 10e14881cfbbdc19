"""One shard of a store after the other: what any process does with the pictures of one.

A shard is the unit of work. Its pictures are described and encoded by themselves, training and test
pictures apart, so that the bytes do not depend on who does it, in which order, or how often. The
sample for a codebook is drawn in blocks of as many training pictures.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mpp_jax.config import Run
from mpp_jax.data import Item, Skipped
from mpp_jax.data.features import Features
from mpp_jax.describe.extraction import ActivationSource, DescriptorSample
from mpp_jax.describe.wants import Wanted
from mpp_jax.nets import Network
from mpp_jax.progress import DISK, waiting
from mpp_jax.runs.contents import Contents
from mpp_jax.runs.vectors import atoms_of, encode_from
from mpp_jax.stats.codebook import Codebooks


class Taker(Protocol):
    """Whoever takes finished vectors: `StoreWriter`, or `ShardWriter` of one shard."""

    def put(
        self,
        items: Sequence[Item],
        vectors: Mapping[str, np.ndarray],
        digests: Mapping[str, str] | None = None,
    ) -> None:
        """Take the vectors of some pictures."""

    def skip(self, item: Item, reason: str, digest: str | None = None) -> None:
        """Take note of a picture that could not be decoded, and the SHA-256 of what was read."""


def blocks(items: Sequence[Item], shard_of: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Group items by shard and split: batches never reach beyond, whichever stage asks for them."""
    for _, block in itertools.groupby(items, key=lambda item: (shard_of(item), item.split)):
        yield list(block)


@dataclass(frozen=True)
class Sampling:
    """Everything that takes descriptors of training pictures for a codebook.

    Attributes:
        activations: where they come from.
        scales: those that are sampled.
        contents: is left the digests of the pictures that are read.
    """

    activations: ActivationSource
    scales: tuple[int, ...]
    contents: Contents

    def block(
        self,
        first: int,
        items: Sequence[Item],
        samples: Mapping[str, DescriptorSample],
        done: Callable[[int], object],
        skip: Callable[[int, str, str], object],
    ) -> None:
        """Sample consecutive pictures.

        Args:
            first: position of the first one among all that are sampled.
            items: the pictures.
            samples: take their descriptors, by source.
            done: is told of how many pictures more that is.
            skip: is told (position, id, reason) of every picture that could not be decoded.
        """
        wants = {source: Wanted(self.scales) for source in samples}

        def skipped(entry: Skipped) -> None:
            skip(first + entry.position, entry.path, entry.reason)

        for batch in self.activations.describe(self.contents.watched(items), wants, skipped):
            where = np.where(batch.index >= 0, first + batch.index, -1)
            for source, sample in samples.items():
                sample.add(where, batch.sources[source].scales)
            done(int((batch.index >= 0).sum()))


@dataclass(frozen=True)
class Encoding:
    """Everything that turns pictures into vectors.

    Attributes:
        network: the network.
        codebooks: by key.
        config: settings.
        activations: where they come from.
        features: those that representations stack with, by name.
        contents: is left the digests of the pictures that are read.
    """

    network: Network
    codebooks: Codebooks = field(repr=False)
    config: Run
    activations: ActivationSource
    features: Mapping[str, Features]
    contents: Contents

    def block(
        self,
        items: Sequence[Item],
        taker: Taker,
        done: Callable[[int], object],
        skipped: Callable[[str, str], object],
    ) -> None:
        """Encode pictures of one shard and split.

        Args:
            items: the pictures.
            taker: takes their vectors, or why there are none.
            done: is told of how many pictures more that is.
            skipped: is told (path, reason) of a picture that could not be decoded.
        """
        computed = tuple(atom for atom in atoms_of(self.config) if not atom.external)

        def skip(entry: Skipped) -> None:
            item = items[entry.position]
            taker.skip(item, entry.reason, self.contents.read([item]).get(item.id))
            skipped(entry.path, entry.reason)
            done(1)

        watched = self.contents.watched(items)
        for index, vectors in encode_from(
            self.activations,
            self.network,
            watched,
            self.codebooks,
            self.config,
            computed,
            on_skip=skip,
        ):
            some = [items[i] for i in index]
            vectors |= {name: part.of(some) for name, part in self.features.items()}
            with waiting(DISK):
                taker.put(some, vectors, self.contents.read(some))
            done(len(some))
