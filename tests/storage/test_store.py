"""Encodings on disk: what is read back, and what an interruption leaves."""

import json
import os
import shutil

import numpy as np
import pytest
from helpers.store_samples import (
    BAD,
    DIMENSIONS,
    METHODS,
    complete,
    dataset,
    fill,
    listed,
    refusal,
    rewritten,
    same_files,
    skipped_of,
    vectors_of,
    writer_of,
)

from mpp_jax.data import Dataset, Item, canvas_batches
from mpp_jax.numerics import stack_unit_vectors
from mpp_jax.storage.store import Store


@pytest.fixture
def finished(tmp_path):
    path = tmp_path / "finished"
    fill(writer_of(path))
    return path


# --- reading back --------------------------------------------------------------------------------


def test_everything_is_read_back(finished):
    store = Store.open(finished)
    data = dataset()
    assert store.classes == ("a", "b")
    assert store.methods == METHODS
    assert not store.multi_label
    assert store.config["encoder"]["components"] == 256
    assert store.config["scales"] == [1, 2, 3]
    assert [(i.id, i.reason) for i in store.skipped] == list(BAD.items())
    for split in ("train", "test"):
        items = [item for item in data.split(split) if item.id not in BAD]
        assert [i.id for i in store.items(split)] == [i.id for i in items]
        expected = vectors_of(items)
        for method in METHODS:
            result = store.vectors(method, split)
            assert result.dtype == np.float32
            np.testing.assert_array_equal(result, expected[method])
            np.testing.assert_array_equal(
                np.concatenate(list(store.iter_vectors(method, split))), expected[method]
            )
        np.testing.assert_array_equal(store.labels(split), [i.labels[0] for i in items])
        targets = store.targets(split)
        np.testing.assert_array_equal(targets.argmax(1), store.labels(split))
        assert set(np.unique(targets)) == {-1.0, 1.0}


def test_numpy_and_json_alone_can_read_it(finished):
    head = json.loads((finished / "manifest.json").read_text())
    assert head["format"] == "mpp-jax-store"
    assert (head["version"], head["items"], head["shards"]) == (2, 13, 4)
    assert head["methods"] == [*DIMENSIONS]
    seen = []
    for shard in range(head["shards"]):
        record = json.loads((finished / f"shard-{shard:05d}.json").read_text())
        array = np.load(finished / f"shard-{shard:05d}.mpp.npy")
        assert [*array.shape] == [record["arrays"]["mpp"][key] for key in ("rows", "dimension")]
        names = ("ids", "statuses", "rows", "reasons")
        for name, status, row, reason in zip(*(record[n] for n in names), strict=True):
            seen.append(name)
            if status == "skipped":
                assert (row, reason) == (None, BAD[name])
                continue
            assert (status, reason) == ("done", None)
            want = vectors_of([Item(name, (), "")])["mpp"][0]
            np.testing.assert_array_equal(array[row], want)
    assert seen == [item.id for item in dataset().items]
    assert not [name for name in os.listdir(finished) if name.startswith(".")]


def test_stacks_are_computed_on_reading(finished):
    store = Store.open(finished)
    stack = store.vectors("mpp+fc7", "train")
    parts = np.concatenate([store.vectors(m, "train") for m in ("mpp", "fc7")], 1)
    np.testing.assert_allclose(stack, parts / np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(stack, axis=1), 1, rtol=1e-6)
    assert store.dimension("mpp+fc7") == 8
    assert stack.dtype == np.float32


def test_stack_of_zero_rows_stays_zero():
    a = np.array([[0, 0], [0.6, 0.8], [0, 0]], np.float32)
    b = np.array([[0.0], [1.0], [1.0]], np.float32)
    half = 1 / np.sqrt(2)
    expected = [[0, 0, 0], [0.6 * half, 0.8 * half, half], [0, 0, 1]]
    np.testing.assert_allclose(stack_unit_vectors([a, b]), expected, rtol=1e-6)


def test_a_stack_of_one_is_what_it_was_to_the_bit():
    rows = np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_array_equal(stack_unit_vectors([rows]), rows)
    assert stack_unit_vectors([rows.astype(np.float64)]).dtype == np.float32


def test_multi_label_with_ignored(tmp_path):
    items = (Item("x", (0, 2), "train", ignored=(1,)), Item("y", (), "test"))
    data = Dataset("m", ("p", "q", "r"), items, multi_label=True)
    fill(writer_of(tmp_path / "s", data))
    store = Store.open(tmp_path / "s")
    np.testing.assert_array_equal(store.targets("train"), [[1, 0, 1]])
    np.testing.assert_array_equal(store.targets("test"), [[-1, -1, -1]])
    assert "several labels" in refusal(store.labels, "train")


