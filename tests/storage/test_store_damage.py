"""Every flipped byte of a store is found, and only its shard is made again."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.store_samples import same_files, unsealed, vectors_of, writer_of

from mpp_jax.storage.store import Store, StoreError


def read_all(path: Path) -> None:
    for method in ("fc7", "mpp"):
        for split in ("train", "test"):
            Store.open(path).vectors(method, split)


def test_any_flipped_byte_is_found(tmp_path):
    """In the manifest when it is opened, in a shard when it is read."""
    path = tmp_path / "s"
    writer = writer_of(path)
    made = vectors_of(writer.remaining)
    writer.put(writer.remaining, made)
    row_of = {item.id: row for row, item in enumerate(writer.remaining)}
    shutil.copytree(path, tmp_path / "whole")
    rng = np.random.default_rng(0)
    for file in sorted(path.iterdir()):
        content = file.read_bytes()
        for place in rng.integers(0, len(content), 16):
            broken = bytearray(content)
            broken[place] ^= 1 << rng.integers(8)
            file.write_bytes(broken)
            with pytest.raises(StoreError, match=file.name):
                read_all(path)
            if file.name == "manifest.json":
                continue
            again = writer_of(path)
            assert 0 < len(again.remaining) <= again.shard_size
            rows = [row_of[item.id] for item in again.remaining]
            again.put(again.remaining, {m: v[rows] for m, v in made.items()})
            same_files(path, tmp_path / "whole")
        file.write_bytes(content)
    read_all(path)


def test_stores_of_earlier_versions_are_read_and_go_on(tmp_path):
    path = tmp_path / "s"
    writer = writer_of(path)
    made = vectors_of(writer.remaining)
    writer.put(writer.remaining[:8], {m: v[:8] for m, v in made.items()})
    manifest = path / "manifest.json"
    manifest.write_text(unsealed(manifest.read_text()))
    again = writer_of(path)
    assert len(again.remaining) == 5
    again.put(again.remaining, {m: v[8:] for m, v in made.items()})
    whole = writer_of(tmp_path / "whole")
    whole.put(whole.remaining, made)
    same_files(path, tmp_path / "whole")
