"""Archives by command, and `evaluate --scores`: what is written gives the figures again."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import toy
from helpers.archives import write_voc
from helpers.toy_cli import cli, ok, refused
from helpers.toy_run import Finished, know_toy

from mpp_jax.metrics import (
    average_precision,
    class_accuracies,
    mean_average_precision,
    mean_class_accuracy,
    top1_accuracy,
)
from mpp_jax.report.scores import RECORD, read_scores

EASY = ["--network", "toy", "--scales", "1", "--pooling", "avg"]
pytestmark = pytest.mark.usefixtures("toy_known")


def evaluate(done_or_out: Path, out: Path) -> list[Any]:
    return ["evaluate", done_or_out / "model", done_or_out / "encodings", "--out", out]


def results(out: Path) -> dict[str, Any]:
    return json.loads((out / "metrics.json").read_text())["results"]


@pytest.fixture(scope="module")
def voc_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run on a VOC archive, given by the folder above, and what it said."""
    place = tmp_path_factory.mktemp("voc")
    with pytest.MonkeyPatch.context() as patch:
        know_toy(patch)
        weights = toy.write_weights(place / "toy.safetensors")
        write_voc(place)
        easy = [*EASY, "--weights", weights]
        said = ok("run", f"voc:{place}/VOCdevkit", "--out", place / "out", *easy).stderr
    return place / "out", said


def test_a_voc_archive_runs_as_it_is(voc_run: tuple[Path, str], tmp_path: Path) -> None:
    out, said = voc_run
    assert "VOC2007: 2 classes, 5 training pictures, 3 test" in said
    assert "class 'train' without test pictures: in no mean" in said.splitlines()
    figures = results(out)["avg"]
    assert figures["per_class"]["train"] is None
    assert figures["map11"] == figures["per_class"]["cat"]
    assert figures["top1"] is None
    page = " ".join((out / "report.html").read_text().split())
    assert "In no mean, for want of test pictures: <b>train</b>." in page
    # Other splits, and numbers that do not apply.
    place, easy = out.parent / "VOCdevkit", [*EASY, "--weights", out.parent / "toy.safetensors"]
    val = ("--split-train", "val", "--split-test", "train")
    result = ok("run", f"voc:{place}", "--out", tmp_path / "val", *easy, *val)
    assert "3 training pictures, 2 test" in result.stderr
    assert json.loads((tmp_path / "val/metrics.json").read_text())["data"] == (
        "VOC2007 (train: val, test: train)"
    )
    for odd in (("--train-per-class", 3), ("--split-test", "trainval")):
        line = refused("run", f"voc:{place}", "--out", tmp_path / "no", *easy, *odd)
        assert line.startswith(f"error: voc:{place}: ")
    assert not (tmp_path / "no").exists()


def test_results_stay_out_of_class_folders_of_archives(tmp_path: Path) -> None:
    (tmp_path / "scene_categories").mkdir()
    place = f"scene15:{tmp_path}"
    line = refused("run", place, "--out", tmp_path / "scene_categories/out", *EASY)
    assert "lies among the pictures" in line


def test_kit_files_give_the_figures_again(voc_run: tuple[Path, str], tmp_path: Path) -> None:
    out, _ = voc_run
    result = ok(*evaluate(out, tmp_path / "e"), "--scores", f"{tmp_path}/results/")
    assert f"scores: {tmp_path / 'results'}" in result.stdout.splitlines()
    folder = tmp_path / "results"
    names = ["comp1_cls_test_cat.txt", "comp1_cls_test_train.txt"]
    assert sorted(file.name for file in folder.iterdir()) == [*names, RECORD]
    rows = [line.split() for line in (folder / names[0]).read_text().splitlines()]
    assert [name for name, _ in rows] == ["000001", "000002", "000003"]
    scores = np.array([float(score) for _, score in rows])
    primary = results(tmp_path / "e")["avg"]
    assert average_precision(scores, np.array([1, -1, -1]))[0] == primary["per_class"]["cat"]
    # Ours may be written again, also without the slash; what became somebody's may not.
    ok(*evaluate(out, tmp_path / "e"), "--scores", folder)
    (folder / names[0]).write_text("000001 1\n")
    line = refused(*evaluate(out, tmp_path / "e"), "--scores", folder)
    assert f"{names[0]}: is there already, and was not made by this program" in line


