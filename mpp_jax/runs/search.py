r"""Nearest stored encodings of new pictures, by cosine similarity: <q, v> / (|q| |v|).

What is searched is `Searchable`: a store, whose vectors are compared exactly (`StoredVectors`), or
an index, whose compressed ones are (`mpp_jax.runs.indexing`). Either is read block by block, and of
each block no more than the best so far is kept, so memory does not grow with the pictures.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mpp_jax.data.dataset import SPLITS
from mpp_jax.numerics import PRECISION, l2_normalize
from mpp_jax.storage.index import Entry
from mpp_jax.storage.store import Store


class Neighbour(NamedTuple):
    """A stored picture and its cosine similarity, in -1..1."""

    entry: Entry
    similarity: float


class Searchable(Protocol):
    """Vectors of stored pictures that are compared with those of queries.

    Attributes:
        method: the representation.
        dimension: D of a query.
        classes: names that the entries' labels index.
    """

    @property
    def method(self) -> str:
        """The representation."""

    @property
    def dimension(self) -> int:
        """Numbers of a query."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""

    def project(self, queries: np.ndarray) -> np.ndarray:
        """Return queries (N, D) as they are compared with the blocks, (N, P)."""

    def blocks(self, split: str | None = None) -> Iterator[np.ndarray]:
        """Yield vectors (n, P) in their order, of one split or of all pictures."""

    def entries(self, split: str | None = None) -> Iterator[Entry]:
        """Yield what is known of the pictures, in the order of their vectors."""


class StoredVectors:
    """The encodings of a store by one representation, as they are: a `Searchable`."""

    def __init__(self, store: Store, method: str) -> None:
        """Read nothing yet.

        Raises:
            StoreError: a representation that is not stored.
        """
        self.store = store
        self.method = method
        self.dimension = store.dimension(method)
        self.classes = store.classes

    def project(self, queries: np.ndarray) -> np.ndarray:
        """Return queries as they are."""
        return queries

    def blocks(self, split: str | None = None) -> Iterator[np.ndarray]:
        """Yield vectors shard by shard, training pictures first."""
        for part in SPLITS if split is None else (split,):
            yield from self.store.iter_vectors(self.method, part)

    def entries(self, split: str | None = None) -> Iterator[Entry]:
        """Yield what the store says of its pictures."""
        for part in SPLITS if split is None else (split,):
            for item in self.store.items(part):
                yield Entry(item.id, item.split, item.labels, item.ignored)


def nearest(searched: Searchable, queries: np.ndarray, top: int = 10) -> list[list[Neighbour]]:
    """Return the ``top`` most similar stored pictures of both splits for every query.

    Among equally similar ones the order is the data set's. The stored vectors are read once.

    Args:
        searched: a store's vectors or an index.
        queries: (N, D) vectors of its representation, finite.
        top: neighbours wanted; fewer where fewer are stored.

    Raises:
        ValueError: ``top`` below 1, or queries of another dimension.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    wanted = searched.dimension
    if queries.ndim != 2 or queries.shape[1] != wanted:
        raise ValueError(
            f"queries must be (N, {wanted}) vectors of {searched.method}, got {queries.shape}"
        )
    places, values = nearest_rows(searched.project(queries), searched.blocks(), top)
    wanted_rows = set(places[places >= 0].tolist())
    entries = {i: entry for i, entry in enumerate(searched.entries()) if i in wanted_rows}
    return [
        [
            Neighbour(entries[i], value)
            for i, value in zip(row.tolist(), held.tolist(), strict=True)
            if i >= 0
        ]
        for row, held in zip(places, values, strict=True)
    ]


def nearest_rows(
    queries: np.ndarray, blocks: Iterator[np.ndarray], top: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (N, top) int32 nearest to queries (N, P), and their cosines, best first.

    Rows are counted over all blocks (n, P); -1 stands where there are no more.
    """
    asked = _unit(jnp.asarray(queries, jnp.float32))
    best = jnp.full((len(queries), top), -jnp.inf), jnp.full((len(queries), top), -1)
    start = 0
    for block in blocks:
        before, best = best, _merged(asked, *best, _padded(block), start, len(block))
        jax.block_until_ready(before)  # one block is computed while the next is read, not more
        start += len(block)
    similarity, place = (np.asarray(leaf) for leaf in best)
    return place, np.clip(similarity, -1, 1)


_unit = jax.jit(l2_normalize)


@jax.jit
def _merged(
    asked: Array, best: Array, place: Array, block: Array, start: int, count: int
) -> tuple[Array, Array]:
    """Return the best (N, top) of those so far and of a block's first ``count`` rows, and where.

    The block's rows are counted from ``start``. Of equals the first is taken.
    """
    row = jnp.arange(block.shape[0])[None, :]
    found = jnp.where(row < count, cosines(asked, block), -jnp.inf)
    where = jnp.where(row < count, start + row, -1)
    together = jnp.concatenate([place, jnp.broadcast_to(where, found.shape)], axis=1)
    best, chosen = jax.lax.top_k(jnp.concatenate([best, found], axis=1), best.shape[1])
    return best, jnp.take_along_axis(together, chosen, axis=1)


def cosines(asked: Array, block: Array) -> Array:
    """Return the cosines (N, n) of unit vectors (N, P) and any vectors (n, P); 0 for zero ones."""
    return jnp.matmul(asked, l2_normalize(block).T, precision=PRECISION)


def _padded(block: np.ndarray) -> np.ndarray:
    """Return a block with rows of zeros up to a power of two, so that few programs serve all."""
    rows = 1 << max(len(block) - 1, 7).bit_length()
    return np.pad(np.asarray(block, np.float32), ((0, rows - len(block)), (0, 0)))


_all_cosines = jax.jit(cosines)


def similarities(queries: np.ndarray, blocks: Iterator[np.ndarray]) -> np.ndarray:
    """Return the cosines (N, M) float32 of queries (N, P) with all M vectors of blocks (n, P)."""
    asked = _unit(jnp.asarray(queries, jnp.float32))
    parts = [np.asarray(_all_cosines(asked, _padded(block)))[:, : len(block)] for block in blocks]
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(queries), 0), np.float32)
