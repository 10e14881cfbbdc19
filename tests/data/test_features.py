"""Representations from files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.toy_run import CONFIG, Finished, quiet

from mpp_jax.cli import stages
from mpp_jax.data import DataError
from mpp_jax.data.features import Features
from mpp_jax.runs.settings import Extras
from mpp_jax.storage.store import Store

IDS = np.array(["a/1.jpg", "b/2.jpg", "c/3.jpg"])
VECTORS = np.array([[4.0, -9.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 2.0]])


pytestmark = pytest.mark.usefixtures("toy_known")


def write(place: Path, **arrays: Any) -> Path:
    np.savez(place, **({"ids": IDS, "vectors": VECTORS} | arrays))
    return place


def test_vectors_are_finished(tmp_path: Path) -> None:
    features = Features.read("dsfl", write(tmp_path / "f.npz"))
    wanted = np.array([[2, -3, 0], [0, 0, 0], [1, 1, np.sqrt(2)]], np.float64)
    wanted /= np.array([[np.sqrt(13)], [1], [2]])
    np.testing.assert_allclose(features.vectors, wanted, atol=1e-6)
    other = Features.read("dsfl", write(tmp_path / "g.npz", vectors=VECTORS + 1))
    assert features.sha256 != other.sha256


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"ids": IDS[:2]}, r"wanted ids \(N,\) of text and vectors \(N, D\)"),
        ({"ids": np.arange(3)}, "wanted ids"),
        ({"vectors": np.zeros(3)}, "wanted ids"),
        ({"vectors": np.full((3, 2), np.nan)}, "NaN or infinity in the vector of 'a/1.jpg'"),
        ({"ids": np.array(["a", "b", "a"])}, "1 ids are there twice"),
        ({"ids": np.array([None, None, None])}, r"wanted an \.npz file"),
        ({"vectors": np.array([["x"], ["y"], ["z"]])}, r"wanted an \.npz file"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, arrays: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Features.read("dsfl", write(tmp_path / "f.npz", **arrays))


def test_no_file_no_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"wanted an \.npz file"):
        Features.read("dsfl", tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    whole = write(tmp_path / "whole.npz", ids=np.array(["a"]), vectors=np.ones((1, 40)))
    whole = whole.read_bytes()
    with pytest.raises(ValueError, match=r"wanted an \.npz file"):
        Features.read("dsfl", tmp_path / "text.npz")
    for content in (b"", whole[:200], whole[:-30], whole.replace(b"vectors.npy", b"vecters.npy")):
        (tmp_path / "damaged.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"wanted an \.npz file"):
            Features.read("dsfl", tmp_path / "damaged.npz")
    with pytest.raises(ValueError, match="a name is of a-z"):
        Features.read("DSFL+x", tmp_path / "none.npz")


def test_stacked_in_a_run(done: Finished, tmp_path: Path) -> None:
    """The whole chain with mpp+dsfl; a picture without a vector is found before any work."""
    ids = np.array([item.id for item in done.dataset.items])
    raw = np.random.default_rng(0).normal(size=(len(ids), 5))
    features = Features.read("dsfl", write(tmp_path / "f.npz", ids=ids[::-1], vectors=raw[::-1]))
    config = replace(CONFIG, pooling=("mpp+dsfl", "mpp", "dsfl"))
    out = tmp_path / "out"
    assert stages.run(done.job(out, config, extras=Extras({"dsfl": features})), quiet()) == 0
    store = Store.open(out / "encodings")
    root = np.sign(raw) * np.sqrt(np.abs(raw))
    wanted = root / np.linalg.norm(root, axis=1, keepdims=True)
    train = len(store.items("train"))
    np.testing.assert_allclose(store.vectors("dsfl", "train"), wanted[:train], atol=1e-6)
    both = store.vectors("mpp+dsfl", "test")
    np.testing.assert_allclose(both[:, -5:], wanted[train:] / np.sqrt(2), atol=1e-6)
    mpp = done.store.vectors("mpp", "test")
    np.testing.assert_allclose(both[:, :-5], mpp / np.sqrt(2), atol=1e-5)
    # New pictures have no such vector; what needs none still predicts.
    from mpp_jax.runs.model import load_model

    model = load_model(out / "model")
    path = done.data / store.items("test")[0].id
    with pytest.raises(ValueError, match="dsfl are features of a file, which new pictures lack"):
        model.predict([path])
    assert np.isfinite(model.predict([path], "mpp").scores).all()

    fewer = Features.read("dsfl", write(tmp_path / "g.npz", ids=ids[1:], vectors=raw[1:]))
    with pytest.raises(DataError, match=f"no vector of 1 of {len(ids)} pictures, '{ids[0]}'"):
        stages.run(done.job(tmp_path / "x", config, extras=Extras({"dsfl": fewer})), quiet())
    assert not (tmp_path / "x").exists()
    other = Features.read("dsfl", write(tmp_path / "h.npz", ids=ids, vectors=raw + 1))
    with pytest.raises(ValueError, match=r"features\.dsfl was"):
        stages.run(done.job(out, config, extras=Extras({"dsfl": other})), quiet())
