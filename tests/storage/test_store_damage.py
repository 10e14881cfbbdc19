"""Every flipped byte of a store is found, and only its shard is made again."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.store_samples import (
    content_of,
    dataset,
    encoded,
    files_of,
    fill,
    known,
    same_files,
    vectors_of,
    without,
    writer_of,
)

from mpp_jax.storage.store import Store, StoreError


def read_all(path: Path) -> None:
    store = Store.open(path)
    for method in ("fc7", "mpp"):
        for split in ("train", "test"):
            store.vectors(method, split)


def broken(content: bytes, rng: np.random.Generator) -> bytes:
    found = bytearray(content)
    found[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    return bytes(found)


def go_on(path: Path, most: int) -> None:
    """Do what remains, which must be of few pictures."""
    writer = writer_of(path)
    assert len(writer.remaining) <= most
    writer.put(writer.remaining, vectors_of(writer.remaining), known(writer.remaining))


def test_any_flipped_byte_is_found(tmp_path):
    """In head and records when the store is opened, in an array when it is read."""
    path = tmp_path / "s"
    encoded(path)
    shutil.copytree(path, tmp_path / "whole")
    rng = np.random.default_rng(0)
    for file in sorted(path.iterdir()):
        content = file.read_bytes()
        for _ in range(12):
            file.write_bytes(broken(content, rng))
            with pytest.raises(StoreError, match=file.name):
                read_all(path)
            go_on(path, 0 if file.name == "manifest.json" else 4)
            same_files(path, tmp_path / "whole")
    read_all(path)


def test_several_at_once_and_skipped_pictures(tmp_path):
    path = tmp_path / "s"
    fill(writer_of(path))
    before = files_of(path)
    for name in ("shard-00000.json", "shard-00003.json", "shard-00002.fc7.npy"):
        (path / name).unlink()
    with pytest.raises(StoreError, match=r"shard-00000.json: missing"):
        Store.open(path)
    writer = writer_of(path)
    assert {writer.shard_of(item) for item in writer.remaining} == {0, 2, 3}
    fill(writer)
    assert files_of(path) == before


def test_files_of_another_store_are_found(tmp_path):
    """Whole and sealed, but of other settings, or of other pictures."""
    encoded(tmp_path / "s")
    encoded(tmp_path / "other", network="caffenet")
    name = "shard-00001.json"
    shutil.copy(tmp_path / "other" / name, tmp_path / "s" / name)
    with pytest.raises(StoreError, match=r"shard-00001.json: damaged .it is of another store"):
        read_all(tmp_path / "s")
    go_on(tmp_path / "s", 4)
    read_all(tmp_path / "s")
    shutil.copy(tmp_path / "s" / "shard-00002.json", tmp_path / "s" / name)
    with pytest.raises(StoreError, match=r"shard-00001.json: damaged .it is of something else"):
        read_all(tmp_path / "s")


def test_a_list_that_was_half_written_is_found(tmp_path):
    """As a kill leaves it while labels are taken over: some records are old, some are new."""
    path = tmp_path / "s"
    encoded(path)
    old = (path / "shard-00001.json").read_bytes()
    other = tuple(reversed(("a", "b")))
    writer_of(path, dataset(classes=other), content=content_of())
    new = files_of(path)
    assert new["shard-00001.json"] != old
    (path / "shard-00001.json").write_bytes(old)
    with pytest.raises(StoreError, match="do not have the list of pictures that its manifest"):
        Store.open(path)
    assert writer_of(path, dataset(classes=other), content=content_of()).remaining == ()
    assert files_of(path) == new


@pytest.mark.parametrize("record", [0, 2, 3])
def test_head_and_record_at_once(tmp_path, record):
    """The last record's shard counts, and pictures that are gone are not taken for others."""
    path, some = tmp_path / "s", without(dataset(), "train/004.jpg")
    encoded(path)
    writer_of(path, some, content=content_of())
    before = files_of(path)
    for name in ("manifest.json", f"shard-{record:05d}.json"):
        (path / name).write_bytes(b"{")
    writer = writer_of(path, some, content=content_of())
    assert {writer.shard_of(item) for item in writer.remaining} == {record}
    writer.put(writer.remaining, vectors_of(writer.remaining), known(writer.remaining))
    assert files_of(path) == before


def test_a_damaged_head_is_told_how_to_mend_before_anything_is_appended(tmp_path):
    encoded(tmp_path / "s")
    (tmp_path / "s" / "manifest.json").write_bytes(b"{")
    with pytest.raises(StoreError, match="the new ones together, without --append"):
        writer_of(tmp_path / "s", append=True)
