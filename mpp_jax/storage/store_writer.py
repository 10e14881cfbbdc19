"""Writing a store: shard by shard, resumable (layout and schema: `mpp_jax.storage.store`)."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import numpy as np

from mpp_jax.data.dataset import Dataset, Item
from mpp_jax.files import file_digest, remove_leftovers, write_file
from mpp_jax.storage.store_format import (
    FORMAT,
    MANIFEST,
    NOT_FINITE,
    VERSION,
    StoredItem,
    StoreError,
    differences,
    pending_record,
    read_manifest,
    read_shard,
    shard_name,
    with_seal,
)

SHARD_SIZE: Final = 256
"""Items of a shard unless told otherwise."""

_METHOD_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(\([A-Za-z0-9_.-]+\))?")


class _Skip(NamedTuple):
    """Why a picture has no vectors; what else than decoding failed, if so."""

    reason: str
    cause: str | None = None


class StoreWriter:
    """The writer of a store, shard by shard; opened on an unfinished store it goes on with it.

    Usage::

        writer = StoreWriter(path, dataset, methods=("fc7", "mpp"), network=..., ...)
        for block in ...:                                    # of writer.remaining, by shard
            batches = canvas_batches(block, batch_size=...)
            for batch in batches:
                items = [block[i] for i in batch.index[batch.valid]]
                writer.put(items, {"fc7": ..., "mpp": ...})  # (n, D) each
            for entry in batches.skipped:                    # what did not decode
                writer.skip(block[entry.position], entry.reason)

    A shard is written as soon as each of its items was put or skipped.

    Attributes:
        path: the folder.
        remaining: items still to do when the store was opened: those of all incomplete shards.
        shard_size: items of a shard.
        changed: ids of pictures whose content is not what was encoded; their shards remain to do.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        dataset: Dataset,
        *,
        methods: Sequence[str],
        network: str,
        weights_sha256: str,
        codebook_sha256: str | None,
        config: Mapping[str, Any],
        shard_size: int = SHARD_SIZE,
        mended: Callable[[Item], bool] = lambda item: False,
        content: Callable[[Item], str | None] = lambda item: None,
    ) -> None:
        """Create the folder and its manifest, or resume.

        Args:
            path: folder of the store; new, empty, or a store of the very same configuration.
            dataset: what will be encoded.
            methods: names of the stored representations: letters, digits, ``_``, ``-``, ``.``, and
                a layer in parentheses.
            network: name of the network.
            weights_sha256: hash of its weights.
            codebook_sha256: hash of the codebook, where a method needs one.
            config: everything else that decides the vectors; JSON values (tuples become lists).
            shard_size: items of a shard: what an interruption loses at most.
            mended: whether a picture that an earlier run had to skip can be decoded now; a shard
                with such a picture is done again.

            content: SHA-256 of a picture's content now, None where it cannot be had; a shard with
                a picture that changed is done again.

        Raises:
            StoreError: the folder holds something else, or a store of another configuration (the
                message names what differs).
            ValueError: a bad method name, repeated ids, or ``shard_size < 1``.
        """
        if shard_size < 1:
            raise ValueError(f"shard_size must be at least 1, got {shard_size}")
        for method in methods:
            if not _METHOD_NAME.fullmatch(method):
                raise ValueError(f"bad method name {method!r}: use letters, digits, '_', '-', '.'")
        if not methods or len(set(methods)) != len(methods):
            raise ValueError(f"methods must be one or more different names, got {list(methods)}")
        self.path = Path(path)
        self.shard_size = shard_size
        self._dataset_items = dataset.items
        self._number = {item.id: number for number, item in enumerate(dataset.items)}
        if len(self._number) != len(dataset.items):
            raise ValueError("the dataset has repeated item ids")
        self._header: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "dataset": dataset.name,
            "classes": list(dataset.classes),
            "multi_label": dataset.multi_label,
            "network": network,
            "weights_sha256": weights_sha256,
            "codebook_sha256": codebook_sha256,
            "config": json.loads(json.dumps(dict(config), allow_nan=False)),
            "methods": dict.fromkeys(methods, None),
            "shard_size": shard_size,
        }
        self._records = [
            pending_record(item, number // shard_size) for number, item in enumerate(dataset.items)
        ]
        self._arrays: dict[str, str] = {}
        self._digests: dict[str, str] = {}
        self.changed: tuple[str, ...] = ()
        # Finished, but of a shard that is not complete yet: vectors by method, or why none.
        self._waiting: dict[int, dict[str, np.ndarray] | _Skip] = {}
        self._open_or_create(mended, content)
        self.remaining: tuple[Item, ...] = tuple(
            item
            for item, record in zip(dataset.items, self._records, strict=True)
            if record["status"] == "pending"
        )
        self._left = [0] * -(-len(self._records) // shard_size)
        for record in self._records:
            self._left[record["shard"]] += record["status"] == "pending"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Complete shards are on disk already; an incomplete one is dropped by design.
        self._waiting.clear()

    def put(
        self,
        items: Sequence[Item],
        vectors: Mapping[str, np.ndarray],
        digests: Mapping[str, str] | None = None,
    ) -> None:
        """Take the vectors of some pictures; a NaN or infinite one makes its picture skipped.

        Args:
            items: n items of `remaining`, in any order.
            vectors: ``(n, D)`` for each method.
            digests: SHA-256 of the pictures' contents, by id, where they are known.

        Raises:
            ValueError: methods, shapes or items that do not fit.
        """
        if set(vectors) != set(self._header["methods"]):
            raise ValueError(f"vectors for {sorted(vectors)}, wanted {[*self._header['methods']]}")
        arrays = {m: np.asarray(vectors[m], np.float32) for m in self._header["methods"]}
        for method, array in arrays.items():
            dimension = self._header["methods"][method]
            if (
                array.ndim != 2
                or len(array) != len(items)
                or dimension not in (None, array.shape[1])
            ):
                wanted = (len(items), "D" if dimension is None else dimension)
                raise ValueError(f"vectors[{method!r}] must be {wanted}, got {array.shape}")
            self._header["methods"][method] = array.shape[1]
        for row, item in enumerate(items):
            bad = [method for method, array in arrays.items() if not np.isfinite(array[row]).all()]
            if bad:
                reason = f"encoding is not finite ({', '.join(bad)})"
                self._take(item.id, _Skip(reason, NOT_FINITE))
            else:
                if digests is not None and item.id in digests:
                    self._digests[item.id] = digests[item.id]
                self._take(item.id, {m: array[row].copy() for m, array in arrays.items()})

    def skip(self, item: Item, reason: str) -> None:
        """Record that a picture could not be decoded, and why (one line)."""
        self._take(item.id, _Skip(" ".join(reason.split()) or "unknown reason"))

    def _take(self, identity: str, value: dict[str, np.ndarray] | _Skip) -> None:
        number = self._number.get(identity)
        if number is None:
            raise ValueError(f"no item {identity!r} in this store")
        record = self._records[number]
        if number in self._waiting or record["status"] != "pending":
            raise ValueError(f"item {identity!r} was finished before")
        self._waiting[number] = value
        self._left[record["shard"]] -= 1
        if not self._left[record["shard"]]:
            self._write_shard(record["shard"])

    def _write_shard(self, shard: int) -> None:
        first = shard * self.shard_size
        numbers = range(first, min(first + self.shard_size, len(self._records)))
        values = [self._waiting.pop(number) for number in numbers]
        encoded = [value for value in values if not isinstance(value, _Skip)]
        for method in self._header["methods"] if encoded else ():
            matrix = np.stack([value[method] for value in encoded])
            name = shard_name(shard, method)
            write_file(self.path / name, partial(np.save, arr=matrix))
            self._arrays[name] = file_digest(self.path / name)
        row = 0
        for number, value in zip(numbers, values, strict=True):
            if isinstance(value, _Skip):
                self._records[number].update(status="skipped", reason=value.reason)
                if value.cause is not None:
                    self._records[number]["cause"] = value.cause
            else:
                record = self._records[number]
                record.update(status="done", row=row)
                if record["id"] in self._digests:
                    record["sha256"] = self._digests.pop(record["id"])
                row += 1
        self._write_manifest()

    def _write_manifest(self) -> None:
        done = not any(record["status"] == "pending" for record in self._records)
        state = {"complete": done, "arrays": dict(sorted(self._arrays.items()))}
        head = json.dumps(self._header | state, indent=1)
        lines = ",\n".join("  " + json.dumps(record) for record in self._records)
        text = f'{head[: -len(chr(10) + "}")]},\n "items": [\n{lines}\n ]\n}}\n'
        write_file(self.path / MANIFEST, with_seal(text))

    def _open_or_create(
        self, mended: Callable[[Item], bool], content: Callable[[Item], str | None]
    ) -> None:
        if not (self.path / MANIFEST).exists():
            above = (self.path, *self.path.absolute().parents)
            nearest = next(place for place in above if place.exists())
            if not nearest.is_dir():
                raise StoreError(f"{nearest}: is a file; give a new folder")
            if self.path.is_dir() and any(p.name[0] != "." for p in self.path.iterdir()):
                raise StoreError(f"{self.path}: not empty and no store; give a new folder")
            self.path.mkdir(parents=True, exist_ok=True)
            self._write_manifest()
            return
        header, items = read_manifest(self.path)
        found = differences(header, self._header)
        if [(i.id, i.split, i.labels, i.ignored) for i in items] != [
            (i.id, i.split, tuple(i.labels), tuple(i.ignored)) for i in self._dataset_items
        ]:
            found.append(
                f"the list of pictures or labels ({len(items)} there, {len(self._records)} now)"
            )
        if found:
            raise StoreError(
                f"{self.path}: made with another configuration: {'; '.join(found)}; "
                "give a new folder or remove this one"
            )
        self._header["methods"] = header["methods"]
        dataset = zip(items, self._dataset_items, strict=True)
        self.changed = tuple(
            item.id
            for item, now in dataset
            if item.sha256 is not None and content(now) not in (None, item.sha256)
        )
        self._resume(items, header.get("arrays", {}), mended)

    def _resume(
        self,
        items: tuple[StoredItem, ...],
        arrays: Mapping[str, str],
        mended: Callable[[Item], bool],
    ) -> None:
        """Take over the shards that are complete and as they were written."""
        remove_leftovers(self.path, seconds=0)
        changed = set(self.changed)
        for first in range(0, len(items), self.shard_size):
            block = items[first : first + self.shard_size]
            shard, rows = block[0].shard, sum(item.status == "done" for item in block)
            methods = self._header["methods"].items() if rows else ()
            files = [(method, shard_name(shard, method), size) for method, size in methods]
            intact = (
                all(item.status != "pending" for item in block)
                and all(
                    read_shard(self.path, shard, method, rows, dimension, arrays.get(name))
                    is not None
                    for method, name, dimension in files
                )
                and not any(
                    mended(self._dataset_items[first + place])
                    for place, item in enumerate(block)
                    if item.status == "skipped" and item.cause is None
                )
                and not any(item.id in changed for item in block)
            )
            if intact:
                # Digests of shards that an earlier version of this program wrote are added.
                self._arrays |= {
                    name: arrays.get(name) or file_digest(self.path / name) for _, name, _ in files
                }
            for record, item in zip(self._records[first:], block, strict=False):
                if intact:
                    record.update(status=item.status, reason=item.reason, row=item.row)
                    if item.cause is not None:
                        record["cause"] = item.cause
                    if item.sha256 is not None:
                        record["sha256"] = item.sha256
