"""--config: a run is repeated from its result, and the command line wins."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.toy_cli import ok, refused
from helpers.toy_run import METHODS, OPTIONS, Finished, store_bytes

from mpp_jax.cli import stages
from mpp_jax.config import AUTOMATIC, Run, preset
from mpp_jax.runs.model import open_model
from mpp_jax.runs.provenance import load_codebooks

pytestmark = pytest.mark.usefixtures("toy_known")


def fitted(done: Finished, out: Path, *options: Any) -> Run:
    """The settings of a codebook that was fitted with these options."""
    ok("fit", done.data, "--out", out, "--weights", done.weights, "--quiet", *options)
    return load_codebooks(out)[1].config


@pytest.mark.parametrize(
    "file", ["config.json", "metrics.json", "codebook/record.json", "model/config.json"]
)
def test_a_run_is_repeated_from_its_result(done: Finished, tmp_path: Path, file: str) -> None:
    """Network, layer, scales, sizes, representations: nothing is typed again."""
    out = tmp_path / "again"
    ok("run", done.data, "--out", out, "--weights", done.weights, "--config", done.out / file)
    assert store_bytes(out / "encodings") == store_bytes(done.out / "encodings")
    mine, theirs = (json.loads((p / "metrics.json").read_text()) for p in (out, done.out))
    for key in ("network", "weights_sha256", "config", "results"):
        assert mine[key] == theirs[key], key


def test_every_output_folder_holds_the_settings_that_made_it(
    done: Finished, tmp_path: Path
) -> None:
    book, store, model, out = (tmp_path / name for name in ("book", "store", "model", "out"))
    ok("fit", done.data, "--out", book, *OPTIONS, "--weights", done.weights)
    ok("encode", done.data, "--codebook", book, "--out", store, "--pooling", ",".join(METHODS))
    ok("train", store, "--out", model, "--c", "2", "--pooling", "nfk")
    ok("evaluate", model, store, "--out", out)
    held = {
        folder.name: json.loads((folder / "config.json").read_text())
        for folder in (book, store, model, out, done.out)
    }
    network = done.network.weights_sha256
    for name, file in held.items():
        assert (file["network"], file["weights_sha256"]) == ("toy", network), name
    assert Run.from_dict(held["book"]["config"]).pooling == preset("paper").pooling
    assert Run.from_dict(held["store"]["config"]).pooling == METHODS
    assert Run.from_dict(held["model"]["config"]) == open_model(model).provenance.config
    evaluated = json.loads((out / "config.json").read_text())
    assert evaluated["config"]["svm"]["c"] == 2
    # As a kill between a codebook and its settings leaves it: the codebook is taken.
    settings = (book / "config.json").read_bytes()
    (book / "config.json").unlink()
    again = ok("fit", done.data, "--out", book, *OPTIONS, "--weights", done.weights)
    assert "codebook: taken from" in again.stderr
    assert (book / "config.json").read_bytes() == settings


def test_the_command_line_wins(done: Finished, tmp_path: Path) -> None:
    base = replace(
        preset("author"),
        encoder=replace(preset("author").encoder, pca=3, components=2, samples=90, tolerance=0.5),
        pooling=("mpp",),
        seed=7,
    )
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(base.to_dict()))  # the bare settings will do as well
    common = ("--network", "toy", "--config", file)
    taken = fitted(done, tmp_path / "a", *common)
    layer = replace(base.pyramid, layer="fire2")
    assert taken == replace(base, pyramid=layer)
    changed = fitted(
        done,
        tmp_path / "b",
        *common,
        "--scales",
        "1-2",
        "--pca",
        "2",
        "--seed",
        "0",
        "--l2",
        "none",
        "--whiten",
    )
    assert changed == replace(
        base,
        pyramid=replace(layer, scales=(0, 1)),
        encoder=replace(base.encoder, pca=2, l2="none", whiten=True),
        seed=0,
    )
    paper = fitted(done, tmp_path / "c", *common, "--fidelity", "paper")
    assert paper.encoder == replace(base.encoder, l2="none", skip_first=False)
    assert (paper.fidelity, paper.pyramid.resampling) == ("paper", "bilinear")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("[1]", "holds no settings"),
        ('{"config": 3}', "must be an object"),
        ('{"config": {"poling": ["mpp"]}}', "unknown settings of Run: poling"),
        ('{"config": {"encoder": {"pca": 0}}}', "pca must be at least 1"),
    ],
)
def test_files_without_settings_are_refused(
    done: Finished, tmp_path: Path, text: str | None, message: str
) -> None:
    file = tmp_path / "mine.json"
    if text is not None:
        file.write_text(text)
    assert message in refused("run", done.data, "--out", tmp_path / "out", "--config", file)
    assert not (tmp_path / "out").exists()


def test_a_size_that_nobody_names(
    done: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It follows the pictures, but the published settings have one of their own."""
    seen: list[Run] = []
    monkeypatch.setattr(stages, "fit", lambda job, console: seen.append(job.config) or 0)
    partial, whole = tmp_path / "partial.json", tmp_path / "whole.json"
    partial.write_text(json.dumps({"network": "toy", "config": {"seed": 3}}))
    whole.write_text(json.dumps({"network": "toy", "config": {"encoder": {"components": 7}}}))
    toy = ("--network", "toy")
    for options, components in (
        (toy, AUTOMATIC),
        ((*toy, "--fidelity", "author"), 256),
        ((*toy, "--components", "12"), 12),
        (("--config", partial), AUTOMATIC),
        (("--config", whole), 7),
        (("--config", whole, "--components", "auto"), AUTOMATIC),
    ):
        ok("fit", done.data, "--out", tmp_path / "out", "--weights", done.weights, *options)
        assert seen[-1].encoder.components == components, options
        assert seen[-1].pooling == Run().pooling
