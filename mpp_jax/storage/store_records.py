"""The record beside each shard: which pictures it is of, what became of them, and its files."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mpp_jax.storage.store_format import (
    STATUSES,
    VERSION,
    ArrayFile,
    DamagedError,
    StoredItem,
    record_name,
    sealed,
    unsealed,
)

RECORD: Final = "mpp-jax-store-shard"

COLUMNS: Final = (
    *("ids", "splits", "labels", "ignored", "statuses", "reasons", "causes", "rows", "sha256"),
)
"""Lists with an entry for each picture of a shard."""


def record_bytes(
    shard: int,
    settings: str,
    items: Sequence[StoredItem],
    classes: Sequence[str],
    arrays: Mapping[str, ArrayFile],
) -> bytes:
    """Return the content of a record.

    Args:
        shard: its number.
        settings: digest of what decides the vectors (`store_format.settings_digest`).
        items: its pictures, in order.
        classes: names, which labels index.
        arrays: its files by method.
    """
    names = lambda labels: [classes[label] for label in labels]  # noqa: E731
    return sealed(
        {
            "format": RECORD,
            "version": VERSION,
            "shard": shard,
            "settings_sha256": settings,
            "list_sha256": list_digest(items, classes),
            "ids": [item.id for item in items],
            "splits": [item.split for item in items],
            "labels": [names(item.labels) for item in items],
            "ignored": [names(item.ignored) for item in items],
            "statuses": [item.status for item in items],
            "reasons": [item.reason for item in items],
            "causes": [item.cause for item in items],
            "rows": [item.row for item in items],
            "sha256": [item.sha256 for item in items],
            "arrays": {method: file._asdict() for method, file in arrays.items()},
        }
    )


def read_record(folder: Path, shard: int, settings: str | None = None) -> dict[str, Any]:
    """Return a record's entries.

    Args:
        folder: of the store.
        shard: its number.
        settings: digest that it must carry; None for any.

    Raises:
        DamagedError: it is missing, or not what was written there.
    """
    place = folder / record_name(shard)
    try:
        record = unsealed(place.read_bytes())
        if (record["format"], record["version"], record["shard"]) != (RECORD, VERSION, shard):
            raise ValueError("it is of something else")
        if settings is not None and record["settings_sha256"] != settings:
            raise ValueError("it is of another store")
        if len({len(record[column]) for column in COLUMNS}) != 1:
            raise ValueError("columns of different lengths")
        if not set(record["statuses"]) <= set(STATUSES):
            raise ValueError("unknown status")
        record["arrays"] = {m: ArrayFile(**entry) for m, entry in record["arrays"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = "missing" if isinstance(error, FileNotFoundError) else f"damaged ({error})"
        raise DamagedError(
            f"{place}: {reason}; give the same encode command again to have it remade"
        ) from error
    return record


def list_digest(items: Iterable[StoredItem], classes: Sequence[str]) -> str:
    """Return the SHA-256 of what a shard's list says, whatever is encoded of it yet."""
    lines = [
        [
            item.id,
            item.split,
            [classes[label] for label in item.labels],
            [classes[label] for label in item.ignored],
            item.status == "removed",
        ]
        for item in items
    ]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def joint_list_digest(digests: Iterable[str]) -> str:
    """Return the digest of a store's whole list from those of its shards, in their order."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def by_shard(items: Sequence[StoredItem]) -> dict[int, list[StoredItem]]:
    """Return items by shard, in their order."""
    shards: dict[int, list[StoredItem]] = {}
    for item in items:
        shards.setdefault(item.shard, []).append(item)
    return shards


def list_entries(
    items: Sequence[StoredItem], classes: Sequence[str], least: int = 0
) -> dict[str, Any]:
    """Return what a head says of the whole list; there are ``least`` shards or more."""
    blocks = by_shard(items)
    shards = max(least, 1 + max(blocks, default=-1))
    digests = (list_digest(blocks.get(shard, ()), classes) for shard in range(shards))
    entries = {"items": len(items), "shards": shards}
    return entries | {"list_sha256": joint_list_digest(digests)}
