"""Encodings on disk: float32 shards that NumPy alone reads, and a manifest that records every item.

Layout::

    STORE/manifest.json
    STORE/shard-00000.METHOD.npy     float32 (rows, D), one file for each shard and method

Shard s covers ``shard_size`` items, of a new store those of the dataset in their order, and each
time that pictures are added (`mpp_jax.storage.store_list`) shards more; its rows are the pictures
that could be encoded, in that same order (and some that are nobody's any more). A shard none of
whose pictures could be encoded has no files. ``manifest.json`` is one object::

    format            "mpp-jax-store"          version         1
    dataset           name                     classes         [class names]
    multi_label       bool                     network         name
    weights_sha256    hex                      codebook_sha256 hex or null
    config            object: everything else that decides the vectors
    methods           {METHOD: D}; D is null until the first picture is encoded
    shard_size        items of a shard         complete        no item is "pending"
    items             [{"id", "split": "train"|"test", "labels": [class indices],
                        "ignored": [class indices],
                        "status": "done"|"skipped"|"pending"|"removed",
                        "reason": null or one line, "shard": s, "row": row or null,
                        "cause": "encoding", "sha256": of the picture's content}]
    arrays            {"shard-00000.METHOD.npy": SHA-256}
    seal              SHA-256 of all bytes before the comma that stands before it

``sha256`` is there where a picture is a file that could be encoded: resuming finds by it whether
the file has changed, and makes its shard again. ``cause`` is there only where a picture was skipped
although it could be decoded: its encoding is not finite. Resuming tries to decode the other skipped
pictures again, and leaves these. ``removed`` is what the data held no more when the store was
last written; its row, where it has one, is still there, and serves again when the picture is back.

A shard's files are written first, each under a temporary name and then renamed, and the manifest
after them: whatever a kill leaves behind, every item that the manifest calls done is on disk. An
interrupted run keeps its complete shards; an incomplete one is computed again as a whole, so a
resumed store equals an uninterrupted one byte for byte, provided that a picture's batch does not
reach beyond its shard: `mpp_jax.runs.pipeline` asks for the pictures of one shard at a time.
Nothing depends on time, host or path.

Stored are single representations; ``A+B`` and the other stacks of `mpp_jax.pooling.notation` are
made of them when read: concatenated, then L2-normalised.
"""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from mpp_jax.data.dataset import SPLITS, target_matrix
from mpp_jax.numerics import stack_unit_vectors
from mpp_jax.pooling.notation import parse
from mpp_jax.storage.store_format import (
    StoredItem,
    StoreError,
    read_manifest,
    read_shard,
    shard_name,
)
from mpp_jax.storage.store_writer import SHARD_SIZE, StoreWriter

__all__ = [
    "SHARD_SIZE",
    "Store",
    "StoreError",
    "StoreWriter",
    "StoredItem",
]


class Store:
    """Finished encodings, read only. Open one with `Store.open`.

    Attributes:
        path: its folder.
        manifest: the parsed ``manifest.json`` without its items.
        all_items: every item in the store's order, done, skipped or removed.
    """

    def __init__(
        self, path: Path, manifest: dict[str, Any], all_items: tuple[StoredItem, ...]
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.all_items = all_items
        self._checked: set[str] = set()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a finished store.

        Args:
            path: its folder.

        Raises:
            StoreError: no store, another format, damaged manifest, or unfinished.
        """
        folder = Path(path)
        manifest, items = read_manifest(folder)
        pending = sum(item.status == "pending" for item in items)
        if pending:
            raise StoreError(
                f"{folder}: unfinished, {pending} of {len(items)} pictures are not encoded yet; "
                "give the same encode command again to go on"
            )
        return cls(folder, manifest, items)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return tuple(self.manifest["classes"])

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
    def skipped(self) -> tuple[StoredItem, ...]:
        """Items that could not be encoded, with their reasons."""
        return tuple(item for item in self.all_items if item.status == "skipped")

    def items(self, split: str) -> tuple[StoredItem, ...]:
        """Return the encoded items of a split, in the order of the rows of `vectors`."""
        if split not in SPLITS:
            raise StoreError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        return tuple(i for i in self.all_items if i.split == split and i.status == "done")

    def labels(self, split: str) -> np.ndarray:
        """Return ``(N,)`` int32 class indices; single-label stores only."""
        if self.multi_label:
            raise StoreError(f"{self.path}: pictures have several labels each; read targets()")
        return np.array([item.labels[0] for item in self.items(split)], np.int32)

    def targets(self, split: str) -> np.ndarray:
        """Return ``(N, L)`` float32: +1 present, -1 absent, 0 ignored."""
        return target_matrix(self.items(split), len(self.classes))

    def dimension(self, method: str) -> int:
        """Return the length of the vectors of a method or stack."""
        return sum(int(self.manifest["methods"][part] or 0) for part in self._parts(method))

    def vectors(self, method: str, split: str) -> np.ndarray:
        """Return the vectors ``(N, D)`` float32 of a method, or a stack ``A+B``, of a split."""
        result = np.empty((len(self.items(split)), self.dimension(method)), np.float32)
        start = 0
        for chunk in self.iter_vectors(method, split):
            result[start : start + len(chunk)] = chunk
            start += len(chunk)
        return result

    def iter_vectors(self, method: str, split: str) -> Iterator[np.ndarray]:
        """Yield the rows of `vectors`, shard by shard, in bounded memory."""
        return self.vectors_of(method, self.items(split))

    def vectors_of(self, method: str, items: Sequence[StoredItem]) -> Iterator[np.ndarray]:
        """Yield the vectors of encoded items, shard by shard; only their rows are read.

        Args:
            method: a method or stack.
            items: some of `items`, in their order.
        """
        parts = self._parts(method)
        rows: dict[int, list[int]] = {}
        for item in items:
            assert item.row is not None  # it is done
            rows.setdefault(item.shard, []).append(item.row)
        for shard, wanted in rows.items():
            yield stack_unit_vectors([self._shard(shard, part)[wanted] for part in parts])

    def _parts(self, method: str) -> list[str]:
        stored = self.manifest["methods"]
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

    @cached_property
    def _rows_of(self) -> dict[int, int]:
        rows: dict[int, int] = {}
        for item in self.all_items:
            if item.row is not None:
                rows[item.shard] = max(rows.get(item.shard, 0), item.row + 1)
        return rows

    def _shard(self, shard: int, method: str) -> np.ndarray:
        dimension = self.manifest["methods"][method]
        name = shard_name(shard, method)
        known = None if name in self._checked else self.manifest.get("arrays", {}).get(name)
        array = read_shard(self.path, shard, method, self._rows_of[shard], dimension, known)
        if array is None:
            raise StoreError(
                f"{self.path / name}: missing or damaged; "
                "give the same encode command again to have it remade"
            )
        self._checked.add(name)
        return array
