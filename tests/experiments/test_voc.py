"""The experiments on pooling with several labels a picture: VOC's layout, the toy network."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import toy
from helpers.paper_archives import VOC_CLASSES, write_voc_set

from mpp_jax.data import open_dataset

pytestmark = pytest.mark.usefixtures("toy_known")

Script = Callable[..., dict[str, Any]]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Return a function that runs a script on a small VOC archive and returns its result."""
    weights = toy.write_weights(tmp_path / "toy.safetensors")
    given = {"data": f"voc:{write_voc_set(tmp_path)}", "network": "toy", "weights": weights}
    given |= {"pca": 4, "components": 2, "scales": 2, "cache": tmp_path / "kept"}

    def run(module: Any, *arguments: str, **options: Any) -> dict[str, Any]:
        out = tmp_path / "out.json"
        named = [f"--{name}={value}" for name, value in (given | options).items()]
        monkeypatch.setattr("sys.argv", ["script.py", *named, f"--out={out}", *arguments])
        module.main()
        return json.loads(out.read_text())

    return run


def test_figure4(script: Script, tmp_path: Path, capsys: Any) -> None:
    import figure4

    found = script(figure4, "--quick", classes="car,bus")
    assert found["classes"] == ["bus", "car"]
    curves = found["map11_by_scales"]
    assert list(curves) == list(figure4.METHODS)
    assert "top1_by_scales" not in found
    for n, gain in enumerate(found["mpp_minus_nfk"]):
        assert gain["difference"] == pytest.approx(curves["mpp"][n] - curves["nfk"][n])
        assert gain["low"] <= gain["difference"] <= gain["high"]
    assert "VOC2007, mAP (11 points), %" in capsys.readouterr().out
    assert (tmp_path / "out.png").stat().st_size > 1000


def test_figure3(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import figure3
    import lab

    found = script(figure3, "--quick")
    assert found["classes"] == list(VOC_CLASSES)
    for kind in ("cnn", "sift"):
        assert list(found["results"][kind]) == ["fv1", "fv2", "nfk", "mpp"]
        assert all(row.keys() == {"map11"} for row in found["results"][kind].values())
    assert (tmp_path / "out.png").stat().st_size > 1000
    monkeypatch.setattr(lab, "fit", None)
    monkeypatch.setattr(lab, "judged", None)
    assert script(figure3, "--quick")["results"] == found["results"]


@pytest.mark.parametrize(
    ("classes", "message"), [("car,dog", "has no 'dog', only bus, car"), ("", None)]
)
def test_classes(classes: str, message: str | None, tmp_path: Path) -> None:
    import lab

    data = open_dataset(f"voc:{write_voc_set(tmp_path)}")
    if message is not None:
        with pytest.raises(SystemExit, match=message):
            lab.of_classes(data, classes.split(","))
        return
    part = lab.of_classes(data, ["train", "car"])
    assert part.classes == ("car", "train")
    columns = [data.classes.index(name) for name in part.classes]
    for split in ("train", "test"):
        np.testing.assert_array_equal(part.targets(split), data.targets(split)[:, columns])
    single = open_dataset(toy.write_folder(tmp_path / "single", 1, 1))
    with pytest.raises(SystemExit, match="for sets with several labels a picture"):
        lab.of_classes(single, ["red"])


def test_cost() -> None:
    import lab

    assert (lab.cost("voc:/a"), lab.cost("mit67:/a"), lab.cost(None)) == (1, 10, 10)


def test_methods_by_scales_and_seeds(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import lab
    import voc2007_part

    methods = ("ap10", "nfk", "mpp", "mpp+avg")  # each other one is compiled, too
    monkeypatch.setattr(voc2007_part, "METHODS", methods)
    monkeypatch.setattr(voc2007_part, "ORDER", methods)
    found = script(voc2007_part, classes="car,bus", seeds="0,1")
    assert list(found["map11_by_scales"]) == list(methods)
    assert all(len(row) == 2 for row in found["map11_by_scales"].values())
    assert list(found["classes"]) == ["bus", "car"]
    assert set(found["mpp_minus"]) == set(methods) - {"mpp"}
    assert found["config"]["svm"]["c"] == 1
    for method, rows in found["by_seed"].items():
        assert rows[0] == found["map11_by_scales"][method]
        np.testing.assert_allclose(found["seeds_mean"][method], np.mean(rows, axis=0))
        np.testing.assert_allclose(found["seeds_deviation"][method], np.std(rows, 0, ddof=1))
    printed = capsys.readouterr().out
    assert f"| 1-2 | {100 * found['map11_by_scales']['ap10'][1]:.2f} |" in printed
    # Again: nothing is fitted, encoded or trained.
    monkeypatch.setattr(lab, "fit", None)
    monkeypatch.setattr(lab, "judged", None)
    again = script(voc2007_part, classes="car,bus", seeds="0,1")
    assert {**again, "made": 0} == {**found, "made": 0}
