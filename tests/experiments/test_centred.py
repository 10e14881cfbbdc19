"""Centred objects: the pictures, products of vectors, and the experiment with the toy network."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import toy
from helpers.paper_archives import write_voc_set

from mpp_jax.data import open_dataset
from mpp_jax.data.decode import decode_picture
from mpp_jax.numerics import stack_unit_vectors
from mpp_jax.svm import fit_svm, svm_scores

pytestmark = pytest.mark.usefixtures("toy_known")


def test_painted_objects(tmp_path: Path) -> None:
    from centred_pictures import draw_object, write_objects

    few = open_dataset(write_objects(tmp_path / "few", 2, 1, 1))
    more = open_dataset(write_objects(tmp_path / "more", 3, 2, 1))
    assert few.classes == ("arrow_arrow", "arrow_crescent", "crescent_arrow", "crescent_crescent")
    assert len(more.classes) == 9
    held = {item.id: item.path for item in more.items}
    for item in few.items:
        assert item.path is not None
        assert item.path.read_bytes() == held[item.id].read_bytes()
        assert all(224 <= side <= 320 for side in decode_picture(item.path).shape[:2])
    one = draw_object("arrow", "crescent", "train", 0)
    assert not np.array_equal(one, draw_object("arrow", "crescent", "train", 0, seed=1))


def test_crops_of_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import centred_pictures

    ramp = np.arange(100, dtype=np.uint8)[:, None, None] + np.zeros((1, 60, 3), np.uint8)
    crop = centred_pictures._crop(ramp, (0.2, 0.5, 0.4, 1.0))
    assert crop.shape == (26, 34, 3)
    assert (crop[0, 0, 0], crop[-1, 0, 0]) == (17, 42)
    monkeypatch.setattr(centred_pictures, "SMALLEST", 1000)
    voc = Path(write_voc_set(tmp_path))
    with pytest.raises(SystemExit, match="0 boxes of car in train, not 1"):
        centred_pictures.write_crops(tmp_path / "crops", voc, ("car",), 1, 0)


def test_products_are_those_of_the_vectors() -> None:
    from kernels import Kernel, judged, stacked

    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(14, d)).astype(np.float32) for d in (5, 9)]
    parts = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts]
    targets = np.where(rng.random((10, 1)) < 0.5, 1, -1) * np.array([[1, -1]])
    kernels = [Kernel(p[:10] @ p[:10].T, p[10:] @ p[:10].T) for p in parts]
    whole = stack_unit_vectors(parts)
    machines, _ = fit_svm(whole[:10], targets, 10.0, tolerance=1e-6)
    wanted = svm_scores(machines, whole[10:])
    np.testing.assert_allclose(judged(stacked(kernels), targets, 10.0), wanted, atol=0.02)
    alone = stacked(kernels, (1, 0))
    np.testing.assert_allclose(alone.cross, kernels[0].cross, atol=1e-6)


def test_the_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import centred
    import kernels

    monkeypatch.setattr(centred, "METHODS", ("ap10", "avg", "mpp"))
    monkeypatch.setattr(centred, "SIZED", ("mpp",))
    monkeypatch.setattr(centred, "FACTORS", {"K 3": {"components": 3}})
    out = tmp_path / "out.json"
    options = {
        **{"network": "toy", "weights": toy.write_weights(tmp_path / "toy.safetensors")},
        **{"pca": 4, "components": 2, "scales": 2, "cache": tmp_path / "kept", "out": out},
        **{"sets": "objects", "shapes": 2, "few": 5, "test": 1},
    }

    def run() -> dict[str, Any]:
        monkeypatch.setattr("sys.argv", ["c.py", *(f"--{k}={v}" for k, v in options.items())])
        centred.main()
        return json.loads(out.read_text())["sets"]["objects"]

    found = run()
    assert found["classes"] == 4
    assert found["pictures"] == {"train": 20, "test": 4}
    named = ("ap10+avg+mpp", "best", "mpp-plain", "fv2", "mean2", "mpp, C auto", "mpp, K 3")
    assert set(named) <= found["top1"].keys()
    [choice] = found["facts"]["best"]
    assert found["top1"]["best"] == found["top1"][choice["chosen"]]
    assert found["minus_best_single"][found["best_single"]]["value"] == 0
    assert "| mpp, K 3 |" in capsys.readouterr().out
    # Again: nothing is fitted or encoded.
    monkeypatch.setattr(kernels, "_one_pass", None)
    assert {**run(), "made": 0} == {**found, "made": 0}
