"""Stores that grow: new pictures in shards of their own, whatever else happened."""

import os
from dataclasses import replace

import numpy as np
import pytest
from helpers.store_samples import (
    NEW,
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


def grown(more=6):
    """The data with pictures more, of a class more, in the data's own order."""
    items = [
        Item(f"{split}/{n:03d}.jpg", (n % 2 if n < 100 else 2,), split)
        for split, there in (("train", 7), ("test", 6))
        for n in [*range(there), *range(100, 100 + more)]
    ]
    return Dataset("toy", ("a", "b", "c"), tuple(items))


def append(path, data, **changes):
    writer = writer_of(path, data, append=True, content=content_of(), **changes)
    writer.put(writer.remaining, vectors_of(writer.remaining), known(writer.remaining))
    return writer


def check_grown(path):
    store, data = Store.open(path), grown()
    assert store.classes == ("a", "b", "c")
    for split in ("train", "test"):
        items = {item.id: item for item in data.split(split)}
        order = [items[item.id] for item in store.items(split)]
        assert len(order) == len(items)
        np.testing.assert_array_equal(store.vectors("mpp", split), vectors_of(order)["mpp"])
        assert store.labels(split).tolist() == [item.labels[0] for item in order]


def test_new_pictures_are_refused_unless_asked_for(finished):
    before = files_of(finished)
    line = refusal(writer_of, finished, grown(), content=content_of())
    assert "12 pictures (train/100.jpg for one) are not in it; `encode --append` adds" in line
    assert files_of(finished) == before


def test_a_grown_set_joins_in_shards_of_its_own(finished):
    before = files_of(finished)
    writer = append(finished, grown())
    assert [item.id for item in writer.remaining] == [
        i.id for i in grown().items if int(i.id[-7:-4]) >= 100
    ]
    assert {writer.shard_of(item) for item in writer.remaining} == {4, 5, 6}
    check_grown(finished)
    after = files_of(finished)
    assert {n: after[n] for n in before if n != "manifest.json"} == {
        n: text for n, text in before.items() if n != "manifest.json"
    }
    assert append(finished, grown()).remaining == ()
    assert writer_of(finished, grown(), content=content_of()).remaining == ()
    assert files_of(finished) == after


def test_new_pictures_alone_join_too(finished, tmp_path):
    new = Dataset(
        "fresh",
        ("c",),
        tuple(replace(i, labels=(0,)) for i in grown().items if i.labels == (2,)),
    )
    append(finished, new)
    check_grown(finished)
    assert read_head(finished)["dataset"] == "toy"
    encoded(tmp_path / "whole")
    append(tmp_path / "whole", grown())
    same_files(finished, tmp_path / "whole")
    # Whichever is given next, nothing is done again.
    assert append(finished, new).remaining == ()
    assert writer_of(finished, grown(), content=content_of()).notes == ()


def test_interrupted_it_goes_on_to_the_same_bytes(finished, tmp_path):
    encoded(tmp_path / "whole")
    append(tmp_path / "whole", grown())
    for stop in (2, 4, 9):
        writer = writer_of(finished, grown(), append=True, content=content_of())
        part = writer.remaining[:stop]
        writer.put(part, vectors_of(part), known(part))
    append(finished, grown())
    same_files(finished, tmp_path / "whole")


@pytest.mark.parametrize("name", ["manifest.json", "shard-00004.json", "shard-00006.json"])
def test_killed_while_the_list_grows(finished, tmp_path, monkeypatch, name):
    encoded(tmp_path / "whole")
    append(tmp_path / "whole", grown())
    real = os.replace

    def dies(source, target):
        if str(target).endswith(name):
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        writer_of(finished, grown(), append=True, content=content_of())
    monkeypatch.undo()
    append(finished, grown())
    same_files(finished, tmp_path / "whole")


def test_a_lost_record_of_pictures_that_the_data_lack(finished):
    (finished / "shard-00001.json").unlink()
    new = Dataset("new", ("a",), (Item("n.jpg", (0,), "test"),))
    line = refusal(writer_of, finished, new, append=True, content=content_of())
    assert "the record of shard 1 is missing or damaged, and the data given do not have" in line
    few = without(grown(), "train/001.jpg")  # of another shard
    line = refusal(writer_of, finished, few, append=True, content=content_of())
    assert "give all data together" in line
    append(finished, grown())
    store = Store.open(finished)
    assert sorted(store.all_items.ids) == sorted(item.id for item in grown().items)
    items = store.items("train")
    np.testing.assert_array_equal(store.vectors("mpp", "train"), vectors_of(items)["mpp"])


def test_the_same_name_with_another_content_is_refused(finished):
    """Cameras count from 1: another folder's DSC1.jpg is another picture."""
    items = (replace(dataset().items[0]), Item("train/999.jpg", (0,), "train"))
    for name in ("other", "toy"):
        data = Dataset(name, ("a", "b"), items)
        line = refusal(writer_of, finished, data, append=True, content=content_of("2"))
        assert "1 of 1 have other contents (train/000.jpg for one), so this is another set" in line
    # A whole set is the old one, with a picture replaced.
    writer = writer_of(
        finished,
        grown(),
        append=True,
        content=lambda i: NEW if i.id == "train/000.jpg" else digest(f"1{i.id}"),
    )
    assert writer.changed == ("train/000.jpg",)
    assert len(writer.remaining) == 16


def test_what_is_gone_new_and_replaced_at_once(finished):
    """One folder in which everything happened: added first, then the rest follows."""
    data = without(grown(2), "train/004.jpg")
    other = lambda item: NEW if item.id == "train/005.jpg" else digest(f"1{item.id}")  # noqa: E731
    writer = writer_of(finished, data, append=True, content=other)
    assert writer.changed == ("train/005.jpg",)
    names = [item.id for item in writer.remaining]
    assert names == [*(i.id for i in data.items if int(i.id[-7:-4]) >= 100), "train/005.jpg"]
    writer.put(writer.remaining, vectors_of(writer.remaining), dict.fromkeys(names[-1:], NEW))
    assert "train/004.jpg" in {item.id for item in Store.open(finished).items("train")}
    writer = writer_of(finished, data, content=other)
    assert writer.remaining == ()
    store = Store.open(finished)
    assert len(store.items("train")) == 6 + 2
    want = vectors_of([i for i in data.items if i.id == "train/005.jpg"])["mpp"][0]
    row = [item.id for item in store.items("train")].index("train/005.jpg")
    np.testing.assert_array_equal(store.vectors("mpp", "train")[row], want)


def test_a_mended_picture_of_an_appended_set_needs_no_neighbours(tmp_path):
    path = tmp_path / "s"
    fill(writer_of(path))  # two could not be read
    mended = lambda item: item.id == "test/004.jpg"  # noqa: E731
    alone = replace(dataset(), items=tuple(i for i in dataset().items if i.id == "test/004.jpg"))
    writer = writer_of(path, alone, append=True, mended=mended)
    assert [item.id for item in writer.remaining] == ["test/004.jpg"]
    writer.put(writer.remaining, vectors_of(writer.remaining))
    store = Store.open(path)
    assert [item.id for item in store.skipped] == ["train/002.jpg"]
    np.testing.assert_array_equal(
        store.vectors("mpp", "test"), vectors_of(store.items("test"))["mpp"]
    )
    assert sorted(store.items("test").ids) == [i.id for i in dataset().split("test")]


def test_what_cannot_be_finished_is_refused(tmp_path):
    path = tmp_path / "s"
    fill(writer_of(path), stop_after=8)
    new = Dataset("new", ("a",), (Item("n.jpg", (0,), "test"),))
    line = refusal(writer_of, path, new, append=True)
    assert (
        "unfinished, 5 pictures (test/001.jpg for one) are not encoded yet and not in new" in line
    )
    fill(writer_of(path))
    assert len(writer_of(path, new, append=True).remaining) == 1
    (path / "shard-00001.fc7.npy").unlink()
    line = refusal(writer_of, path, new, append=True)
    assert "shard 1 is missing or damaged, and the data given lack 4 of its pictures" in line


def test_negatives_alone_join_where_labels_are_many(tmp_path):
    data = Dataset("m", ("p", "q"), (Item("x", (0, 1), "train"), Item("y", (), "test")), True)
    fill(writer_of(tmp_path / "s", data))
    none = Dataset("n", (), (Item("z", (), "test"),), True)
    fill(writer_of(tmp_path / "s", none, append=True))
    np.testing.assert_array_equal(Store.open(tmp_path / "s").targets("test"), -np.ones((2, 2)))


def test_classes_and_none_do_not_mix(finished):
    new = Dataset("new", (), (Item("n.jpg", (), "test"),))
    line = refusal(writer_of, finished, new, append=True, content=content_of())
    assert "the pictures of " in line
    assert "those of new none" in line
