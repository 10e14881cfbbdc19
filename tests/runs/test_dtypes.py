"""The format that was decided is recorded, taken up again, and compared with earlier work's."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.toy_cli import ok, refused
from helpers.toy_run import CONFIG, OPTIONS, Finished, finished_run, know_toy, store_bytes

import mpp_jax as mpp
from mpp_jax.nets import dtypes
from mpp_jax.runs.model import open_model
from mpp_jax.runs.provenance import Provenance, load_codebooks
from mpp_jax.storage.store import Store

NOTE = "dtype tf32: not on this device; the network computes in float32"


@pytest.fixture
def done(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Finished:
    know_toy(monkeypatch)
    return finished_run(tmp_path_factory)


@pytest.fixture
def on_gpu() -> Iterator[pytest.MonkeyPatch]:
    """What the table would say of a GPU; until it is undone, and the rest happens on a CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dtypes, "has_tf32", lambda device: True)
        patch.setattr(dtypes, "AUTO", {"cpu": "tf32"})
        yield patch


def recorded(folder: Path) -> set[str]:
    """Every dtype that a run's folders record."""
    files = [*folder.rglob("config.json"), folder / "metrics.json"]
    found = {json.loads(file.read_text())["config"]["dtype"] for file in files}
    for book in folder.rglob("codebook"):
        found.add(load_codebooks(book)[1].config.dtype)
    found.add(open_model(folder / "model").provenance.config.dtype)
    found.add(Store.open(folder / "encodings").config["dtype"])
    return found


def run_words(done: Finished, out: Path) -> list[str]:
    words = ["run", done.data, "--weights", done.weights, "--out", out, *OPTIONS]
    return [str(word) for word in (*words, "--pooling", "avg")]


def test_auto_on_a_cpu_is_float32_to_the_byte(done: Finished, tmp_path: Path) -> None:
    usual = ok(*run_words(done, tmp_path / "auto"))
    ok(*run_words(done, tmp_path / "named"), "--dtype", "float32")
    asked = ok(*run_words(done, tmp_path / "tf32"), "--dtype", "tf32")
    stores = [store_bytes(tmp_path / name / "encodings") for name in ("auto", "named", "tf32")]
    assert stores[0] == stores[1] == stores[2]
    assert recorded(tmp_path / "auto") == recorded(tmp_path / "tf32") == {"float32"}
    assert "dtype" not in usual.stderr
    assert NOTE in asked.stderr.splitlines()


def test_what_a_gpu_made_is_not_gone_on_with_elsewhere(
    done: Finished, tmp_path: Path, on_gpu: pytest.MonkeyPatch
) -> None:
    out, encodings = tmp_path / "out", tmp_path / "out" / "encodings"
    run, book = run_words(done, out), encodings / "codebook"
    said = ok(*run).stderr
    assert "dtype auto: the network computes in tf32" in said.splitlines()
    assert recorded(out) == {"tf32"}
    picture = next((done.data / "test").rglob("*.png"))
    before = store_bytes(encodings)
    weights = ("--weights", done.weights)
    encode = ("encode", done.data, "--codebook", book, *weights, "--out", encodings)
    ok(*encode)  # takes the recorded one, and finds everything done
    assert store_bytes(encodings) == before
    scores = json.loads(ok("predict", out / "model", picture, "--json").stdout)

    on_gpu.undo()
    message = 'dtype was "tf32", now "float32"'
    assert message in refused(*run)
    assert message in refused(*encode)
    assert store_bytes(encodings) == before
    # New encodings by that codebook say what they were computed in, and are no test of that model.
    other = tmp_path / "other"
    assert NOTE in ok(*encode[:-1], other).stderr.splitlines()
    assert Store.open(other).config["dtype"] == "float32"
    ok("train", other, "--out", tmp_path / "model")
    assert open_model(tmp_path / "model").provenance.config.dtype == "float32"
    assert "dtype" in refused("evaluate", out / "model", other, "--out", tmp_path / "results")
    # Pictures are asked about all the same, as precisely as this device can.
    for command in ("predict", "search", "confidence"):
        place = out / ("encodings" if command == "search" else "model")
        to = ("--out", tmp_path / "maps") if command == "confidence" else ()
        assert NOTE in ok(command, place, picture, *to).stderr.splitlines()
    again = json.loads(ok("predict", out / "model", picture, "--json").stdout)
    assert again == scores  # this CPU computed both


def test_the_recorded_format_is_taken(done: Finished, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ok(*run_words(done, out), "--dtype", "bfloat16")
    assert recorded(out) == {"bfloat16"}
    weights = ("--weights", done.weights)
    again = ("--codebook", out / "encodings" / "codebook", *weights, "--out", tmp_path / "store")
    ok("encode", done.data, *again)
    assert store_bytes(tmp_path / "store") == store_bytes(out / "encodings")
    assert mpp.load_model(out / "model").opened_network().dtype == jnp.bfloat16
    ok("train", tmp_path / "store", "--out", tmp_path / "model")
    assert open_model(tmp_path / "model").provenance.config.dtype == "bfloat16"
    assert 'dtype was "bfloat16", now "float32"' in refused(*run_words(done, out))


def test_settings_and_network_agree(done: Finished, tmp_path: Path) -> None:
    short = replace(
        done.network, params=jax.tree.map(lambda x: x.astype(jnp.bfloat16), done.network.params)
    )
    with pytest.raises(ValueError, match="dtype: float32 is in the settings and the network was"):
        done.job(tmp_path, network=short).settled()
    automatic = replace(CONFIG, dtype="auto")
    assert done.job(tmp_path, automatic, network=short).settled().config.dtype == "bfloat16"
    with pytest.raises(ValueError, match=r"dtype: 'auto' is decided by Job\.settled"):
        Provenance.of(done.dataset, short, automatic)
    half = replace(short, params=jax.tree.map(lambda x: np.float16(x), short.params))
    with pytest.raises(ValueError, match=r"dtype must be .* got 'float16'"):
        done.job(tmp_path, automatic, network=half).settled()
