"""Nearest stored encodings against brute force."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import toy
from helpers.toy_run import Finished

from mpp_jax.runs.search import nearest
from mpp_jax.storage.store import Store, StoreError, StoreWriter


@pytest.mark.parametrize("method", ["mpp", "mpp+avg"])
@pytest.mark.parametrize("top", [1, 5, 100])
def test_nearest_equals_brute_force(done: Finished, method: str, top: int) -> None:
    store = done.store
    rng = np.random.default_rng(0)
    items = [*store.items("train"), *store.items("test")]
    stored = np.concatenate([store.vectors(method, split) for split in ("train", "test")])
    # Of any length: the cosine does not see it.
    queries = stored[[3, 20]] * np.array([[7.0], [0.1]]) + rng.normal(0, 0.01, (2, stored.shape[1]))
    found = nearest(store, method, queries, top)
    norms = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(stored, axis=1)[None, :]
    similarity = queries @ stored.T / norms
    assert [len(row) for row in found] == [min(top, 24)] * 2
    for row, values in zip(found, similarity, strict=True):
        order = np.argsort(-values)[:top]
        assert [n.item.id for n in row] == [items[i].id for i in order]
        np.testing.assert_allclose([n.similarity for n in row], values[order], atol=1e-5)
    assert (found[0][0].item.id, found[1][0].item.id) == (items[3].id, items[20].id)


def test_zero_vectors_ties_and_skipped_pictures(tmp_path: Path) -> None:
    """A zero vector is like nothing; equals keep their order; what was skipped is absent."""
    pictures = [np.zeros((1, 1, 3), np.uint8)] * 5
    dataset = toy.memory_dataset(pictures)
    items = [*dataset.items[:3], *(replace(item, split="test") for item in dataset.items[3:])]
    dataset = replace(dataset, items=tuple(items))
    vectors = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0]], np.float32)
    with StoreWriter(
        tmp_path / "s",
        dataset,
        methods=["m"],
        network="toy",
        weights_sha256="0",
        codebook_sha256=None,
        config={},
        shard_size=2,
    ) as writer:
        writer.put(items[:4], {"m": vectors})
        writer.skip(items[4], "damaged")
    store = Store.open(tmp_path / "s")
    (row,) = nearest(store, "m", np.array([[2.0, 0.0]]), 10)
    assert [(n.item.id, round(n.similarity, 6)) for n in row] == [
        ("001", 1.0),
        ("003", 1.0),
        ("000", 0.0),
        ("002", 0.0),
    ]
    assert nearest(store, "m", np.zeros((0, 2)), 3) == []
    with pytest.raises(ValueError, match=r"queries must be \(N, 2\) vectors of m, got \(1, 3\)"):
        nearest(store, "m", np.zeros((1, 3)))
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        nearest(store, "m", np.zeros((1, 2)), 0)
    with pytest.raises(StoreError, match="no encodings 'other'; there are m"):
        nearest(store, "other", np.zeros((1, 2)))
