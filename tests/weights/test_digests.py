"""Digests that are remembered: as long as the file is the same, and where the folder allows it."""

import json
import os

import pytest

from mpp_jax.weights import digests, list_weights, verify_weights
from mpp_jax.weights.digests import NAME, Digests
from mpp_jax.weights.places import PLACES

PLACE = PLACES["vgg16"]
PACKAGED = "caffenet_mini.safetensors"


@pytest.fixture
def hashed(monkeypatch):
    """Collect the names of the files that are read to be hashed, but for the package's own."""
    names, digest = [], digests.file_digest

    def counted(path, algorithm):
        if path.name != PACKAGED:
            names.append(path.name)
        return digest(path, algorithm)

    monkeypatch.setattr(digests, "file_digest", counted)
    return names


@pytest.fixture
def cached(tmp_path):
    file = tmp_path / PLACE.filename
    file.write_bytes(bytes(3000))
    os.utime(file, (1e9, 1e9))
    return file


def state(folder):
    return next(row["state"] for row in list_weights(folder) if row["name"] == "vgg16")


def test_listing_reads_a_file_once(cached, hashed):
    assert [state(cached.parent) for _ in range(3)] == ["damaged"] * 3
    assert hashed == [cached.name]


@pytest.mark.parametrize("change", ["size", "time", "another file"])
def test_a_changed_file_is_read_again(cached, hashed, change):
    state(cached.parent)
    if change == "another file":  # of the same size and time
        other = cached.with_name("other")
        other.write_bytes(b"1" * 3000)
        os.utime(other, (1e9, 1e9))
        os.replace(other, cached)
    else:
        cached.write_bytes(b"1" * (3000 + (change == "size")))
        os.utime(cached, (1e9, 1e9 + (change == "time")))
    first = Digests(cached.parent).of(cached, "sha256")
    assert len(hashed) == 2
    assert first == digests.file_digest(cached, "sha256")


def test_a_file_that_was_just_written_is_not_remembered(cached, hashed):
    os.utime(cached)
    for _ in range(2):
        state(cached.parent)
    assert len(hashed) == 2
    assert list(json.loads((cached.parent / NAME).read_text())) == [f"sha256:{PACKAGED}"]


@pytest.mark.parametrize("text", ["", "[", "[1]", '{"sha256:x": 3}', '{"a": [1, 2]}', "\x00"])
def test_whatever_stands_in_the_memory_is_no_reason_to_fail(cached, hashed, text):
    (cached.parent / NAME).write_text(text)
    assert state(cached.parent) == "damaged"
    assert len(hashed) == 1


def test_a_folder_that_cannot_be_written_only_costs_time(cached, hashed, monkeypatch):
    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(digests, "write_file", forbidden)
    assert [state(cached.parent) for _ in range(2)] == ["damaged"] * 2
    assert len(hashed) == 2


def test_what_is_remembered(cached):
    memory = Digests(cached.parent)
    digest = memory.of(cached, "sha1")
    memory.keep()
    about = cached.stat()
    entry = [about.st_size, about.st_mtime_ns, about.st_ino, digest]
    assert json.loads((cached.parent / NAME).read_text()) == {f"sha1:{cached.name}": entry}


def test_verifying_never_trusts_the_memory(cached):
    """A change that leaves size, time and inode is not seen by the list, but by `verify`."""
    state(cached.parent)
    about = cached.stat()
    before = verify_weights(cached).sha256
    with cached.open("r+b") as file:
        file.write(b"1")
    os.utime(cached, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert cached.stat().st_mtime_ns == about.st_mtime_ns
    assert verify_weights(cached).sha256 == digests.file_digest(cached, "sha256") != before
