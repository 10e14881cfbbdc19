"""Indices: NumPy-readable, close to exact search, honest about how close; and retrieval figures."""

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.large_store import METHOD, made_of, write_store

from mpp_jax.config import Svm
from mpp_jax.runs.indexing import Plan, make_index, measure_recall
from mpp_jax.runs.provenance import CODEBOOK_OF_STORE, save_codebooks
from mpp_jax.runs.retrieval import retrieval_figures
from mpp_jax.runs.search import StoredVectors, nearest
from mpp_jax.storage.index import BadIndexError, Index
from mpp_jax.storage.store import Store
from mpp_jax.storage.verify import verify

TRAIN, TEST, DIMENSION = 300, 40, 24


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """340 overlapping vectors of three classes, with what search wants beside them."""
    folder = tmp_path_factory.mktemp("vectors") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mpp_jax.runs.provenance.check_store", lambda *_: None)
        store = write_store(folder, TRAIN, DIMENSION, test=TEST, shard_size=64)
    save_codebooks(folder / CODEBOOK_OF_STORE, {}, made_of(Svm()))
    return store


@pytest.fixture(autouse=True)
def taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The synthetic store was encoded by nothing."""
    monkeypatch.setattr("mpp_jax.runs.provenance.check_store", lambda *_: None)


def stored(store: Store) -> np.ndarray:
    return np.concatenate([store.vectors(METHOD, split) for split in ("train", "test")])


def test_an_index_is_what_numpy_says(store: Store, tmp_path: Path) -> None:
    found = make_index(store, METHOD, tmp_path / "i", Plan(pca=8, whiten=True, queries=20))
    folder, x = tmp_path / "i", stored(store)
    mean, components = np.load(folder / "mean.npy"), np.load(folder / "components.npy")
    y = (x - mean) @ components.T
    spread = np.std(y[:TRAIN], axis=0, ddof=1)
    np.testing.assert_allclose(spread, 1, rtol=1e-3)  # whitened on the training pictures
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    vectors = np.load(folder / "vectors.npy")
    assert vectors.dtype == np.float16
    np.testing.assert_allclose(vectors, y, atol=1e-3)
    np.testing.assert_allclose(np.concatenate(list(found.blocks())), y, atol=1e-3)
    items = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    assert items[0] == ["train/0.jpg", "train", [0], []]
    assert len(items) == TRAIN + TEST
    # Its neighbours are those among its own vectors.
    query = x[[5]]
    order = np.argsort(-(y @ y[5]), kind="stable")[:4]
    assert [n.entry.id for n in nearest(found, query, 4)[0]] == [items[i][0] for i in order]
    assert nearest(found, query, 1)[0][0].entry.id == "train/5.jpg"
    record = json.loads((folder / "index.json").read_text())
    assert (record["dimension"], record["compressed"], record["bytes"]) == (DIMENSION, 8, 16)
    assert record["pictures"] == {"train": TRAIN, "test": TEST}
    # Again: the same bytes, in the place of the first.
    again = make_index(store, METHOD, tmp_path / "i", Plan(pca=8, whiten=True, queries=20))
    assert again.record == found.record


def test_recall_is_the_share_of_exact_neighbours(store: Store, tmp_path: Path) -> None:
    found = make_index(store, METHOD, tmp_path / "i", Plan(pca=6, queries=TEST))
    x, y = stored(store), np.concatenate(list(found.blocks()))
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    shares = []
    for i in range(TRAIN, TRAIN + TEST):
        exact, close = (
            [j for j in np.argsort(-(v @ q), kind="stable") if j != i][:10]
            for v, q in ((x, x[i]), (y, found.project(x[[i]])[0]))
        )
        shares.append(len(set(exact) & set(close)) / 10)
    recall = found.record["recall"]
    assert recall["queries"] == TEST
    assert recall["at"]["10"] == pytest.approx(np.mean(shares), abs=0.01)
    assert 0.2 < recall["at"]["10"] < 0.9
    # All dimensions, not whitened: nearly nothing is lost.
    whole = make_index(store, METHOD, tmp_path / "w", Plan(pca=DIMENSION, queries=9))
    assert whole.record["recall"]["at"]["10"] > 0.85
    exact = StoredVectors(store, METHOD)
    assert measure_recall(exact, exact, 10, 0)["at"] == {"1": 1.0, "10": 1.0, "100": 1.0}


def test_quantised_by_faiss_and_read_without(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    found = make_index(store, METHOD, tmp_path / "i", Plan(pca=9, quantise=4, queries=20))
    codes, centroids = (np.load(tmp_path / "i" / f"{n}.npy") for n in ("codes", "centroids"))
    assert (codes.shape, codes.dtype, centroids.shape) == ((340, 4), np.uint8, (4, 256, 2))
    y = found.project(stored(store))
    # Each part has the code of its nearest centroid.
    parts = y.reshape(-1, 4, 1, 2) - centroids[None]
    np.testing.assert_array_equal(codes, (parts**2).sum(axis=-1).argmin(axis=-1))
    monkeypatch.setattr(builtins, "__import__", without("faiss"))
    decoded = np.stack([centroids[m, codes[:, m]] for m in range(4)], axis=1).reshape(-1, 8)
    again = Index.open(tmp_path / "i")
    np.testing.assert_array_equal(np.concatenate(list(again.blocks())), decoded)
    assert again.record["bytes"] == 4
    assert nearest(again, stored(store)[:2], 3)


def without(name: str) -> Any:
    """Return an import that does not know a package."""
    known = builtins.__import__

    def imported(wanted: str, *rest: Any, **named: Any) -> Any:
        if wanted == name:
            raise ImportError(f"No module named {name!r}")
        return known(wanted, *rest, **named)

    return imported


def test_what_cannot_be_is_said(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="4 bytes need 256 pictures at least"):
        make_index(store, METHOD, tmp_path / "i", Plan(quantise=4, samples=100))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(BadIndexError, match="not empty, and no earlier index"):
        make_index(store, METHOD, tmp_path / "mine", Plan())
    with pytest.raises(ValueError, match="pca must be at least 1, got 0"):
        Plan(pca=0)
    monkeypatch.setattr(builtins, "__import__", without("faiss"))
    with pytest.raises(ValueError, match=r"needs faiss, which is not installed; pip install 'mpp"):
        make_index(store, METHOD, tmp_path / "i", Plan(quantise=4))
    assert not (tmp_path / "i").exists()


@pytest.mark.parametrize("name", ["vectors.npy", "items.jsonl", "mean.npy", "index.json"])
def test_a_flipped_bit_is_found(store: Store, tmp_path: Path, name: str) -> None:
    make_index(store, METHOD, tmp_path / "i", Plan(pca=4, queries=5))
    file = tmp_path / "i" / name
    sound = [*verify(tmp_path / "i")]
    assert len(sound) > 5
    assert not any(finding.problem for finding in sound)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(BadIndexError, match=rf"{name}: (damaged|cannot be read)"):
        Index.open(tmp_path / "i")
    assert [f.place for f in verify(tmp_path / "i") if f.problem] == [file]


def average_precision(similarity: np.ndarray, relevant: np.ndarray) -> float:
    hits = relevant[np.argsort(-similarity, kind="stable")]
    ranks = np.flatnonzero(hits) + 1
    return float(np.mean(np.arange(1, len(ranks) + 1) / ranks))


def test_figures_of_test_pictures_among_training_pictures(store: Store) -> None:
    train, test = (store.vectors(METHOD, split) for split in ("train", "test"))
    labels = {split: store.labels(split) for split in ("train", "test")}
    each = [
        average_precision(train @ q, labels["train"] == label)
        for q, label in zip(test, labels["test"], strict=True)
    ]
    want = [np.mean(np.array(each)[labels["test"] == label]) for label in range(3)]
    found = retrieval_figures(StoredVectors(store, METHOD))
    assert list(found.per_class.values()) == pytest.approx(want, abs=1e-6)
    assert found.mean == pytest.approx(np.mean(want), abs=1e-6)
    assert (found.queries, found.ranked, found.leave_one_out) == (TEST, TRAIN, False)
    assert retrieval_figures(StoredVectors(store, METHOD), queries=7).queries == 7


def test_figures_leave_one_out_of_several_labels(tmp_path: Path) -> None:
    """Oneself does not count, and neither does a picture in which the class is unclear."""
    store = write_store(tmp_path / "s", 30, 8, multi_label=True)
    x, targets = store.vectors(METHOD, "train"), store.targets("train")
    assert (targets == 0).any()
    found = retrieval_figures(StoredVectors(store, METHOD))
    assert (found.queries, found.ranked, found.leave_one_out) == (30, 29, True)
    for label, name in enumerate(store.classes):
        each = []
        for i in np.flatnonzero(targets[:, label] == 1):
            kept = (targets[:, label] != 0) & (np.arange(30) != i)
            each.append(average_precision(x[kept] @ x[i], targets[kept, label] == 1))
        assert found.per_class[name] == pytest.approx(np.mean(each), abs=1e-6)


def test_figures_of_an_index(store: Store, tmp_path: Path) -> None:
    found = make_index(store, METHOD, tmp_path / "i", Plan(pca=DIMENSION, queries=5))
    exact, close = (retrieval_figures(s) for s in (StoredVectors(store, METHOD), found))
    assert close.mean == pytest.approx(exact.mean, abs=0.05)  # centred, rounded
    with pytest.raises(ValueError, match="figures need labelled pictures"):
        retrieval_figures(Unlabelled(store))


class Unlabelled(StoredVectors):
    def __init__(self, store: Store) -> None:
        super().__init__(store, METHOD)
        self.classes = ()