def test_arrays_give_the_figures_again(done: Finished, tmp_path: Path) -> None:
    file = tmp_path / "new" / "scores.npz"
    ok(*evaluate(done.out, tmp_path / "e"), "--scores", file)
    with np.load(file) as held:
        arrays = dict(held)
    figures = results(tmp_path / "e")
    assert figures == done.metrics["results"]
    assert arrays["methods"][0] == done.model.primary
    assert set(arrays["methods"]) == set(figures)
    assert tuple(arrays["classes"]) == done.dataset.classes
    assert list(arrays["ids"]) == [item.id for item in done.dataset.split("test")]
    assert arrays["scores"].dtype == np.float32
    targets = arrays["targets"]
    np.testing.assert_array_equal(targets, done.dataset.targets("test"))
    labels = targets.argmax(axis=1)
    for method, scores in zip(arrays["methods"], arrays["scores"], strict=True):
        again = figures[str(method)]
        assert top1_accuracy(scores, labels) == again["top1"]
        assert mean_class_accuracy(scores, labels) == again["mean_class_accuracy"]
        assert mean_average_precision(scores, targets) == again["map11"]
        per_class = dict(zip(arrays["classes"], class_accuracies(scores, labels), strict=True))
        assert per_class == again["per_class"]
    # The run and the evaluation keep the same beside their metrics.
    for folder in (done.out, tmp_path / "e"):
        kept = read_scores(folder / "scores.npz")
        assert kept.ids == tuple(arrays["ids"])
        assert kept.classes == done.dataset.classes
        np.testing.assert_array_equal(kept.targets, targets)
        assert list(kept.scores) == list(arrays["methods"])
        for values, again in zip(kept.scores.values(), arrays["scores"], strict=True):
            np.testing.assert_array_equal(values, again)
    content = file.read_bytes()
    ok(*evaluate(done.out, tmp_path / "e"), "--scores", file)
    assert file.read_bytes() == content  # no time, host or path inside


def test_scores_of_somebody_else_are_not_written_over(done: Finished, tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    np.savez(tmp_path / "e/scores.npz", scores=np.zeros(3))
    line = refused(*evaluate(done.out, tmp_path / "e"))
    assert "e/scores.npz: is there already, and was not made by this program" in line


def test_rows_give_the_figures_again(done: Finished, tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    for _ in range(2):
        ok(*evaluate(done.out, tmp_path / "e"), "--scores", file)
    with file.open(newline="") as text:
        rows = list(csv.DictReader(text))
    figures = results(tmp_path / "e")
    items = done.dataset.split("test")
    assert len(rows) == len(figures) * len(items)
    labels = np.array([item.labels[0] for item in items])
    for method, again in figures.items():
        mine = [row for row in rows if row["method"] == method]
        assert [row["id"] for row in mine] == [item.id for item in items]
        scores = np.array([[row[c] for c in done.dataset.classes] for row in mine], np.float32)
        assert top1_accuracy(scores, labels) == again["top1"]
        assert mean_average_precision(scores, done.dataset.targets("test")) == again["map11"]


def test_places_that_scores_do_not_go_to(done: Finished, tmp_path: Path) -> None:
    command = evaluate(done.out, tmp_path / "e")
    assert "FILE.npz, FILE.csv, or into a folder" in refused(
        *command, "--scores", tmp_path / "a.txt"
    )
    theirs = {"a.csv": b"path,label,split\n", "b.csv": b"method,id\n", "c.csv": b"\0\xff"}
    theirs |= {"a.npz": b"PK", "b.npz": b""}
    np.savez(tmp_path / "c.npz", scores=np.zeros(3))
    theirs["c.npz"] = (tmp_path / "c.npz").read_bytes()
    for name, content in theirs.items():
        (tmp_path / name).write_bytes(content)
        line = refused(*command, "--scores", tmp_path / name)
        assert f"{name}: is there already, and was not made by this program" in line
        assert (tmp_path / name).read_bytes() == content
    # Names that would be one in a kit's file: test/blue/00.png, test/green/00.png.
    line = refused(*command, "--scores", f"{tmp_path}/kit/")
    assert "'test/blue/00.png' and 'test/green/00.png' would both be '00'" in line
    assert not (tmp_path / "e").exists()
    assert not (tmp_path / "kit").exists()


def test_help_tells_of_scores_and_archives() -> None:
    text = " ".join(cli("evaluate", "--help").stdout.split())
    assert "comp1_cls_test_<class>.txt" in text
    text = " ".join(cli("run", "--help").stdout.split())
    for part in ("voc:PATH", "scene15:PATH", "--split-train", "--train-per-class"):
        assert part in text
