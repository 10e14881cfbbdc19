"""The experiments on trained codebooks, retrieval and real boxes, with the toy network."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import toy
from helpers.archives import write_voc
from PIL import Image

pytestmark = pytest.mark.usefixtures("toy_known")


def result(monkeypatch: pytest.MonkeyPatch, script: Any, out: Path, *options: Any) -> Any:
    monkeypatch.setattr("sys.argv", ["script.py", f"--out={out}", *map(str, options)])
    script.main()
    return json.loads(out.read_text())


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    weights = toy.write_weights(tmp_path / "toy.safetensors")
    return ["--network=toy", f"--weights={weights}", "--pca=4", "--components=2"]


def test_finetune(options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import finetune

    data = toy.write_folder(tmp_path / "data", train=2, test=2, largest=40)
    given = (f"--data={data}", "--scales=1", "--epochs=2", "--seeds=2", "--reach=0.5")
    kept = f"--cache={tmp_path / 'kept'}"
    record = result(monkeypatch, finetune, tmp_path / "out.json", *options, *given, kept)
    assert [row["seed"] for row in record["seeds"]] == [0, 1]
    for row in record["seeds"]:
        assert row["fitted"]["over_fitted"]["difference"] == 0
        assert all(len(losses) == 3 for losses in row["losses"].values())
    tops = [row["trained"]["top1"] for row in record["seeds"]]
    assert record["mean"]["trained"]["top1"] == pytest.approx(np.mean(tops))
    assert record["training"]["epochs"] == 2


def test_retrieval(options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import retrieval

    data = toy.write_folder(tmp_path / "data", train=3, test=1, largest=40)
    monkeypatch.setattr(retrieval, "METHODS", ("fc7", "mpp"))
    places = (f"--cache={tmp_path / 'kept'}", f"--run={tmp_path / 'run'}", f"--data={data}")
    out = tmp_path / "out.json"
    out.write_text('{"others": 1}')
    record = result(monkeypatch, retrieval, out, *options, *places, "--scales=1")
    assert record["others"] == 1
    found = record["data"]["results"]
    assert set(found["fc7"]) == {"exact"}
    plans = {f"PCA {n}{how}" for n in (256, 64) for how in ("", ", whitened")}
    assert set(found["mpp"]) == {"exact", *plans}
    for row in found["mpp"].values():
        assert 0 < row["mean"] <= 1
        assert (row["queries"], row["ranked"]) == (3, 9)
    assert set(found["mpp"]["PCA 64, whitened"]["recall"]["at"]) == {"1", "10"}


def test_pointing_at_real_boxes(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import figure5
    import figure5_boxes

    year = write_voc(tmp_path)
    places = (f"--run={tmp_path / 'run'}", f"--figures={tmp_path / 'drawn'}", "--drawn=1")
    given = (f"--data=voc:{year}", "--scales=2", *places)
    record = result(monkeypatch, figure5, tmp_path / "out.json", *options, *given)
    found = record["methods"]["mpp"]["sum"]
    # Of the three test pictures one shows a class of which it has a box.
    assert (record["pictures"], found["all"]["pairs"]) == (1, 1)
    assert set(found["classes"]) == {"cat"}
    row = found["classes"]["cat"]
    assert row["chance"] == pytest.approx(10 / 40 * 12 / 24)
    assert row["centre"] == 0
    assert row["hit"] in (0, 1)
    assert [file.name for file in (tmp_path / "drawn").iterdir()] == ["000001.png"]
    # With a finished model: the same figures.
    model = f"--model={tmp_path / 'run' / 'model'}"
    again = result(monkeypatch, figure5, tmp_path / "again.json", model, *given)
    assert again["methods"] == record["methods"]
    outlined = np.asarray(Image.open(tmp_path / "drawn" / "000001.png"))
    assert (outlined == (0, 255, 255)).all(axis=-1).any()
    rows = [figure5_boxes.Pointed("a", True, 0.1, False)] * 3
    rows.append(figure5_boxes.Pointed("b", False, 0.5, True))
    means = figure5_boxes.figures_of(rows)
    assert means["mean_of_classes"] == pytest.approx({"hit": 0.5, "chance": 0.3, "centre": 0.5})
    assert means["all"]["hit"] == 0.75
