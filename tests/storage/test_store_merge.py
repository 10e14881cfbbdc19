"""Parts of a store, written without knowledge of each other, and joined to the same bytes."""

import shutil

import numpy as np
import pytest
from helpers.store_samples import (
    as_version_1,
    content_of,
    dataset,
    encoded,
    files_of,
    fill,
    refusal,
    same_files,
    vectors_of,
    without,
    writer_of,
)

from mpp_jax.storage.store import Store
from mpp_jax.storage.store_merge import merge_stores


@pytest.fixture
def whole(tmp_path):
    fill(writer_of(tmp_path / "whole"))
    return tmp_path / "whole"


def parts_of(folder, count, **changes):
    """Write all parts of the store; return their folders."""
    folders = []
    for number in range(1, count + 1):
        folders.append(folder / f"part-{number}")
        fill(writer_of(folders[-1], part=(number, count), **changes))
    return folders


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_joined_parts_have_the_bytes_of_one_process(whole, tmp_path, count):
    folders = parts_of(tmp_path, count)
    assert merge_stores(folders[::-1], tmp_path / "joined") == 13
    same_files(whole, tmp_path / "joined")


def test_interrupted_and_damaged_parts_go_on(whole, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for number, folder in enumerate(folders, 1):
        for stop in (1, 5, None):
            fill(writer_of(folder, part=(number, 2)), stop_after=stop)
    assert writer_of(folders[0], part=(1, 2)).remaining == ()
    (folders[1] / "shard-00003.json").write_bytes(b"{")
    writer = writer_of(folders[1], part=(2, 2))
    assert [item.id for item in writer.remaining] == ["test/005.jpg"]
    fill(writer)
    (folders[0] / "manifest.json").write_bytes(b"{")
    assert writer_of(folders[0], part=(1, 2)).remaining == ()
    merge_stores(folders, tmp_path / "joined")
    same_files(whole, tmp_path / "joined")


def test_a_replaced_picture_of_a_part(tmp_path):
    encoded(tmp_path / "s", part=(1, 2))
    other = lambda item: "0" * 64 if item.id == "test/001.jpg" else content_of()(item)  # noqa: E731
    writer = writer_of(tmp_path / "s", part=(1, 2), content=other)
    assert writer.changed == ("test/001.jpg",)
    assert len(writer.remaining) == 4


def test_what_is_missing_is_named(tmp_path):
    a, b, c, d = parts_of(tmp_path, 4)
    out = tmp_path / "joined"
    assert "2 of 4 parts missing: 1, 4" in refusal(merge_stores, [b, c], out)
    assert "hold the same part" in refusal(merge_stores, [a, b, b, c, d], out)
    fill(writer_of(tmp_path / "half", part=(3, 4)), stop_after=1)
    line = refusal(merge_stores, [a, b, tmp_path / "half", d], out)
    assert f"{tmp_path / 'half'}: unfinished, 4 of 4 pictures" in line
    (b / "shard-00001.json").unlink()
    assert "part-2/shard-00001.json: missing" in refusal(merge_stores, [a, b, c, d], out)
    array = c / "shard-00002.fc7.npy"
    array.write_bytes(array.read_bytes()[:-1] + b"\0")
    fill(writer_of(b, part=(2, 4)))
    line = refusal(merge_stores, [a, b, c, d], out)
    assert f"{array}: missing or damaged" in line
    assert not out.exists()


def test_parts_of_other_stores_are_refused(whole, tmp_path):
    a, _ = parts_of(tmp_path, 2)
    out = tmp_path / "joined"
    for name, changes in (
        ("network", {"network": "caffenet"}),
        ("codebook_sha256", {"codebook_sha256": "11"}),
        ("config.seed", {"config": {"scales": (1, 2, 3), "seed": 1}}),
        ("dtype", {"dtype": "float16"}),
        ("list_sha256", {"data": dataset(8, 5)}),
        ("parts", {"part": (2, 3)}),
    ):
        fill(writer_of(tmp_path / name, **({"part": (2, 2)} | changes)))
        line = refusal(merge_stores, [a, tmp_path / name], out)
        assert f"is no part of the store that {a} is one of" in line
        assert f"{name} was" in line
    assert "is whole, no part of a store" in refusal(merge_stores, [a, whole], out)
    assert "not empty" in refusal(merge_stores, [a], whole)


def test_parts_are_no_stores(tmp_path):
    a, _ = parts_of(tmp_path, 2)
    assert "part 1 of 2 of a store; `mpp-jax merge` joins" in refusal(Store.open, a)
    assert len(Store.open(a, part=True).all_items) == 8
    assert "holds part 1/2 and is to hold part 2/2" in refusal(writer_of, a, part=(2, 2))
    assert "holds part 1/2 and is to hold all of it" in refusal(writer_of, a)
    line = refusal(writer_of, a, without(dataset(), "test/005.jpg"), part=(1, 2))
    assert "a part of 13 pictures of toy, which are not the 12 of toy" in line
    with pytest.raises(ValueError, match="append: to a whole store"):
        writer_of(a, part=(1, 2), append=True)
    with pytest.raises(ValueError, match="part must be"):
        writer_of(a, part=(3, 2))


def test_a_joined_store_is_like_any_other(whole, tmp_path):
    folders = parts_of(tmp_path, 2)
    (folders[0] / "codebook").mkdir()
    (folders[0] / "codebook" / "record.json").write_text("{}")
    joined = tmp_path / "joined"
    merge_stores(folders, joined)
    assert (joined / "codebook" / "record.json").read_text() == "{}"
    shutil.rmtree(joined / "codebook")
    before = files_of(joined)
    assert writer_of(joined).remaining == ()
    assert files_of(joined) == before
    store = Store.open(joined)
    wanted = vectors_of(store.items("test"))["mpp"]
    np.testing.assert_array_equal(store.vectors("mpp", "test"), wanted)


@pytest.mark.parametrize("first_programs", [False, True])
def test_version_1_becomes_version_2(whole, tmp_path, first_programs):
    old = shutil.copytree(whole, tmp_path / "old")
    as_version_1(old, first_programs=first_programs)
    merge_stores([old], tmp_path / "new")
    same_files(whole, tmp_path / "new")


def test_the_codebook_is_any_parts(tmp_path):
    """As a kill between a part's last shard and its codebook leaves it."""
    folders = parts_of(tmp_path, 2)
    (folders[1] / "codebook").mkdir()
    (folders[1] / "codebook" / "record.json").write_text("{}")
    merge_stores(folders, tmp_path / "joined")
    assert (tmp_path / "joined" / "codebook" / "record.json").read_text() == "{}"
