"""The files of a bundle: their checksums, and what a failed write leaves."""

import hashlib

import numpy as np
import pytest

from mpp_jax.storage.bundle import CHECKSUMS, read_bundle, write_bundle

KIND = "mpp-jax-test"
ARRAYS = {"a": np.arange(6, dtype=np.float32)}


def test_checksums_are_in_the_format_of_sha256sum(tmp_path) -> None:
    place = tmp_path / "bundle"
    write_bundle(place, KIND, ARRAYS, {})
    files = sorted(path for path in (place / "arrays").rglob("*") if path.is_file())
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(place).as_posix()}\n"
        for path in files
    ]
    assert (place / CHECKSUMS).read_bytes() == "".join(lines).encode()


def test_a_failed_write_leaves_the_bundle_that_was_there(tmp_path, monkeypatch) -> None:
    place = tmp_path / "bundle"
    write_bundle(place, KIND, ARRAYS, {"note": 1})

    def full(folder):
        raise OSError("no space left")

    monkeypatch.setattr("mpp_jax.storage.bundle.file_checksums", full)
    with pytest.raises(OSError, match="no space left"):
        write_bundle(place, KIND, ARRAYS, {"note": 2})
    monkeypatch.undo()
    assert read_bundle(place, KIND)[1]["note"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
