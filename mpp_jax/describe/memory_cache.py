"""Where activations come from: the network, this process's memory, or a folder of earlier ones."""

from collections.abc import Callable, Iterator, Sequence

from mpp_jax.config import Run
from mpp_jax.data import Item, Skipped
from mpp_jax.describe.extraction import Described, Wants, describe_items
from mpp_jax.nets import Network

Describe = Callable[[Sequence[Item], Wants, Callable[[Skipped], object]], Iterator[Described]]
"""Pictures and what is wanted of them -> their activations, batch by batch."""


class DescribedCache:
    """Activations kept on the device between fitting and encoding, up to a number of bytes.

    Attributes:
        full: whether a batch has been turned away.
        batches: (pictures, what was described of them, activations).
    """

    def __init__(self, limit: int) -> None:
        """Start empty, with room for ``limit`` bytes."""
        self._room = limit
        self.full = False
        self.batches: list[tuple[list[Item], Wants, Described]] = []

    def offer(self, items: list[Item], wants: Wants, described: Described) -> None:
        """Keep a batch and its pictures if there is room."""
        self.full = self.full or described.nbytes > self._room
        if not self.full:
            self._room -= described.nbytes
            self.batches.append((items, wants, described))


def describe_with(network: Network, config: Run) -> Describe:
    """Return a function that decodes pictures and computes their activations, kept nowhere."""

    def describe(
        items: Sequence[Item], wants: Wants, on_skip: Callable[[Skipped], object]
    ) -> Iterator[Described]:
        return describe_items(network, items, config.pyramid, wants=wants, on_skip=on_skip)

    return describe
