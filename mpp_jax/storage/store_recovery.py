"""Going on with a store: what of it is kept, what is made again, and what was lost and is not.

A damaged head is known from the settings and the records; the pictures of a lost record are those
of the data that no other record has.
"""

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mpp_jax.data.dataset import Dataset, Item
from mpp_jax.storage.store_format import (
    DamagedError,
    StoredItem,
    StoreError,
    read_array,
    settings_digest,
)
from mpp_jax.storage.store_reading import Held, own_shards
from mpp_jax.storage.store_records import (
    by_shard,
    joint_list_digest,
    list_digest,
    read_record,
)


class Resumed(NamedTuple):
    """A list to go on with.

    Attributes:
        stored: every picture; those to be encoded are "pending".
        kept: shards whose arrays stay as they are.
    """

    stored: list[StoredItem]
    kept: set[int]


def resumed(
    folder: Path,
    stored: Sequence[StoredItem],
    held: Held,
    data: Mapping[str, Item],
    to_do: Callable[[StoredItem], bool],
    *,
    shard_size: int,
    shards: int,
) -> Resumed:
    """Take over what is as it was written; what is to be done again becomes pending.

    A shard of which something is to be done again is made again as a whole, so that a store is the
    same whatever happened to it, unless it holds what cannot be made again: then its pictures that
    can be move to shards of their own.

    Args:
        folder: of the store.
        stored: its list, brought up to the data.
        held: what was read.
        data: the data's pictures by id.
        to_do: whether one of them has to be encoded, for the first time or again.
        shard_size: items of a shard.
        shards: that there are.

    Raises:
        StoreError: a shard has to be made again, and the data lack some of its pictures.
    """
    moved: list[StoredItem] = []
    kept: set[int] = set()
    found: dict[int, list[StoredItem]] = {}
    for shard, block in sorted(by_shard(stored).items()):
        absent = [i for i in block if i.id not in data and i.status != "removed"]
        gone = any(item.status == "removed" and item.row is not None for item in block)
        sound = all(
            read_array(folder, shard, method, file) is not None
            for method, file in held.files.get(shard, {}).items()
        )
        if absent and not sound:
            raise StoreError(
                f"{folder}: shard {shard} is missing or damaged, and the data given lack "
                f"{len(absent)} of its pictures ({absent[0].id} for one); give the data that "
                "hold them, or all together"
            )
        again = {item.id for item in block if item.id in data and to_do(item)}
        if sound and (not again or absent or gone):
            kept.add(shard)
            moved += [item.begun_anew() for item in block if item.id in again]
            found[shard] = [item for item in block if item.id not in again]
            continue
        found[shard] = [
            replace(item, row=None) if item.status == "removed" else item.begun_anew()
            for item in block
        ]
    last = max(shards, 1 + max(found, default=-1))
    for place, item in enumerate(moved):
        shard = last + place // shard_size
        found.setdefault(shard, []).append(replace(item, shard=shard))
    return Resumed([item for _, block in sorted(found.items()) for item in block], kept)


def rebuilt_head(
    folder: Path,
    wanted: Mapping[str, Any],
    data: Collection[str],
    error: DamagedError,
    *,
    append: bool,
) -> dict[str, Any]:
    """Return a head instead of a damaged one, where records of the same settings lie beside it.

    Args:
        folder: of the store.
        wanted: the head that a new store of the data would have.
        data: ids of the data's pictures.
        error: what is wrong with the head that is there.
        append: whether the data may be but a part of the store's.

    Raises:
        DamagedError: ``error``, where there are none, or where they do not tell.
    """
    settings, sound, gone = settings_digest(wanted), False, 0
    places = [place.stem.removeprefix("shard-") for place in folder.glob("shard-*.json")]
    numbers = [int(number) for number in places if number.isdecimal()]
    for number in numbers:
        with contextlib.suppress(DamagedError):
            record = read_record(folder, number, settings)
            sound = True
            gone += sum(name not in data for name in record["ids"])
    if not sound:
        raise error
    if append:
        raise DamagedError(
            f"{error}; encode all of its pictures and the new ones together, without --append, to "
            "have it remade"
        )
    # Damaged records count as well: their pictures are found by `with_lost_pictures`.
    whole = {} if "part" in wanted else {"shards": 1 + max(numbers), "items": len(data) + gone}
    return {"list_sha256": None, **wanted, **whole}


def with_lost_pictures(
    folder: Path, head: Mapping[str, Any], held: Held, dataset: Dataset, *, append: bool
) -> tuple[StoredItem, ...]:
    """Return a store's list, in which pictures of lost records stand as "pending".

    Args:
        folder: of the store.
        head: its head.
        held: what could be read.
        dataset: the data, in whose order a new store has its pictures.
        append: whether the data may be but a part of the store's.

    Raises:
        StoreError: the data do not have what is lost.
    """
    items, lost = [*held.items], sorted(held.lost)
    if not lost:
        return tuple(items)
    there = {item.id for item in items}
    dataset = dataset.joining(head["classes"]) if append else dataset  # as `take_up` does
    candidates = [item for item in dataset.items if item.id not in there]
    number = len(dataset.items) if "part" in head else head["items"]
    found: dict[int, list[StoredItem]] = {shard: [] for shard in lost}
    index = {name: i for i, name in enumerate(held.classes)}
    numbers = [index.get(name) for name in dataset.classes]
    for place, item in enumerate(candidates[: max(number - len(items), 0)]):
        shard = lost[min(place // head["shard_size"], len(lost) - 1)]
        labels, ignored = (
            tuple(sorted(n for label in part if (n := numbers[label]) is not None))
            for part in (item.labels, item.ignored)
        )
        pending = replace(StoredItem.pending(item, shard), labels=labels, ignored=ignored)
        found[shard].append(pending)
    # Data that hold all that is known hold what is not: then it does not matter which it is.
    given = {item.id for item in dataset.items}
    whole = len(candidates) >= number - len(items)
    whole = whole and all(item.id in given or item.status == "removed" for item in items)
    if append and not whole:
        digests = dict(held.lists)
        digests |= {s: list_digest(block, held.classes) for s, block in found.items()}
        if joint_list_digest(digests[s] for s in own_shards(head)) != head["list_sha256"]:
            raise StoreError(
                f"{folder}: the record of shard {lost[0]} is missing or damaged, and the data "
                "given do not have just its pictures; give all data together"
            )
    items += [item for block in found.values() for item in block]
    return tuple(sorted(items, key=lambda item: item.shard))
