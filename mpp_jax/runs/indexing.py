"""From a store to an index: PCA, whitening, product quantisation, and what they cost in recall.

Principal components are fitted to a seeded sample of the training pictures' vectors (of all, where
there are none for training); whitened, where that is asked for, what pictures have in common weighs
no more than what tells them apart (Jégou and Chum, "Negative Evidences and Co-occurences in Image
Retrieval", ECCV 2012), which is for the same object, and loses where the same class is wanted.
Product quantisation (Jégou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search",
2011) is faiss's. The index is written block by block, and searched without faiss.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mpp_jax.data.dataset import seeded_order
from mpp_jax.files import replaced_folder
from mpp_jax.progress import Watcher
from mpp_jax.runs.provenance import open_codebooks_of, save_codebooks
from mpp_jax.runs.search import Searchable, StoredVectors, nearest_rows
from mpp_jax.stats.pca import fit_pca
from mpp_jax.storage import index as files
from mpp_jax.storage.bundle import check_place
from mpp_jax.storage.index import BadIndexError, Compression, Index, compress
from mpp_jax.storage.store import Store

CENTROIDS = 256
"""Of each part of a quantised vector: a code is a byte."""
RECALL_AT = (1, 10, 100)


@dataclass(frozen=True)
class Plan:
    """How an index is made.

    Attributes:
        pca: dimensions P kept; fewer where there are fewer pictures or dimensions.
        whiten: scale the kept dimensions to variance 1.
        quantise: bytes M of a vector; None for no quantiser.
        samples: pictures that components and quantiser are fitted to, at most.
        queries: stored pictures by which recall is measured.
        seed: of the sample and the queries.
    """

    pca: int = 256
    whiten: bool = False
    quantise: int | None = None
    samples: int = 10_000
    queries: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("pca", "samples", "queries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def faiss_or_raise() -> Any:
    """Return the module faiss.

    Raises:
        ValueError: it is not installed; the line says how it is.
    """
    try:
        import faiss
    except ImportError as error:
        raise ValueError(
            "quantise: product quantisation needs faiss, which is not installed; "
            "pip install 'mpp-jax[faiss]', or make the index without it"
        ) from error
    return faiss


def make_index(
    store: Store, method: str, folder: Path, plan: Plan, *, watcher: Watcher | None = None
) -> Index:
    """Compress the vectors of a store by one representation into an index.

    Args:
        store: finished encodings.
        method: a representation, or a stack of stored ones.
        folder: of the index; an earlier one there is replaced.
        plan: how.
        watcher: is shown how far the work is; None for a new one.

    Raises:
        StoreError: a representation that is not stored, or no codebook beside the vectors.
        BadIndexError: the place is taken by something else.
        ValueError: too few pictures, or no faiss where it is asked for.
    """
    watcher = watcher or Watcher()
    exact = StoredVectors(store, method)
    codebooks, made = open_codebooks_of(store)
    check_index_place(folder)
    if plan.quantise is not None:
        faiss_or_raise()
    counts = {split: len(store.items(split)) for split in ("train", "test")}
    with watcher.stage("fit the compression"):
        held, sampled = fit_compression(store, method, plan)
    with replaced_folder(folder, files.OWN) as place:
        arrays = held._asdict()
        for name in files.ARRAYS:
            if arrays[name] is not None:
                np.save(place / f"{name}.npy", np.asarray(arrays[name]))
        total = sum(counts.values())
        with (
            watcher.stage("compress"),
            watcher.bar(total, "compress", "picture") as bar,
        ):
            for rows in _write_vectors(place, exact, held, total):
                bar.update(rows)
        files.write_items(place / files.ITEMS, exact.entries())
        save_codebooks(place / files.CODEBOOK, codebooks, made)
        entries = {
            "method": method,
            "dimension": exact.dimension,
            "compressed": int(held.components.shape[0]),
            "bytes": plan.quantise or 2 * int(held.components.shape[0]),
            "whitened": plan.whiten,
            "quantised": plan.quantise,
            "dataset": store.manifest["dataset"],
            "classes": list(store.classes),
            "pictures": counts,
            "sampled": sampled,
        }
        with watcher.stage("measure recall"):
            found = Index(place, entries, held)
            recall = measure_recall(exact, found, plan.queries, plan.seed)
        files.write_record(place, entries | {"recall": recall})
    return Index.open(folder)


def check_index_place(folder: Path) -> None:
    """Raise unless an index may be written to a folder: absent, empty, or an earlier index.

    Raises:
        BadIndexError: it holds something else.
        BundleError: it is a file, or cannot be written.
    """
    check_place(folder)
    if folder.is_dir() and any(folder.iterdir()) and not files.is_index(folder):
        raise BadIndexError(f"{folder}: not empty, and no earlier index; give a new folder")


def fit_compression(store: Store, method: str, plan: Plan) -> tuple[Compression, int]:
    """Return how a store's vectors are compressed, and to how many it was fitted."""
    items = store.items("train" if len(store.items("train")) else "test")
    chosen = set(seeded_order(items.ids, plan.seed, "index")[: plan.samples])
    some = items[np.array([name in chosen for name in items.ids], bool)]
    size = min(plan.pca, len(some) - 1, store.dimension(method))
    if size < 1:
        raise ValueError(f"{store.path}: {len(items)} pictures are too few to make an index of")
    quantise = plan.quantise
    if quantise is not None:
        size -= size % quantise  # parts are equally long
        if len(some) < CENTROIDS or size < 1:
            raise ValueError(
                f"quantise: {quantise} bytes need {max(CENTROIDS, quantise + 1)} pictures at least "
                f"to be fitted to, and {quantise} dimensions; there are {len(some)} pictures and "
                f"--pca {plan.pca}"
            )
    pca = fit_pca(
        lambda: store.vectors_of(method, some),
        size,
        whiten=plan.whiten,
        key=jax.random.key(plan.seed),
    )
    held = Compression(pca.mean, pca.components)
    if quantise is not None:
        blocks = store.vectors_of(method, some)
        reduced = np.concatenate([np.asarray(compress(held, jnp.asarray(b))) for b in blocks])
        held = held._replace(centroids=jnp.asarray(_fit_quantiser(reduced, quantise, plan.seed)))
    return held, len(some)


