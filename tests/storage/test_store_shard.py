"""A shard is written by itself: by any process, in any order, at the same cost wherever it is."""

import pickle

import numpy as np
import pytest
from helpers.store_samples import (
    BAD,
    NEW,
    complete,
    content_of,
    dataset,
    fill,
    known,
    listed,
    same_files,
    skipped_of,
    vectors_of,
    writer_of,
)

from mpp_jax.storage.store import Store
from mpp_jax.storage.store_shard import ShardWriter


def write(task, items):
    """Encode a shard's pictures, as a process that knows nothing but the task does."""
    shard = ShardWriter(pickle.loads(pickle.dumps(task)))
    for name in task.pending:
        if name in BAD:
            shard.skip(items[name], BAD[name])
        else:
            shard.put([items[name]], vectors_of([items[name]]))
    assert shard.complete
    return shard


@pytest.fixture
def items():
    return {item.id: item for item in dataset().items}


def test_any_order_and_twice_gives_the_same_files(tmp_path, items):
    fill(writer_of(tmp_path / "whole"))
    writer = writer_of(tmp_path / "s")
    tasks = [*writer.tasks.values()]
    assert [task.shard for task in tasks] == [0, 1, 2, 3]
    for number in (3, 1, 0, 1, 3, 2):
        write(tasks[number], items)
    same_files(tmp_path / "whole", tmp_path / "s")


def test_whoever_opens_it_next_sees_what_others_wrote(tmp_path, items):
    writer = writer_of(tmp_path / "s")
    write(writer.tasks[2], items)
    again = writer_of(tmp_path / "s")
    assert [*again.tasks] == [0, 1, 3]
    assert [i.status for i in listed(tmp_path / "s")[8:12]] == ["done", "done", "done", "skipped"]
    fill(again)
    assert again.tasks == {}
    assert complete(tmp_path / "s")


def test_a_shards_files_do_not_depend_on_how_many_there_are(tmp_path):
    """Neither in number nor in bytes; and nothing else is written to."""
    sizes = {}
    for count in (12, 1200):
        folder = tmp_path / str(count)
        writer = writer_of(folder, dataset(count, 0))
        before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
        some = writer.remaining[4:8]
        writer.put(some, vectors_of(some))
        changed = {p for p in folder.iterdir() if before.get(p.name) != p.stat().st_mtime_ns}
        sizes[count] = {p.name: p.stat().st_size for p in changed}
        assert (folder / "manifest.json").stat().st_size < 1000
    assert sizes[12] == sizes[1200]
    assert {*sizes[12]} == {
        *("shard-00001.json", "shard-00001.fc7.npy", "shard-00001.mpp.npy"),
    }


def test_float16(tmp_path):
    for dtype in ("float32", "float16"):
        fill(writer_of(tmp_path / dtype, dtype=dtype))
    half, whole = Store.open(tmp_path / "float16"), Store.open(tmp_path / "float32")
    for split in ("train", "test"):
        found = half.vectors("mpp", split)
        assert found.dtype == np.float32
        wanted = whole.vectors("mpp", split).astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(found, wanted)
    size = {
        d: (tmp_path / d / "shard-00001.mpp.npy").stat().st_size for d in ("float16", "float32")
    }
    assert size["float32"] - size["float16"] == 4 * 5 * 2
    with pytest.raises(ValueError, match="dtype must be float32 or float16"):
        writer_of(tmp_path / "x", dtype="float64")


def test_what_float16_cannot_hold_is_skipped(tmp_path):
    writer = writer_of(tmp_path / "s", dtype="float16")
    made = vectors_of(writer.remaining)
    made["mpp"][5, 0] = 1e6
    writer.put(writer.remaining, made)
    (skipped,) = Store.open(tmp_path / "s").skipped
    assert (skipped.id, skipped.cause) == ("train/005.jpg", "encoding")


def test_a_million_rows_are_selected_by_columns(tmp_path):
    """`Items` are sequences of what they hold, however they were chosen."""
    fill(writer_of(tmp_path / "s"))
    store = Store.open(tmp_path / "s")
    items = store.items("test")
    chosen = items[np.array([4, 0, 2])]
    assert [item.id for item in chosen] == [items[i].id for i in (4, 0, 2)]
    assert chosen.ids == [item.id for item in chosen]
    assert [item.id for item in items[1:3]] == items.ids[1:3]
    np.testing.assert_array_equal(
        np.concatenate([*store.vectors_of("mpp", chosen)]), vectors_of(chosen)["mpp"]
    )
    assert items[-1] in items
    assert store.all_items.of(split="test", status="skipped") == [store.skipped[1]]


def test_a_replaced_picture_whose_encoding_was_not_finite(tmp_path):
    writer = writer_of(tmp_path / "s", content=content_of())
    vectors = vectors_of(writer.remaining)
    vectors["mpp"][2] = np.nan
    writer.put(writer.remaining, vectors, known(writer.remaining))
    assert skipped_of(tmp_path / "s")[0][0] == "train/002.jpg"
    assert writer_of(tmp_path / "s", content=content_of()).remaining == ()
    other = lambda item: NEW if item.id == "train/002.jpg" else content_of()(item)  # noqa: E731
    assert writer_of(tmp_path / "s", content=other).changed == ("train/002.jpg",)
