"""The stages together: parts against whole, caches, interruption, and what the figures mean."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers.toy_run import (
    CONFIG,
    METHODS,
    Finished,
    assert_same_run,
    codebook_digest,
    quiet,
    store_bytes,
    svm_digest,
    tree_bytes,
)

from mpp_jax.cli import stages
from mpp_jax.data import DataError, decode_picture, open_dataset
from mpp_jax.describe.dense import dense_descriptors, describe_crops
from mpp_jax.describe.memory_cache import MemoryCache
from mpp_jax.pooling import pool
from mpp_jax.runs import pipeline
from mpp_jax.runs.model import open_model, save_model
from mpp_jax.runs.provenance import load_codebooks
from mpp_jax.storage.bundle import BundleError
from mpp_jax.storage.store import Store, StoreError

pytestmark = pytest.mark.usefixtures("toy_known")


def run(done: Finished, out: Path, **changes: Any) -> int:
    return stages.run(done.job(out, replace(CONFIG, **changes)), quiet())


# ------------------------------------------------------------------------------ what it computes


def test_vectors_are_those_of_the_python_interface(done: Finished) -> None:
    store = done.store
    codebooks, _ = load_codebooks(done.out / "codebook")
    assert [item.id for item in store.all_items] == [item.id for item in done.dataset.items]
    for split, row in (("train", 3), ("train", 14), ("test", 8)):
        pixels = decode_picture(done.dataset.split(split)[row].path)
        scales = dense_descriptors(done.network, pixels[None], scales=range(3))
        size = np.array([pixels.shape[:2]])
        (crops,) = describe_crops(done.network, pixels[None], size, count=5, flip=True)
        for method in METHODS:
            ours = store.vectors(method, split)[row]
            wanted = np.asarray(pool(method, scales, codebooks, crops=crops))[0]
            # Signed square roots of numbers near 0 carry their rounding up to here.
            np.testing.assert_allclose(ours, wanted, atol=2e-4, err_msg=method)
            assert np.linalg.norm(ours) == pytest.approx(1, abs=1e-5)


def test_figures_are_those_of_the_stored_vectors(done: Finished) -> None:
    store, model, table = done.store, done.model, done.metrics["results"]
    assert list(table) == sorted(METHODS)
    labels = np.array([item.labels[0] for item in store.items("test")])
    for method in METHODS:
        svm = model.svms[method]
        x = store.vectors(method, "test").astype(np.float64)
        scores = x @ np.asarray(svm.weights, np.float64).T + np.asarray(svm.bias)[None, :]
        right = scores.argmax(axis=1) == labels
        assert table[method]["top1"] == pytest.approx(right.mean())
        per_class = {name: right[labels == i].mean() for i, name in enumerate(store.classes)}
        assert table[method]["per_class"] == pytest.approx(per_class)
        assert table[method]["mean_class_accuracy"] == pytest.approx(
            np.mean(list(per_class.values()))
        )
        assert 0 < table[method]["map11"] <= 1
    # Colours are easy: random weights and a linear machine must tell them apart.
    assert table["fc7"]["top1"] == table["ap10"]["top1"] == 1.0


def test_metrics_state_the_run(done: Finished) -> None:
    metrics = done.metrics
    assert metrics["data"] == "data"
    assert metrics["network"] == "toy"
    assert metrics["weights_sha256"] == done.network.weights_sha256
    assert metrics["pictures"] == {"train": 15, "test": 9, "skipped": []}
    # The solver that "auto" took stands there, so that the settings repeat the run.
    taken = replace(CONFIG, svm=replace(CONFIG.svm, solver="gram"))
    assert type(CONFIG).from_dict(metrics["config"]) == taken
    assert json.loads((done.out / "config.json").read_text())["config"] == metrics["config"]
    for method, trained in metrics["training"].items():
        assert method in METHODS
        assert (trained["solver"], trained["c"], trained["folds"]) == ("gram", 10, None)
        assert 0 < trained["relative_gap"] <= 1e-3
    stages = ("describe training pictures", "fit PCA and mixture", "encode pictures")
    assert set(metrics["seconds"]) == {*stages, "train SVMs", "evaluate"}
    assert (done.out / "report.html").stat().st_size > 10_000


# ------------------------------------------------------------------------------ the same bytes


def test_run_equals_its_parts(done: Finished, tmp_path: Path) -> None:
    book, store, model, out = (tmp_path / name for name in ("book", "store", "model", "out"))
    assert stages.fit(done.job(book), quiet()) == 0
    assert codebook_digest(book) == codebook_digest(done.out / "codebook")
    assert stages.encode(done.dataset, book, store, quiet(), pooling=METHODS) == 0
    assert store_bytes(store) == store_bytes(done.out / "encodings")
    assert stages.train(store, model, quiet()) == 0
    assert svm_digest(model) == svm_digest(done.out / "model")
    ours, theirs = open_model(model), done.model
    assert ours.provenance == theirs.provenance
    assert (ours.classes, ours.primary) == (theirs.classes, theirs.primary)
    assert codebook_digest(store / "codebook") == codebook_digest(done.out / "codebook")
    assert stages.evaluate(model, store, out, quiet(), pictures=done.dataset) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    for key in ("data", "network", "weights_sha256", "config", "results", "pictures"):
        assert metrics[key] == done.metrics[key], key


@pytest.mark.parametrize("room", [0, 20_000])
def test_cache_does_not_show(done: Finished, tmp_path: Path, room: int) -> None:
    """Nothing, or a part, of the activations is kept between fitting and encoding."""
    kept = []
    offer = MemoryCache.offer

    def watched(self: Any, *batch: Any) -> None:
        offer(self, *batch)
        kept.append(len(self.batches))

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(MemoryCache, "offer", watched)
        assert run(done, tmp_path / "out", cache_bytes=room) == 0
    assert (max(kept, default=0) > 0) == (room > 0)
    assert max(kept, default=0) < 15
    assert_same_run(tmp_path / "out", done.out)


def test_two_runs_give_the_same_bytes(done: Finished, tmp_path: Path) -> None:
    assert run(done, tmp_path / "out") == 0
    assert_same_run(tmp_path / "out", done.out)


def test_larger_batches_change_rounding_only(done: Finished, tmp_path: Path) -> None:
    codebooks, _ = load_codebooks(done.out / "codebook")
    methods = ("mpp", "avg")
    config = replace(CONFIG, pooling=methods, pyramid=replace(CONFIG.pyramid, batch=3))
    folder = tmp_path / "store"
    store = pipeline.encode_dataset(
        done.dataset, done.network, codebooks, config, folder, watcher=quiet()
    )
    for method in methods:
        for split in ("train", "test"):
            np.testing.assert_allclose(
                store.vectors(method, split), done.store.vectors(method, split), atol=2e-4
            )


# ------------------------------------------------------------------------------ stored codebooks


class Fitted(Exception):
    """The codebook was fitted, not taken."""


@pytest.fixture
def fit_raises(done: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse to fit, once the finished run is there, whichever test asks for it first."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise Fitted

    monkeypatch.setattr(pipeline, "fit", refuse)


def changed(part: str, **values: Any) -> dict[str, Any]:
    return {part: replace(getattr(CONFIG, part), **values)}


@pytest.mark.usefixtures("fit_raises")
@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"dtype": "bfloat16"},
        changed("pyramid", scales=(0, 1)),
        changed("pyramid", layer="conv1"),
        changed("pyramid", resampling="bicubic"),
        changed("encoder", pca=5),
        changed("encoder", components=3),
        changed("encoder", samples=100),
        changed("encoder", l2="both"),
    ],
    ids=str,
)
def test_codebook_of_other_settings_is_not_taken(done: Finished, changes: dict) -> None:
    before = tree_bytes(done.out)
    with pytest.raises(Fitted):
        stages.fit(done.job(done.out / "codebook", replace(CONFIG, **changes)), quiet())
    # In a finished run it would take the encodings' codebook away: refused before any work.
    with pytest.raises(ValueError, match=r"holds a run of other settings: .* was .*, now "):
        run(done, done.out, **changes)
    assert tree_bytes(done.out) == before


@pytest.mark.usefixtures("fit_raises")
def test_codebook_of_the_same_settings_is_taken(done: Finished, tmp_path: Path) -> None:
    for changes in ({}, {"pooling": ("mpp",)}, changed("svm", c=1.0), {"cache_bytes": 0}):
        job = done.job(done.out / "codebook", replace(CONFIG, **changes))
        assert stages.fit(job, quiet()) == 0
    fewer = replace(job, data=open_dataset(done.data, limit_per_class=4), config=CONFIG)
    assert stages.fit(fewer, quiet()) == 0  # encodings rest on it
    alone = shutil.copytree(done.out / "codebook", tmp_path / "book")
    with pytest.raises(Fitted):
        stages.fit(replace(fewer, out=alone), quiet())


@pytest.mark.usefixtures("fit_raises")
def test_what_is_stored_under_other_settings_is_refused(done: Finished, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="made with another configuration: methods was"):
        run(done, done.out, pooling=("mpp",))
    other = replace(done.network, weights_sha256="f" * 64)
    with pytest.raises(ValueError, match="other settings: weights_sha256 was"):
        stages.run(done.job(done.out, network=other, weights=None), quiet())
    # A store of one codebook is not evaluated with the model of another.
    model = done.model
    assert model.codebook is not None
    pca = model.codebook.pca._replace(mean=model.codebook.pca.mean + 1)
    stranger = replace(model, codebooks={"default.fisher": replace(model.codebook, pca=pca)})
    save_model(tmp_path / "model", stranger)
    with pytest.raises(StoreError, match="encoded with other settings: codebook_sha256 was"):
        stages.evaluate(tmp_path / "model", done.store.path, tmp_path / "out", quiet())
    scales = replace(CONFIG, **changed("pyramid", scales=(0, 1)))
    save_model(
        tmp_path / "model", replace(model, provenance=replace(model.provenance, config=scales))
    )
    with pytest.raises(StoreError, match=r"other settings: pyramid.scales was \[0, 1\], now"):
        stages.evaluate(tmp_path / "model", done.store.path, tmp_path / "out", quiet())


# ------------------------------------------------------------------------------ early refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (changed("encoder", components=500), "200 descriptors of 16 .* --components 500"),
        (changed("encoder", samples=10**6, components=460), "450 descriptors .*--components 460"),
        (changed("encoder", pca=17), "16 dimensions cannot fit --pca 17"),
        (changed("pyramid", layer="conv9"), "'toy' has no layer 'conv9'"),
        (changed("pyramid", scales=(1, 2)), "'fc7' reads scale 1, which is not among 2, 3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hopeless_settings_are_refused_before_any_picture_is_read(
    done: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict, message: str
) -> None:
    def read(*arguments: Any, **options: Any) -> None:
        raise AssertionError("pictures were read")

    monkeypatch.setattr("mpp_jax.describe.extraction.describe_items", read)
    with pytest.raises(ValueError, match=message):
        run(done, tmp_path / "out", **changes)
    assert not list(tmp_path.iterdir())


def test_training_needs_every_class_and_more_than_one(done: Finished, tmp_path: Path) -> None:
    store = done.store
    _, made = load_codebooks(store.path / "codebook")
    whole = store.all_items
    store.all_items = whole[np.array(["/red/" not in name for name in whole.ids])]
    with pytest.raises(DataError, match="class 'red' has no training picture that could be read"):
        pipeline.train(store, {}, made, ("avg",), watcher=quiet())
    # Whichever of the two comes first: the class that lacks pictures is the one to mend.
    keep = next(name for name in store.classes if name != "red")
    store.all_items = whole[np.array([f"/{keep}/" in name for name in whole.ids])]
    with pytest.raises(DataError, match="has no training picture that could be read"):
        pipeline.train(store, {}, made, ("avg",), watcher=quiet())
    one = replace(done.dataset, classes=("all",))
    one = replace(one, items=tuple(replace(item, labels=(0,)) for item in one.items))
    config = replace(CONFIG, pooling=("avg",))
    single = pipeline.encode_dataset(one, done.network, {}, config, tmp_path / "s", watcher=quiet())
    with pytest.raises(DataError, match="class 'all' is that of every training picture"):
        pipeline.train(single, {}, made, ("avg",), watcher=quiet())


def test_representations_that_need_no_codebook_fit_none(done: Finished, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(done, out, pooling=("fc7", "ap10"), **changed("pyramid", scales=(0, 1, 2))) == 0
    assert not (out / "codebook").exists()
    assert Store.open(out / "encodings").manifest["codebook_sha256"] is None
    for method in ("fc7", "ap10"):
        for split in ("train", "test"):
            ours = Store.open(out / "encodings").vectors(method, split)
            np.testing.assert_array_equal(ours, done.store.vectors(method, split))
    # The parts as well: the store carries that there is no codebook.
    assert stages.train(out / "encodings", tmp_path / "model", quiet()) == 0
    assert svm_digest(tmp_path / "model") == svm_digest(out / "model")


def test_author_preset_runs(done: Finished, tmp_path: Path) -> None:
    config = replace(
        CONFIG,
        fidelity="author",
        pooling=("mpp", "csf"),
        pyramid=replace(CONFIG.pyramid, rounding="round", resampling="bicubic"),
        encoder=replace(CONFIG.encoder, l2="both", skip_first=True),
    )
    out = tmp_path / "out"
    assert stages.run(done.job(out, config, weights=None), quiet()) == 0
    store = Store.open(out / "encodings")
    size = 2 * 4 * 6
    assert (store.dimension("mpp"), store.dimension("csf")) == (size, 2 * size)
    codebooks, _ = load_codebooks(out / "codebook")
    pixels = decode_picture(done.dataset.items[0].path)
    scales = dense_descriptors(
        done.network, pixels[None], scales=range(3), rounding="round", resampling="bicubic"
    )
    wanted = pool("mpp", scales[1:], codebooks)
    np.testing.assert_allclose(store.vectors("mpp", "train")[:1], wanted, atol=2e-4)


def test_seconds_are_kept_where_a_stage_fails(done: Finished) -> None:
    watcher = quiet()
    config = replace(CONFIG, encoder=replace(CONFIG.encoder, components=100, samples=100))
    broken = jax.tree.map(lambda leaf: leaf * np.float32(1e30), done.network)
    with pytest.raises(ValueError, match="NaN or infinity: the network overflows"):
        pipeline.fit(done.dataset, broken, config, watcher=watcher)
    assert set(watcher.seconds) == {"describe training pictures", "fit PCA and mixture"}


def test_foreign_folders_are_left_alone(done: Finished, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("private")
    (tmp_path / "file").write_text("private")
    before = tree_bytes(tmp_path)
    for name, what in (("mine", "not empty"), ("file", "is a file"), ("file/x", "is a file")):
        place = tmp_path / name
        with pytest.raises(ValueError, match=what):
            run(done, place)
        with pytest.raises(BundleError, match=what):
            stages.fit(done.job(place), quiet())
        with pytest.raises(StoreError, match=what):
            stages.encode(done.dataset, done.out / "codebook", place, quiet())
        with pytest.raises(BundleError, match=what):
            stages.train(done.store.path, place, quiet())
    with pytest.raises(BundleError, match="is a file"):
        stages.evaluate(done.out / "model", done.store.path, tmp_path / "file", quiet())
    assert tree_bytes(tmp_path) == before
