"""Activations of single pictures in the host's memory, for any number of passes over them."""

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mpp_jax.data import Item, Skipped
from mpp_jax.describe.dense import Activations, Crops, Descriptors
from mpp_jax.describe.extraction import ActivationSource, Described
from mpp_jax.describe.wants import Wants


class _Rows(NamedTuple):
    """One picture's rows of a batch from one source of descriptors: x and mask, and crops."""

    scales: tuple[tuple[np.ndarray, np.ndarray], ...]
    crops: dict[Crops, np.ndarray]


class PictureCache:
    """A source that computes each picture's activations once, as long as there is room.

    Other selections and orders of the same pictures find them again by their ids.

    Attributes:
        source: where activations come from.
        wants: all that any pass will want: this is kept.
        room: bytes that are left.
    """

    rounded: ClassVar[str | None] = None

    def __init__(
        self,
        source: ActivationSource,
        wants: Wants,
        room: int,
        pictures: int,
        say: Callable[[str], object],
    ) -> None:
        """Start empty.

        Args:
            source: where activations come from.
            wants: all that any pass will want.
            room: bytes.
            pictures: how many different ones there will be.
            say: is told, once, where they do not all fit, and what that costs.
        """
        self.source = source
        self.wants = wants
        self.room = room
        self._pictures = pictures
        self._say = say
        self._kept: dict[str, dict[str, _Rows]] = {}
        self._windows: dict[str, tuple[jax.Array, ...]] = {}
        self._batch = 1

    def describe(
        self, items: Sequence[Item], wants: Wants, on_skip: Callable[[Skipped], object]
    ) -> Iterator[Described]:
        """Yield what is wanted of pictures, kept ones first; see `ActivationSource`."""
        there = [i for i, item in enumerate(items) if item.id in self._kept]
        for first in range(0, len(there), self._batch):
            chosen = there[first : first + self._batch]
            yield self._given([items[i].id for i in chosen], chosen).select(self.wants, wants)
        rest = np.array([i for i, item in enumerate(items) if item.id not in self._kept], np.int64)

        def skip(entry: Skipped) -> None:
            on_skip(entry._replace(position=int(rest[entry.position])))

        keeping = self.room > 0
        computed = self.wants if keeping else wants
        for described in self.source.describe([items[i] for i in rest], computed, skip):
            index = np.where(described.index >= 0, rest[described.index], -1)
            if keeping:
                self._keep(described, [items[i].id if i >= 0 else None for i in index])
            yield described._replace(index=index).select(computed, wants)

    def _keep(self, described: Described, names: Sequence[str | None]) -> None:
        each = described.nbytes // len(names)
        if not self._kept:
            self._batch = len(names)
            self._windows = {
                name: tuple(scale.window for scale in found.scales)
                for name, found in described.sources.items()
            }
            if each * self._pictures > self.room:
                lacking = self._pictures - self.room // each
                self._say(
                    f"activations of {self._pictures} pictures take "
                    f"{each * self._pictures / 2**30:.3g} GiB and "
                    f"{self.room / 2**30:.3g} GiB of memory are for them: those of {lacking} are "
                    "computed again for every seed, twice where a codebook is fitted to them; "
                    "--cache FOLDER keeps all on disk, in half as many bytes"
                )
        if self.room < each * len(names):
            self.room = 0
            return
        self.room -= each * len(names)
        host = jax.tree.map(np.asarray, described.sources)
        for row, name in enumerate(names):
            if name is not None:
                self._kept[name] = {
                    source: _Rows(
                        tuple((d.x[row].copy(), d.mask[row].copy()) for d in found.scales),
                        {key: x[row].copy() for key, x in found.crops.items()},
                    )
                    for source, found in host.items()
                }

    def _given(self, names: Sequence[str], positions: Sequence[int]) -> Described:
        """Return a batch of kept pictures, padded to the size that they were computed in."""
        short = self._batch - len(names)
        index = np.array([*positions, *[-1] * short], np.int64)
        valid = index >= 0
        padded = [*names, *[names[0]] * short]
        sources = {}
        for source, windows in self._windows.items():
            rows = [self._kept[name][source] for name in padded]
            scales = tuple(
                Descriptors(
                    jnp.asarray(np.stack([one.scales[k][0] for one in rows])),
                    jnp.asarray(np.stack([one.scales[k][1] for one in rows]) & valid[:, None]),
                    window,
                )
                for k, window in enumerate(windows)
            )
            crops = {
                key: jnp.asarray(np.stack([one.crops[key] for one in rows]))
                for key in rows[0].crops
            }
            sources[source] = Activations(scales, crops)
        return Described(index, sources)