def _fit_quantiser(x: np.ndarray, parts: int, seed: int) -> np.ndarray:
    """Return the centroids (M, 256, P / M) of a product quantiser fitted to x (n, P)."""
    faiss = faiss_or_raise()
    quantiser = faiss.ProductQuantizer(x.shape[1], parts, 8)
    quantiser.cp.seed = seed + 1
    quantiser.cp.min_points_per_centroid = 1  # else it complains of fewer than 39
    quantiser.train(x)
    return np.asarray(faiss.vector_to_array(quantiser.centroids)).reshape(parts, CENTROIDS, -1)


def _coder(centroids: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function of vectors (n, P) to their codes (n, M) uint8, by faiss."""
    faiss = faiss_or_raise()
    parts, _, width = centroids.shape
    quantiser = faiss.ProductQuantizer(parts * width, parts, 8)
    faiss.copy_array_to_vector(np.ascontiguousarray(centroids.ravel()), quantiser.centroids)
    compute: Callable[[np.ndarray], np.ndarray] = quantiser.compute_codes
    return compute


def _write_vectors(
    place: Path, exact: StoredVectors, held: Compression, total: int
) -> Iterator[int]:
    """Write the compressed vectors of all pictures; yield how many, block by block."""
    finish: Callable[[np.ndarray], np.ndarray]
    if held.centroids is None:
        name, dtype, width = files.VECTORS, "<f2", held.components.shape[0]
        finish = partial(np.asarray, dtype=np.float16)
    else:
        name, dtype, width = files.CODES, "|u1", held.centroids.shape[0]
        finish = _coder(np.asarray(held.centroids))
    out = np.lib.format.open_memmap(place / name, "w+", np.dtype(dtype), (total, width))
    start = 0
    for block in exact.blocks():
        out[start : start + len(block)] = finish(np.asarray(compress(held, jnp.asarray(block))))
        start += len(block)
        yield len(block)
    out.flush()


def measure_recall(
    exact: Searchable, compressed: Searchable, queries: int, seed: int
) -> dict[str, Any]:
    """Return how many of the exact nearest neighbours a compressed search finds.

    Stored pictures are asked for (test pictures where there are any), and do not count as
    neighbours of themselves.

    Args:
        exact: the vectors as they are.
        compressed: the same pictures in the same order.
        queries: pictures that are asked for.
        seed: of their choice.

    Returns:
        ``{"queries": n, "at": {k: mean share of the exact k nearest among its k nearest}}``.
    """
    entries = list(exact.entries())
    asking = [i for i, e in enumerate(entries) if e.split == "test"] or list(range(len(entries)))
    ids = {entries[i].id: i for i in asking}
    rows = np.array(sorted(ids[name] for name in seeded_order(ids, seed, "recall")[:queries]))
    asked, start = [], 0
    for block in exact.blocks():
        asked.append(block[rows[(rows >= start) & (rows < start + len(block))] - start])
        start += len(block)
    vectors = np.concatenate(asked)
    deepest = min(max(RECALL_AT), len(entries) - 1)
    found = []
    for searched in (exact, compressed):
        places, _ = nearest_rows(searched.project(vectors), searched.blocks(), deepest + 1)
        found.append([row[row != self_][:deepest] for row, self_ in zip(places, rows, strict=True)])
    at = {
        str(k): float(
            np.mean([len(np.intersect1d(a[:k], b[:k])) / k for a, b in zip(*found, strict=True)])
        )
        for k in RECALL_AT
        if k <= deepest
    }
    return {"queries": len(rows), "at": at}
