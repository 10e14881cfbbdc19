"""Canvases: contents, order, memory, and independence of threads."""

import io
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mpp_jax.data import DEFAULT_BUCKETS, DecodeError, Item, canvas_batches
from mpp_jax.data import batches as batches_module
from mpp_jax.data.batches import rows_of

SIDES = (8, 12, 20)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed + 1000 * height + width)
    return rng.integers(1, 256, (height, width, 3), dtype=np.uint8)


def unpacked(batches) -> dict[int, np.ndarray]:
    """Return pictures by position, after checks of everything a batch promises."""
    found: dict[int, np.ndarray] = {}
    for batch in batches:
        rows, side = batch.canvas.shape[:2]
        assert batch.canvas.shape == (rows, side, side, 3)
        assert batch.canvas.dtype == np.uint8
        assert batch.sizes.shape == (rows, 2)
        assert batch.sizes.dtype == np.int32
        assert batch.index.shape == (rows,)
        assert batch.valid.any()
        assert not np.diff(batch.valid.astype(int)).max(initial=0)  # padding comes last
        for canvas, (height, width), index in zip(
            batch.canvas, batch.sizes, batch.index, strict=True
        ):
            if index < 0:
                assert (height, width) == (1, 1)
                assert not canvas.any()
                continue
            found[int(index)] = canvas[:height, :width]
            assert not canvas[height:].any()
            assert not canvas[:, width:].any()
    return found


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), max_size=25),
    batch_size=st.integers(1, 5),
    threads=st.integers(1, 3),
)
def test_every_picture_once_in_the_smallest_canvas(shapes, batch_size, threads):
    pictures = [picture(*shape) for shape in shapes]
    batches = canvas_batches(pictures, batch_size=batch_size, buckets=SIDES, threads=threads)
    produced = list(batches)
    found = unpacked(produced)
    assert sorted(found) == list(range(len(pictures)))
    for position, expected in enumerate(pictures):
        np.testing.assert_array_equal(found[position], expected)
    for batch in produced:
        side = batch.canvas.shape[1]
        assert batch.canvas.shape[0] == batch_size
        longest = batch.sizes[batch.valid].max(1)
        assert all(side == min(s for s in SIDES if s >= length) for length in longest)
    assert batches.skipped == []
    again = list(batches)
    assert len(again) == len(produced)
    for one, two in zip(produced, again, strict=True):
        np.testing.assert_array_equal(one.index, two.index)


def test_order_full_batches_first_then_partial_ones_by_bucket():
    shapes = [(20, 3), (5, 5), (9, 2), (4, 4), (6, 6)]
    pictures = [picture(*shape) for shape in shapes]
    order = [b.index.tolist() for b in canvas_batches(pictures, batch_size=2, buckets=SIDES)]
    assert order == [[1, 3], [4, -1], [2, -1], [0, -1]]


def test_sources_of_every_kind_and_skipped_ones(tmp_path):
    pixels = picture(6, 7)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    good = tmp_path / "good.png"
    good.write_bytes(stream.getvalue())
    bad = tmp_path / "bad.png"
    bad.write_bytes(stream.getvalue()[:30])
    sources = [
        Item("x/bad.png", (0,), "train", path=bad),
        Item("x/good.png", (0,), "train", path=good),
        str(good),
        tmp_path / "absent.png",
        stream.getvalue(),
        b"",
        pixels,
        Item("memory", (0,), "train", read=stream.getvalue),
        Item("array", (0,), "train", read=lambda: pixels),
    ]
    batches = canvas_batches(sources, batch_size=4, threads=3)
    found = unpacked(batches)
    assert sorted(found) == [1, 2, 4, 6, 7, 8]
    for value in found.values():
        np.testing.assert_array_equal(value, pixels)
    assert [(s.position, s.path) for s in batches.skipped] == [
        (0, "x/bad.png"),
        (3, str(tmp_path / "absent.png")),
        (5, "<bytes>"),
    ]
    assert "no such file" in batches.skipped[1].reason
    list(batches)
    assert len(batches.skipped) == 3  # of the last iteration only


def test_all_skipped_gives_no_batch():
    batches = canvas_batches([b"", b"x"], batch_size=2)
    assert list(batches) == []
    assert [s.position for s in batches.skipped] == [0, 1]


def test_pictures_beyond_the_largest_bucket_are_reduced():
    stream = io.BytesIO()
    Image.fromarray(picture(100, 50)).save(stream, "PNG")
    batches = list(
        canvas_batches([stream.getvalue(), picture(50, 100)], batch_size=1, buckets=SIDES)
    )
    assert [b.sizes.tolist() for b in batches] == [[[20, 10]], [[10, 20]]]


def test_look_ahead_is_bounded(monkeypatch):
    started: list[int] = []

    def decode(source, *, max_side):
        started.append(1)
        return picture(4, 4)

    monkeypatch.setattr(batches_module, "decode_picture", decode)
    iterator = iter(canvas_batches([b"x"] * 100, batch_size=1, threads=2))
    for taken in range(1, 10):
        next(iterator)
        assert len(started) <= taken + 2 * 2 + 1
    iterator.close()
    assert len(started) < 20


def test_stopping_early_ends_the_threads():
    before = threading.active_count()
    iterator = iter(canvas_batches([picture(4, 4)] * 50, batch_size=1, threads=3))
    next(iterator)
    assert threading.active_count() > before
    iterator.close()
    assert threading.active_count() == before


def test_errors_of_a_decoder_that_are_no_decode_errors_surface(monkeypatch):
    def decode(source, *, max_side):
        raise RuntimeError("a bug")

    monkeypatch.setattr(batches_module, "decode_picture", decode)
    with pytest.raises(RuntimeError, match="a bug"):
        list(canvas_batches([b"x"], batch_size=1))


def test_decoder_is_told_the_largest_side(monkeypatch):
    seen = []

    def decode(source, *, max_side):
        seen.append(max_side)
        raise DecodeError("p", "no")

    monkeypatch.setattr(batches_module, "decode_picture", decode)
    list(canvas_batches([b"x"], batch_size=1))
    list(canvas_batches([b"x"], batch_size=1, buckets=SIDES))
    assert seen == [DEFAULT_BUCKETS[-1], SIDES[-1]]


def test_large_buckets_hold_fewer_pictures(monkeypatch):
    assert rows_of(256, 32) == 32
    assert rows_of(4096, 32) == 5
    assert rows_of(10**5, 32) == 1
    pictures = [picture(20, 20)] * 3 + [picture(4, 4)] * 3
    monkeypatch.setattr(batches_module, "CANVAS_BYTES", 3 * 20 * 20 * 2)
    batches = canvas_batches(pictures, batch_size=8, buckets=SIDES)
    assert [b.canvas.shape[:2] for b in batches] == [(2, 20), (8, 8), (2, 20)]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"threads": 0}, "threads"),
        ({"buckets": ()}, "buckets"),
        ({"buckets": (8, 8)}, "buckets"),
        ({"buckets": (0, 8)}, "buckets"),
    ],
)
def test_wrong_arguments(options, word):
    with pytest.raises(ValueError, match=word):
        canvas_batches([], **({"batch_size": 1} | options))


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_wrong_arrays(array):
    with pytest.raises(ValueError, match=r"must be \(H, W, 3\) uint8 RGB"):
        list(canvas_batches([array], batch_size=1))
