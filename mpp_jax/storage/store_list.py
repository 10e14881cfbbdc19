"""What a store's list of pictures becomes when the data are not what they were.

Vectors rest on a picture's content, the network and the codebook; neither on where the picture
lies, nor on its label, nor on its neighbours. So a store that was made goes on being used:

    pictures that are gone    are kept as "removed", out of sight; they return as they left
    other labels or splits    are the data's, whatever the store had
    another folder            is the same where its pictures are, by content
    new pictures              come in shards of their own behind the others, where that was asked
                              for (``append``); then the data may hold nothing but them
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mpp_jax.data.dataset import Dataset, Item
from mpp_jax.storage.store_format import StoredItem, StoreError


class TakenUp(NamedTuple):
    """The list of a store, brought up to the data.

    Attributes:
        dataset: name of the store's pictures.
        classes: their classes.
        multi_label: whether a picture may carry any number of labels.
        stored: every picture that the store has or is to have, in its order.
        items: the data's, by id; those of `stored` that are not among them cannot be read.
        changed: ids of pictures whose content is not what was encoded.
        notes: what differs, one line each; empty where nothing does.
    """

    dataset: str
    classes: tuple[str, ...]
    multi_label: bool
    stored: tuple[StoredItem, ...]
    items: dict[str, Item]
    changed: tuple[str, ...]
    notes: tuple[str, ...]


def take_up(
    folder: Path,
    header: Mapping[str, Any],
    stored: Sequence[StoredItem],
    dataset: Dataset,
    *,
    shard_size: int,
    append: bool,
    content: Callable[[Item], str | None],
) -> TakenUp:
    """Compare a store's list with the data, and bring it up to them.

    Args:
        folder: of the store, for messages.
        header: of its manifest.
        stored: its list.
        dataset: the data of today.
        shard_size: items of a shard.
        append: whether new pictures may join.
        content: SHA-256 of a picture's content now, None where it cannot be had.

    Raises:
        StoreError: new pictures without ``append``; other pictures under the old names; a store of
            pictures that cannot be read any more where they have to be.
    """
    items = {item.id: item for item in dataset.items}
    there = {item.id for item in stored}
    added = [item for item in dataset.items if item.id not in there]
    absent = [i for i in stored if i.id not in items and i.status != "removed"]
    kept = absent if append else []
    present = [(i, items[i.id]) for i in stored if i.id in items]
    changed = tuple(
        i.id for i, item in present if i.sha256 and content(item) not in (None, i.sha256)
    )
    _check_pictures(folder, header, dataset, present, changed, kept=kept)
    if added and not append:
        raise StoreError(
            f"{folder}: {_some([i.id for i in added])} not in it; `encode --append` adds them, "
            "without it give a new folder"
        )
    _check_kept(folder, header, dataset, kept)
    classes = tuple(dataset.classes)
    if kept:
        classes = tuple(dict.fromkeys((*header["classes"], *dataset.classes)))
    position = {name: number for number, name in enumerate(classes)}
    of_store = [position.get(name) for name in header["classes"]]
    of_data = [position.get(name) for name in dataset.classes]
    now = tuple(_brought_up(i, items.get(i.id), of_store, of_data, append) for i in stored)
    last = max((i.shard for i in stored), default=-1) + 1
    now += tuple(
        _labelled(StoredItem.pending(item, last + number // shard_size), item, of_data)
        for number, item in enumerate(added)
    )
    relabelled = [
        old.id
        for old, new in zip(stored, now, strict=False)
        if new.id in items and _meaning(old, header["classes"]) != _meaning(new, classes)
    ]
    pairs = list(zip(stored, now, strict=False))
    removed = [n.id for o, n in pairs if n.status == "removed" != o.status]
    returned = [n.id for o, n in pairs if o.status == "removed" != n.status]
    notes = [
        f"{_some(names)} {what}"
        for names, what in (
            (removed, "not among the data any more; what was encoded is kept, and not used"),
            (returned, "among the data again"),
            (relabelled, "of other classes or another split than the store had; it takes them"),
            ([item.id for item in added], "new, and join the store"),
        )
        if names
    ]
    return TakenUp(
        header["dataset"] if kept else dataset.name,
        classes,
        dataset.multi_label or (bool(kept) and header["multi_label"]),
        now,
        items,
        changed,
        tuple(notes),
    )


def _check_pictures(
    folder: Path,
    header: Mapping[str, Any],
    dataset: Dataset,
    present: Sequence[tuple[StoredItem, Item]],
    changed: Sequence[str],
    *,
    kept: Sequence[StoredItem],
) -> None:
    """Raise where the data's pictures only have the names of the store's."""
    if not present and not kept:
        raise StoreError(f"{folder}: made of other pictures than {dataset.name}; give a new folder")
    # A whole set that goes by its old name is the old one, with pictures replaced.
    if header["dataset"] == dataset.name and not kept:
        return
    unknown = [i.id for i, _ in present if i.status == "done" and i.sha256 is None]
    if header["dataset"] == dataset.name:
        unknown = []
    for names, what in ((changed, "other contents"), (unknown, "contents that are not recorded")):
        if names:
            raise StoreError(
                f"{folder}: made of {header['dataset']}; in {dataset.name} {len(names)} pictures "
                f"have the same names and {what} ({names[0]} for one); give them other names, or "
                "a new folder"
            )


def _check_kept(
    folder: Path, header: Mapping[str, Any], dataset: Dataset, kept: Sequence[StoredItem]
) -> None:
    """Raise where pictures that the data lack would have to be read, or go without a class."""
    pending = [item.id for item in kept if item.status == "pending"]
    if pending:
        raise StoreError(
            f"{folder}: unfinished, {_some(pending)} not encoded yet and not in {dataset.name}; "
            "finish it with the command that began it, then append"
        )
    if kept and bool(header["classes"]) != bool(dataset.classes):
        which = (folder, dataset.name) if header["classes"] else (dataset.name, folder)
        raise StoreError(
            f"{folder}: the pictures of {which[0]} have classes, those of {which[1]} none; "
            "give both or neither, or a new folder"
        )


def _brought_up(
    old: StoredItem,
    item: Item | None,
    of_store: Sequence[int | None],
    of_data: Sequence[int | None],
    append: bool,
) -> StoredItem:
    if item is not None:
        new = _labelled(old, item, of_data)
        if old.status != "removed":
            return new
        return replace(new, status="pending" if old.row is None else "done")
    labels, ignored = _renumbered(old.labels, of_store), _renumbered(old.ignored, of_store)
    new = replace(old, labels=labels, ignored=ignored)
    if append or old.status == "removed":
        return new
    return replace(new, status="removed", reason=None, cause=None)


def _labelled(stored: StoredItem, item: Item, of_data: Sequence[int | None]) -> StoredItem:
    return replace(
        stored,
        split=item.split,
        labels=_renumbered(item.labels, of_data),
        ignored=_renumbered(item.ignored, of_data),
    )


def _renumbered(labels: Sequence[int], new: Sequence[int | None]) -> tuple[int, ...]:
    return tuple(sorted(n for label in labels if (n := new[label]) is not None))


def _meaning(item: StoredItem, classes: Sequence[str]) -> tuple[str, set[str], set[str]]:
    return item.split, {classes[i] for i in item.labels}, {classes[i] for i in item.ignored}


def _some(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"1 picture ({names[0]}) is"
    return f"{len(names)} pictures ({names[0]} for one) are"
