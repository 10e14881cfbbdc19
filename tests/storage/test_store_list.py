"""Stores whose pictures are not what they were: gone, back, new, renamed, of other classes."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.store_samples import (
    NEW,
    complete,
    content_of,
    dataset,
    digest,
    encoded,
    files_of,
    fill,
    known,
    refusal,
    same_files,
    vectors_of,
    without,
    writer_of,
)

from mpp_jax.data import Dataset, Item
from mpp_jax.storage.store import Store
from mpp_jax.storage.store_format import read_head


@pytest.fixture
def finished(tmp_path):
    path = tmp_path / "finished"
    encoded(path)
    return path


# --- gone, and back ------------------------------------------------------------------------------


def test_pictures_that_are_gone_are_not_read_and_return(finished):
    before = files_of(finished)
    gone = ("train/001.jpg", "train/004.jpg", "test/000.jpg")
    writer = writer_of(finished, without(dataset(), *gone), content=content_of())
    assert writer.remaining == ()
    assert writer.notes == (
        "3 pictures (train/001.jpg for one) are not among the data any more; what was encoded is "
        "kept, and not used",
    )
    store = Store.open(finished)
    for split in ("train", "test"):
        left = [item for item in dataset().split(split) if item.id not in gone]
        assert [item.id for item in store.items(split)] == [item.id for item in left]
        np.testing.assert_array_equal(store.vectors("mpp", split), vectors_of(left)["mpp"])
        np.testing.assert_array_equal(store.labels(split), [item.labels[0] for item in left])
    again = writer_of(finished, without(dataset(), *gone), content=content_of())
    assert (again.remaining, again.notes) == ((), ())
    back = writer_of(finished, content=content_of())
    assert back.remaining == ()
    assert "3 pictures (train/001.jpg for one) are among the data again" in back.notes
    assert files_of(finished) == before


def test_one_that_returns_with_another_content_is_encoded_again(finished):
    gone = without(dataset(), "test/005.jpg")
    writer_of(finished, gone, content=content_of())
    back = writer_of(
        finished, content=lambda i: NEW if i.id == "test/005.jpg" else digest(f"1{i.id}")
    )
    assert [item.id for item in back.remaining] == ["test/005.jpg"]  # its shard has no other


def test_a_skipped_picture_that_is_gone_leaves_nothing_behind(tmp_path):
    path = tmp_path / "s"
    fill(writer_of(path))
    writer_of(path, without(dataset(), "train/002.jpg"))
    assert [item.id for item in Store.open(path).skipped] == ["test/004.jpg"]
    back = writer_of(path)  # it is tried again with its shard
    assert [item.id for item in back.remaining] == [i.id for i in dataset().items[:4]]
    fill(back)
    fill(writer_of(tmp_path / "fresh"))
    same_files(path, tmp_path / "fresh")


def test_a_damaged_shard_is_made_again_without_what_is_gone(finished):
    (finished / "shard-00000.mpp.npy").unlink()
    left = without(dataset(), "train/001.jpg")
    writer = writer_of(finished, left, content=content_of())
    assert [i.id for i in writer.remaining] == ["train/000.jpg", "train/002.jpg", "train/003.jpg"]
    writer.put(writer.remaining, vectors_of(writer.remaining), known(writer.remaining))
    store = Store.open(finished)
    np.testing.assert_array_equal(
        store.vectors("mpp", "train"), vectors_of(left.split("train"))["mpp"]
    )
    assert [i.row for i in store.all_items[:4]] == [0, None, 1, 2]
    back = writer_of(finished, content=content_of())
    assert len(back.remaining) == 4
    back.put(back.remaining, vectors_of(back.remaining), known(back.remaining))
    assert Store.open(finished).all_items[1].status == "done"


def test_killed_after_pictures_went_it_goes_on(tmp_path):
    path = tmp_path / "s"
    fill(writer_of(path), stop_after=6)
    left = without(dataset(), "train/001.jpg", "test/001.jpg")
    fill(writer_of(path, left))
    store = Store.open(path)
    good = [i for i in left.split("test") if i.id != "test/004.jpg"]
    np.testing.assert_array_equal(store.vectors("fc7", "test"), vectors_of(good)["fc7"])
    assert [i.status for i in store.all_items if i.status == "removed"] == ["removed"] * 2


# --- labels, splits, places ----------------------------------------------------------------------


def test_labels_and_splits_are_the_datas(finished):
    arrays = {name: text for name, text in files_of(finished).items() if name.endswith("npy")}
    items = list(dataset().items)
    items[0] = replace(items[0], labels=(2,))
    items[7] = replace(items[7], split="train")
    data = Dataset("toy", ("a", "b", "z"), tuple(items))
    writer = writer_of(finished, data, content=content_of())
    assert writer.remaining == ()
    assert writer.notes == (
        "2 pictures (train/000.jpg for one) are of other classes or another split than the store "
        "had; it takes them",
    )
    store = Store.open(finished)
    assert store.classes == ("a", "b", "z")
    assert store.labels("train").tolist() == [2, 1, 0, 1, 0, 1, 0, 0]
    assert len(store.items("test")) == 5
    assert {n: text for n, text in files_of(finished).items() if n.endswith("npy")} == arrays


def test_a_class_that_is_gone(finished):
    """Labels are renumbered; what is removed keeps the classes that there still are."""
    left = tuple(replace(i, labels=(0,)) for i in dataset().items if i.labels == (1,))
    writer = writer_of(finished, Dataset("toy", ("b",), left), content=content_of())
    assert len(writer.notes) == 1
    store = Store.open(finished)
    assert store.classes == ("b",)
    assert set(store.labels("train")) == {0}
    assert [i.labels for i in store.all_items[:2]] == [(), (0,)]


def test_another_folder_is_the_same_by_content(finished):
    moved = replace(dataset(), name="moved")
    writer = writer_of(finished, moved, content=content_of())
    assert (writer.remaining, writer.notes, writer.changed) == ((), (), ())
    assert read_head(finished)["dataset"] == "moved"
    before = files_of(finished)
    other = replace(dataset(), name="other")
    line = refusal(writer_of, finished, other, content=content_of("2"))
    assert "made of moved; of its pictures that other has by name, 13 of 13 have other" in line
    assert files_of(finished) == before


def test_without_contents_the_name_is_all_there_is(tmp_path):
    path = tmp_path / "s"
    fill(writer_of(path))
    line = refusal(writer_of, path, replace(dataset(), name="other"))
    assert "made of toy; other has 11 of its pictures by name" in line
    assert "their contents are not recorded" in line
    assert writer_of(path, without(dataset(), "test/003.jpg")).remaining == ()


def test_other_pictures_altogether(finished):
    items = (Item("x.jpg", (0,), "train"), Item("y.jpg", (1,), "train"))
    data = Dataset("toy", ("a", "b"), items)
    line = refusal(writer_of, finished, replace(data, name="other"))
    assert "made of toy, of which other has no picture; give a new folder, or" in line


def test_a_set_most_of_which_changed_is_another_set(finished):
    """A folder of the same name elsewhere: nothing of the store is lost to it."""
    before = files_of(finished)
    items = dataset().items
    few = replace(dataset(), items=items[:5])
    other = lambda n: lambda item: digest(f"{2 if item in items[:n] else 1}{item.id}")  # noqa: E731
    line = refusal(writer_of, finished, few, content=other(3))
    assert "3 of 5 have other contents (train/000.jpg for one), so this is another set" in line
    assert files_of(finished) == before
    assert writer_of(finished, few, content=other(2)).changed == ("train/000.jpg", "train/001.jpg")


def test_what_is_gone_survives_its_neighbours(finished):
    """A replaced picture beside one that is gone moves: the shard keeps what nobody can make."""
    before = files_of(finished)
    left = without(dataset(), "train/001.jpg")
    other = lambda item: NEW if item.id == "train/000.jpg" else digest(f"1{item.id}")  # noqa: E731
    writer = writer_of(finished, left, content=other)
    assert [item.id for item in writer.remaining] == ["train/000.jpg"]
    assert writer.shard_of(writer.remaining[0]) == 4
    assert not complete(finished)  # the old vector is nobody's any more
    new = {method: -rows for method, rows in vectors_of(writer.remaining).items()}
    writer.put(writer.remaining, new, {"train/000.jpg": NEW})
    for name in before:
        if name.endswith("npy"):
            assert (finished / name).read_bytes() == before[name]
    assert writer_of(finished, content=other).remaining == ()  # and it is back
    store = Store.open(finished)
    first, *others = dataset().split("train")
    assert [item.id for item in store.items("train")] == [*(i.id for i in others), first.id]
    wanted = vectors_of([*others, first])["mpp"]
    wanted[-1] *= -1
    np.testing.assert_array_equal(store.vectors("mpp", "train"), wanted)


def test_other_names_for_the_same_pictures(finished):
    """A renamed class folder, a list with the paths of where it lay before, another order."""
    before = files_of(finished)
    renamed = {item: replace(item, id=f"moved/{item.id}") for item in dataset().items}
    items = tuple(reversed(renamed.values()))
    original = {new.id: old.id for old, new in renamed.items()}
    content = lambda item: digest(f"1{original.get(item.id, item.id)}")  # noqa: E731
    data = Dataset("list", ("a", "b"), items)
    writer = writer_of(finished, data, content=content)
    assert writer.remaining == ()
    assert writer.notes == (
        "13 pictures (moved/train/000.jpg for one) are known under another name or place, which "
        "the store takes",
    )
    store = Store.open(finished)
    assert [item.id for item in store.items("test")] == [f"moved/test/00{n}.jpg" for n in range(6)]
    wanted = vectors_of(dataset().split("train"))["mpp"]
    np.testing.assert_array_equal(store.vectors("mpp", "train"), wanted)
    assert writer_of(finished, content=content).remaining == ()  # and back
    assert files_of(finished) == before
    # Joining, they may well be copies: taken, and said.
    writer = writer_of(finished, data, append=True, content=content)
    assert len(writer.remaining) == 13
    assert "new by name alone" in writer.notes[-1]


def test_other_names_for_pictures_that_are_none(tmp_path):
    """What was skipped is known by its content as well, if that was read."""
    path, broken = tmp_path / "s", ("train/002.jpg", "test/004.jpg")
    writer = writer_of(path, content=content_of())
    for item in writer.remaining:
        if item.id in broken:
            writer.skip(item, "bad line", content_of()(item))
        else:
            writer.put([item], vectors_of([item]), known([item]))
    renamed = {f"moved/{item.id}": item for item in dataset().items}
    items = tuple(replace(item, id=name) for name, item in renamed.items())
    again = writer_of(
        path, replace(dataset(), items=items), content=lambda i: content_of()(renamed[i.id])
    )
    assert again.remaining == ()
    store = Store.open(path)
    assert [item.id for item in store.skipped] == [f"moved/{name}" for name in broken]
    assert {item.reason for item in store.skipped} == {"bad line"}
