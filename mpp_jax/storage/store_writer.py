"""Writing a store: shard by shard, resumable (layout and schema: `mpp_jax.storage.store`)."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
    read_manifest,
    read_shard,
    shard_name,
    with_seal,
)
from mpp_jax.storage.store_list import take_up

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
        notes: what else the data have that the store had not, one line each (`store_list`).
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
        append: bool = False,
    ) -> None:
        """Create the folder and its manifest, or resume.

        Args:
            path: folder of the store; new, empty, or a store of the very same configuration, of
                these pictures or of more (see `store_list`).
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
            append: whether pictures that the store lacks join it, in shards of their own.

        Raises:
            StoreError: the folder holds something else, or a store of another configuration (the
                message names what differs) or of other pictures.
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
        self._items = {item.id: item for item in dataset.items}
        if len(self._items) != len(dataset.items):
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
        self._stored = [
            StoredItem.pending(item, number // shard_size)
            for number, item in enumerate(dataset.items)
        ]
        self._arrays: dict[str, str] = {}
        self._digests: dict[str, str] = {}
        self.changed: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()
        # Finished, but of a shard that is not complete yet: vectors by method, or why none.
        self._waiting: dict[int, dict[str, np.ndarray] | _Skip] = {}
        self._open_or_create(dataset, mended, content, append)
        self._number = {item.id: number for number, item in enumerate(self._stored)}
        pending = sorted(
            (item for item in self._stored if item.status == "pending"), key=lambda i: i.shard
        )
        self.remaining: tuple[Item, ...] = tuple(self._items[item.id] for item in pending)
        self._left = Counter(item.shard for item in pending)

    def shard_of(self, item: Item) -> int:
        """Return the number of the shard that a picture is or will be in."""
        return self._stored[self._number[item.id]].shard

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
        stored = self._stored[number]
        if number in self._waiting or stored.status != "pending":
            raise ValueError(f"item {identity!r} was finished before")
        self._waiting[number] = value
        self._left[stored.shard] -= 1
        if not self._left[stored.shard]:
            self._write_shard(stored.shard)

    def _write_shard(self, shard: int) -> None:
        numbers = sorted(n for n in self._waiting if self._stored[n].shard == shard)
        values = [self._waiting.pop(number) for number in numbers]
        encoded = [value for value in values if not isinstance(value, _Skip)]
        for method in self._header["methods"] if encoded else ():
            matrix = np.stack([value[method] for value in encoded])
            name = shard_name(shard, method)
            write_file(self.path / name, partial(np.save, arr=matrix))
            self._arrays[name] = file_digest(self.path / name)
        row = 0
        for number, value in zip(numbers, values, strict=True):
            stored = self._stored[number]
            if isinstance(value, _Skip):
                new = replace(stored, status="skipped", reason=value.reason, cause=value.cause)
            else:
                digest = self._digests.pop(stored.id, None)
                new = replace(stored, status="done", row=row, sha256=digest)
                row += 1
            self._stored[number] = new
        self._write_manifest()

    def _write_manifest(self) -> None:
        done = not any(item.status == "pending" for item in self._stored)
        state = {"complete": done, "arrays": dict(sorted(self._arrays.items()))}
        head = json.dumps(self._header | state, indent=1)
        lines = ",\n".join("  " + json.dumps(item.record()) for item in self._stored)
        text = f'{head[: -len(chr(10) + "}")]},\n "items": [\n{lines}\n ]\n}}\n'
        write_file(self.path / MANIFEST, with_seal(text))

    def _open_or_create(
        self,
        dataset: Dataset,
        mended: Callable[[Item], bool],
        content: Callable[[Item], str | None],
        append: bool,
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
        header, stored = read_manifest(self.path)
        found = differences(header, self._header)
        if found:
            raise StoreError(
                f"{self.path}: made with another configuration: {'; '.join(found)}; "
                "give a new folder or remove this one"
            )
        size = self.shard_size
        now = take_up(
            self.path, header, stored, dataset, shard_size=size, append=append, content=content
        )
        self.changed, self.notes = now.changed, now.notes
        pictures = {
            "dataset": now.dataset,
            "classes": list(now.classes),
            "multi_label": now.multi_label,
        }
        self._header |= pictures | {"methods": header["methods"]}
        self._stored = [*now.stored]
        remove_leftovers(self.path, seconds=0)
        self._resume(header.get("arrays", {}), mended)
        if (tuple(self._stored), header) != (stored, header | pictures):
            self._write_manifest()

    def _resume(self, arrays: Mapping[str, str], mended: Callable[[Item], bool]) -> None:
        """Take over what is as it was written; what is to be done again becomes pending.

        A shard of which something is to be done again is made again as a whole, so that a store is
        the same whatever happened to it, unless it holds what cannot be made again: then its
        pictures that can be move to shards of their own.
        """
        moved: list[int] = []
        for shard, numbers in self._by_shard().items():
            block = [self._stored[number] for number in numbers]
            there = [item for item in block if item.id in self._items]
            absent = [i for i in block if i.id not in self._items and i.status != "removed"]
            gone = [item for item in block if item.status == "removed" and item.row is not None]
            rows = 1 + max((item.row for item in block if item.row is not None), default=-1)
            methods = self._header["methods"].items() if rows else ()
            files = [(method, shard_name(shard, method), size) for method, size in methods]
            sound = all(
                read_shard(self.path, shard, method, rows, dimension, arrays.get(name)) is not None
                for method, name, dimension in files
            )
            if absent and not sound:
                raise StoreError(
                    f"{self.path}: shard {shard} is missing or damaged, and the data given lack "
                    f"{len(absent)} of its pictures ({absent[0].id} for one); give the data that "
                    "hold them, or all together"
                )
            again = [item for item in there if self._to_do(item, mended)]
            if sound:
                # Digests of shards that an earlier version of this program wrote are added.
                digests = {n: arrays.get(n) or file_digest(self.path / n) for _, n, _ in files}
            if sound and (not again or absent or gone):
                self._arrays |= digests
                moved += [n for n in numbers if self._stored[n] in again]
                continue
            for number, item in zip(numbers, block, strict=True):
                gone_too = item.status == "removed"
                self._stored[number] = replace(item, row=None) if gone_too else item.begun_anew()
        last = 1 + max((item.shard for item in self._stored), default=-1)
        for place, number in enumerate(moved):
            shard = last + place // self.shard_size
            self._stored[number] = replace(self._stored[number].begun_anew(), shard=shard)

    def _to_do(self, item: StoredItem, mended: Callable[[Item], bool]) -> bool:
        """Return whether a picture that is there has to be encoded, for the first time or again."""
        skipped = item.status == "skipped" and item.cause is None
        return (
            item.status == "pending"
            or item.id in self.changed
            or (skipped and mended(self._items[item.id]))
        )

    def _by_shard(self) -> dict[int, list[int]]:
        shards: dict[int, list[int]] = {}
        for number, item in enumerate(self._stored):
            shards.setdefault(item.shard, []).append(number)
        return shards
