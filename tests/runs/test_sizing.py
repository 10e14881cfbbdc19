"""What follows from the data where nobody says: Gaussians, and whether "best" is asked for."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.toy_cli import cli, ok, refused, tiny
from helpers.toy_run import CONFIG, Finished, quiet

from mpp_jax.cli.seeds import run_seeds
from mpp_jax.config import Encoder, Run
from mpp_jax.data import Dataset
from mpp_jax.runs import sizing
from mpp_jax.runs.sizing import (
    components_for,
    settled_components,
    without_choices,
)
from mpp_jax.stats.codebook import check_sizes

pytestmark = pytest.mark.usefixtures("toy_known")
AUTOMATIC_RUN = replace(
    CONFIG, pooling=("best(fc7,avg)", "mpp"), encoder=replace(CONFIG.encoder, components=0)
)
SMALL = ("--network", "toy", "--scales", "1-2", "--pca", "3", "--samples", "300")


@pytest.mark.parametrize(
    ("pictures", "components"),
    [(0, 1), (5, 1), (12, 2), (75, 8), (240, 32), (1279, 128), (1500, 256), (5011, 256)],
)
def test_gaussians_by_the_number_of_pictures(pictures: int, components: int) -> None:
    assert components_for(pictures) == components


def test_what_is_asked_or_was_settled_stands(tmp_path: Path) -> None:
    assert settled_components(7, 5000, tmp_path) == 7
    assert settled_components(0, 5000, tmp_path) == 256
    assert settled_components(0, 75, tmp_path / "none", tmp_path) == 8
    (tmp_path / "config.json").write_text(json.dumps({"config": {"encoder": {"components": 12}}}))
    assert settled_components(0, 75, tmp_path / "none", tmp_path) == 12
    (tmp_path / "config.json").write_text("no JSON")
    assert settled_components(0, 75, tmp_path) == 8


def test_an_automatic_number_is_no_codebooks() -> None:
    with pytest.raises(ValueError, match=r"components: 0 \(automatic\) is settled by a job"):
        check_sizes(1000, 64, Encoder(components=0))


def test_no_choice_where_there_are_no_folds() -> None:
    targets = np.where(np.eye(2)[[0, 0, 0, 1, 1, 1]], 1, -1)
    names = ("best", "mpp", "best(fc7,avg)")
    assert without_choices(names, ("a", "b"), targets, 5) == (names, "")
    for few, folds, why in (
        (targets[:4], 4, "class 'b': 1 of it, 3 of others"),
        (targets[1:5], 5, "4 training pictures"),
    ):
        kept, said = without_choices(names, ("a", "b"), few, folds)
        assert kept == ("mpp",)
        assert said.startswith("without best, best(fc7,avg): too few training pictures for folds (")
        assert why in said
        assert without_choices(("best",), ("a", "b"), few, folds) == (("best",), "")


def test_the_representations_of_a_run_that_names_none(
    done: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = tiny(tmp_path / "data", train=5), tmp_path / "out"
    options = (*SMALL, "--weights", done.weights)
    result = ok("run", data, "--out", out, *options)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["config"]["pooling"] == [*Run().pooling]
    pictures = metrics["pictures"]["train"]
    assert metrics["config"]["encoder"]["components"] == components_for(pictures) > 1
    trained = metrics["training"].values()
    assert [len(one["candidates"]) for one in trained if one.get("candidates")] == [7]
    assert "without best" not in result.stderr

    # A continued run stays what it was, whatever would be taken today; a new one does not.
    monkeypatch.setattr(sizing, "PICTURES_EACH", 1)
    monkeypatch.setattr(sizing, "MOST_CHOSEN", 4)
    again = ok("run", data, "--out", out, *options)
    assert "codebook: taken from" in again.stderr
    assert json.loads((out / "metrics.json").read_text())["config"] == metrics["config"]
    new = tmp_path / "codebook"
    result = ok("fit", data, "--out", new, *options)
    assert f"without best: {pictures} training pictures take long to choose by" in result.stderr
    held = json.loads((new / "config.json").read_text())["config"]
    assert held["encoder"]["components"] == components_for(pictures)
    assert held["pooling"] == [*Run().pooling[1:]]


def test_a_run_of_other_representations_goes_on_with_them(done: Finished, tmp_path: Path) -> None:
    """Those of a version with another default, or that were named once."""
    data, out = tiny(tmp_path / "data", train=3), tmp_path / "out"
    options = (*SMALL, "--weights", done.weights)
    ok("run", data, "--out", out, *options, "--pooling", "avg,fc7")
    again = ok("run", data, "--out", out, *options)
    assert "representations, as before: avg, fc7" in again.stderr
    assert set(json.loads((out / "metrics.json").read_text())["results"]) == {"avg", "fc7"}


def test_a_class_of_one_picture(done: Finished, tmp_path: Path) -> None:
    """It is refused where "best" stands alone, and else evaluated without."""
    data, out = tiny(tmp_path / "data", train=1), tmp_path / "out"
    options = (*SMALL, "--weights", done.weights)
    said = refused("run", data, "--out", out, *options, "--pooling", "best")
    assert "too few training pictures for folds (--pooling best)" in said
    result = ok("run", data, "--out", out, *options)
    assert "without best: too few training pictures for folds (" in result.stderr
    assert set(json.loads((out / "metrics.json").read_text())["results"]) == {*Run().pooling[1:]}
    model = ("train", out / "encodings", "--out", tmp_path / "model")
    assert "without best: too few training pictures for folds (" in ok(*model).stderr
    assert "too few training pictures" in refused(*model, "--pooling", "best,avg")


def test_seeds_have_one_size_and_what_all_of_them_have(done: Finished, tmp_path: Path) -> None:
    """Where one seed's pictures are too few for folds, the others' choice is in no mean."""
    jobs = [
        replace(done.job(tmp_path / f"seed-{n}", replace(AUTOMATIC_RUN, seed=n)), data=data)
        for n, data in enumerate((done.dataset, _fewer(done.dataset)))
    ]
    status = run_seeds(jobs, tmp_path, quiet())
    assert status == 0
    runs = [json.loads((job.out / "metrics.json").read_text()) for job in jobs]
    sizes = {run["config"]["encoder"]["components"] for run in runs}
    assert sizes == {components_for(len(jobs[1].data.split("train")))}
    assert len(runs[0]["results"]) == 2
    assert set(runs[1]["results"]) == {"mpp"}
    assert set(json.loads((tmp_path / "metrics.json").read_text())["results"]) == {"mpp"}


def _fewer(data: Dataset) -> Dataset:
    """Return the data with one training picture of the first class."""
    first = [item for item in data.split("train") if item.labels == (0,)]
    return replace(data, items=tuple(item for item in data.items if item not in first[1:]))


def test_pictures_that_could_not_be_read_leave_too_few(done: Finished, tmp_path: Path) -> None:
    """What was computed is not lost to a choice that cannot be made."""
    data, out = tiny(tmp_path / "data", train=2), tmp_path / "out"
    broken = sorted(path for path in data.rglob("*") if "train" in path.parts and path.is_file())[0]
    broken.write_bytes(b"no picture")
    result = cli("run", data, "--out", out, *SMALL, "--weights", done.weights)
    assert result.exit_code == 1, result.stderr
    assert "without best: too few training pictures for folds (class " in result.stderr
    assert set(json.loads((out / "metrics.json").read_text())["results"]) == {*Run().pooling[1:]}


def test_a_bad_number_of_gaussians(tmp_path: Path) -> None:
    for bad in ("0", "-3", "many", "1.5"):
        result = cli("fit", tmp_path, "--out", tmp_path / "out", "--components", bad)
        assert result.exit_code == 2
        assert "give a whole number from 1, or auto" in result.stderr
