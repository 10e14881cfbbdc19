"""Activations kept on the device between two passes over the same pictures.

The codebook is fitted to activations that are encoded afterwards: `MemoryCache.recorder` is the
source of the first pass, the cache itself that of the second.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from mpp_jax.data import Item, Skipped
from mpp_jax.describe.extraction import ActivationSource, Described
from mpp_jax.describe.wants import Wanted, Wants


class Kept(NamedTuple):
    """A batch and the ids of its pictures, in the order of their rows."""

    ids: tuple[str, ...]
    described: Described


class MemoryCache:
    """A source that gives out what its recorder kept, each batch once, and computes the rest.

    Attributes:
        source: where activations come from.
        later: what the second pass wants of each source of descriptors: this is kept.
        room: bytes that are left.
        batches: those that are kept.
    """

    rounded: ClassVar[str | None] = None

    def __init__(self, source: ActivationSource, room: int, later: Wants) -> None:
        """Start empty, with room for so many bytes."""
        self.source = source
        self.later = later
        self.room = room
        self.batches: list[Kept] = []

    @property
    def recorder(self) -> "Recorder":
        """The source of the first pass, whose batches are kept while there is room."""
        return Recorder(self)

    @property
    def kept(self) -> set[str]:
        """Ids of the pictures whose activations are kept."""
        return {name for batch in self.batches for name in batch.ids}

    def describe(
        self, items: Sequence[Item], wants: Wants, on_skip: Callable[[Skipped], object]
    ) -> Iterator[Described]:
        """Yield what is wanted of pictures, kept batches first; see `ActivationSource`."""
        place = {item.id: position for position, item in enumerate(items)}
        left = dict(place)
        if all(_holds(self.later.get(source), want) for source, want in wants.items()):
            mine: list[Kept] = []
            others: list[Kept] = []
            for kept in self.batches:
                (mine if place.keys() >= set(kept.ids) else others).append(kept)
            self.batches = others
            while mine:  # one after the other: what is given out can be freed
                ids, described = mine.pop(0)
                index = np.full(len(described.index), -1, np.int64)
                index[: len(ids)] = [left.pop(name) for name in ids]
                yield described.select(self.later, wants)._replace(index=index)
        rest = np.array([*left.values()], np.int64)

        def skip(entry: Skipped) -> None:
            on_skip(entry._replace(position=int(rest[entry.position])))

        for described in self.source.describe([items[i] for i in rest], wants, skip):
            index = np.where(described.index >= 0, rest[described.index], -1)
            yield described._replace(index=index)

    def offer(self, items: Sequence[Item], had: Wants, described: Described) -> None:
        """Keep a batch of the pictures ``items`` if there is room."""
        kept = described.select(had, self.later)
        if kept.nbytes > self.room:
            self.room = 0  # kept batches are a beginning: none after one that did not fit
            return
        self.room -= kept.nbytes
        self.batches.append(Kept(tuple(items[i].id for i in kept.index if i >= 0), kept))


@dataclass(frozen=True)
class Recorder:
    """Describes pictures for the first pass of a `MemoryCache`, which keeps what it can."""

    rounded: ClassVar[str | None] = None

    cache: MemoryCache

    def describe(
        self, items: Sequence[Item], wants: Wants, on_skip: Callable[[Skipped], object]
    ) -> Iterator[Described]:
        """Yield what is wanted of pictures; see `ActivationSource`."""
        keeping = self.cache.room > 0
        both = union(wants, self.cache.later) if keeping else wants
        for described in self.cache.source.describe(items, both, on_skip):
            if keeping:
                self.cache.offer(items, both, described)
            yield described.select(both, wants)


def _holds(had: Wanted | None, want: Wanted) -> bool:
    if had is None:
        return False
    return set(want.scales) <= set(had.scales) and set(want.crops) <= set(had.crops)


def union(one: Wants, other: Wants) -> Wants:
    """Return what either wants."""
    nothing = Wanted(())
    union = {}
    for source in dict.fromkeys((*one, *other)):
        a, b = one.get(source, nothing), other.get(source, nothing)
        scales = tuple(sorted({*a.scales, *b.scales}))
        union[source] = Wanted(scales, tuple(dict.fromkeys((*a.crops, *b.crops))))
    return union