def test_the_order_of_arrival_does_not_matter(finished, tmp_path):
    order = np.random.default_rng(0).permutation(13)
    fill(writer_of(tmp_path / "other"), order=order)
    same_files(finished, tmp_path / "other")


def test_a_shard_without_any_picture_has_no_files(tmp_path):
    writer = writer_of(tmp_path / "s")
    for item in writer.remaining[:4]:
        writer.skip(item, "bad\nline")
    assert not [*(tmp_path / "s").glob("*.npy")]
    fill(writer_of(tmp_path / "s"))
    store = Store.open(tmp_path / "s")
    assert store.vectors("mpp", "train").shape == (3, 5)
    assert store.skipped[0].reason == "bad line"


def test_everything_skipped(tmp_path):
    writer = writer_of(tmp_path / "s", dataset(2, 1))
    for item in writer.remaining:
        writer.skip(item, "bad")
    assert complete(tmp_path / "s")
    store = Store.open(tmp_path / "s")
    assert store.vectors("mpp", "train").shape == (0, 0)
    assert store.labels("test").shape == (0,)
    assert writer_of(tmp_path / "s", dataset(2, 1)).remaining == ()


def test_vectors_that_are_not_finite_are_skipped_with_a_reason(tmp_path):
    writer = writer_of(tmp_path / "s")
    made = vectors_of(writer.remaining)
    made["mpp"][3, 1] = np.nan
    made["fc7"][12, 0] = np.inf
    writer.put(writer.remaining, made)
    assert complete(tmp_path / "s")
    assert skipped_of(tmp_path / "s") == [
        ("train/003.jpg", "encoding is not finite (mpp)"),
        ("test/005.jpg", "encoding is not finite (fc7)"),
    ]
    assert Store.open(tmp_path / "s").vectors("fc7", "test").shape == (5, 3)


# --- interruption --------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_after", range(14))
def test_resumed_equals_uninterrupted_byte_for_byte(finished, tmp_path, stop_after):
    path = tmp_path / "resumed"
    fill(writer_of(path), stop_after=stop_after)
    writer = writer_of(path)
    whole_shards = 13 if stop_after >= 13 else stop_after // 4 * 4
    assert len(writer.remaining) == 13 - whole_shards
    assert complete(path) == (stop_after >= 13)
    fill(writer)
    same_files(finished, path)


def test_skipped_are_kept_with_their_shard(tmp_path):
    path = tmp_path / "s"
    writer = writer_of(path)
    writer.skip(writer.remaining[2], "truncated")
    assert skipped_of(path) == []  # its shard is not complete
    fill(writer_of(path), stop_after=4)
    assert skipped_of(path) == [("train/002.jpg", "truncated")]
    assert writer_of(path).remaining == dataset().items[4:]


def test_a_shard_with_a_mended_picture_is_done_again(finished, tmp_path):
    asked: list[str] = []

    def mended(item: Item) -> bool:
        asked.append(item.id)
        return item.id == "test/004.jpg"

    writer = writer_of(finished, mended=mended)
    assert asked == list(BAD)
    assert [item.id for item in writer.remaining] == [
        item.id for item in dataset().items[8:12]
    ]  # of four items a shard, the third
    writer.put(writer.remaining, vectors_of(writer.remaining))
    assert [item.id for item in Store.open(finished).skipped] == ["train/002.jpg"]
    assert writer_of(finished).remaining == ()


def test_vectors_that_were_not_finite_are_not_made_again(tmp_path):
    """By the cause that the record holds, whatever the words of the reason."""
    path = tmp_path / "s"
    writer = writer_of(path)
    made = vectors_of(writer.remaining)
    made["mpp"][3, 1] = np.nan
    writer.put(writer.remaining, made)
    causes = {item.id: item.cause for item in listed(path) if item.cause}
    assert causes == {"train/003.jpg": "encoding"}
    assert writer_of(path, mended=lambda item: True).remaining == ()
    rewritten(path / "shard-00000.json", lambda record: record["reasons"].__setitem__(3, "NaN"))
    assert writer_of(path, mended=lambda item: True).remaining == ()
    assert Store.open(path).skipped[0].cause == "encoding"
    rewritten(path / "shard-00000.json", lambda record: record["causes"].__setitem__(3, None))
    again = writer_of(path, mended=lambda item: True)
    assert [item.id for item in again.remaining] == [i.id for i in dataset().items[:4]]


