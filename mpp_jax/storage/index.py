"""An index on disk: the compressed vectors of a store, by one representation.

Layout::

    INDEX/index.json        what it is: see below
    INDEX/mean.npy          float32 (D,)                 vectors y = l2((x - mean) components^T)
    INDEX/components.npy    float32 (P, D)
    INDEX/vectors.npy       float16 (N, P)               y; or, quantised,
    INDEX/codes.npy         uint8 (N, M)                 y is about the concatenation over m of
    INDEX/centroids.npy     float32 (M, 256, P / M)      centroids[m, codes[:, m]]
    INDEX/items.jsonl       [id, split, [labels], [ignored]], a line for each row
    INDEX/codebook/         of the store, so that new pictures can be encoded

``index.json`` is one object::

    format       "mpp-jax-index"           version      1
    method       the representation        dimension    D
    compressed   P                         bytes        of a picture's vector here
    whitened     bool                      quantised    M, or null
    dataset      name                      classes      [class names]
    pictures     {"train": n, "test": n}   sampled      pictures that it was fitted to
    recall       {"queries": n, "at": {k: share of the exact k nearest among its k nearest}}
    files        {name: SHA-256}           seal         SHA-256 of all other entries

Training pictures come first. NumPy and a JSON reader are all that is needed to read it.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mpp_jax.files import file_digest, seal
from mpp_jax.numerics import PRECISION, l2_normalize

FORMAT: Final = "mpp-jax-index"
VERSION: Final = 1
RECORD: Final = "index.json"
ITEMS: Final = "items.jsonl"
CODEBOOK: Final = "codebook"
VECTORS, CODES = "vectors.npy", "codes.npy"
ARRAYS: Final = ("mean", "components", "centroids")
OWN: Final = (RECORD, ITEMS, CODEBOOK, VECTORS, CODES, *(f"{name}.npy" for name in ARRAYS))
ROWS = 4096
"""Vectors of a block."""


class BadIndexError(ValueError):
    """An index that cannot be used as asked; one line that says what to mend."""


class Entry(NamedTuple):
    """A stored picture, as far as a search needs to know it.

    Attributes:
        id: its name.
        split: "train" or "test".
        labels: class indices.
        ignored: indices of classes that are neither present nor absent.
    """

    id: str
    split: str
    labels: tuple[int, ...]
    ignored: tuple[int, ...]


class Compression(NamedTuple):
    """How vectors are compressed.

    Attributes:
        mean: (D,).
        components: (P, D).
        centroids: (M, 256, P / M) of a product quantiser; None without one.
    """

    mean: Array
    components: Array
    centroids: Array | None = None


@jax.jit
def compress(held: Compression, x: Array) -> Array:
    """Return vectors (n, D) reduced to (n, P), of unit length. Pure; without the quantiser."""
    centred = x - held.mean[None, :]
    return l2_normalize(jnp.matmul(centred, held.components.T, precision=PRECISION))


@jax.jit
def decode(centroids: Array, codes: Array) -> Array:
    """Return the vectors (n, P) that codes (n, M) of a product quantiser stand for. Pure."""
    parts = jax.vmap(lambda centres, code: centres[code], in_axes=(0, 1), out_axes=1)
    return parts(centroids, codes.astype(jnp.int32)).reshape(codes.shape[0], -1)


class Index:
    """An index, read only: a `mpp_jax.runs.search.Searchable`. Open one with `Index.open`.

    Attributes:
        path: its folder.
        record: ``index.json``.
        held: how its vectors are compressed.
    """

    def __init__(self, path: Path, record: dict[str, Any], held: Compression) -> None:
        self.path = path
        self.record = record
        self.held = held

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open an index; all of its files are checked.

        Raises:
            BadIndexError: no index, another format, or damaged.
        """
        folder = Path(path)
        record = read_record(folder)
        for name, digest in record["files"].items():
            place = folder / name
            try:
                found = file_digest(place)
            except OSError as error:
                raise BadIndexError(f"{place}: cannot be read ({error.strerror})") from error
            if found != digest:
                raise BadIndexError(f"{place}: damaged; make the index anew")
        names = [name for name in ARRAYS if f"{name}.npy" in record["files"]]
        arrays = [jnp.asarray(np.load(folder / f"{n}.npy", allow_pickle=False)) for n in names]
        return cls(folder, record, Compression(*arrays))

    @property
    def method(self) -> str:
        """The representation."""
        return str(self.record["method"])

    @property
    def dimension(self) -> int:
        """Numbers D of a query."""
        return int(self.record["dimension"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return tuple(self.record["classes"])

    def project(self, queries: np.ndarray) -> np.ndarray:
        """Return queries (N, D) reduced to (N, P): they are not quantised."""
        return np.asarray(compress(self.held, jnp.asarray(queries, jnp.float32)))

    def blocks(self, split: str | None = None) -> Iterator[np.ndarray]:
        """Yield compressed vectors (n, P) float32, in bounded memory."""
        stored = np.load(self.path / self._file, mmap_mode="r", allow_pickle=False)
        first, last = self._rows(split)
        for start in range(first, last, ROWS):
            block = stored[start : min(start + ROWS, last)]
            if self.held.centroids is None:
                yield np.asarray(block, np.float32)
            else:
                yield np.asarray(decode(self.held.centroids, jnp.asarray(block)))

    def entries(self, split: str | None = None) -> Iterator[Entry]:
        """Yield what is known of the pictures, in the order of their vectors."""
        first, last = self._rows(split)
        with (self.path / ITEMS).open(encoding="utf-8") as file:
            for row, line in enumerate(file):
                if first <= row < last:
                    name, split_of, labels, ignored = json.loads(line)
                    yield Entry(name, split_of, tuple(labels), tuple(ignored))

    @property
    def _file(self) -> str:
        return VECTORS if self.held.centroids is None else CODES

    def _rows(self, split: str | None) -> tuple[int, int]:
        train, test = (self.record["pictures"][name] for name in ("train", "test"))
        return {None: (0, train + test), "train": (0, train), "test": (train, train + test)}[split]


def is_index(folder: Path) -> bool:
    """Return whether a folder holds an index, of whatever state."""
    return (folder / RECORD).is_file()


def read_record(folder: Path) -> dict[str, Any]:
    """Read ``index.json``, and nothing else of an index.

    Raises:
        BadIndexError: as for `Index.open`.
    """
    place = folder / RECORD
    try:
        record = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadIndexError(f"{place}: cannot be read ({error})") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise BadIndexError(f"{folder}: no index of this program")
    if record.get("version") != VERSION:
        raise BadIndexError(f"{folder}: index of version {record.get('version')}, want {VERSION}")
    if record.get("seal") != seal(record):
        raise BadIndexError(f"{place}: damaged (it was changed after writing); make the index anew")
    return record


def write_items(place: Path, entries: Iterable[Entry]) -> None:
    """Write ``items.jsonl``."""
    with place.open("w", encoding="utf-8") as file:
        for entry in entries:
            file.write(json.dumps(entry) + "\n")


def write_record(folder: Path, entries: dict[str, Any]) -> dict[str, Any]:
    """Write ``index.json`` over the files that lie in a folder; return it."""
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    files = {name: file_digest(folder / name) for name in names if name in OWN and name != RECORD}
    record = {"format": FORMAT, "version": VERSION, **entries, "files": files}
    record |= {"seal": seal(record)}
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    (folder / RECORD).write_text(text, encoding="utf-8")
    return record
