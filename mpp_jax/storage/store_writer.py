"""Writing a store: shard by shard, resumable (layout and schema: `mpp_jax.storage.store`)."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from mpp_jax.data.dataset import Dataset, Item
from mpp_jax.files import remove_leftovers, write_file
from mpp_jax.storage.store_format import (
    FORMAT,
    MANIFEST,
    SETTINGS,
    VERSION,
    DamagedError,
    StoredItem,
    StoreError,
    differences,
    read_head,
    record_name,
    sealed,
    settings_digest,
)
from mpp_jax.storage.store_list import take_up
from mpp_jax.storage.store_reading import Held, dimensions, own_shards, read_held
from mpp_jax.storage.store_records import by_shard, list_digest, list_entries, record_bytes
from mpp_jax.storage.store_recovery import rebuilt_head, resumed, with_lost_pictures
from mpp_jax.storage.store_shard import ShardTask, ShardWriter, checked

SHARD_SIZE: Final = 256
"""Items of a shard unless told otherwise."""

_METHOD_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(\([A-Za-z0-9_.-]+\))?")


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

    A shard is written as soon as each of its items was put or skipped. Other processes may write
    shards too, each its own: ``tasks`` has what they need to know, and a task can be pickled.

    Attributes:
        path: the folder.
        remaining: items still to do when the store was opened: those of all incomplete shards.
        tasks: those shards, by number (`mpp_jax.storage.store_shard`).
        shard_size: items of a shard.
        changed: ids of pictures whose content is not what was encoded; their shards remain to do.
        notes: what else the data have that the store had not, one line each (`store_list`).
        total: pictures of the data that are to be in the store, or in this part of it.
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
        dtype: str = "float32",
        mended: Callable[[Item], bool] = lambda item: False,
        content: Callable[[Item], str | None] = lambda item: None,
        append: bool = False,
        part: tuple[int, int] | None = None,
    ) -> None:
        """Create the folder and its files, or resume.

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
            dtype: of the stored vectors, "float32" or "float16".
            mended: whether a picture that an earlier run had to skip can be decoded now; a shard
                with such a picture is done again.
            content: SHA-256 of a picture's content now, None where it cannot be had; a shard with
                a picture that changed is done again.
            append: whether pictures that the store lacks join it, in shards of their own.
            part: (i, n) for every n-th shard from the i-th, i = 1..n, in a folder of their own;
                `mpp_jax.storage.store_merge` joins the parts.

        Raises:
            StoreError: the folder holds something else, or a store of another configuration (the
                message names what differs) or of other pictures.
            ValueError: a bad method name, dtype or part, repeated ids, or ``shard_size < 1``.
        """
        _check(methods, shard_size, dtype, part, append)
        self.path = Path(path)
        self.shard_size = shard_size
        self._items = {item.id: item for item in dataset.items}
        if len(self._items) != len(dataset.items):
            raise ValueError("the dataset has repeated item ids")
        whole = [
            StoredItem.pending(item, number // shard_size)
            for number, item in enumerate(dataset.items)
        ]
        self._head: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "dataset": dataset.name,
            "classes": list(dataset.classes),
            "multi_label": dataset.multi_label,
            "network": network,
            "weights_sha256": weights_sha256,
            "codebook_sha256": codebook_sha256,
            "config": json.loads(json.dumps(dict(config), allow_nan=False)),
            "methods": list(methods),
            "shard_size": shard_size,
            "dtype": dtype,
        }
        self._settings = settings_digest(self._head)
        self.changed: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()
        self._dimensions: dict[str, int | None] = {}
        if part is not None:
            self._head |= {"part": list(part), **list_entries(whole, dataset.classes)}
            own = own_shards(self._head)
            whole = [item for item in whole if item.shard in own]
            dataset = replace(dataset, items=tuple(self._items[item.id] for item in whole))
        self.total = len(dataset.items)
        self._stored = whole
        self._open_or_create(dataset, mended, content, append)
        self._shards = {item.id: item.shard for item in self._stored}
        blocks = by_shard(self._stored)
        self.tasks: dict[int, ShardTask] = {
            shard: ShardTask(
                self.path.absolute(),
                shard,
                self._settings,
                tuple(self._head["classes"]),
                tuple(block),
                tuple(methods),
                dtype,
            )
            for shard, block in sorted(blocks.items())
            if any(item.status == "pending" for item in block)
        }
        self.remaining: tuple[Item, ...] = tuple(
            self._items[name] for task in self.tasks.values() for name in task.pending
        )
        self._stored = []  # from now on the shards' business
        self._writers: dict[int, ShardWriter] = {}

    def shard_of(self, item: Item) -> int:
        """Return the number of the shard that a picture is or will be in."""
        return self._shards[item.id]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Complete shards are on disk already; an incomplete one is dropped by design.
        self._writers.clear()

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
        arrays = checked(len(items), vectors, self._head["methods"], self._dimensions)
        rows: dict[int, list[int]] = {}
        for row, item in enumerate(items):
            rows.setdefault(self._known(item), []).append(row)
        for shard, wanted in rows.items():
            some = [items[row] for row in wanted]
            part = arrays if len(rows) == 1 else {m: array[wanted] for m, array in arrays.items()}
            self._writer(shard, some[0]).put(some, part, digests)
            self._close(shard)

    def skip(self, item: Item, reason: str, digest: str | None = None) -> None:
        """Record that a picture could not be decoded, why (one line), and its content's SHA-256."""
        shard = self._known(item)
        self._writer(shard, item).skip(item, reason, digest)
        self._close(shard)

    def _known(self, item: Item) -> int:
        if item.id not in self._shards:
            raise ValueError(f"no item {item.id!r} in this store")
        return self._shards[item.id]

    def _writer(self, shard: int, item: Item) -> ShardWriter:
        if shard not in self._writers:
            if shard not in self.tasks:
                raise ValueError(f"item {item.id!r} was finished before")
            self._writers[shard] = ShardWriter(self.tasks[shard], self._dimensions)
        return self._writers[shard]

    def _close(self, shard: int) -> None:
        if self._writers[shard].complete:
            del self._writers[shard], self.tasks[shard]

    # ------------------------------------------------------------------------------ taking up

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
            self._write_list({}, None, set())
            return
        head = self._head_there(append)
        held = read_held(self.path, head)
        self._dimensions = dimensions(self._head["methods"], held.files)
        now = take_up(
            self.path,
            head | {"classes": held.classes},
            with_lost_pictures(self.path, head, held, dataset, append=append),
            dataset,
            shard_size=self.shard_size,
            append=append,
            content=content,
        )
        self.changed, self.notes = now.changed, now.notes
        self._head |= {
            "dataset": now.dataset,
            "classes": list(now.classes),
            "multi_label": now.multi_label,
        }
        remove_leftovers(self.path, seconds=0)
        self._stored, kept = resumed(
            self.path,
            now.stored,
            held,
            self._items,
            lambda item: self._to_do(item, mended),
            shard_size=self.shard_size,
            shards=head["shards"],
        )
        self._write_list(head, held, kept)

    def _head_there(self, append: bool) -> dict[str, Any]:
        """Return the head of the store that is there, if it is one to go on with."""
        try:
            head = read_head(self.path)
        except DamagedError as error:
            head = rebuilt_head(self.path, self._head, self._items, error, append=append)
        if head["version"] != VERSION:
            raise StoreError(
                f"{self.path}: of version {head['version']}, which is read but not written to; "
                f"`mpp-jax merge {self.path} --out NEW` makes one of version {VERSION} of it, with "
                "which encode goes on"
            )
        there, here = ({key: one[key] for key in SETTINGS} for one in (head, self._head))
        found = differences(there, here)
        if found:
            raise StoreError(
                f"{self.path}: made with another configuration: {'; '.join(found)}; "
                "give a new folder or remove this one"
            )
        parts = [one.get("part") for one in (head, self._head)]
        if parts[0] != parts[1]:
            named = ["all of it" if part is None else f"part {part[0]}/{part[1]}" for part in parts]
            raise StoreError(
                f"{self.path}: holds {named[0]} and is to hold {named[1]}; give each a folder of "
                "its own, and `mpp-jax merge` when all are done"
            )
        if parts[0] and head["list_sha256"] != self._head["list_sha256"]:
            raise StoreError(
                f"{self.path}: a part of {head['items']} pictures of {head['dataset']}, which are "
                f"not the {self._head['items']} of {self._head['dataset']} (names, classes or "
                "splits differ); give all parts the same data, or new folders"
            )
        return head

    def _to_do(self, item: StoredItem, mended: Callable[[Item], bool]) -> bool:
        """Return whether a picture that is there has to be encoded, for the first time or again."""
        skipped = item.status == "skipped" and item.cause is None
        return (
            item.status == "pending"
            or item.id in self.changed
            or (skipped and mended(self._items[item.id]))
        )

    def _write_list(self, head: Mapping[str, Any], held: Held | None, kept: set[int]) -> None:
        """Write the head and the records that are not as they were, in this order.

        A reader notices, by the digest of the list, when a process was killed between.

        Args:
            head: the one that is there; empty for none, and without a seal if it was rebuilt.
            held: what the records say; None without any.
            kept: shards whose arrays stay.
        """
        blocks, classes = by_shard(self._stored), self._head["classes"]
        if "part" not in self._head:
            self._head |= list_entries(self._stored, classes, head.get("shards", 0))
        if self._head | {"seal": head.get("seal")} != head:
            write_file(self.path / MANIFEST, sealed(self._head))
        before = {} if held is None else by_shard(held.items)
        for shard in own_shards(self._head):
            block, old = blocks.get(shard, []), before.get(shard, [])
            if (
                held is not None
                and held.lists.get(shard) == list_digest(block, classes)
                and [*map(_state, block)] == [*map(_state, old)]
            ):
                continue
            files = held.files.get(shard, {}) if held is not None and shard in kept else {}
            record = record_bytes(shard, self._settings, block, classes, files)
            # Nothing is lost with a record that names no files: the data have its list.
            write_file(self.path / record_name(shard), record, durable=bool(files))


def _state(item: StoredItem) -> tuple[Any, ...]:
    """Return what of an item is no business of the list."""
    return item.status, item.row, item.reason, item.cause, item.sha256


def _check(
    methods: Sequence[str],
    shard_size: int,
    dtype: str,
    part: tuple[int, int] | None,
    append: bool,
) -> None:
    if shard_size < 1:
        raise ValueError(f"shard_size must be at least 1, got {shard_size}")
    for method in methods:
        if not _METHOD_NAME.fullmatch(method):
            raise ValueError(f"bad method name {method!r}: use letters, digits, '_', '-', '.'")
    if not methods or len(set(methods)) != len(methods):
        raise ValueError(f"methods must be one or more different names, got {list(methods)}")
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype must be float32 or float16, got {dtype!r}")
    if part is not None and not 1 <= part[0] <= part[1]:
        raise ValueError(f"part must be (i, n) with 1 <= i <= n, got {part}")
    if part is not None and append:
        raise ValueError("append: to a whole store; merge the parts first")
