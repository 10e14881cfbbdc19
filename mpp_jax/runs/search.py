"""Nearest stored encodings of new pictures, by cosine similarity: <q, v> / (|q| |v|)."""

from typing import NamedTuple

import numpy as np

from mpp_jax.data.dataset import SPLITS
from mpp_jax.storage.store import Store, StoredItem


class Neighbour(NamedTuple):
    """A stored picture and its cosine similarity, in -1..1."""

    item: StoredItem
    similarity: float


def nearest(store: Store, method: str, queries: np.ndarray, top: int = 10) -> list[list[Neighbour]]:
    """Return the ``top`` most similar stored pictures of both splits for every query.

    Among equally similar ones the order is the data set's. The store is read shard by shard.

    Args:
        store: finished encodings.
        method: representation, or a stack ``a+b`` of stored ones.
        queries: (N, D) vectors of that representation, finite.
        top: neighbours wanted; fewer where the store holds fewer.

    Raises:
        StoreError: a representation that is not stored.
        ValueError: ``top`` below 1, or queries of another dimension.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    wanted = store.dimension(method)
    if queries.ndim != 2 or queries.shape[1] != wanted:
        raise ValueError(f"queries must be (N, {wanted}) vectors of {method}, got {queries.shape}")
    directions = _unit(queries)
    items = {split: store.items(split) for split in SPLITS}
    # Only the best so far are kept: (N, <= top) similarities and positions among the items.
    best: np.ndarray = np.zeros((len(queries), 0), np.float32)
    place: np.ndarray = np.zeros((len(queries), 0), np.int64)
    first = 0
    for split in SPLITS:
        for chunk in store.iter_vectors(method, split):
            here = np.broadcast_to(
                np.arange(first, first + len(chunk))[None, :], (len(queries), len(chunk))
            )
            best = np.concatenate([best, directions @ _unit(chunk).T], axis=1)
            place = np.concatenate([place, here], axis=1)
            order = np.argsort(-best, axis=1, kind="stable")[:, :top]
            best = np.take_along_axis(best, order, axis=1)
            place = np.take_along_axis(place, order, axis=1)
            first += len(chunk)
    train = len(items["train"])
    return [
        [
            Neighbour(
                items["train"][i] if i < train else items["test"][i - train],
                min(max(float(value), -1.0), 1.0),
            )
            for i, value in zip(row.tolist(), values, strict=True)
        ]
        for row, values in zip(place, best, strict=True)
    ]


def _unit(vectors: np.ndarray) -> np.ndarray:
    # Summed in float64 without a copy of that type.
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64, casting="safe"))
    return vectors / np.where(norms > 0, norms, 1).astype(np.float32)[:, None]
