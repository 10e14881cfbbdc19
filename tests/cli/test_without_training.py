"""Sets without training pictures or labels: encoded with a finished codebook, searched, scored."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.toy_cli import cli, ok, refused
from helpers.toy_run import Finished

from mpp_jax.data import DataError, open_dataset
from mpp_jax.storage.store import Store

pytestmark = pytest.mark.usefixtures("toy_known")


def encode(done: Finished, data: Path, out: Path) -> Store:
    ok("encode", data, "--codebook", done.out / "codebook", "--weights", done.weights, "--out", out)
    return Store.open(out)


def test_a_set_of_test_pictures_alone(done: Finished, tmp_path: Path) -> None:
    """Encoded and evaluated: the figures of the whole set, for they are of the same pictures."""
    data = tmp_path / "data"
    shutil.copytree(done.data / "test", data / "test")
    store = encode(done, data, tmp_path / "store")
    assert not store.items("train")
    assert [item.id for item in store.items("test")] == [i.id for i in done.store.items("test")]
    for method in store.methods:
        np.testing.assert_array_equal(
            store.vectors(method, "test"), done.store.vectors(method, "test")
        )
    model = done.out / "model"
    results = []
    for name, place in (("alone", tmp_path / "store"), ("whole", done.out / "encodings")):
        ok("evaluate", model, place, "--data", data, "--out", tmp_path / name)
        results.append(json.loads((tmp_path / name / "metrics.json").read_text())["results"])
    assert results[0] == results[1]
    assert "no training picture" in refused("train", tmp_path / "store", "--out", tmp_path / "m")
    assert "has test/ but no train/" in refused("fit", data, "--out", tmp_path / "codebook")


def test_a_folder_of_pictures_without_labels(done: Finished, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in sorted((done.data / "test").rglob("*.png")):
        shutil.copy(path, flat / f"{path.parent.name}-{path.name}")
    store = encode(done, flat, tmp_path / "store")
    assert store.classes == ()
    assert store.targets("test").shape == (len(store.items("test")), 0)
    np.testing.assert_array_equal(store.vectors("mpp", "test"), done.store.vectors("mpp", "test"))
    one = flat / store.items("test")[0].id
    found = cli("search", tmp_path / "store", one, "--weights", done.weights, "--json")
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)[0]["neighbours"][0]["path"] == one.name
    assert "no classes" in refused(
        "evaluate", done.out / "model", tmp_path / "store", "--out", tmp_path / "e"
    )
    assert "no training picture" in refused("train", tmp_path / "store", "--out", tmp_path / "m")
    limited = open_dataset(flat, limit_per_class=2, to_train=False)
    assert len(limited.items) == 2
    with pytest.raises(DataError, match="no class folder"):
        open_dataset(flat)


def test_a_list_without_labels(done: Finished, tmp_path: Path) -> None:
    paths = sorted((done.data / "test").rglob("*.png"))
    rows = [f"{path},,test" for path in paths]
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    data = open_dataset(tmp_path / "list.csv", to_train=False)
    assert [item.path for item in data.items] == paths
    assert data.classes == ()
    with pytest.raises(DataError, match="line 1: no label"):
        open_dataset(tmp_path / "list.csv")
    (tmp_path / "list.csv").write_text("\n".join([*rows[1:], f"{paths[0]},red,test"]) + "\n")
    data = open_dataset(tmp_path / "list.csv", to_train=False)
    assert data.classes == ("red",)
    assert data.targets("test").tolist() == [[-1.0]] * (len(paths) - 1) + [[1.0]]


def test_splits_without_class_folders_stay_splits(tmp_path: Path) -> None:
    for name in ("train", "test", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"")
    data = open_dataset(tmp_path, to_train=False)
    assert [(item.id, item.split) for item in data.items] == [
        ("train/a.png", "train"),
        ("test/a.png", "test"),
    ]
    assert "folder 'other' beside train and test ignored" in data.notes
    shutil.rmtree(tmp_path / "train")
    data = open_dataset(tmp_path, to_train=False)
    assert [item.id for item in data.items] == ["test/a.png"]
    assert "folder 'other' beside test ignored" in data.notes


def test_a_folder_without_any_picture(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no picture found"):
        open_dataset(tmp_path, to_train=False)
