"""Codebooks and models on disk: round trips, damage, strangers, predictions."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import toy
from helpers.toy_run import METHODS, Finished, tree_bytes

from mpp_jax import load_model
from mpp_jax.data import Skipped, decode_picture
from mpp_jax.files import seal
from mpp_jax.nets import NETWORKS
from mpp_jax.runs.model import Model, open_model, save_model
from mpp_jax.runs.provenance import load_codebooks, save_codebooks
from mpp_jax.storage.bundle import (
    BundleError,
    arrays_digest,
    check_place,
    read_bundle,
    write_bundle,
)
from mpp_jax.svm import svm_scores

KIND = "mpp-jax-test"
ARRAYS = {"a": {"b": np.arange(6, dtype=np.float32).reshape(2, 3)}, "c": np.array([True])}


pytestmark = pytest.mark.usefixtures("toy_known")


@pytest.fixture
def model(done: Finished) -> Model:
    return load_model(done.out / "model")


# ------------------------------------------------------------------------------ bundles


def test_bundle_round_trip_and_replacement(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "bundle"
    for version in (1, 2):
        arrays = jax.tree.map(lambda leaf, by=version: leaf * by, ARRAYS)
        write_bundle(place, KIND, arrays, {"note": version})
        read, record = read_bundle(place, KIND)
        assert record["note"] == version
        assert jax.tree.structure(read) == jax.tree.structure(arrays)
        for ours, theirs in zip(jax.tree.leaves(read), jax.tree.leaves(arrays), strict=True):
            assert isinstance(ours, np.ndarray)
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype
    assert [path.name for path in place.parent.iterdir()] == ["bundle"]
    write_bundle(tmp_path / "empty", KIND, {}, {})
    assert read_bundle(tmp_path / "empty", KIND)[0] == {}


def test_digest_sees_names_shapes_types_and_bytes() -> None:
    others = [
        {"a": {"d": ARRAYS["a"]["b"]}, "c": ARRAYS["c"]},
        {"a": {"b": ARRAYS["a"]["b"].reshape(3, 2)}, "c": ARRAYS["c"]},
        {"a": {"b": ARRAYS["a"]["b"].astype(np.float64)}, "c": ARRAYS["c"]},
        {"a": {"b": np.nextafter(ARRAYS["a"]["b"], 9, dtype=np.float32)}, "c": ARRAYS["c"]},
    ]
    assert len({arrays_digest(tree) for tree in (ARRAYS, *others)}) == 5
    assert arrays_digest(ARRAYS) == arrays_digest(jax.tree.map(np.array, ARRAYS))


def corrupt(folder: Path) -> None:
    """Flip a bit in the middle of every data file; some of them are copies of others."""
    for file in (folder / "arrays").rglob("d/*"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0x10
        file.write_bytes(bytes(content))


def edit_record(folder: Path, **changes: Any) -> None:
    """Write lies that are no accident: the seal is right."""
    record = json.loads((folder / "record.json").read_text()) | changes
    (folder / "record.json").write_text(json.dumps(record | {"seal": seal(record)}))


def drop_from_record(folder: Path, key: str) -> None:
    record = json.loads((folder / "record.json").read_text())
    del record[key]
    (folder / "record.json").write_text(json.dumps(record | {"seal": seal(record)}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no test .it has no record.json"),
        (lambda f: (f / "record.json").unlink(), "no test .it has no record.json"),
        (lambda f: (f / "record.json").write_text("{"), "record.json: cannot be read"),
        (lambda f: (f / "record.json").write_bytes(b"\xff\xfe"), "record.json: cannot be read"),
        (lambda f: (f / "record.json").write_text("[]"), "wanted a test, found something else"),
        (lambda f: edit_record(f, format="mpp-jax-model"), "wanted a test, found mpp-jax-model"),
        (lambda f: edit_record(f, version=9), "test of version 9, want 2"),
        (lambda f: drop_from_record(f, "arrays_sha256"), "no checksum"),
        (lambda f: shutil.rmtree(f / "arrays"), "its arrays cannot be read"),
        (corrupt, "its arrays (cannot be read|do not match their checksum)"),
        (lambda f: edit_record(f, arrays_sha256="0" * 64), "do not match their checksum"),
    ],
)
def test_damaged_bundles_say_so(tmp_path: Path, damage: Any, message: str) -> None:
    place = tmp_path / "bundle"
    write_bundle(place, KIND, ARRAYS, {})
    damage(place)
    with pytest.raises(BundleError, match=message) as caught:
        read_bundle(place, KIND)
    assert "\n" not in str(caught.value)


def test_what_is_not_a_bundle_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("dear")
    write_bundle(tmp_path / "other", "mpp-jax-other", ARRAYS, {})
    before = tree_bytes(tmp_path)
    for place in ("folder", "file", "other", "file/below"):
        with pytest.raises(BundleError, match="give a new folder"):
            write_bundle(tmp_path / place, KIND, ARRAYS, {})
        with pytest.raises(BundleError):
            check_place(tmp_path / place, KIND)
    assert tree_bytes(tmp_path) == before
    (tmp_path / "empty").mkdir()
    write_bundle(tmp_path / "empty", KIND, ARRAYS, {})


# ------------------------------------------------------------------------------ models


def test_model_round_trip(done: Finished, tmp_path: Path) -> None:
    first = done.model
    save_model(tmp_path / "model", first)
    again = open_model(tmp_path / "model")
    assert again.provenance == first.provenance
    assert (again.classes, again.primary) == (("blue", "green", "red"), "mpp")
    assert tuple(again.svms) == METHODS
    assert arrays_digest(again.svms) == arrays_digest(first.svms)
    assert arrays_digest(again.codebook) == arrays_digest(first.codebook)
    assert jax.tree.structure(again.codebook) == jax.tree.structure(first.codebook)
    assert "svms" not in repr(again)  # thousands of numbers help nobody


def test_codebook_round_trip(done: Finished, tmp_path: Path) -> None:
    codebooks, made = load_codebooks(done.out / "codebook")
    (codebook,) = codebooks.values()
    for flags in ((False, False), (True, False), (True, True)):
        marked = replace(codebook, l2_before=flags[0], l2_after=flags[1])
        save_codebooks(tmp_path / "book", {"default.fisher": marked, "pool5.x": codebook}, made)
        read, record = load_codebooks(tmp_path / "book")
        assert set(read) == {"default.fisher", "pool5.x"}
        again = read["default.fisher"]
        assert (again.l2_before, again.l2_after) == flags
        assert record == made
        assert arrays_digest(again) == arrays_digest(codebook)
    save_codebooks(tmp_path / "book", {}, made)
    assert load_codebooks(tmp_path / "book") == ({}, made)


def test_predictions_are_the_stored_scores(done: Finished, model: Model) -> None:
    """The same pictures, from files, arrays and one batch: the scores of the evaluation."""
    items = done.store.items("test")
    paths = [done.data / item.id for item in items]
    for method in METHODS:
        wanted = np.asarray(svm_scores(model.svms[method], done.store.vectors(method, "test")))
        ours = model.predict(paths, method)
        # One representation alone is another program than all together: last digits may differ.
        np.testing.assert_allclose(ours.scores, wanted, atol=5e-6)
        assert ours.skipped == ()
    arrays = [decode_picture(path) for path in paths]
    wanted = model.predict(paths).scores
    np.testing.assert_array_equal(model.predict(arrays).scores, wanted)
    batch = np.full((2, 60, 44, 3), 77, np.uint8)
    assert model.predict(batch).scores.shape == (2, 3)
    assert model.predict([]).scores.shape == (0, 3)


def test_ranking(model: Model, done: Finished) -> None:
    prediction = model.predict([done.data / "test/red/00.png"], "fc7")
    ranked = prediction.ranked(0)
    assert ranked[0][0] == "red"
    assert [score for _, score in ranked] == sorted(prediction.scores[0], reverse=True)
    assert {name for name, _ in ranked} == {"blue", "green", "red"}
    assert prediction.ranked(0, 2) == ranked[:2]


def test_unreadable_pictures_do_not_stop_a_prediction(
    model: Model, done: Finished, tmp_path: Path
) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    good = done.data / "test/red/00.png"
    ours = model.predict([tmp_path / "empty.jpg", good, tmp_path / "none.jpg"])
    assert [entry.position for entry in ours.skipped] == [0, 2]
    assert "empty file" in ours.skipped[0].reason
    assert "no such file" in ours.skipped[1].reason
    assert np.isnan(ours.scores[[0, 2]]).all()
    assert ours.ranked(0) == []
    np.testing.assert_array_equal(ours.scores[1], model.predict([good]).scores[0])


def test_encodings_that_are_not_finite_are_named(model: Model, done: Finished) -> None:
    assert model.network is not None
    broken = jax.tree.map(lambda leaf: leaf * np.float32(1e30), model.network)
    ours = replace(model, network=broken).predict([done.data / "test/red/00.png"], "avg")
    path = str(done.data / "test/red/00.png")
    assert ours.skipped == (Skipped(0, path, "encoding is not finite"),)
    assert ours.ranked(0) == []


@pytest.mark.parametrize(
    ("pictures", "method", "error", "message"),
    [
        ("a.jpg", None, TypeError, "pictures must be a sequence of pictures, got one: 'a.jpg'"),
        (["a.jpg"], "vlad", ValueError, "method: the model knows mpp, nfk, .*, not 'vlad'"),
        ([np.zeros((4, 4), np.uint8)], None, ValueError, r"must be \(H, W, 3\) uint8 RGB"),
        ([np.zeros((4, 4, 3))], None, ValueError, r"must be \(H, W, 3\) uint8 RGB.*float64"),
    ],
)
def test_predict_refuses(
    model: Model, pictures: Any, method: str | None, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        model.predict(pictures, method)


def test_a_model_without_its_network_says_so(done: Finished) -> None:
    with pytest.raises(ValueError, match="opened without its network; use load_model"):
        done.model.predict(["a.jpg"])


# ------------------------------------------------------------------------------ strangers


def test_other_weights_are_refused(done: Finished, tmp_path: Path) -> None:
    other = toy.write_weights(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(BundleError, match=r"made with toy weights of sha256 \w{12}\.\.\., the"):
        load_model(done.out / "model", other)
    # The recorded file serves unless another is named.
    assert load_model(done.out / "model").network is not None
    copy = Path(shutil.copy(done.weights, tmp_path / "moved.safetensors"))
    assert load_model(done.out / "model", copy).network is not None


def test_other_networks_are_refused(
    done: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = replace(toy.TOY, name="toy2")
    with pytest.raises(BundleError, match="made with network 'toy', not 'toy2'"):
        done.model.provenance.check_network(replace(done.network, spec=spec))
    monkeypatch.delitem(NETWORKS, "toy")
    with pytest.raises(ValueError, match="network: 'toy' is unknown"):
        load_model(done.out / "model")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: drop_from_record(f, "classes"), "record.json: damaged .no entry 'classes'"),
        (lambda f: drop_from_record(f, "config"), "damaged .no entry 'config'"),
        (lambda f: drop_from_record(f, "network"), "damaged .*'network'"),
        (lambda f: edit_record(f, config={"seed": -1}), "damaged .seed and cache_bytes"),
        (lambda f: edit_record(f, config=None), "damaged"),
        (lambda f: edit_record(f, primary="vlad"), "do not fit its arrays"),
        (lambda f: edit_record(f, classes=["a", "b"]), "do not fit its arrays"),
        (lambda f: edit_record(f, methods=["vlad"]), "damaged .no entry 'vlad'"),
        (lambda f: edit_record(f, codebooks={"other": {}}), "damaged"),
        (corrupt, "its arrays"),
    ],
)
def test_damaged_models_say_so(done: Finished, tmp_path: Path, damage: Any, message: str) -> None:
    place = tmp_path / "model"
    shutil.copytree(done.out / "model", place)
    damage(place)
    with pytest.raises(BundleError, match=message) as caught:
        open_model(place)
    assert "\n" not in str(caught.value)


def test_a_codebook_is_no_model(done: Finished) -> None:
    with pytest.raises(BundleError, match="wanted a model, found mpp-jax-codebook"):
        open_model(done.out / "codebook")
    with pytest.raises(BundleError, match="wanted a codebook, found mpp-jax-model"):
        load_codebooks(done.out / "model")
