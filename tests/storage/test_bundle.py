"""The files of a bundle: their checksums, and what a failed write leaves."""

import hashlib
import json

import numpy as np
import pytest

from mpp_jax.storage.bundle import CHECKSUMS, BundleError, read_bundle, write_bundle

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


RECORD = {"scales": [1, 2, 3], "classes": ["a", "ä", "b"], "x": 1e-7, "nested": {"2": [], "10": {}}}


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "bundle"
    write_bundle(folder, KIND, ARRAYS, RECORD)
    return folder


def test_every_flipped_byte_of_a_record_is_found(place) -> None:
    record = place / "record.json"
    content = record.read_bytes()
    for at in range(0, len(content) - 1):
        record.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(BundleError, match="bundle"):
            read_bundle(place, KIND)
    record.write_bytes(content)
    assert read_bundle(place, KIND)[1].items() >= RECORD.items()


@pytest.mark.parametrize(
    "change", [{"scales": [1, 2]}, {"classes": ["ä", "a", "b"]}, {"x": 2e-7}, {"new": 1}]
)
def test_a_changed_entry_is_found_and_the_file_named(place, change) -> None:
    record = json.loads((place / "record.json").read_text())
    (place / "record.json").write_text(json.dumps(record | change))
    with pytest.raises(BundleError, match=r"record.json: damaged \(it was changed after writing\)"):
        read_bundle(place, KIND)
    # Made anew, as the message says.
    write_bundle(place, KIND, ARRAYS, RECORD)
    assert read_bundle(place, KIND)[1]["scales"] == [1, 2, 3]


def test_a_record_without_a_seal_is_one_of_version_1(place, caplog) -> None:
    record = json.loads((place / "record.json").read_text())
    assert record["version"] == 2
    del record["seal"]
    (place / "record.json").write_text(json.dumps(record))
    with pytest.raises(BundleError, match="it was changed after writing"):
        read_bundle(place, KIND)
    old = record | {"version": 1}
    (place / "record.json").write_text(json.dumps(old, indent=1))
    assert read_bundle(place, KIND)[1] == read_bundle(place, KIND)[1] == old
    [note] = caplog.messages  # once
    assert "of an earlier version of this program, without a seal" in note
    (place / "record.json").write_text(json.dumps(old | {"seal": "0" * 64}))
    with pytest.raises(BundleError, match="it was changed after writing"):
        read_bundle(place, KIND)
