"""What a first pass kept is what a second one would have computed, and is given out once."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers.activations import Counting, by_picture, same
from helpers.toy import memory_dataset, picture

from mpp_jax.data import Item
from mpp_jax.describe.memory_cache import MemoryCache
from mpp_jax.describe.wants import Wanted, Wants

FIRST: Wants = {"default": Wanted((0, 1, 2))}
LATER: Wants = {"default": Wanted((0, 2), ((5, True),)), "conv1": Wanted((1,))}


@pytest.fixture(scope="module")
def items() -> tuple[Item, ...]:
    rng = np.random.default_rng(3)
    return memory_dataset([picture(rng, (90, 90, 200), 40 + i, 50) for i in range(6)]).items


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
