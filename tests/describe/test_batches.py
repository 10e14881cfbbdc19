"""Batches on their way to the device: how many pictures at once, and what if it is too many."""

import logging
import weakref
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from helpers import toy

from mpp_jax.config import Pyramid
from mpp_jax.data import Batch, Item
from mpp_jax.describe import batches
from mpp_jax.describe.batches import Plan, over_batches, picture_bytes, plan
from mpp_jax.describe.pyramid import scale_side
from mpp_jax.nets.registry import get_spec
from mpp_jax.nets.sift import sift_network


@pytest.fixture(autouse=True)
def _nothing_decided(monkeypatch):
    monkeypatch.setattr(batches, "_DECIDED", {})


def exhausted():
    return jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")


def accelerator(monkeypatch, free, count=1):
    """Devices that say how much memory they have."""
    stats = {"bytes_limit": free + 1000, "bytes_in_use": 1000}
    device = SimpleNamespace(memory_stats=lambda: stats)
    monkeypatch.setattr(batches.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(batches.jax, "local_devices", lambda: [device] * count)


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


def test_a_cpu_takes_one_picture_at_a_time():
    network = toy.toy_network()
    assert plan(network, Pyramid((0, 1))).batch == 1
    assert plan(network, Pyramid((0, 1), batch=5)).batch == 5


def test_as_many_as_fit(monkeypatch):
    network, pyramid = toy.toy_network(), Pyramid((0, 1, 2), "fire2")
    # conv1 on 70 pixels gives 33 x 33 x 8 numbers, larger than all neighbours but the picture.
    each = picture_bytes(network, pyramid)
    assert each == 2 * 4 * (70 * 70 * 3 + 33 * 33 * 8)
    for free, batch in ((33 * each, 16), (31 * each, 8), (each, 1), (10, 1)):
        accelerator(monkeypatch, free)
        assert plan(network, pyramid) == Plan(batch, batch * each, free)
    assert plan(network, Pyramid((0, 1, 2), "fire2", batch=64)).batch == 64  # as was asked for
    assert "batches of 1; about 0.0 GiB at a time of 0.0 GiB" in str(plan(network, pyramid))


def test_dense_sift_has_no_layers():
    network = sift_network()
    each = picture_bytes(network, Pyramid((0, 2)))
    assert each >= 2 * 4 * scale_side(network.spec.side, 2) ** 2 * 3
    assert plan(network, Pyramid((0, 2))).batch == 1


def test_the_largest_scale_of_caffenet_fits_many():
    network = SimpleNamespace(spec=get_spec("caffenet"), dtype=np.dtype("float32"))
    each = picture_bytes(network, Pyramid(tuple(range(7))))
    assert 0.1 < each / 2**30 < 0.75  # 12 GiB hold 16 of them


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
    each = picture_bytes(network, pyramid)
    for free in (40 * each, each):
        accelerator(monkeypatch, free)
        assert batches.batch_size(network, pyramid) == 16
    assert batches.batch_size(network, Pyramid((0, 1), "fire2")) < 16


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
