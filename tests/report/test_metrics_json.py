"""metrics.json: schema, values of every kind, names that are not UTF-8."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.report_page import Page, example

from mpp_jax.report.metrics_json import write_metrics
from mpp_jax.report.page import write_report


def test_metrics_schema_nan_and_bytes(tmp_path: Path) -> None:
    metrics = example()["metrics"]
    metrics["results"]["mpp"]["map11"] = float("nan")
    metrics["results"]["fc7"]["map11"] = np.float32("inf")
    path = write_metrics(tmp_path / "new" / "folder", metrics)
    assert path == tmp_path / "new" / "folder" / "metrics.json"
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]  # no temporary file left
    text = path.read_text(encoding="utf-8")
    assert "NaN" not in text
    assert "Infinity" not in text
    read = json.loads(text)
    assert read["results"]["mpp"]["map11"] is None
    assert read["results"]["fc7"]["map11"] is None
    assert read["results"]["mpp"]["top1"] == 0.75
    assert read["config"]["pyramid"]["scales"] == [0, 1, 2]
    assert list(read) == sorted(read)
    assert text == json.dumps(read, indent=2, sort_keys=True) + "\n"

    backwards = {key: metrics[key] for key in reversed(metrics)}
    assert write_metrics(tmp_path, backwards).read_bytes() == path.read_bytes()


def test_metrics_takes_array_path_and_dataclass_values(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Pyramid:
        scales: tuple[int, ...] = (0, 1)
        folder: Path = Path("a/b")

    metrics = example()["metrics"]
    metrics["config"] = {
        "pyramid": Pyramid(),
        "row": np.array([1.5, np.nan], np.float32),
        "jax": jnp.float32(0.25),
        "flag": np.bool_(True),
        1: None,
    }
    read = json.loads(write_metrics(tmp_path, metrics).read_text())["config"]
    assert read == {
        "pyramid": {"scales": [0, 1], "folder": "a/b"},
        "row": [1.5, None],
        "jax": 0.25,
        "flag": True,
        "1": None,
    }


def test_metrics_keeps_names_that_are_not_utf8(tmp_path: Path) -> None:
    metrics = example()["metrics"]
    metrics["pictures"]["skipped"] = [{"path": "b\udcffd/ü.jpg", "reason": "empty"}]
    read = json.loads(write_metrics(tmp_path, metrics).read_bytes())
    assert read["pictures"]["skipped"][0]["path"] == "b\udcffd/ü.jpg"
    given = example() | {"metrics": metrics}
    assert "d/ü.jpg" in Page(write_report(tmp_path, **given)).section("skipped")


def test_metrics_faults_are_named_together(tmp_path: Path) -> None:
    metrics = example()["metrics"]
    del metrics["results"]["mpp"]["map11"]
    metrics["pictures"] = {"train": 1, "test": 1}
    with pytest.raises(ValueError, match=r"'map11'.*\['pictures'\] lacks 'skipped'"):
        write_metrics(tmp_path, metrics)
    with pytest.raises(ValueError, match=r"lacks 'data'.*lacks 'seconds'"):
        write_metrics(tmp_path, {})
    with pytest.raises(ValueError, match=r"\['seconds'\] is no dict"):
        write_metrics(tmp_path, example()["metrics"] | {"seconds": 3.0})
    with pytest.raises(TypeError, match=r"metrics\['config'\]\['x'\]\[0\] is a object"):
        write_metrics(tmp_path, example()["metrics"] | {"config": {"x": [object()]}})
    assert list(tmp_path.iterdir()) == []
