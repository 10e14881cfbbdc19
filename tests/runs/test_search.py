"""Nearest stored encodings against brute force."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import toy
from helpers.large_store import write_store
from helpers.toy_run import Finished

from mpp_jax.runs.search import StoredVectors, nearest, nearest_rows, similarities
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
    found = nearest(StoredVectors(store, method), queries, top)
    norms = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(stored, axis=1)[None, :]
    similarity = queries @ stored.T / norms
    assert [len(row) for row in found] == [min(top, 24)] * 2
    for row, values in zip(found, similarity, strict=True):
        order = np.argsort(-values)[:top]
        assert [n.entry.id for n in row] == [items[i].id for i in order]
        np.testing.assert_allclose([n.similarity for n in row], values[order], atol=1e-5)
    assert (found[0][0].entry.id, found[1][0].entry.id) == (items[3].id, items[20].id)


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
    (row,) = nearest(StoredVectors(store, "m"), np.array([[2.0, 0.0]]), 10)
    assert [(n.entry.id, round(n.similarity, 6)) for n in row] == [
        ("001", 1.0),
        ("003", 1.0),
        ("000", 0.0),
        ("002", 0.0),
    ]
    assert nearest(StoredVectors(store, "m"), np.zeros((0, 2)), 3) == []
    with pytest.raises(ValueError, match=r"queries must be \(N, 2\) vectors of m, got \(1, 3\)"):
        nearest(StoredVectors(store, "m"), np.zeros((1, 3)))
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        nearest(StoredVectors(store, "m"), np.zeros((1, 2)), 0)
    with pytest.raises(StoreError, match="no encodings 'other'; there are m"):
        StoredVectors(store, "other")


def test_blocks_of_any_sizes_compile_little(tmp_path: Path) -> None:
    """The same neighbours however the vectors are cut, ties in their order, few programs."""
    rng = np.random.default_rng(0)
    stored = rng.normal(size=(300, 6)).astype(np.float32)
    stored[250] = 2 * stored[7]  # as similar to everything
    queries = rng.normal(size=(4, 6)).astype(np.float32)
    whole = nearest_rows(queries, iter([stored]), 20)
    for cuts in ([1, 2, 3], [100, 200], list(range(10, 300, 10))):
        pieces = np.split(stored, cuts)
        place, similarity = nearest_rows(queries, iter(pieces), 20)
        np.testing.assert_array_equal(place, whole[0])
        np.testing.assert_allclose(similarity, whole[1], atol=1e-6)
    seven = nearest_rows(stored[[7]], iter([stored]), 2)[0]
    assert seven.tolist() == [[7, 250]]
    place, _ = nearest_rows(queries, iter([stored[:3]]), 5)
    assert (place[:, 3:] == -1).all()
    all_of_them = similarities(queries, iter(np.split(stored, [10, 20])))
    best = np.take_along_axis(all_of_them, whole[0], axis=1)
    np.testing.assert_allclose(best, whole[1], atol=1e-6)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_pictures(tmp_path: Path) -> None:
    """Ten times as many vectors (400 MB of them) take no more memory to search."""
    few, many = searched_peak(tmp_path / "a", 1000), searched_peak(tmp_path / "b", 10_000)
    assert many < few + 60e6


CHILD = """
import resource, sys
import numpy as np
from mpp_jax.runs.search import StoredVectors, nearest
from mpp_jax.storage.store import Store
peak = lambda: 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
searched = StoredVectors(Store.open(sys.argv[1]), "avg")
nearest(searched, np.ones((4, 10_000), np.float32), 10)
print(peak())
"""


def searched_peak(folder: Path, pictures: int) -> float:
    write_store(folder, pictures, 10_000)
    run = [sys.executable, "-c", CHILD, str(folder)]
    return float(subprocess.run(run, check=True, capture_output=True, timeout=600).stdout)
