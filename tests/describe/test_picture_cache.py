"""Activations are computed once a picture, in whatever selection and order it is asked for."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.activations import Counting, by_picture, same
from helpers.toy import memory_dataset, picture

from mpp_jax.data import Item
from mpp_jax.describe.picture_cache import PictureCache
from mpp_jax.describe.wants import Wanted, Wants

FIRST: Wants = {"default": Wanted((0, 1, 2))}
LATER: Wants = {"default": Wanted((0, 2), ((5, True),)), "conv1": Wanted((1,))}
BOTH: Wants = {"default": Wanted((0, 1, 2), ((5, True),)), "conv1": Wanted((1,))}


@pytest.fixture(scope="module")
def items() -> list[Item]:
    rng = np.random.default_rng(3)
    return [*memory_dataset([picture(rng, (90, 90, 200), 40 + i, 50) for i in range(6)]).items]


@pytest.mark.parametrize("batch", [0, 4])
def test_any_pass_gets_what_the_first_kept(items: list[Item], batch: int) -> None:
    source, said = Counting(batch=batch), []
    cache = PictureCache(source, BOTH, 2**30, 6, said.append)
    first = by_picture(cache.describe(items[:4], FIRST, print))
    same(first, by_picture(Counting(batch=batch).describe(items[:4], FIRST, print)))
    # In another order, with others among them, and other wants; as often as one likes.
    mixed = [items[i] for i in (5, 0, 3, 4, 1)]
    direct = by_picture(Counting(batch=batch).describe(mixed, LATER, print))
    for _ in range(2):
        same(by_picture(cache.describe(mixed, LATER, print)), direct)
    assert source.asked == [4, 2, 0]
    assert not said


def test_padding_is_masked(items: list[Item]) -> None:
    cache = PictureCache(Counting(batch=4), BOTH, 2**30, 6, print)
    list(cache.describe(items, FIRST, print))
    (batch,) = cache.describe(items[:3], FIRST, print)
    assert batch.index.tolist() == [0, 1, 2, -1]
    for scale in batch.sources["default"].scales:
        assert np.asarray(scale.mask).all(axis=1).tolist() == [True, True, True, False]


def test_what_does_not_fit_is_computed_again_and_said_once(items: list[Item]) -> None:
    each = next(iter(Counting().describe(items[:1], BOTH, print))).nbytes
    source, said = Counting(), []
    cache = PictureCache(source, BOTH, 2 * each, 6, said.append)
    first = by_picture(cache.describe(items, FIRST, print))
    same(by_picture(cache.describe(items, FIRST, print)), first)
    assert source.asked == [6, 4]
    (line,) = said
    assert line.startswith("activations of 6 pictures take")
    assert "those of 4 are computed again for every seed" in line


def test_broken_pictures_are_reported_in_every_pass(items: list[Item]) -> None:
    broken = replace(items[1], read=lambda: b"no picture")
    cache = PictureCache(Counting(), BOTH, 2**30, 3, print)
    for _ in range(2):
        skipped = []
        found = by_picture(cache.describe([items[0], broken, items[2]], FIRST, skipped.append))
        assert found.keys() == {0, 2}
        assert [(entry.position, entry.path) for entry in skipped] == [(1, items[1].id)]
