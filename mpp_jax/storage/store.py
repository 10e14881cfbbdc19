"""Encodings on disk: shards that NumPy alone reads, a record beside each, and a head for all.

Layout::

    STORE/manifest.json              the head; it does not grow with the number of pictures
    STORE/shard-00000.json           the record of a shard: its pictures and its files
    STORE/shard-00000.METHOD.npy     float32 or float16 (rows, D), one file for each method

Shard s covers ``shard_size`` pictures, of a new store those of the data set in their order, and
each time that pictures are added (`mpp_jax.storage.store_list`) shards more; its rows are the
pictures that could be encoded, in that same order (and some that are nobody's any more). A shard
none of whose pictures could be encoded has no arrays. All JSON files are one object. The head::

    format            "mpp-jax-store"          version         2
    dataset           name                     classes         [class names]
    multi_label       bool                     network         name
    weights_sha256    hex                      codebook_sha256 hex or null
    config            object: everything else that decides the vectors
    methods           [METHOD]                 dtype           "float32" or "float16"
    shard_size        items of a shard         shards          how many there are
    items             pictures in all          part            [i, n] in part i of n, else absent
    list_sha256       of the records' list_sha256, in order, one a line
    seal              SHA-256 of all bytes before the comma that stands before it

The record of a shard; the first nine lists have one entry for each of its pictures::

    ids               [names]                  splits          ["train" | "test"]
    labels            [[class names]]          ignored         [[class names]]: unclear, not counted
    statuses          ["done" | "skipped" | "pending" | "removed"]
    reasons           [null, or one line]      causes          [null or "encoding"]
    rows              [row in the arrays, or null]
    sha256            [of the picture's content, or null where it is no file]
    arrays            {METHOD: {"rows", "dimension", "bytes": size of the file, "sha256": of it}}
    list_sha256       of ids, splits, labels, ignored and which are "removed"
    settings_sha256   of what decides the vectors, the same in all records of a store
    format            "mpp-jax-store-shard"    version, shard  2, its number
    seal              as in the head

By ``sha256`` resuming finds whether a file has changed, and makes its shard again. A picture with
the cause "encoding" could be decoded, but its encoding is not finite. Resuming tries to decode the
other skipped pictures again, and leaves these. "removed" is what the data held no more when the
list was last written; its row, where it has one, is still there, and serves again when the picture
is back. The store's order of pictures is by shard, and in a shard that of the record.

The head and records of "pending" pictures are written first. Then each shard by itself, in any
order and by any process: its arrays, then its record, each under a temporary name and renamed. So
whatever a kill leaves behind, every picture that a record calls done is on disk. A shard that was
interrupted is computed again as a whole, so a resumed store equals an uninterrupted one byte for
byte, provided that a picture's batch does not reach beyond its shard:
`mpp_jax.runs.pipeline` asks for the pictures of one shard at a time. Nothing depends on time, host
or path. What is changed afterwards is found when it is read.

Version 1, which is read and not written, had all pictures in the manifest (``items``), and the
digests of all files (``arrays``).

Stored are single representations; ``A+B`` and the other stacks of `mpp_jax.pooling.notation` are
made of them when read: concatenated, then L2-normalised.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np

from mpp_jax.data.dataset import SPLITS
from mpp_jax.numerics import stack_unit_vectors
from mpp_jax.pooling.notation import parse
from mpp_jax.storage.store_format import (
    StoredItem,
    StoreError,
    array_name,
    read_array,
    read_head,
)
from mpp_jax.storage.store_reading import (
    Held,
    check_list,
    dimensions,
    read_held,
    read_version_1,
)
from mpp_jax.storage.store_table import Items
from mpp_jax.storage.store_writer import SHARD_SIZE, StoreWriter

__all__ = [
    "SHARD_SIZE",
    "Items",
    "Store",
    "StoreError",
    "StoreWriter",
    "StoredItem",
]

BLOCK_BYTES = 2**24
"""Most bytes of vectors that are read at once: of long ones a part of a shard."""


class Store:
    """Finished encodings, read only. Open one with `Store.open`.

    Attributes:
        path: its folder.
        manifest: its head, the parsed ``manifest.json``; of version 1, what version 2 would say.
        classes: their names.
        all_items: every picture in the store's order, done, skipped or removed.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], held: Held) -> None:
        self.path = path
        self.manifest = manifest
        self.classes = held.classes
        self.all_items = held.items
        self._files = held.files
        self._dimensions = dimensions(manifest["methods"], held.files)
        self._checked: set[str] = set()

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, part: bool = False) -> Self:
        """Open a finished store.

        Args:
            path: its folder.
            part: whether it may be but a part, which has its own pictures alone.

        Raises:
            StoreError: no store, another format, a damaged head or record, unfinished, or but a
                part.
        """
        folder = Path(path)
        head = read_head(folder)
        if head["version"] == 1:
            head, held = read_version_1(folder, head)
        else:
            if "part" in head and not part:
                i, n = head["part"]
                raise StoreError(
                    f"{folder}: part {i} of {n} of a store; `mpp-jax merge` joins the parts"
                )
            held = read_held(folder, head)
            check_list(folder, head, held)
        pending = len(held.items.of(status="pending"))
        if pending:
            raise StoreError(
                f"{folder}: unfinished, {pending} of {len(held.items)} pictures are not encoded "
                "yet; give the same encode command again to go on"
            )
        return cls(folder, head, held)

    @property
    def multi_label(self) -> bool:
        """Whether a picture may carry any number of labels."""
        return bool(self.manifest["multi_label"])

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that the vectors were made with."""
        return dict(self.manifest["config"])

    @property
    def methods(self) -> tuple[str, ...]:
        """Stored methods; any of them may be stacked as ``A+B``."""
        return tuple(self.manifest["methods"])

    @property
    def dtype(self) -> str:
        """In which vectors are stored, "float32" or "float16"; they are read as float32."""
        return str(self.manifest["dtype"])

    @property
    def skipped(self) -> Items:
        """Items that could not be encoded, with their reasons."""
        return self.all_items.of(status="skipped")

    def items(self, split: str) -> Items:
        """Return the encoded items of a split, in the order of the rows of `vectors`."""
        if split not in SPLITS:
            raise StoreError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        return self.all_items.of(split=split, status="done")

    def labels(self, split: str) -> np.ndarray:
        """Return ``(N,)`` int32 class indices; single-label stores only."""
        if self.multi_label:
            raise StoreError(f"{self.path}: pictures have several labels each; read targets()")
        return self.items(split).only_labels()

    def targets(self, split: str) -> np.ndarray:
        """Return ``(N, L)`` float32: +1 present, -1 absent, 0 ignored."""
        return self.items(split).targets(len(self.classes))

    def dimension(self, method: str) -> int:
        """Return the length of the vectors of a method or stack."""
        return sum(self._dimensions[part] or 0 for part in self._parts(method))

    def vectors(self, method: str, split: str) -> np.ndarray:
        """Return the vectors ``(N, D)`` float32 of a method, or a stack ``A+B``, of a split."""
        result = np.empty((len(self.items(split)), self.dimension(method)), np.float32)
        start = 0
        for chunk in self.iter_vectors(method, split):
            result[start : start + len(chunk)] = chunk
            start += len(chunk)
        return result

    def iter_vectors(self, method: str, split: str) -> Iterator[np.ndarray]:
        """Yield the rows of `vectors` in order, a shard or less at a time, in bounded memory."""
        return self.vectors_of(method, self.items(split))

    def vectors_of(self, method: str, items: Items) -> Iterator[np.ndarray]:
        """Yield the vectors of encoded items, a shard or less at a time; only their rows are read.

        Args:
            method: a method or stack.
            items: some of `items`; of those that follow each other in one shard the vectors come
                together, as far as they take `BLOCK_BYTES`.
        """
        parts = self._parts(method)
        most = max(1, BLOCK_BYTES // max(4 * self.dimension(method), 1))
        shards, rows = items.shards, items.rows
        for block in np.split(np.arange(len(items)), np.flatnonzero(np.diff(shards)) + 1):
            if len(block):
                arrays = [self._shard(int(shards[block[0]]), part) for part in parts]
                for first in range(0, len(block), most):
                    wanted = rows[block[first : first + most]]
                    yield stack_unit_vectors(
                        [array[wanted].astype(np.float32, copy=False) for array in arrays]
                    )

    def _parts(self, method: str) -> list[str]:
        stored = self.methods
        parts = method.split("+")
        if all(part in stored for part in parts):
            return parts
        own = self.config.get("pyramid", {}).get("layer")
        there = f"there are {', '.join(self.methods)}"
        try:
            atoms = parse(method, self.config.get("features", ()), own)
        except ValueError as error:
            raise StoreError(f"{self.path}: no encodings {method!r}; {there} ({error})") from error
        for atom in atoms:
            if atom.name not in stored:
                raise StoreError(f"{self.path}: no encodings {atom.name!r}; {there}")
        return [atom.name for atom in atoms]

    def _shard(self, shard: int, method: str) -> np.ndarray:
        name, file = array_name(shard, method), self._files[shard][method]
        array = read_array(self.path, shard, method, file, trusted=name in self._checked)
        if array is None:
            raise StoreError(
                f"{self.path / name}: missing or damaged; "
                "give the same encode command again to have it remade"
            )
        self._checked.add(name)
        return array
