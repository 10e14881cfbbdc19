"""Batches on their way to the device: how many pictures at once, and what if it is too many."""

import logging
import weakref

import jax
import numpy as np
import pytest
from helpers import toy
from helpers.devices import say_memory

from mpp_jax.config import Pyramid
from mpp_jax.data import Batch, Item
from mpp_jax.describe import batches
from mpp_jax.describe.batches import over_batches
from mpp_jax.describe.planning import Plan, kept_bytes, scale_bytes


@pytest.fixture(autouse=True)
def _nothing_decided(monkeypatch):
    monkeypatch.setattr(batches, "_PLANS", {})
    monkeypatch.setattr(batches, "_DECIDED", {})


def exhausted():
    return jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")


def items(count):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (count, 40, 50, 3), dtype=np.uint8)
    return [Item(str(n), (), "test", read=picture.copy) for n, picture in enumerate(pictures)]


def sums(most):
    """What a device makes of a batch, that holds so many pictures; and the sizes it was given."""
    sizes = []

    def function(network, batch):
        sizes.append(len(batch.index))
        if len(batch.index) > most:
            raise exhausted()
        return batch.index, batch.canvas.astype(int).sum(axis=(1, 2, 3))

    return function, sizes


@pytest.mark.parametrize("most", [1, 2, 3, 8])
def test_too_many_at_once_are_halved_from_then_on(caplog, most):
    function, sizes = sums(most)
    pictures = items(61)
    with caplog.at_level(logging.WARNING):
        found = list(over_batches(function, toy.toy_network(), pictures, Pyramid((0,), batch=8)))
    index = np.concatenate([index for index, _ in found])
    valid = index >= 0
    assert index[valid].tolist() == list(range(61))
    want = [int(item.source().sum()) for item in pictures]
    assert np.concatenate([total for _, total in found])[valid].tolist() == want
    fits = 2 ** int(np.log2(most))
    assert len(caplog.records) == {8: 0, 4: 1, 2: 2, 1: 3}[fits]
    if fits < 8:
        assert f"; {fits} from now on" in caplog.text
        # What was under way already is tried once more at most; then nothing too large.
        assert all(size <= fits for size in sizes[-5:])


def test_one_picture_that_does_not_fit_is_an_error():
    function, _ = sums(0)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        list(over_batches(function, toy.toy_network(), items(3), Pyramid((0,), batch=2)))


def test_other_errors_are_not_taken_for_too_little_memory(caplog):
    def function(network, batch: Batch):
        raise jax.errors.JaxRuntimeError("INTERNAL: ptxas exited with an error")

    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        list(over_batches(function, toy.toy_network(), items(3), Pyramid((0,), batch=2)))
    assert not caplog.records


def test_the_size_is_decided_once(monkeypatch):
    """What is kept on the device meanwhile does not change it: other sizes, other programs."""
    network, pyramid = toy.toy_network(), Pyramid((0, 1, 2), "fire2")
    kept, each = kept_bytes(network, pyramid), scale_bytes(network, pyramid, 2)
    for free in (2 * (16 * kept + 5 * each), each):
        say_memory(monkeypatch, free)
        assert batches.batch_size(network, pyramid) == 16
        assert batches.pictures_at_once(network, pyramid, 0) is None  # all at once
        assert batches.pictures_at_once(network, pyramid, 2) == 4  # four parts, as five would be
        assert batches.pictures_at_once(network, pyramid, 5) is None
        assert batches.crops_at_once(network, pyramid) == 5 * each // scale_bytes(
            network, pyramid, 0
        )
    assert batches.batch_size(network, Pyramid((0, 1), "fire2")) < 16


def test_parts_are_halved_before_batches(monkeypatch, caplog):
    """Where a scale is described in parts, it is the one that was too large."""
    network, pyramid = toy.toy_network(), Pyramid((0, 1), batch=8)
    key = batches._key(network, pyramid)
    batches._PLANS[key] = Plan(8, ((0, 8), (1, 4)), 80, 0, None)
    sizes = []

    def function(network, batch):
        parts = batches.pictures_at_once(network, pyramid, 1)
        sizes.append((len(batch.index), parts))
        if parts is None or parts > 1:
            raise exhausted()
        return batch.index

    with caplog.at_level(logging.WARNING):
        found = list(over_batches(function, network, items(24), pyramid))
    assert np.concatenate(found).tolist() == list(range(24))
    assert {rows for rows, _ in sizes} == {8}  # no smaller batch was needed
    assert sizes[-1] == (8, 1)
    assert len(caplog.records) == 2  # once for 2 at once and once for 1, whatever was under way
    assert "hold batches of 8 (at once 2 at scale 2); 8 (at once 1 at scale 2) from" in caplog.text


def test_crops_of_single_pictures_are_halved_in_the_end(caplog):
    """AP50 has fifty of each: more than a small device may hold."""
    network, pyramid = toy.toy_network(), Pyramid((0,), batch=2)
    batches._PLANS[batches._key(network, pyramid)] = Plan(2, ((0, 2),), 20, 0, None)
    seen = []

    def function(network, batch):
        crops = batches._PLANS[batches._key(network, pyramid)].crops
        seen.append((batch.index.tolist(), crops))
        if crops > 2:
            raise exhausted()
        return batch.index

    with caplog.at_level(logging.WARNING):
        found = list(over_batches(function, network, items(4), pyramid))
    assert np.concatenate(found).tolist() == list(range(4))
    # The next batch is under way meanwhile, and meets whichever plan there is by then.
    first = [(len(index), crops) for index, crops in seen if 0 in index]
    assert first == [(2, 20), (1, 10), (1, 5), (1, 2)]
    assert "hold 5 crops at once; 2 from now on" in caplog.text


def test_batches_are_halved_where_no_part_can_be(caplog):
    network, pyramid = toy.toy_network(), Pyramid((0, 1), batch=8)
    batches._PLANS[batches._key(network, pyramid)] = Plan(8, ((0, 8), (1, 2)), 80, 0, None)
    function, sizes = sums(4)
    with caplog.at_level(logging.WARNING):
        found = list(over_batches(function, network, items(16), pyramid))
    assert np.concatenate([index for index, _ in found]).tolist() == list(range(16))
    assert sizes[-1] == 4
    assert [("at scale 2" in r.getMessage()) for r in caplog.records] == [True, False]


def test_what_was_too_large_once_is_not_tried_again():
    function, sizes = sums(2)
    for _ in range(3):
        list(over_batches(function, toy.toy_network(), items(20), Pyramid((0,), batch=8)))
    assert max(sizes[-20:]) == 2
    assert len([size for size in sizes if size > 2]) <= 3 + 1  # those under way, and a half


def test_what_a_failed_try_had_is_freed_before_the_next():
    class Held:
        """As arrays of the scales that were done before memory ran out."""

    alive, seen = [], []

    def function(network, batch):
        seen.append((len(batch.index), sum(ref() is not None for ref in alive)))
        held = Held()
        alive.append(weakref.ref(held))
        if len(batch.index) > 2:
            raise exhausted()
        return batch.index

    list(over_batches(function, toy.toy_network(), items(8), Pyramid((0,), batch=8)))
    assert [size for size, _ in seen] == [8, 4, 2, 2, 2, 2]
    assert not any(count for _, count in seen)
