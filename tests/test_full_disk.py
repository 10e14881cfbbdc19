"""A full disk is told as such, with the place, by whoever writes; what was there stays."""

import errno
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from mpp_jax import checkpoint, files
from mpp_jax.nets import NETWORKS, random_network
from mpp_jax.nets.weight_files import WeightPlace
from mpp_jax.storage.bundle import read_bundle, write_bundle
from mpp_jax.weights import cache, save_network

KIND = "mpp-jax-test"


@pytest.fixture
def tiny(tmp_path):
    """A disk of one megabyte, half of it full."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("no disk can be mounted here")
    (place / "other").write_bytes(bytes(500_000))
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


def full(place, write):
    with pytest.raises(OSError, match="No space left") as caught:
        write()
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(place)
    assert files.is_full(caught.value)


def test_every_writer_on_a_full_disk(tiny, capfd):
    large = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    files.write_file(tiny / "a.npy", partial(np.save, arr=large[:100]))
    write_bundle(tiny / "bundle", KIND, {"a": large[:100]}, {"note": 1})
    network = random_network(jax.random.key(0), NETWORKS["squeezenet"])
    full(tiny / "a.npy", lambda: files.write_file(tiny / "a.npy", partial(np.save, arr=large)))
    full(tiny / "b.bin", lambda: files.write_file(tiny / "b.bin", large.tobytes()))
    full(tiny / "bundle", lambda: write_bundle(tiny / "bundle", KIND, {"a": large}, {"note": 2}))
    full(tiny / "own", lambda: save_network(network, tiny / "own"))
    assert len(np.load(tiny / "a.npy")) == 100
    assert read_bundle(tiny / "bundle", KIND)[1]["note"] == 1
    assert sorted(path.name for path in tiny.iterdir()) == ["a.npy", "bundle", "other"]
    assert "Traceback" not in capfd.readouterr().err


def test_a_disk_that_fills_while_a_checkpoint_is_written(tiny, monkeypatch, capfd):
    """Threads of tensorstore complained, by a traceback for each array, after orbax gave up."""
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda place: (2**40, 0, 2**40))
    rng = np.random.default_rng(0)
    arrays = {f"a{i}": rng.normal(size=10_000).astype(np.float32) for i in range(30)}
    for _ in range(3):
        full(tiny / "bundle", lambda: write_bundle(tiny / "bundle", KIND, arrays, {}))
    assert capfd.readouterr().err == ""
    hook = sys.unraisablehook
    write_bundle(tiny / "bundle", KIND, {"a": arrays["a0"]}, {})
    assert sys.unraisablehook is hook


def test_a_folder_that_threads_still_write_to_is_removed(tmp_path, monkeypatch):
    remove, left = files.shutil.rmtree, [2]

    def stubborn(folder, **options):
        if folder.name.endswith(".partial") and folder.exists() and left[0]:
            left[0] -= 1
        else:
            remove(folder, **options)

    monkeypatch.setattr(files.shutil, "rmtree", stubborn)

    def fail():
        with files.replaced_folder(tmp_path / "folder") as fresh:
            (fresh / "part").touch()
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        OSError("40960 requested and 9184 written"),
        ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
    ],
)
def test_the_words_of_others_are_understood(tmp_path, error):
    def fail(_):
        raise error

    def fill():
        with files.replaced_folder(tmp_path / "folder"):
            raise error

    full(tmp_path / "a", lambda: files.write_file(tmp_path / "a", fail))
    full(tmp_path / "folder", fill)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), ValueError("out of memory")])
def test_other_errors_stay_what_they_are(tmp_path, error):
    def fail(_):
        raise error

    with pytest.raises(type(error)) as caught:
        files.write_file(tmp_path / "a", fail)
    assert caught.value is error


def test_a_download_that_fills_the_disk_blames_no_mirror(tmp_path, monkeypatch):
    def fail(url, part: Path, *_):
        part.write_bytes(b"some")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache, "_transfer", fail)
    place = WeightPlace("x", "x.bin", ("http://a/x", "http://b/x"), "sha256", "0" * 64, "")
    full(tmp_path, lambda: cache.fetch(place, folder=tmp_path, progress=False))
    assert (tmp_path / "x.bin.part").read_bytes() == b"some"
