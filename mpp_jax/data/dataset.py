"""Items, datasets, and the rules that every source of pictures shares.

Seeded choices (a train/test split, a limit per class) rank the items of a class by
``sha256(seed, purpose, id)``: they depend neither on the order in which a file system lists files
nor on other items, and a limit of 5 keeps a subset of what a limit of 10 keeps.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import numpy as np

SPLITS: Final = ("train", "test")


class DataError(ValueError):
    """Data that cannot be used as they stand; one line that says what to mend."""


class Box(NamedTuple):
    """Where an object is.

    Attributes:
        name: its class.
        place: (ymin, xmin, ymax, xmax) as shares of the picture's height and width, as in TFDS.
        difficult: whether it is hard to see, as PASCAL VOC marks such objects.
    """

    name: str
    place: tuple[float, float, float, float]
    difficult: bool = False


@dataclass(frozen=True)
class Item:
    """One picture.

    Attributes:
        id: unique, stable name: the path relative to the folder or list, with forward slashes.
        labels: class indices, rising; exactly one unless the dataset is multi-label.
        split: ``"train"`` or ``"test"``.
        path: the file, where there is one.
        read: gives the content (file bytes or an ``(H, W, 3)`` uint8 array) where there is no file.
        ignored: classes that are neither present nor absent for this picture, rising.
        boxes: gives the objects' boxes, where they are known; methods never see them.
    """

    id: str
    labels: tuple[int, ...]
    split: str
    path: Path | None = None
    read: Callable[[], bytes | np.ndarray] | None = None
    ignored: tuple[int, ...] = ()
    boxes: Callable[[], tuple[Box, ...]] | None = None

    def source(self) -> Path | bytes | np.ndarray:
        """Return what `decode_picture` (or nobody, for an array) has to decode.

        Raises:
            ValueError: the item has neither path nor ``read``.
        """
        if self.path is not None:
            return self.path
        if self.read is not None:
            return self.read()
        raise ValueError(f"item {self.id!r} has neither path nor read")


@dataclass(frozen=True)
class Dataset:
    """Pictures with labels in a fixed order.

    Attributes:
        name: for reports.
        classes: their names; labels index it.
        items: all pictures, training pictures first.
        multi_label: whether a picture may carry any number of labels.
        warnings: inputs that were left out, one line each; a run should end with exit status 1.
        notes: facts worth printing, one line each.
        unclear: classes that no picture surely shows, and the ids of those of which it is unclear;
            only of sets that need not be trained on, which may join others that have the class.
    """

    name: str
    classes: tuple[str, ...]
    items: tuple[Item, ...]
    multi_label: bool = False
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unclear: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def split(self, split: str) -> tuple[Item, ...]:
        """Return the items of ``"train"`` or ``"test"``, in order."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
        return tuple(item for item in self.items if item.split == split)

    def joining(self, classes: Collection[str]) -> "Dataset":
        """Return the set with those of its `unclear` classes that a set which it joins has."""
        known = [name for name in self.unclear if name in classes]
        items = [
            replace(
                item,
                ignored=item.ignored
                + tuple(
                    label
                    for label, name in enumerate(known, len(self.classes))
                    if item.id in self.unclear[name]
                ),
            )
            for item in self.items
        ]
        return replace(self, classes=(*self.classes, *known), items=tuple(items))

    def targets(self, split: str) -> np.ndarray:
        """Return ``(N, L)`` float32: +1 present, -1 absent, 0 ignored."""
        return target_matrix(self.split(split), len(self.classes))


class Labelled(Protocol):
    """Anything with ``labels`` and ``ignored``: an item, or a record of a store."""

    @property
    def labels(self) -> tuple[int, ...]:
        """Class indices."""

    @property
    def ignored(self) -> tuple[int, ...]:
        """Classes that are neither present nor absent."""


def target_matrix(items: Sequence[Labelled], classes: int) -> np.ndarray:
    """Return ``(N, L)`` float32 targets of one-vs-rest training.

    They are +1 where a class is present, -1 where it is absent and 0 where it is ignored.
    """
    targets = np.full((len(items), classes), -1.0, np.float32)
    for row, item in enumerate(items):
        targets[row, list(item.ignored)] = 0.0
        targets[row, list(item.labels)] = 1.0
    return targets


