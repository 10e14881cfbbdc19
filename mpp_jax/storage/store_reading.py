"""A store's head, records and list, read into one place; of version 1 too."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mpp_jax.storage.store_format import (
    ArrayFile,
    DamagedError,
    StoredItem,
    array_name,
    record_name,
    settings_digest,
)
from mpp_jax.storage.store_records import joint_list_digest, read_record
from mpp_jax.storage.store_table import Items, TableBuilder, table_of


class Held(NamedTuple):
    """What a store holds.

    Attributes:
        classes: names, which labels index; those of the head first.
        items: all pictures, by shard.
        files: of each shard, by method.
        lists: digest of each shard's list.
        lost: why a record cannot be read, by shard.
    """

    classes: tuple[str, ...]
    items: Items
    files: Mapping[int, Mapping[str, ArrayFile]]
    lists: Mapping[int, str]
    lost: Mapping[int, DamagedError]


def own_shards(head: Mapping[str, Any]) -> range:
    """Return the shards that a store has, or that a part of it has."""
    part, parts = head.get("part", (1, 1))
    return range(part - 1, head["shards"], parts)


def read_held(folder: Path, head: Mapping[str, Any]) -> Held:
    """Read all records of a store of version 2; those that are lost are named.

    Args:
        folder: its place.
        head: what `store_format.read_head` gave.
    """
    settings = settings_digest(head)
    builder = TableBuilder(head["classes"])
    files, lists, lost = {}, {}, {}
    for shard in own_shards(head):
        try:
            record = read_record(folder, shard, settings)
            builder.add(shard, record)
        except DamagedError as error:
            lost[shard] = error
            continue
        except (ValueError, TypeError) as error:
            lost[shard] = DamagedError(f"{folder / record_name(shard)}: damaged ({error})")
            continue
        files[shard], lists[shard] = record["arrays"], record["list_sha256"]
    items = Items.all_of(builder.finish())
    return Held(tuple(builder.classes), items, files, lists, lost)


def check_list(folder: Path, head: Mapping[str, Any], held: Held) -> None:
    """Raise unless the records are those, and of that list, which the head names.

    Raises:
        DamagedError: one is lost, or its list is not up to the head's.
    """
    for error in held.lost.values():
        raise error
    whole = "part" not in head
    digest = joint_list_digest(held.lists[shard] for shard in own_shards(head))
    if whole and (digest, len(held.items)) != (head["list_sha256"], head["items"]):
        name = record_name(max(held.lists, default=0))
        raise DamagedError(
            f"{folder}: its records (up to {name}) do not have the list of pictures that its "
            "manifest names; give the same encode command again"
        )


def read_version_1(folder: Path, manifest: dict[str, Any]) -> tuple[dict[str, Any], Held]:
    """Return a manifest of version 1 as a head, and what the store holds.

    Raises:
        DamagedError: entries that are missing or of another form.
    """
    try:
        stored = tuple(
            StoredItem(**(r | {"labels": tuple(r["labels"]), "ignored": tuple(r["ignored"])}))
            for r in manifest["items"]
        )
        items = Items.all_of(table_of(sorted(stored, key=lambda item: item.shard)))
        head = {k: v for k, v in manifest.items() if k not in ("items", "arrays", "complete")}
        head |= {"methods": list(manifest["methods"]), "dtype": "float32"}
        settings_digest(head)
        files: dict[int, dict[str, ArrayFile]] = {}
        rows, shards = items.rows, items.shards
        for shard in np.unique(shards[rows >= 0]).tolist():
            count = int(rows[shards == shard].max()) + 1
            files[shard] = {
                method: ArrayFile(count, dimension, None, _digest(manifest, shard, method))
                for method, dimension in manifest["methods"].items()
            }
        return head, Held(tuple(manifest["classes"]), items, files, {}, {})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DamagedError(
            f"{folder / 'manifest.json'}: not a manifest of encodings, or damaged ({what})"
        ) from error


def _digest(manifest: Mapping[str, Any], shard: int, method: str) -> str | None:
    return manifest.get("arrays", {}).get(array_name(shard, method))


def dimensions(
    methods: Iterable[str], files: Mapping[int, Mapping[str, ArrayFile]]
) -> dict[str, int | None]:
    """Return the dimension of each method's vectors; None where there is none yet.

    Raises:
        DamagedError: shards of different ones.
    """
    found: dict[str, int | None] = {}
    for method in methods:
        sizes = {one[method].dimension for one in files.values() if method in one}
        if len(sizes) > 1:
            raise DamagedError(f"{method}: shards with vectors of {sorted(map(str, sizes))}")
        found[method] = next(iter(sizes), None)
    return found
