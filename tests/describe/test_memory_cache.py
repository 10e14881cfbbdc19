"""What a first pass kept is what a second one would have computed, and is given out once."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from helpers.toy import memory_dataset, picture, toy_network

from mpp_jax.config import Pyramid
from mpp_jax.data import Item
from mpp_jax.describe.extraction import Described, Extractor, Wanted, Wants
from mpp_jax.describe.memory_cache import MemoryCache

NETWORK, PYRAMID = toy_network(), Pyramid((0, 1, 2))
FIRST: Wants = {"default": Wanted((0, 1, 2))}
LATER: Wants = {"default": Wanted((0, 2), ((5, True),)), "conv1": Wanted((1,))}


class Counting:
    """A source that notes how many pictures it was asked for."""

    def __init__(self, **pyramid: Any) -> None:
        self.source = Extractor(NETWORK, replace(PYRAMID, **pyramid))
        self.asked: list[int] = []

    def describe(self, items: Sequence[Item], wants: Wants, on_skip: Any) -> Iterator[Described]:
        self.asked.append(len(items))
        return self.source.describe(items, wants, on_skip)


@pytest.fixture(scope="module")
def items() -> tuple[Item, ...]:
    rng = np.random.default_rng(3)
    return memory_dataset([picture(rng, (90, 90, 200), 40 + i, 50) for i in range(6)]).items


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


@pytest.mark.parametrize("batch", [0, 4])
def test_the_second_pass_gets_what_the_first_kept(items: tuple[Item, ...], batch: int) -> None:
    source = Counting(batch=batch)
    cache = MemoryCache(source, 2**30, LATER)
    first = by_picture(cache.recorder.describe(items, FIRST, print))
    same(first, by_picture(Counting(batch=batch).describe(items, FIRST, print)))
    second = by_picture(cache.describe(items, LATER, print))
    same(second, by_picture(Counting(batch=batch).describe(items, LATER, print)))
    assert source.asked == [6, 0]
    assert not cache.batches
    # Once: asked for again, it is computed again. In another order, too.
    again = by_picture(cache.describe(items[::-1], LATER, print))
    assert source.asked == [6, 0, 6]
    same({5 - position: arrays for position, arrays in again.items()}, second)


def test_what_does_not_fit_is_computed_again(items: tuple[Item, ...]) -> None:
    source = Counting()
    one = next(iter(source.describe(items[:1], LATER, print))).nbytes
    cache = MemoryCache(source, 2 * one, LATER)
    list(cache.recorder.describe(items, FIRST, print))
    assert [kept.ids for kept in cache.batches] == [("000",), ("001",)]
    source.asked.clear()
    # A part of the pictures takes its own batches only.
    part = by_picture(cache.describe(items[1:3], LATER, print))
    assert source.asked == [1]
    same(part, by_picture(Counting().describe(items[1:3], LATER, print)))
    assert [kept.ids for kept in cache.batches] == [("000",)]


def test_what_was_not_kept_is_not_given(items: tuple[Item, ...]) -> None:
    source = Counting()
    cache = MemoryCache(source, 2**30, LATER)
    list(cache.recorder.describe(items, FIRST, print))
    other: Wants = {"default": Wanted((1,))}
    same(
        by_picture(cache.describe(items, other, print)),
        by_picture(Counting().describe(items, other, print)),
    )
    assert source.asked == [6, 6]
    assert len(cache.batches) == 6


def test_skipped_pictures_keep_their_places(items: tuple[Item, ...]) -> None:
    broken = replace(items[4], read=lambda: b"broken")
    mixed = (*items[:4], broken, items[5])
    cache = MemoryCache(Counting(), 2**30, LATER)
    skips: list[Any] = []
    list(cache.recorder.describe(mixed, FIRST, skips.append))
    list(cache.describe(mixed, LATER, skips.append))
    assert [(entry.position, entry.path) for entry in skips] == [(4, "004")] * 2