def seeded_order(ids: Iterable[str], seed: int, purpose: str) -> list[str]:
    """Return ids in a pseudo-random order that depends on seed and purpose, not on their own."""

    def rank(identity: str) -> tuple[bytes, str]:
        text = f"{seed}\0{purpose}\0{identity}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest(), identity

    return sorted(ids, key=rank)


def stratified_test_ids(groups: dict[int, list[str]], fraction: float, seed: int) -> set[str]:
    """Return the ids that a seeded split sends to test: ``fraction`` of each class, see above."""
    chosen: set[str] = set()
    for ids in groups.values():
        count = min(max(round(fraction * len(ids)), 1), len(ids) - 1)
        chosen.update(seeded_order(ids, seed, "split")[: max(count, 0)])
    return chosen


def make_dataset(
    name: str,
    classes: Sequence[str],
    items: Iterable[Item],
    *,
    multi_label: bool,
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
    to_train: bool = True,
) -> Dataset:
    """Check items against classes and build the dataset.

    Classes without any picture are dropped with a warning and the labels renumbered; training
    items move before test items, otherwise the order stays.

    Args:
        name: for messages and reports.
        classes: names that labels index.
        items: all pictures.
        multi_label: whether a picture may carry any number of labels.
        notes: as in `Dataset`.
        warnings: as in `Dataset`.
        to_train: whether a classifier is to be trained on it; False takes sets without training
            pictures, without labels, and with classes that only test has.

    Raises:
        DataError: no picture; to be trained on: no training picture, no label, or a class in
            test that training lacks.
    """
    items = tuple(items)
    if not items:
        raise DataError(f"{name}: no picture found")
    count = {split: Counter[int]() for split in SPLITS}
    for item in items:
        count[item.split].update(item.labels)
    if to_train and not any(item.split == "train" for item in items):
        raise DataError(f"{name}: no training picture, only test pictures")
    lacking = [classes[label] for label in sorted(count["test"].keys() - count["train"].keys())]
    if lacking and to_train:
        raise DataError(
            f"{name}: test has {listed_classes(lacking)}, of which training has no picture; "
            "add training pictures, or take the class out of test"
        )
    used = sorted(count["train"].keys() | count["test"].keys())
    unclear: dict[str, frozenset[str]] = {}
    if not to_train:
        for label in sorted({label for item in items for label in item.ignored} - {*used}):
            unclear[classes[label]] = frozenset(i.id for i in items if label in i.ignored)
    empty = [
        name for label, name in enumerate(classes) if label not in used and name not in unclear
    ]
    warnings = list(warnings)
    if empty:
        warnings.append(f"{listed_classes(empty)} without any picture, left out")
    if to_train and not used:
        raise DataError(f"{name}: no picture carries a label")
    notes = list(notes)
    if unclear:
        notes.append(
            f"{listed_classes(list(unclear))} unclear wherever named: counts where these pictures "
            "join others that show it"
        )
    untested = [classes[label] for label in used if label not in count["test"]]
    if untested and count["test"]:
        notes.append(f"{listed_classes(untested)} without test pictures: in no mean of the test")
    new = {label: position for position, label in enumerate(used)}
    renumbered = [
        replace(
            item,
            labels=tuple(sorted(new[label] for label in set(item.labels))),
            ignored=tuple(sorted(new[label] for label in set(item.ignored) if label in new)),
        )
        for item in items
    ]
    return Dataset(
        name=name,
        classes=tuple(classes[label] for label in used),
        items=tuple(sorted(renumbered, key=lambda item: SPLITS.index(item.split))),
        multi_label=multi_label,
        warnings=tuple(warnings),
        notes=tuple(notes),
        unclear=unclear,
    )


def listed_classes(names: Sequence[str], most: int = 5) -> str:
    """Return ``class 'a'`` or ``classes 'a', 'b' and 3 more``, for messages."""
    shown = ", ".join(repr(name) for name in names[:most])
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{'class' if len(names) == 1 else 'classes'} {shown}{more}"


def limited_items(dataset: Dataset, limit: int, seed: int) -> tuple[Item, ...]:
    """Return the items that ``limit_per_class`` keeps, in their order."""
    kept: set[str] = set()
    for split in SPLITS:
        groups: dict[int, list[str]] = {}
        for item in dataset.split(split):
            # A set without classes counts as one.
            for label in item.labels if dataset.classes else (0,):
                groups.setdefault(label, []).append(item.id)
        for ids in groups.values():
            kept.update(seeded_order(ids, seed, "limit")[:limit])
    return tuple(item for item in dataset.items if item.id in kept)
