"""Stores that cannot be used as asked: each refusal names what to mend."""

import os

import numpy as np
import pytest
from helpers.store_samples import (
    complete,
    dataset,
    fill,
    refusal,
    vectors_of,
    writer_of,
)

from mpp_jax.data import Dataset, Item
from mpp_jax.storage.store import SHARD_SIZE, Store, StoreWriter


@pytest.fixture
def finished(tmp_path):
    path = tmp_path / "finished"
    fill(writer_of(path))
    return path


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": "caffenet"}, ['network was "squeezenet", now "caffenet"']),
        ({"weights_sha256": "beef"}, ['weights_sha256 was "e4ab"']),
        ({"codebook_sha256": None}, ["codebook_sha256", "now null"]),
        ({"methods": ("mpp",)}, ['methods was ["fc7", "mpp"], now ["mpp"]']),
        ({"shard_size": 5}, ["shard_size was 4, now 5"]),
        (
            {"config": {"scales": (1, 2), "encoder": {"components": 64, "pca": 128}, "seed": 0}},
            [
                "config.encoder.components was 256, now 64",
                "config.scales was [1, 2, 3], now [1, 2]",
            ],
        ),
        ({"config": {}}, ["config.seed was 0, now null"]),
    ],
)
def test_another_configuration_is_refused_and_named(finished, changes, words):
    before = {name: (finished / name).read_bytes() for name in os.listdir(finished)}
    message = refusal(writer_of, finished, **changes)
    assert "made with another configuration" in message
    for word in words:
        assert word in message
    if changes.get("config"):
        assert "pca" not in message
    assert {name: (finished / name).read_bytes() for name in os.listdir(finished)} == before


def test_folders_that_are_no_store(tmp_path):
    assert "no encodings here" in refusal(Store.open, tmp_path / "absent")
    assert "no encodings here" in refusal(Store.open, tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    assert "not empty and no store" in refusal(writer_of, tmp_path / "full")
    (tmp_path / "file").write_text("x")
    assert "is a file" in refusal(writer_of, tmp_path / "file")
    assert "no encodings here" in refusal(Store.open, tmp_path / "file")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"format": "other"}',
        '{"format": "mpp-jax-store", "version": 1}',
        '{"format": "mpp-jax-store", "version": 1, "items": [{"id": "x"}]}',
        '{"format": "mpp-jax-store", "version": 2}',
        "\udcff",
    ],
)
def test_damaged_manifests(tmp_path, text):
    (tmp_path / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "not a manifest of encodings, or damaged" in refusal(Store.open, tmp_path)
    assert "damaged" in refusal(writer_of, tmp_path)


def test_a_newer_version_is_refused(finished):
    path = finished / "manifest.json"
    path.write_text(path.read_text().replace('"version": 2', '"version": 3'))
    assert "store version 3, this program reads 2 and 1" in refusal(Store.open, finished)


def test_unknown_methods_and_splits(finished):
    store = Store.open(finished)
    assert "no encodings 'vlad'; there are fc7, mpp" in refusal(store.vectors, "vlad", "train")
    assert "no encodings 'vlad'" in refusal(store.vectors, "mpp+vlad", "train")
    assert "split must be one of train, test" in refusal(store.vectors, "mpp", "val")


def test_wrong_use_of_the_writer(tmp_path):
    for bad in ("a+b", "a/b", "", ".x"):
        with pytest.raises(ValueError, match="bad method name"):
            writer_of(tmp_path / "s", methods=(bad,))
    with pytest.raises(ValueError, match="methods must be"):
        writer_of(tmp_path / "s", methods=("a", "a"))
    with pytest.raises(ValueError, match="methods must be"):
        writer_of(tmp_path / "s", methods=())
    with pytest.raises(ValueError, match="shard_size"):
        writer_of(tmp_path / "s", shard_size=0)
    twice = Dataset("x", ("a",), (Item("i", (0,), "train"),) * 2)
    with pytest.raises(ValueError, match="repeated item ids"):
        writer_of(tmp_path / "s", twice)
    assert not (tmp_path / "s").exists()

    writer = writer_of(tmp_path / "s")
    item, other = writer.remaining[:2]
    good = vectors_of([item])
    with pytest.raises(ValueError, match="vectors for"):
        writer.put([item], {"mpp": good["mpp"]})
    with pytest.raises(ValueError, match=r"must be \(2, 'D'\), got \(1, 3\)"):
        writer.put([item, other], good)
    writer.put([item], good)
    with pytest.raises(ValueError, match="finished before"):
        writer.put([item], good)
    with pytest.raises(ValueError, match=r"must be \(1, 5\), got \(1, 4\)"):
        writer.put([other], good | {"mpp": np.zeros((1, 4))})
    with pytest.raises(ValueError, match="no item 'stranger'"):
        writer.skip(Item("stranger", (), "train"), "why")


def test_default_shard_size(tmp_path):
    writer = StoreWriter(
        tmp_path / "s",
        dataset(300, 1),
        methods=["mpp"],
        network="n",
        weights_sha256="w",
        codebook_sha256=None,
        config={},
    )
    assert writer.shard_size == SHARD_SIZE == 256
    writer.put(writer.remaining[:256], {"mpp": np.eye(256, 2, dtype=np.float32)})
    assert not complete(tmp_path / "s")
    assert (tmp_path / "s" / "shard-00000.mpp.npy").exists()
