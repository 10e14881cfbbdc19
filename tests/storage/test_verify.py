"""`verify`: every damaged file of a store or bundle is listed, and nothing else."""

import shutil

import numpy as np
import pytest
from helpers.store_samples import as_version_1, encoded, fill, writer_of

from mpp_jax.storage.bundle import write_bundle
from mpp_jax.storage.verify import verify


def bad(folder):
    return {f.place.relative_to(folder).as_posix() for f in verify(folder) if f.problem}


def flip(place, byte=-1):
    content = bytearray(place.read_bytes())
    content[byte] ^= 4
    place.write_bytes(content)


@pytest.fixture
def run(tmp_path):
    encoded(tmp_path / "run" / "encodings")
    arrays = {"pca": {"mean": np.arange(3.0)}, "gmm": {"means": np.ones((2, 3), np.float32)}}
    for place in ("codebook", "encodings/codebook", "model"):
        write_bundle(tmp_path / "run" / place, "mpp-jax-model", arrays, {"x": 1})
    return tmp_path / "run"


def test_sound_folders(run):
    findings = [*verify(run)]
    assert [f for f in findings if f.problem] == []
    # Head, four shards of a record and two arrays, and three bundles at least.
    assert len(findings) > 13 + 3
    assert bad(run / "model") == set()


def test_all_that_is_damaged_is_listed(run):
    flipped = [
        *("encodings/shard-00000.json", "encodings/shard-00001.fc7.npy", "model/record.json"),
        "encodings/shard-00003.mpp.npy",
    ]
    for name in flipped:
        flip(run / name, -20)
    (run / "encodings" / "shard-00002.mpp.npy").unlink()
    assert bad(run) == {*flipped, "encodings/shard-00002.mpp.npy"}
    writer = writer_of(run / "encodings")
    assert {writer.shard_of(item) for item in writer.remaining} == {0, 1, 2, 3}


def test_every_file_of_a_bundle(run):
    model = run / "model"
    for place in sorted(p for p in model.rglob("*") if p.is_file() and p.stat().st_size):
        content = place.read_bytes()
        flip(place, len(content) // 2)
        assert bad(model), place
        place.write_bytes(content)
    (model / "arrays.sha256").unlink()
    assert bad(model) == {"record.json"}


def test_heads_parts_and_version_1(tmp_path):
    fill(writer_of(tmp_path / "s"))
    old = shutil.copytree(tmp_path / "s", tmp_path / "old")
    as_version_1(old)
    assert bad(old) == set()
    flip(old / "shard-00001.fc7.npy")
    assert bad(old) == {"shard-00001.fc7.npy"}
    flip(tmp_path / "s" / "manifest.json", 50)
    assert bad(tmp_path / "s") == {"manifest.json"}
    fill(writer_of(tmp_path / "part", part=(2, 3)), stop_after=2)
    assert bad(tmp_path / "part") == set()  # unfinished is not damaged
    with pytest.raises(ValueError, match="nothing to verify"):
        list(verify(tmp_path))


def test_heads_that_are_missing(run):
    lost = {"encodings/manifest.json", "model/record.json"}
    for name in lost:
        (run / name).unlink()
    assert bad(run) == lost
