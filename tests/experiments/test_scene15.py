"""The Scene-15 experiment and the lab it stands on, with the toy network."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import toy

from mpp_jax.describe.dense import Descriptors
from mpp_jax.pooling import pool

pytestmark = pytest.mark.usefixtures("toy_known")


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """Options of an experiment on a few pictures."""
    data = toy.write_folder(tmp_path / "data", train=2, test=1, largest=40)
    weights = toy.write_weights(tmp_path / "toy.safetensors")
    options = {"data": data, "network": "toy", "weights": weights, "pca": 4, "components": 2}
    return [f"--{name}={value}" for name, value in options.items()]


def result(monkeypatch: pytest.MonkeyPatch, script: Any, *arguments: Any) -> dict[str, Any]:
    """Run a script and return its result file."""
    monkeypatch.setattr("sys.argv", ["script.py", *map(str, arguments)])
    script.main()
    [out] = [str(a).removeprefix("--out=") for a in arguments if str(a).startswith("--out=")]
    return json.loads(Path(out).read_text())


def test_a_row_for_every_range(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import scene15

    out, kept = tmp_path / "out.json", tmp_path / "kept"
    run = (*options, "--scales=5", f"--activations={kept}", f"--out={out}")
    methods = ("ap10", "avg+fc7")  # without codebooks, which take long
    record = result(monkeypatch, scene15, *run, f"--methods={','.join(methods)}")
    sizes = [(row["codebook_scales"], row["encoded_scales"]) for row in record["results"]]
    assert sizes == [(s, n) for s in (4, 5) for n in range(1, s + 1)]
    for row in record["results"]:
        assert tuple(row["methods"]) == methods
        assert row["methods"]["avg+fc7"]["dimension"] == 2 * 16
        assert row["methods"]["ap10"] == record["results"][0]["methods"]["ap10"]
    assert len(list(kept.glob("*/key.json"))) == 6  # five scales and the crops
    # From the kept activations, all scales alone: the same figures.
    again = result(monkeypatch, scene15, *run, "--only-last", "--methods=avg+fc7")
    [row] = again["results"]
    assert row["methods"] == {"avg+fc7": record["results"][-1]["methods"]["avg+fc7"]}


def test_ranges_of_scales() -> None:
    import lab

    assert lab.ranged("mpp+fc7", 2) == ("mpp-to1+fc7", "mpp-to2+fc7")
    assert lab.ranged("avg(pool5)+sp+ap10", 1) == ("avg-to1(pool5)+sp+ap10",)
    assert lab.ranged("fv2", 3) == ("fv2",) * 3
    keys = jax.random.split(jax.random.key(0), 3)
    scales = [
        Descriptors(jax.random.normal(key, (1, 4, 5)), np.ones((1, 4), bool), np.ones((4, 4)))
        for key in keys
    ]
    for n, name in enumerate(lab.ranged("avg", 3), 1):
        want = pool("avg", scales[:n])
        np.testing.assert_array_equal(pool(name, scales), want)


def test_more_passes_same_scores(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Representations that do not fit into memory together are taken one after another."""
    import lab
    import scene15

    run = (*options, "--scales=2", "--methods=mpp,avg", f"--activations={tmp_path / 'kept'}")
    whole = result(monkeypatch, scene15, *run, f"--out={tmp_path / 'a.json'}")
    monkeypatch.setattr(lab, "ROOM", 0)
    single = result(monkeypatch, scene15, *run, f"--out={tmp_path / 'b.json'}")
    assert single["results"] == whole["results"]
    [row] = single["results"][1:]
    assert set(row["codebook"]) == {"samples", "explained_variance", "em_steps"}
    assert row["methods"]["mpp"]["dimension"] == 2 * 2 * 4