def test_the_cause_survives_resuming(tmp_path):
    made = vectors_of(dataset().items)
    made["mpp"][3, 1] = np.nan
    for name, rounds in (("whole", [13]), ("resumed", [4, 9])):
        done = 0
        for count in rounds:
            writer = writer_of(tmp_path / name)
            rows = slice(done, done + count)
            writer.put(writer.remaining[:count], {m: v[rows] for m, v in made.items()})
            done += count
    same_files(tmp_path / "whole", tmp_path / "resumed")


def test_killed_between_arrays_and_record(finished, tmp_path, monkeypatch):
    path = tmp_path / "s"
    writer = writer_of(path)
    real = os.replace

    def dies(source, target):
        if str(target).endswith("00000.json"):
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        fill(writer)
    monkeypatch.undo()
    assert (path / "shard-00000.mpp.npy").exists()
    writer = writer_of(path)
    assert len(writer.remaining) == 13
    fill(writer)
    same_files(finished, path)


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "other shape", "no array"])
def test_a_lost_or_damaged_shard_is_made_again(finished, tmp_path, damage):
    path = tmp_path / "s"
    shutil.copytree(finished, path)
    shard = path / "shard-00001.mpp.npy"
    if damage == "missing":
        shard.unlink()
    elif damage == "truncated":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "empty":
        shard.write_bytes(b"")
    elif damage == "other shape":
        np.save(shard, np.zeros((2, 5), np.float32))
    else:
        shard.write_bytes(b"nothing")
    store = Store.open(path)
    assert "missing or damaged" in refusal(store.vectors, "mpp", "train")
    writer = writer_of(path)
    assert [item.id for item in writer.remaining] == [i.id for i in dataset().items[4:8]]
    fill(writer)
    same_files(finished, path)


def test_leftovers_of_a_kill_are_removed(finished):
    (finished / ".shard-00000.mpp.npy.tmp").write_bytes(b"half")
    writer_of(finished)
    assert not [name for name in os.listdir(finished) if name.startswith(".")]


def test_unfinished_stores_are_refused(tmp_path):
    path = tmp_path / "s"
    fill(writer_of(path), stop_after=5)
    message = refusal(Store.open, path)
    assert "unfinished, 9 of 13 pictures" in message
    assert "same encode command" in message
    statuses = [item.status for item in listed(path)]
    assert statuses == ["done", "done", "skipped", "done", *["pending"] * 9]


def test_with_canvas_batches_the_whole_path_is_resumable(tmp_path):
    """Vectors that depend on the neighbours in their batch still come out the same."""
    rng = np.random.default_rng(0)
    shapes = rng.integers(1, 20, (13, 2))
    data = dataset()
    pictures = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    items = tuple(
        Item(i.id, i.labels, i.split, read=bytes if i.id in BAD else picture.copy)
        for i, picture in zip(data.items, pictures, strict=True)
    )
    data = Dataset("toy", data.classes, items)

    def encode(path, most=10**9):
        """Encode shard by shard, as the pipeline does, and stop before batch number ``most``."""
        with writer_of(path, data) as writer:
            todo, size = writer.remaining, writer.shard_size
            for first in range(0, len(todo), size):
                block = todo[first : first + size]
                batches = canvas_batches(block, batch_size=3, buckets=(8, 14, 20))
                for batch in batches:
                    if not most:
                        return
                    most -= 1
                    chosen = [block[i] for i in batch.index[batch.valid]]
                    total = float(batch.canvas.sum() % 1000)  # every row sees its neighbours
                    rows = np.arange(len(chosen), dtype=np.float32)[:, None]
                    writer.put(chosen, {m: rows + total + np.zeros((1, 4)) for m in METHODS})
                for skipped in batches.skipped:
                    writer.skip(block[skipped.position], skipped.reason)

    encode(tmp_path / "whole")
    for most in range(1, 8):
        encode(tmp_path / f"part{most}", most)
        encode(tmp_path / f"part{most}")
        same_files(tmp_path / "whole", tmp_path / f"part{most}")
    assert len(Store.open(tmp_path / "whole").skipped) == 2


def test_long_vectors_come_in_parts_of_a_shard(finished, monkeypatch):
    store, stack = Store.open(finished), "+".join(METHODS)
    whole = store.vectors(stack, "train")
    monkeypatch.setattr("mpp_jax.storage.store.BLOCK_BYTES", 2 * 4 * whole.shape[1])
    parts = list(store.iter_vectors(stack, "train"))
    assert max(map(len, parts)) == 2
    np.testing.assert_array_equal(np.concatenate(parts), whole)
