"""Stores of version 1 are read as they are; to go on with one, it is turned into version 2."""

import json

import numpy as np
import pytest
from helpers.store_samples import as_version_1, encoded, fill, refusal, writer_of

from mpp_jax.storage.store import Store, StoreError


@pytest.fixture(params=[False, True], ids=["with digests", "without"])
def old(request, tmp_path):
    path = tmp_path / "old"
    fill(writer_of(path))
    as_version_1(path, first_programs=request.param)
    return path


def test_they_are_read(old, tmp_path):
    fill(writer_of(tmp_path / "new"))
    store, new = Store.open(old), Store.open(tmp_path / "new")
    assert [*store.all_items] == [*new.all_items]
    assert (store.classes, store.methods, store.dtype) == (new.classes, new.methods, "float32")
    assert store.config == new.config
    for split in ("train", "test"):
        np.testing.assert_array_equal(
            store.vectors("mpp+fc7", split), new.vectors("mpp+fc7", split)
        )
        np.testing.assert_array_equal(store.targets(split), new.targets(split))


def test_encode_says_how_to_go_on(old):
    line = refusal(writer_of, old)
    assert "of version 1, which is read but not written to; `mpp-jax merge" in line


def test_unfinished_ones_are_refused(tmp_path):
    path = tmp_path / "s"
    fill(writer_of(path), stop_after=5)
    as_version_1(path)
    assert "unfinished, 9 of 13" in refusal(Store.open, path)


def test_their_damage_is_found(tmp_path):
    path = tmp_path / "s"
    encoded(path)
    as_version_1(path)
    array = path / "shard-00001.mpp.npy"
    content = bytearray(array.read_bytes())
    content[-1] ^= 1
    array.write_bytes(content)
    with pytest.raises(StoreError, match=r"shard-00001.mpp.npy: missing or damaged"):
        Store.open(path).vectors("mpp", "train")
    manifest = path / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace("train/003", "train/004"))
    assert "changed after it was written" in refusal(Store.open, path)
    held = json.loads(text)
    del held["items"][3]["labels"]
    del held["seal"], held["arrays"]
    manifest.write_text(json.dumps(held))
    assert "damaged" in refusal(Store.open, path)
