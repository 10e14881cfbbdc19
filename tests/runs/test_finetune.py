"""Codebooks that are trained further: by the library, and by the commands that take them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.toy_cli import ok, refused
from helpers.toy_run import CONFIG, OPTIONS, Finished, quiet

from mpp_jax.describe.disk_cache import DiskCache
from mpp_jax.runs.finetune import Training, TrainingSet, train_layer
from mpp_jax.runs.provenance import load_codebooks
from mpp_jax.stats.codebook import Codebook
from mpp_jax.storage.store import Store

pytestmark = pytest.mark.usefixtures("toy_known")
SCALES = CONFIG.pyramid.scales
KEY = "default.fisher"


def fitted(done: Finished) -> Codebook:
    return load_codebooks(done.out / "codebook")[0][KEY]


def pictures(done: Finished, cache: Path, room: int = 1 << 20) -> TrainingSet:
    activations = DiskCache(cache, done.network, CONFIG.pyramid)
    items = done.dataset.split("train")
    return TrainingSet(activations, items, 3, "default", SCALES, room)


def test_the_loss_falls_and_memory_does_not_matter(done: Finished, tmp_path: Path) -> None:
    training = Training(epochs=4, warm_up=40, batch=8, reach=0.02)
    layer, losses = train_layer(fitted(done), pictures(done, tmp_path / "c"), training, quiet())
    assert len(losses) == 5
    assert losses[-1] < losses[0]
    assert not np.asarray(layer.scales).any()  # no codebook holds them
    # Read again in each epoch: the same numbers.
    again, _ = train_layer(fitted(done), pictures(done, tmp_path / "c", room=0), training, quiet())
    np.testing.assert_array_equal(again.means, layer.means)
    still, first = train_layer(
        fitted(done), pictures(done, tmp_path / "c"), replace(training, epochs=0), quiet()
    )
    np.testing.assert_array_equal(still.means, fitted(done).gmm.means)
    assert first == losses[:1]


def test_pictures_that_cannot_be_read_are_left_out(done: Finished, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    items = done.dataset.split("train")[:4]
    items = (items[0], replace(items[1], path=broken), *items[2:])
    given = TrainingSet(
        DiskCache(tmp_path / "c", done.network, CONFIG.pyramid), items, 3, "default", SCALES, 0
    )
    for _ in range(2):
        parts, targets = given.batch([0, 1, 2], 4)
        assert [p.mask[:, 0].tolist() for p in parts] == [[True, True, False, False]] * 3
        assert np.abs(targets).sum(axis=1).tolist() == [3, 3, 0, 0]
        assert given.skipped == {1}
    # Also where they are all that a step would see: of two steps one has the only picture.
    given.items = (items[0], *[replace(items[1], id=f"{n}", path=broken) for n in range(15)])
    given.targets, given.skipped = np.repeat(given.targets[:1], 16, axis=0), set()
    training = Training(epochs=1, warm_up=4, batch=8)
    _, losses = train_layer(fitted(done), given, training, quiet())
    assert np.isfinite(losses).all()
    assert given.skipped == {*range(1, 16)}
    given.skipped.add(0)
    with pytest.raises(ValueError, match="no training picture can be read"):
        train_layer(fitted(done), given, training, quiet())


def test_commands_take_a_trained_codebook_as_any(done: Finished, tmp_path: Path) -> None:
    kept, book, store = tmp_path / "kept", tmp_path / "book", tmp_path / "store"
    options = [*OPTIONS, "--weights", done.weights, "--pooling", "mpp,nfk"]
    made = ok("fit", done.data, "--out", book, *options, "--cache", kept, "--finetune", 2)
    assert f"codebook {KEY}: trained for 2 epochs; mean hinge loss" in made.stderr
    codebooks, provenance = load_codebooks(book)
    assert provenance.config.encoder.finetune == 2
    assert np.abs(codebooks[KEY].gmm.means - fitted(done).gmm.means).max() > 1e-6
    assert float(np.sum(codebooks[KEY].gmm.weights)) == pytest.approx(1, abs=1e-5)
    # The same settings: it is taken, not trained again. Others: it is not.
    again = ok("fit", done.data, "--out", book, *options, "--cache", kept, "--finetune", 2)
    assert "codebook: taken from" in again.stderr
    ok("encode", done.data, "--codebook", book, "--out", store, "--weights", done.weights)
    assert Store.open(store).methods == ("mpp", "nfk")
    ok("train", store, "--out", tmp_path / "model")
    message = refused("fit", done.data, "--out", tmp_path / "b", *options, "--finetune", 2)
    assert "keep them with --cache FOLDER" in message
    options[-1] = "mop"
    bare = ["--cache", kept, "--finetune", 1, "--scales", "1-5"]
    message = refused("run", done.data, "--out", tmp_path / "r", *options, *bare)
    assert "mop read no Gaussian mixture" in message


def test_corrected_labels_are_noticed(done: Finished, tmp_path: Path) -> None:
    """A trained codebook rests on them; one that is only fitted does not."""
    table, out = tmp_path / "list.csv", tmp_path / "out"
    paths = [*sorted((done.data / "train").rglob("*.png")), *done.data.glob("test/*/*.png")]
    rows = [[str(path), path.parent.name, path.parent.parent.name] for path in paths]
    run = ["run", table, "--out", out, *OPTIONS, "--weights", done.weights, "--pooling", "mpp"]
    run += ["--cache", tmp_path / "kept"]

    def write() -> None:
        table.write_text("\n".join(",".join(row) for row in rows) + "\n")

    write()
    ok(*run, "--finetune", 1)
    rows[0][1] = "red"  # it was blue
    write()
    line = refused(*run, "--finetune", 1)
    assert f"1 training pictures have other labels now ({rows[0][0]} for one), and its" in line
    shutil.rmtree(out / "encodings")
    said = ok(*run, "--finetune", 1).stderr
    assert f"1 training pictures have other labels now ({rows[0][0]} for one); it is fitt" in said
    assert "codebook: taken from" in ok(*run, "--finetune", 1).stderr
    assert "labels" not in json.loads((done.out / "codebook" / "record.json").read_text())
