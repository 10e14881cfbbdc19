"""How machines are trained, from the command line: solvers, C by folds, probabilities."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import toy
from helpers.toy_cli import EASY, cli, ok, refused, tiny
from helpers.toy_run import Finished, finished_run, know_toy

from mpp_jax import load_model
from mpp_jax.files import seal
from mpp_jax.runs.model import open_model
from mpp_jax.storage.bundle import BundleError, arrays_digest

TUNED = ("--c", "auto", "--probabilities", "--folds", "3")


@pytest.fixture(autouse=True)
def _toy_network(monkeypatch: pytest.MonkeyPatch) -> None:
    know_toy(monkeypatch)


@pytest.fixture
def done(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finished_run(tmp_path_factory)


@pytest.fixture
def tuned(done: Finished, tmp_path: Path) -> Path:
    model = tmp_path / "tuned"
    ok("train", done.store.path, "--out", model, "--pooling", "avg,fc7", *TUNED)
    return model


def test_a_run_says_records_and_repeats_how_it_was_trained(done: Finished, tmp_path: Path) -> None:
    data, out = tiny(tmp_path / "data", train=3), tmp_path / "out"
    weights = ("--weights", done.weights)
    result = ok("run", data, "--out", out, *EASY, *weights, *TUNED, "--solver", "streamed")
    lines = result.stderr.splitlines()
    (way,) = (line for line in lines if line.startswith("solver "))
    assert way.startswith("solver streamed (a Gram matrix from vectors read by blocks) for 9 x ")
    assert ": as asked (" in way
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["config"]["svm"]["solver"] == "streamed"
    assert metrics["config"]["svm"]["c"] == "auto"
    assert metrics["config"]["svm"]["probabilities"] is True
    page = (out / "report.html").read_text()
    for method in ("avg", "fc7"):
        trained = metrics["training"][method]
        assert trained["solver"] == "streamed"
        folds = trained["folds"]
        assert (folds["metric"], len(folds["scores"][0])) == ("top1", 3)
        assert trained["c"] in folds["cs"]
        assert folds["mean"][folds["cs"].index(trained["c"])] == max(folds["mean"])
        summary = f"C {trained['c']:g}"
        assert any(line.startswith(f"svm {method}: {summary}") for line in lines)
        assert "mean top-1 of 3 held-out folds, %: " in page
    for file in ("config.json", "model/config.json", "metrics.json"):
        config = json.loads((out / file).read_text())["config"]
        assert config == metrics["config"], file
    again = tmp_path / "again"
    ok("run", data, "--out", again, *weights, "--config", out / "metrics.json")
    repeated = json.loads((again / "metrics.json").read_text())
    for key in ("config", "results", "training"):
        assert repeated[key] == metrics[key], key
    # What is typed wins over what the encodings were made with.
    plain = ("--no-probabilities", "--c", "2", "--solver", "gram")
    ok("train", out / "encodings", "--out", tmp_path / "plain", *plain)
    model = open_model(tmp_path / "plain")
    assert (model.provenance.config.svm.c, model.platt) == (2, {})
    assert model.trained["avg"].folds is None
    # The parts do the same, and an evaluation tells what its model was trained by.
    ok("train", out / "encodings", "--out", tmp_path / "model")
    assert arrays_digest(open_model(tmp_path / "model").svms) == arrays_digest(
        open_model(out / "model").svms
    )
    ok("evaluate", tmp_path / "model", out / "encodings", "--out", tmp_path / "evaluated")
    evaluated = json.loads((tmp_path / "evaluated" / "metrics.json").read_text())
    assert evaluated["training"] == metrics["training"]


def test_probabilities_of_new_pictures(done: Finished, tuned: Path) -> None:
    picture = done.data / "test/red/00.png"
    (entry,) = json.loads(ok("predict", tuned, picture, "--json").stdout)
    assert [set(one) for one in entry["classes"]] == [{"class", "score", "probability"}] * 3
    found = [one["probability"] for one in entry["classes"]]
    assert sum(found) == pytest.approx(1)
    assert entry["classes"][0]["class"] == "red"
    assert found[0] == max(found)
    text = ok("predict", tuned, picture, "--top", 1).stdout
    assert text == f"{picture}: red {entry['classes'][0]['score']:+.3f} ({found[0]:.1%})\n"
    model = load_model(tuned)
    prediction = model.predict([picture, "none.png"], "fc7")
    assert prediction.probabilities is not None
    assert prediction.probabilities.shape == prediction.scores.shape == (2, 3)
    assert np.isnan(prediction.probabilities[1]).all()
    np.testing.assert_array_equal(
        prediction.probabilities, model.probabilities(prediction.scores, "fc7")
    )


def change_record(folder: Path, change) -> None:
    record = json.loads((folder / "record.json").read_text())
    change(record)
    (folder / "record.json").write_text(json.dumps(record | {"seal": seal(record)}))


def test_models_of_earlier_versions(done: Finished, tmp_path: Path) -> None:
    """They have neither sigmoids nor a word of how they were trained."""
    old = tmp_path / "old"
    shutil.copytree(done.out / "model", old)

    def age(record):
        del record["trained"], record["exclusive"]
        for name in ("solver", "max_epochs", "cs", "folds", "probabilities"):
            del record["config"]["svm"][name]

    change_record(old, age)
    model = open_model(old)
    assert (model.trained, model.platt) == ({}, {})
    assert model.provenance.config.svm.solver == "auto"
    assert arrays_digest(model.svms) == arrays_digest(done.model.svms)
    picture = done.data / "test/red/00.png"
    (entry,) = json.loads(ok("predict", old, picture, "--json").stdout)
    assert [set(one) for one in entry["classes"]] == [{"class", "score"}] * 3
    assert load_model(old).predict([picture]).probabilities is None
    ok("evaluate", old, done.store.path, "--out", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["training"] == {}


def test_records_that_do_not_fit_are_damage(tuned: Path) -> None:
    change_record(tuned, lambda record: record["trained"]["avg"].pop("folds"))
    with pytest.raises(BundleError, match=r"damaged .no entry 'folds'"):
        open_model(tuned)


def test_mistakes_are_named_before_any_work(done: Finished, tmp_path: Path) -> None:
    store, model = done.store.path, tmp_path / "model"
    for text in ("0", "-1", "inf", "nan", "many"):
        result = cli("train", store, "--out", model, "--c", text)
        assert result.exit_code == 2
        assert "give a positive number, or auto" in result.stderr
    assert "'dual' is not one of" in cli("train", store, "--out", model, "--solver", "dual").stderr
    few = "15 training pictures are too few for 20 folds (--probabilities)"
    assert few in refused("train", store, "--out", model, "--probabilities", "--folds", 20)
    one = toy.write_folder(tmp_path / "one", train=1, test=1, largest=40)
    for options in (("--c", "auto"), ("--probabilities",)):
        line = refused("run", one, "--out", model, *EASY, "--weights", done.weights, *options)
        asked = " ".join(options)
        assert f"class 'blue' has too few training pictures for folds ({asked}): 1" in line
    assert not model.exists()
