"""Sources of activations that tests count, and what they give, picture by picture."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from helpers.toy import toy_network
from mpp_jax.config import Pyramid
from mpp_jax.data import Item
from mpp_jax.describe.extraction import Described, Extractor
from mpp_jax.describe.wants import Wants

NETWORK, PYRAMID = toy_network(), Pyramid((0, 1, 2))


class Counting:
    """A source that notes how many pictures it was asked for."""

    def __init__(self, **pyramid: Any) -> None:
        self.source = Extractor(NETWORK, replace(PYRAMID, **pyramid))
        self.asked: list[int] = []

    def describe(self, items: Sequence[Item], wants: Wants, on_skip: Any) -> Iterator[Described]:
        self.asked.append(len(items))
        return self.source.describe(items, wants, on_skip)


def by_picture(batches: Iterator[Described]) -> dict[int, list[np.ndarray]]:
    """The arrays of each picture, by its position."""
    found = {}
    for described in batches:
        leaves = [np.asarray(x) for x in jax.tree.leaves(described.sources) if x.ndim == 3]
        for row, position in enumerate(described.index):
            if position >= 0:
                found[int(position)] = [leaf[row] for leaf in leaves]
    return found


def same(one: dict[int, list[np.ndarray]], other: dict[int, list[np.ndarray]]) -> None:
    assert one.keys() == other.keys()
    for position, arrays in one.items():
        for mine, theirs in zip(arrays, other[position], strict=True):
            np.testing.assert_array_equal(mine, theirs)
