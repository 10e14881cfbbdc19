"""The experiments on pooling with several labels a picture: VOC's layout, the toy network."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import toy
from helpers.paper_archives import write_voc_set

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
