"""Parts, merge, verify and stored number formats from the command line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.toy_cli import cli, ok, refused
from helpers.toy_run import Finished, store_bytes

from mpp_jax.storage.store import Store

pytestmark = pytest.mark.usefixtures("toy_known")


def test_parts_are_joined_to_the_bytes_of_one_run(done: Finished, tmp_path: Path) -> None:
    encode = ["encode", done.data, "--codebook", done.out / "codebook", "--out"]
    parts = [tmp_path / "one", tmp_path / "two"]
    said = ok(*encode, parts[0], "--shard", "1/2")
    assert "part 1 of 2; `mpp-jax merge` joins them" in said.stderr
    out = tmp_path / "joined"
    line = refused("merge", parts[0], "--out", out)
    assert "1 of 2 parts missing: 2; encode them with --shard 2/2" in line
    ok(*encode, parts[1], "--shard", "2/2")
    assert "24 pictures" in ok("merge", *parts, "--out", out).stderr
    assert store_bytes(out) == store_bytes(done.out / "encodings")
    # Complete with its codebook: it can be trained on.
    names = {path.name for path in (done.out / "encodings").iterdir()}
    assert {path.name for path in out.iterdir()} == names
    assert "part 2 of 2 of a store" in refused("train", parts[1], "--out", tmp_path / "model")


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
def test_shards_that_are_none(done: Finished, tmp_path: Path, text: str) -> None:
    result = cli("encode", done.data, "--codebook", "x", "--out", tmp_path, f"--shard={text}")
    assert result.exit_code == 2
    assert "write it as 1/4, from 1/4 to 4/4" in result.stderr


def test_parts_do_not_grow(done: Finished, tmp_path: Path) -> None:
    result = cli("encode", done.data, "--codebook=x", "--out=y", "--shard=1/2", "--append")
    assert result.exit_code == 2
    assert "merge the parts of --shard first" in result.stderr


def test_verify_lists_what_is_damaged(done: Finished, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done.out, out)
    assert ok("verify", out).stderr.splitlines()[-1] == "all sound"
    flipped = [out / "encodings" / "shard-00001.mpp.npy", out / "encodings" / "shard-00002.json"]
    flipped += [out / "model" / "record.json"]
    for place in flipped:
        content = bytearray(place.read_bytes())
        content[-40] ^= 8
        place.write_bytes(content)
    result = cli("verify", out / "encodings", out / "model", "--quiet")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert len(lines) == 3
    assert all(any(str(place) in line for line in lines) for place in flipped)
    assert cli("verify", out / "codebook").exit_code == 0
    assert "nothing to verify" in refused("verify", tmp_path)


def test_float16_halves_the_store_and_is_read_as_float32(done: Finished, tmp_path: Path) -> None:
    encode = ["encode", done.data, "--codebook", done.out / "codebook", "--pooling", "avg"]
    half, model = tmp_path / "half", tmp_path / "model"
    ok(*encode, "--out", half, "--store-dtype", "float16")
    assert np.load(half / "shard-00000.avg.npy").dtype == np.float16
    assert 'dtype was "float16", now "float32"' in refused(*encode, "--out", half)
    store, whole = Store.open(half), done.store
    assert store.dtype == "float16"
    for split in ("train", "test"):
        found = store.vectors("avg", split)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, whole.vectors("avg", split), atol=5e-4)
    ok("train", half, "--out", model)
    assert json.loads((model / "config.json").read_text())["config"]["store_dtype"] == "float16"
    line = refused("evaluate", model, done.out / "encodings", "--out", tmp_path / "results")
    assert 'store_dtype was "float16", now "float32"' in line
    ok("evaluate", model, half, "--out", tmp_path / "results")


def test_training_is_told_how_much_memory_there_is(done: Finished, tmp_path: Path) -> None:
    store = done.out / "encodings"
    train = ["train", store, "--pooling", "avg", "--memory", "0.5", "--out", tmp_path / "model"]
    assert "(500 MB free)" in ok(*train).stderr


def test_a_run_is_told_how_much_memory_there_is(
    done: Finished, toy_known: None, tmp_path: Path
) -> None:
    """Each of several seeds too."""
    run = ["run", done.data, "--network", "toy", "--weights", done.weights, "--scales", "1"]
    run += ["--pooling", "avg", "--memory", "0.25"]
    lines = ok(*run, "--out", tmp_path / "out").stderr
    assert "which is more than there is, but the others need more (250 MB free)" in lines
    seeds = ok(*run, "--out", tmp_path / "seeds", "--seeds", "0,1").stderr
    assert seeds.count("(250 MB free)") == 2
