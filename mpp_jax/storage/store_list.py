"""What a store's list of pictures becomes when the data are not what they were.

Vectors rest on a picture's content, the network and the codebook; neither on where the picture
lies, nor on its label, nor on its neighbours. So a store that was made goes on being used:

    pictures that are gone    are kept as "removed", out of sight; they return as they left
    other labels or splits    are the data's, whatever the store had
    other names or places     are the data's too, where the content is the same
    replaced pictures         are encoded again, as long as most are what they were
    new pictures              come in shards of their own behind the others, where that was asked
                              for (``append``); then the data may hold nothing but them
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mpp_jax.data.dataset import Dataset, Item
from mpp_jax.storage.store_format import StoredItem, StoreError

Content = Callable[[Item], str | None]
"""SHA-256 of a picture's content now, None where it cannot be had."""


class TakenUp(NamedTuple):
    """The list of a store, brought up to the data.

    Attributes:
        dataset: name of the store's pictures.
        classes: their classes.
        multi_label: whether a picture may carry any number of labels.
        stored: every picture that the store has or is to have, in its order.
        changed: ids of pictures whose content is not what was encoded.
        notes: what differs, one line each; empty where nothing does.
    """

    dataset: str
    classes: tuple[str, ...]
    multi_label: bool
    stored: tuple[StoredItem, ...]
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
    content: Content,
) -> TakenUp:
    """Compare a store's list with the data, and bring it up to them.

    Args:
        folder: of the store, for messages.
        header: of its manifest.
        stored: its list.
        dataset: the data of today.
        shard_size: items of a shard.
        append: whether new pictures may join.
        content: digests of the data's pictures.

    Raises:
        StoreError: new pictures without ``append``; other pictures under the old names; a store of
            pictures that cannot be read any more where they have to be.
    """
    items = {item.id: item for item in dataset.items}
    there = {item.id for item in stored}
    present = [(i, items[i.id]) for i in stored if i.id in items]
    absent = [i for i in stored if i.id not in items]
    added = [item for item in dataset.items if item.id not in there]
    same = _same_contents(absent, added, content)
    renamed = {} if append else same
    kept = [i for i in absent if i.status != "removed"] if append else []
    changed = tuple(
        i.id for i, item in present if i.sha256 and content(item) not in (None, i.sha256)
    )
    _check_pictures(folder, header, dataset, present, changed, kept)
    new = {item.id for item in renamed.values()}
    added = [item for item in added if item.id not in new]
    if added and not append:
        if not present and not renamed:
            raise StoreError(
                f"{folder}: made of {header['dataset']}, of which {dataset.name} has no picture; "
                "give a new folder, or `encode --append` to have both"
            )
        raise StoreError(
            f"{folder}: {_some([i.id for i in added])} not in it; `encode --append` adds what is "
            "new, without it give a new folder"
        )
    _check_kept(folder, header, dataset, kept)
    classes = tuple(dataset.classes)
    if kept:
        dataset = dataset.joining(header["classes"])
        items = {item.id: item for item in dataset.items}
        added = [items[item.id] for item in added]
        classes = tuple(dict.fromkeys((*header["classes"], *dataset.classes)))
    position = {name: number for number, name in enumerate(classes)}
    of_store = [position.get(name) for name in header["classes"]]
    of_data = [position.get(name) for name in dataset.classes]
    now = tuple(
        _brought_up(i, items.get(i.id) or renamed.get(i.id), of_store, of_data, append)
        for i in stored
    )
    pairs = list(zip(stored, now, strict=True))
    last = max((i.shard for i in stored), default=-1) + 1
    now += tuple(
        _labelled(StoredItem.pending(item, last + number // shard_size), item, of_data)
        for number, item in enumerate(added)
    )
    old_classes = header["classes"]
    notes = {
        "not among the data any more; what was encoded is kept, and not used": [
            n.id for o, n in pairs if n.status == "removed" != o.status
        ],
        "among the data again": [n.id for o, n in pairs if o.status == "removed" != n.status],
        "known under another name or place, which the store takes": [
            n.id for o, n in pairs if n.id != o.id
        ],
        "of other classes or another split than the store had; it takes them": [
            n.id
            for o, n in pairs
            if n.id in items and _meaning(o, old_classes) != _meaning(n, classes)
        ],
        "new, and added to the store": [item.id for item in added],
        "new by name alone, the store has their contents (renamed ones go without --append)": [
            item.id for item in same.values() if append
        ],
    }
    return TakenUp(
        header["dataset"] if kept else dataset.name,
        classes,
        dataset.multi_label or (bool(kept) and header["multi_label"]),
        now,
        changed,
        tuple(f"{_some(names)} {what}" for what, names in notes.items() if names),
    )


def _same_contents(
    absent: Sequence[StoredItem], added: Sequence[Item], content: Content
) -> dict[str, Item]:
    """Return new pictures by the id of the absent one whose content they have, one to one."""
    waiting: dict[str, list[StoredItem]] = {}
    for item in sorted(absent, key=lambda item: item.status == "removed"):
        if item.sha256 is not None:
            waiting.setdefault(item.sha256, []).append(item)
    found = {}
    for new in added if waiting else ():
        twins = waiting.get(content(new) or "")
        if twins:
            found[twins.pop(0).id] = new
    return found


def _check_pictures(
    folder: Path,
    header: Mapping[str, Any],
    dataset: Dataset,
    present: Sequence[tuple[StoredItem, Item]],
    changed: Sequence[str],
    kept: Sequence[StoredItem],
) -> None:
    """Raise where the data's pictures only have the names of the store's."""
    known = sum(i.sha256 is not None for i, _ in present)
    if 2 * len(changed) > known:
        raise StoreError(
            f"{folder}: made of {header['dataset']}; of its pictures that {dataset.name} has by "
            f"name, {len(changed)} of {known} have other contents ({changed[0]} for one), so this "
            "is another set; give a new folder, or the pictures other names"
        )
    # Without digests a whole set that goes by its old name is the old one.
    unknown = [i.id for i, _ in present if i.status == "done" and i.sha256 is None]
    if unknown and (kept or header["dataset"] != dataset.name):
        raise StoreError(
            f"{folder}: made of {header['dataset']}; {dataset.name} has {len(unknown)} of its "
            f"pictures by name ({unknown[0]} for one), but their contents are not recorded, so "
            "nothing tells whether they are the same; give a new folder, or the pictures other "
            "names"
        )


def _check_kept(
    folder: Path, header: Mapping[str, Any], dataset: Dataset, kept: Sequence[StoredItem]
) -> None:
    """Raise where pictures that the data lack would have to be read, or go without a class."""
    pending = [item.id for item in kept if item.status == "pending"]
    if pending:
        raise StoreError(
            f"{folder}: unfinished, {_some(pending)} not encoded yet and not in {dataset.name}; "
            "finish it with the command that began it, or leave them out by `encode` without "
            "--append of the data that it shall have; then append"
        )
    labelled = [bool(header["classes"]), bool(dataset.classes)]
    if kept and labelled[0] != labelled[1] and not (header["multi_label"] and labelled[0]):
        names = [str(folder), dataset.name]
        raise StoreError(
            f"{folder}: the pictures of {names[labelled.index(True)]} have classes, those of "
            f"{names[labelled.index(False)]} none; give both or neither, or a new folder"
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
        id=item.id,
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
