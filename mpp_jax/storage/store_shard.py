"""Writing one shard: by any process, in any order, as often as it is tried the same files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mpp_jax.data.dataset import Item
from mpp_jax.files import file_digest, write_file
from mpp_jax.storage.store_format import (
    NOT_FINITE,
    ArrayFile,
    StoredItem,
    array_name,
    record_name,
)
from mpp_jax.storage.store_records import record_bytes


class _Skip(NamedTuple):
    """Why a picture has no vectors; what else than decoding failed, if so."""

    reason: str
    cause: str | None = None


@dataclass(frozen=True)
class ShardTask:
    """Everything that a process needs to know in order to write one shard of a store.

    Attributes:
        folder: of the store.
        shard: its number.
        settings: digest of what decides the vectors.
        classes: names, which labels index.
        items: all its pictures; those that are "pending" are to be encoded.
        methods: names of the representations.
        dtype: of the stored vectors.
    """

    folder: Path
    shard: int
    settings: str
    classes: tuple[str, ...]
    items: tuple[StoredItem, ...]
    methods: tuple[str, ...]
    dtype: str

    @property
    def pending(self) -> tuple[str, ...]:
        """Names of the pictures that are to be encoded, in order."""
        return tuple(item.id for item in self.items if item.status == "pending")


class ShardWriter:
    """Collects a shard's vectors, and writes its files as soon as none is missing.

    The arrays come first, then the record that names them, each beside its place and renamed: what
    a record says is on disk, whenever the process is killed.

    Attributes:
        task: what is written.
        items: the shard's pictures, as they stand.
    """

    def __init__(self, task: ShardTask, dimensions: dict[str, int | None] | None = None) -> None:
        """Begin a shard.

        Args:
            task: what to write.
            dimensions: of the vectors of each method, where they are known; kept up to date.
        """
        self.task = task
        self.items = [*task.items]
        self._dimensions = {} if dimensions is None else dimensions
        self._left = set(task.pending)
        self._values: dict[str, dict[str, np.ndarray] | _Skip] = {}
        self._digests: dict[str, str] = {}

    @property
    def complete(self) -> bool:
        """Whether everything came, and was written."""
        return not self._left

    def put(
        self,
        items: Sequence[Item],
        vectors: Mapping[str, np.ndarray],
        digests: Mapping[str, str] | None = None,
    ) -> None:
        """Take the vectors of some pictures; a NaN or infinite one makes its picture skipped.

        Args:
            items: n of the shard's pending pictures, in any order.
            vectors: ``(n, D)`` for each method.
            digests: SHA-256 of the pictures' contents, by id, where they are known.

        Raises:
            ValueError: methods, shapes or items that do not fit.
        """
        arrays = checked(len(items), vectors, self.task.methods, self._dimensions)
        with np.errstate(over="ignore"):  # becomes infinite, which is found here
            arrays = {m: array.astype(self.task.dtype) for m, array in arrays.items()}
        for row, item in enumerate(items):
            if digests is not None and item.id in digests:
                self._digests[item.id] = digests[item.id]
            bad = [method for method, array in arrays.items() if not np.isfinite(array[row]).all()]
            if bad:
                self._take(item.id, _Skip(f"encoding is not finite ({', '.join(bad)})", NOT_FINITE))
                continue
            self._take(item.id, {m: array[row].copy() for m, array in arrays.items()})

    def skip(self, item: Item, reason: str, digest: str | None = None) -> None:
        """Record that a picture could not be decoded, why (one line), and its content's SHA-256."""
        if digest is not None:
            self._digests[item.id] = digest
        self._take(item.id, _Skip(" ".join(reason.split()) or "unknown reason"))

    def _take(self, identity: str, value: dict[str, np.ndarray] | _Skip) -> None:
        if identity not in self._left:
            known = identity in {item.id for item in self.items}
            raise ValueError(
                f"item {identity!r} was finished before" if known else f"no item {identity!r} here"
            )
        self._left.discard(identity)
        self._values[identity] = value
        if not self._left:
            self.write()

    def write(self) -> None:
        """Write what came: arrays first, then the record."""
        task = self.task
        encoded: list[dict[str, np.ndarray]] = []
        files: dict[str, ArrayFile] = {}
        for number, stored in enumerate(self.items):
            value = self._values.pop(stored.id, None)
            digest = self._digests.get(stored.id)
            if isinstance(value, _Skip):
                new = replace(stored, status="skipped", reason=value.reason, cause=value.cause)
                new = replace(new, sha256=digest)
            elif value is not None:
                new = replace(stored, status="done", row=len(encoded), sha256=digest)
                encoded.append(value)
            else:  # removed, without a row of its own
                new = stored
            self.items[number] = new
        for method in task.methods:
            place = task.folder / array_name(task.shard, method)
            if not encoded:
                place.unlink(missing_ok=True)
                continue
            matrix = np.stack([value[method] for value in encoded])
            write_file(place, partial(np.save, arr=matrix))
            size, digest = place.stat().st_size, file_digest(place)
            files[method] = ArrayFile(len(matrix), matrix.shape[1], size, digest)
        record = record_bytes(task.shard, task.settings, self.items, task.classes, files)
        write_file(task.folder / record_name(task.shard), record)


def shard_files(task: ShardTask) -> dict[str, bytes | None]:
    """Return the files of a shard that was written, by name; None for an array that it lacks.

    They come in the order in which they are to be put: the record, which names the others, last.
    """
    names = [array_name(task.shard, method) for method in task.methods]
    places = [task.folder / name for name in (*names, record_name(task.shard))]
    return {place.name: place.read_bytes() if place.exists() else None for place in places}


def put_files(folder: Path, files: Mapping[str, bytes | None]) -> None:
    """Put files of shards that were written elsewhere into a store's folder, see `shard_files`."""
    for name, content in files.items():
        if content is None:
            (folder / name).unlink(missing_ok=True)
        else:
            write_file(folder / name, content)


def checked(
    count: int,
    vectors: Mapping[str, np.ndarray],
    methods: Sequence[str],
    dimensions: dict[str, int | None],
) -> dict[str, np.ndarray]:
    """Return vectors in the order of the methods, float32, or raise a `ValueError`.

    Args:
        count: n, of pictures.
        vectors: ``(n, D)`` for each method.
        methods: those that there must be.
        dimensions: D of each where it is known; kept up to date.
    """
    if set(vectors) != set(methods):
        raise ValueError(f"vectors for {sorted(vectors)}, wanted {[*methods]}")
    arrays = {method: np.asarray(vectors[method], np.float32) for method in methods}
    for method, array in arrays.items():
        dimension = dimensions.get(method)
        if array.ndim != 2 or len(array) != count or dimension not in (None, array.shape[1]):
            wanted = (count, "D" if dimension is None else dimension)
            raise ValueError(f"vectors[{method!r}] must be {wanted}, got {array.shape}")
        dimensions[method] = array.shape[1]
    return arrays
