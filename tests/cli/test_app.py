"""The commands: what they write and print."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import toy
from helpers.toy_cli import EASY, cli, ok, refused, tiny
from helpers.toy_run import (
    METHODS,
    OPTIONS,
    Finished,
    store_bytes,
)

from mpp_jax import __version__
from mpp_jax.cli.app import main
from mpp_jax.runs.model import open_model
from mpp_jax.storage.bundle import arrays_digest

pytestmark = pytest.mark.usefixtures("toy_known")


# ------------------------------------------------------------------------------ the stages


def test_parts_as_commands_equal_the_run(done: Finished, tmp_path: Path) -> None:
    book, store, model, out = (tmp_path / name for name in ("book", "store", "model", "out"))
    ok("fit", done.data, "--out", book, *OPTIONS, "--weights", done.weights)
    # The codebook knows network, weights, scales and sizes; the store carries the codebook on.
    ok("encode", done.data, "--codebook", book, "--out", store, "--pooling", ",".join(METHODS))
    ok("train", store, "--out", model)
    result = ok("evaluate", model, store, "--out", out, "--data", done.data)
    assert store_bytes(store) == store_bytes(done.out / "encodings")
    assert arrays_digest(open_model(model).svms) == arrays_digest(done.model.svms)
    metrics = json.loads((out / "metrics.json").read_text())
    for key in ("data", "network", "weights_sha256", "config", "results", "pictures"):
        assert metrics[key] == done.metrics[key], key
    assert result.stdout.splitlines() == [
        f"scores: {out / 'scores.npz'}",
        f"metrics: {out / 'metrics.json'}",
        f"report: {out / 'report.html'}",
    ]
    assert "data:image/jpeg" in (out / "report.html").read_text()
    # Fewer methods and another C, from the same encodings.
    ok("train", store, "--out", model, "--pooling", "nfk+fc7,avg", "--c", "0.5")
    again = open_model(model)
    assert (tuple(again.svms), again.primary) == (("nfk+fc7", "avg"), "nfk+fc7")
    assert again.provenance.config.svm.c == 0.5
    ok("evaluate", model, store, "--out", out)
    assert set(json.loads((out / "metrics.json").read_text())["results"]) == {"nfk+fc7", "avg"}


def test_run_says_what_it_does_and_quiet_does_not(done: Finished, tmp_path: Path) -> None:
    data = tiny(tmp_path / "data")
    loud = ok("run", data, "--out", tmp_path / "a", *EASY, "--weights", done.weights)
    quiet = ok("run", data, "--out", tmp_path / "b", *EASY, "--weights", done.weights, "--quiet")
    places = ("encodings", "model", "scores.npz", "metrics.json", "report.html")
    for result, out in ((loud, tmp_path / "a"), (quiet, tmp_path / "b")):
        assert [line.split(": ")[1] for line in result.stdout.splitlines()] == [
            str(out / place) for place in places
        ]
    assert quiet.stderr == ""
    for words in (
        "data: 3 classes, 6 training pictures, 3 test",
        f"network toy, weights sha256 {done.network.weights_sha256[:12]}",
        "encode: 100%",
        "svm avg: relative duality gap",
        "stage",
        "encode pictures",
        "method",
        "top-1",
    ):
        assert words in loud.stderr, words
    assert store_bytes(tmp_path / "a/encodings") == store_bytes(tmp_path / "b/encodings")


def test_a_finished_run_given_again_does_nothing_new(done: Finished, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done.out, out)
    arguments = ["--weights", done.weights, "--pooling", ",".join(METHODS)]
    result = ok("run", done.data, "--out", out, *OPTIONS, *arguments)
    assert f"codebook: taken from {out / 'codebook'}" in result.stderr
    assert store_bytes(out / "encodings") == store_bytes(done.out / "encodings")
    assert json.loads((out / "metrics.json").read_text())["results"] == done.metrics["results"]


def test_options_become_the_configuration(done: Finished, tmp_path: Path) -> None:
    out = tmp_path / "out"
    one_level = tiny(tmp_path / "split") / "train"
    chosen = ["--pooling", "avg", "--c", "3", "--seed", "4", "--fidelity", "author"]
    ok(
        *("run", one_level, "--out", out, "--network", "toy", "--weights", done.weights),
        *("--scales", "1,3", "--dtype", "bfloat16", "--test-fraction", "0.5", *chosen),
    )
    metrics = json.loads((out / "metrics.json").read_text())
    config = metrics["config"]
    assert config["pyramid"]["scales"] == [0, 2]
    assert config["pyramid"]["resampling"] == "bicubic"
    assert (config["encoder"]["l2"], config["encoder"]["skip_first"]) == ("both", True)
    assert (config["svm"]["c"], config["seed"], config["dtype"]) == (3.0, 4, "bfloat16")
    assert (metrics["pictures"]["train"], metrics["pictures"]["test"]) == (3, 3)


def test_several_labels_a_picture(done: Finished, tmp_path: Path) -> None:
    data, out = toy.write_list(tmp_path / "list"), tmp_path / "out"
    weights = ("--weights", done.weights)
    ok("run", data, "--out", out, *OPTIONS, *weights, "--pooling", "mpp,avg,mpp+avg")
    metrics = json.loads((out / "metrics.json").read_text())
    for method in ("mpp", "avg", "mpp+avg"):
        figures = metrics["results"][method]
        assert figures["top1"] is None
        assert figures["mean_class_accuracy"] is None
        per_class = list(figures["per_class"].values())
        assert figures["map11"] == pytest.approx(np.mean(per_class))
    assert metrics["results"]["avg"]["map11"] > 0.8
    assert "Mean average precision" in (out / "report.html").read_text()
    result = ok("predict", out / "model", tmp_path / "list" / "14.png", "--json")
    (entry,) = json.loads(result.stdout)
    assert len(entry["classes"]) == 3
    neighbours = json.loads(
        ok("search", out / "encodings", tmp_path / "list" / "14.png", "--top", 1, "--json").stdout
    )[0]["neighbours"]
    assert neighbours[0]["path"] == "14.png"
    assert neighbours[0]["classes"] == ["green", "red"]


# ------------------------------------------------------------------------------ new pictures


def test_predict(done: Finished, tmp_path: Path) -> None:
    model, picture = done.out / "model", done.data / "test/red/00.png"
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    result = ok("predict", model, picture, "--json", "--method", "fc7", "--top", 2)
    (entry,) = json.loads(result.stdout)
    assert set(entry) == {"path", "classes", "error", "network", "weights_sha256"}
    assert (entry["network"], entry["weights_sha256"]) == ("toy", done.network.weights_sha256)
    assert (entry["path"], entry["error"]) == (str(picture), None)
    assert [set(c) for c in entry["classes"]] == [{"class", "score"}] * 2
    assert entry["classes"][0]["class"] == "red"
    assert entry["classes"][0]["score"] > entry["classes"][1]["score"]
    wanted = open_model(model).svms["fc7"]
    assert entry["classes"][0]["score"] == pytest.approx(
        max(np.asarray(wanted.weights) @ done.store.vectors("fc7", "test")[6] + wanted.bias),
        abs=1e-5,
    )

    mixed = cli("predict", model, tmp_path / "bad.jpg", picture, "--json")
    assert mixed.exit_code == 1
    bad, good = json.loads(mixed.stdout)
    assert bad["classes"] == []
    assert "not a picture" in bad["error"]
    assert (len(good["classes"]), good["error"]) == (3, None)
    assert mixed.stderr.splitlines() == [
        f"network toy, weights sha256 {done.network.weights_sha256[:12]}...",
        f"skipped {tmp_path / 'bad.jpg'}: {bad['error']}",
    ]

    text = cli("predict", model, picture, tmp_path / "none.jpg", "--method", "fc7", "--top", 1)
    assert text.exit_code == 1
    assert text.stdout.startswith(f"{picture}: red +")
    assert len(text.stdout.splitlines()) == 1
    assert "none.jpg: no such file" in text.stderr


def test_search(done: Finished, tmp_path: Path) -> None:
    store, picture = done.out / "encodings", done.data / "train/green/03.png"
    (tmp_path / "empty.png").write_bytes(b"")
    arguments = ["--top", 3, "--json", "--weights", done.weights]
    for method in (None, "fc7", "mpp+avg"):
        chosen = [] if method is None else ["--method", method]
        result = cli("search", store, tmp_path / "empty.png", picture, *arguments, *chosen)
        assert result.exit_code == 1
        bad, good = json.loads(result.stdout)
        assert bad["neighbours"] == []
        assert "empty file" in bad["error"]
        assert (good["path"], good["error"], len(good["neighbours"])) == (str(picture), None, 3)
        first = good["neighbours"][0]
        assert set(first) == {"path", "split", "classes", "similarity"}
        assert (first["path"], first["split"]) == ("train/green/03.png", "train")
        assert first["classes"] == ["green"]
        assert first["similarity"] == pytest.approx(1, abs=1e-4)
        rest = [entry["similarity"] for entry in good["neighbours"]]
        assert rest == sorted(rest, reverse=True)
    text = ok("search", store, picture, "--method", "fc7", "--top", 2).stdout.splitlines()
    assert text[0] == f"{picture}:"
    assert text[1].split() == ["1.0000", "train/green/03.png", "(green)"]
    assert len(text) == 3
    assert "no encodings 'vlad'; there are mpp" in refused(
        "search", store, picture, "--method", "vlad"
    )
    other = toy.write_weights(tmp_path / "other.safetensors", seed=1)
    assert "made with toy weights" in refused("search", store, picture, "--weights", other)
    shutil.copytree(store, tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "codebook")
    assert "its codebook is missing" in refused("search", tmp_path / "store", picture)


def test_geometry() -> None:
    table = json.loads(ok("geometry", "caffenet", "--json").stdout)
    assert [row["cumulative"] for row in table] == [1, 10, 74, 270, 754, 1910, 4410]
    assert table[0] == {"scale": 1, "side": 227, "positions": 1, "cumulative": 1}
    few = json.loads(ok("geometry", "squeezenet", "--scales", "1-3", "--json").stdout)
    assert [row["positions"] for row in few] == [1, 16, 64]
    assert "4410" in ok("geometry", "caffenet").stdout
    line = cli("geometry", "resnet").stderr
    assert line.startswith("error: network: 'resnet' is unknown")


def test_weights_commands(done: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPP_JAX_CACHE", str(tmp_path / "cache"))
    lines = ok("weights", "list").stdout.splitlines()
    assert any(line.split()[:3] == ["squeezenet", "squeezenet", "absent"] for line in lines)
    result = ok("weights", "verify", done.weights, "--network", "toy")
    assert f"sha256: {done.network.weights_sha256}" in result.stdout
    assert "conv1/kernel" in result.stdout
    assert "fits: toy" in ok("weights", "verify", done.weights).stdout
    wrong = cli("weights", "verify", done.weights, "--network", "squeezenet")
    assert wrong.exit_code == 2
    assert "does not fit" in wrong.stderr
    missing = cli("weights", "verify", tmp_path / "none.net")
    assert missing.exit_code == 2
    unknown = cli("weights", "download", "resnet")
    assert unknown.exit_code == 2
    assert "resnet" in unknown.stderr


def test_help_and_version() -> None:
    assert ok("--version").stdout == f"mpp-jax, version {__version__}\n"
    text = ok("--help").stdout
    for name, command in main.commands.items():
        assert name in text
        own = ok(name, "--help").stdout
        assert command.help is not None
        assert command.help.split()[0] in own
    nothing = cli()
    assert nothing.exit_code in (0, 2)
    assert "Usage: " in nothing.output
