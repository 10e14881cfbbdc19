"""PASCAL VOC as its development kit lays it out: ``voc:PATH``.

``PATH`` is the folder of a year (``VOC2007``), or one above it that holds a single year::

    ImageSets/Main/<split>.txt            one id a line
    ImageSets/Main/<class>_<split>.txt    id and 1, -1 or 0: "difficult" objects alone
    JPEGImages/<id>.jpg
    Annotations/<id>.xml                  objects: name, difficult, bndbox
    boxes*.json                           boxes where there is no Annotations (`voc_boxes`)

Labels come from the lists of a split, where there are any, else from the annotations. A class that
a picture has only as "difficult" is *ignored* for that picture, in training and in test, as the
kit's ``VOCevalcls.m`` does. Boxes come from the annotations, where there are any: the kit's
coordinates count pixels from 1 and include the last one, so a box covers
``((ymin - 1) / height, (xmin - 1) / width, ymax / height, xmax / width)``. (M. Everingham et al.,
"The PASCAL Visual Object Classes Challenge 2007, Development Kit".)

``trainval`` is training and ``test`` is test; others may be chosen, several joined by ``+``.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from mpp_jax.data.archives import Archive, Asked, amount_notes, find_archive
from mpp_jax.data.dataset import Box, DataError, Dataset, Item, listed_classes, make_dataset
from mpp_jax.data.voc_boxes import json_boxes

PRESENT, IGNORED, ABSENT = 1, 0, -1
_VALUES = {"1": PRESENT, "+1": PRESENT, "0": IGNORED, "-1": ABSENT}
_AMOUNTS = {"VOC2007": {"train": 2501, "val": 2510, "trainval": 5011, "test": 4952}}


Boxes = Mapping[str, Callable[[], tuple[Box, ...]]]
"""What gives the boxes of pictures, by id."""


class _Objects(NamedTuple):
    """What an annotation says: class -> present or ignored, and boxes."""

    states: dict[str, int]
    boxes: tuple[Box, ...]


class _Part(NamedTuple):
    """Pictures of a split: id -> class -> state (None: no labels), and the classes that are known.

    Classes are None where annotations gave the labels: they do not list what is absent everywhere.
    """

    labels: dict[str, dict[str, int] | None]
    classes: frozenset[str] | None


def open_voc(path: Path, asked: Asked) -> Dataset:
    """Open a year's folder, see the module docstring.

    Args:
        path: the folder, or one above it.
        asked: splits other than the usual ones; without ``to_train`` one of the two may be missing,
            and so may the labels.

    Returns:
        A multi-label data set named after the folder; ids are ``JPEGImages/<id>.jpg``. Classes that
        no training picture shows are left out, with a warning.

    Raises:
        DataError: one line that says what is missing or damaged, how often and where first.
    """
    archive = find_archive("voc", path, _is_year, "ImageSets/Main and JPEGImages")
    splits = {"train": asked.split_train or "trainval", "test": asked.split_test or "test"}
    there = _available(archive)
    if not asked.to_train:  # one of them will do
        some = {side: split for side, split in splits.items() if set(split.split("+")) <= there}
        splits = some or splits
    pictures = _pictures(archive)
    annotated = archive.names_in(archive.root / "Annotations")
    parts: dict[str, _Part] = {}
    objects: dict[str, _Objects] = {}
    for side, split in splits.items():
        names = _members(archive, split, there)
        lost = [
            repr(f"{name}.jpg")
            for ids in names.values()
            for name in ids
            if f"{name}.jpg" not in pictures
        ]
        archive.check(lost, f"picture(s) of split {split!r} are not in JPEGImages")
        known = [name for ids in names.values() for name in ids if f"{name}.xml" in annotated]
        objects |= _annotations(archive, known)
        parts[side] = _part(archive, names, objects, asked.to_train)
    said = ", ".join(f"{side}: {split}" for side, split in splits.items())
    if len(parts) == 2:
        archive.check_apart(parts["train"].labels, parts["test"].labels, said)
    classes = _classes(archive, splits, parts)
    warnings = []
    shown = _shown(parts["train"]) if "train" in parts else set()
    untrained = [name for name in classes if name not in shown]
    if untrained and (asked.to_train or shown):  # as it is, or will be, trained on
        classes = [name for name in classes if name in shown]
        warnings.append(f"{listed_classes(untrained)} without a training picture, left out")
    boxes: Boxes = {name: partial(_boxes, found) for name, found in objects.items()}
    boxes = boxes if annotated else json_boxes(archive)
    items = _items(archive, classes, parts, boxes)
    usual = splits in ({"train": "trainval", "test": "test"}, {"test": "test"})
    title = archive.root.resolve().name
    return make_dataset(
        title if usual else f"{title} ({said})",
        classes,
        items,
        multi_label=True,
        notes=[said, *_notes(title, items, splits)],
        warnings=warnings,
        to_train=asked.to_train,
    )


def _is_year(folder: Path) -> bool:
    return (folder / "ImageSets" / "Main").is_dir() or (folder / "JPEGImages").is_dir()


def _available(archive: Archive) -> set[str]:
    """Return the splits that there are lists of."""
    main = archive.root / "ImageSets" / "Main"
    # A class may be called like a split ("train"), but a split's name holds no "_".
    found = {
        name.removesuffix(".txt").rpartition("_")[2]
        for name in archive.names_in(main)
        if name.endswith(".txt") and not name.startswith(".")
    }
    if not found:
        archive.fail("no lists in ImageSets/Main; unpack the whole development kit archive")
    return found


def _pictures(archive: Archive) -> frozenset[str]:
    found = archive.names_in(archive.root / "JPEGImages")
    if not found:
        archive.fail("no pictures in JPEGImages; unpack the whole archive")
    return found


def _members(archive: Archive, split: str, there: set[str]) -> dict[str, list[str]]:
    """Return the ids of each part of a split (one part, or several joined by "+")."""
    members: dict[str, list[str]] = {}
    for part in split.split("+"):
        if part not in there:
            archive.fail(
                f"no lists of split {part!r} in ImageSets/Main, only of "
                f"{', '.join(map(repr, sorted(there)))}; unpack the archive that has them into the "
                "same folder, or choose with split_train and split_test"
            )
        if part in members:
            archive.fail(f"split {part!r} is named twice in {split!r}")
        plain = archive.root / "ImageSets" / "Main" / f"{part}.txt"
        if plain.is_file():
            ids = [line.split()[0] for line in archive.lines(plain)]
        else:
            ids = [*_states(archive, sorted(_lists(archive, part).values())[0], [])]
        members[part] = ids
    count = Counter(name for ids in members.values() for name in ids)
    twice = [repr(name) for name, times in count.items() if times > 1]
    archive.check(twice, f"id(s) stand twice in split {split!r}")
    return members


def _lists(archive: Archive, split: str) -> dict[str, Path]:
    """Return the list of each class."""
    main, ending = archive.root / "ImageSets" / "Main", f"_{split}.txt"
    names = (name for name in archive.names_in(main) if not name.startswith("."))
    return {n.removesuffix(ending): main / n for n in sorted(names) if n.endswith(ending)}


def _states(archive: Archive, file: Path, faults: list[str]) -> dict[str, int]:
    """Return id -> state of a class's list; lines that are none join the faults."""
    states: dict[str, int] = {}
    for number, line in enumerate(archive.lines(file), 1):
        cells = line.split()
        if len(cells) != 2 or cells[1] not in _VALUES:
            faults.append(f"row {number} of {archive.named(file)}, {line[:40]!r}")
        elif cells[0] in states:
            faults.append(f"row {number} of {archive.named(file)}, {cells[0]!r} again")
        else:
            states[cells[0]] = _VALUES[cells[1]]
    return states


def _part(
    archive: Archive,
    members: Mapping[str, list[str]],
    objects: Mapping[str, _Objects],
    to_train: bool,
) -> _Part:
    """Return the labels of a split."""
    labels: dict[str, dict[str, int] | None] = {}
    classes: set[str] = set()
    listed = True
    for split, ids in members.items():
        lists = _lists(archive, split)
        if lists:
            labels |= _from_lists(archive, split, ids, lists)
            classes |= lists.keys()
            continue
        listed = False
        unknown = [name for name in ids if name not in objects]
        if unknown and (to_train or len(unknown) < len(ids)):
            cure = " (of later years' test sets they are not public)" if split == "test" else ""
            archive.fail(
                f"{len(unknown)} picture(s) of split {split!r} have no labels{cure}, neither in "
                f"ImageSets/Main/<class>_{split}.txt nor in Annotations; first {unknown[0]!r}"
            )
        labels |= {name: None if unknown else objects[name].states for name in ids}
    return _Part(labels, frozenset(classes) if listed else None)


def _from_lists(
    archive: Archive, split: str, ids: list[str], lists: Mapping[str, Path]
) -> dict[str, dict[str, int] | None]:
    faults: list[str] = []
    columns = {name: _states(archive, file, faults) for name, file in lists.items()}
    archive.check(faults, "row(s) of lists are not 'id 1', 'id -1' or 'id 0'")
    wanted = frozenset(ids)
    for name, column in columns.items():
        odd = [f"{i!r} in {archive.named(lists[name])}" for i in column if i not in wanted]
        lost = [f"{i!r} in {archive.named(lists[name])}" for i in ids if i not in column]
        faults += odd + lost
    archive.check(faults, f"id(s) are in '{split}.txt' alone or in a class's list alone")
    return {
        i: {name: column[i] for name, column in columns.items() if column[i] != ABSENT} for i in ids
    }


def _classes(archive: Archive, splits: Mapping[str, str], parts: Mapping[str, _Part]) -> list[str]:
    known = {side: part.classes for side, part in parts.items()}
    train, test = known.get("train"), known.get("test")
    if train is not None and test is not None and train != test:
        lone = sorted(train ^ test)
        side, other = ("train", "test") if lone[0] in train else ("test", "train")
        archive.fail(
            f"{listed_classes(lone)} with a list of one split alone: "
            f"'{lone[0]}_{splits[side]}.txt' is there, '{lone[0]}_{splits[other]}.txt' is missing"
        )
    named = {
        name for part in parts.values() for states in part.labels.values() for name in states or ()
    }
    return sorted(named.union(*(classes or () for classes in known.values())))


def _shown(part: _Part) -> set[str]:
    """Return the classes that a picture surely shows."""
    states = [item for held in part.labels.values() for item in (held or {}).items()]
    return {name for name, state in states if state == PRESENT}


def _items(
    archive: Archive,
    classes: list[str],
    parts: Mapping[str, _Part],
    boxes: Boxes,
) -> list[Item]:
    number = {name: label for label, name in enumerate(classes)}
    items = []
    for side, part in parts.items():
        for name, states in part.labels.items():
            place = f"JPEGImages/{name}.jpg"
            labels = {state: [] for state in (PRESENT, IGNORED)}  # type: dict[int, list[int]]
            for label, state in (states or {}).items():
                if label in number:
                    labels[state].append(number[label])
            items.append(
                Item(
                    place,
                    tuple(sorted(labels[PRESENT])),
                    side,
                    path=archive.root / place,
                    ignored=tuple(sorted(labels[IGNORED])),
                    boxes=boxes.get(name),
                )
            )
    return items


def _boxes(objects: _Objects) -> tuple[Box, ...]:
    return objects.boxes


def _notes(title: str, items: list[Item], splits: Mapping[str, str]) -> list[str]:
    notes = []
    if ignored := sum(len(item.ignored) for item in items):
        notes.append(
            f"{ignored:,} times a picture has a class only as 'difficult': ignored for it, in "
            "training and in test"
        )
    if not any(item.labels or item.ignored for item in items):
        notes.append("no labels: pictures alone")
    amounts = _AMOUNTS.get(title, {})
    official = {
        side: sum(amounts[part] for part in split.split("+"))
        for side, split in splits.items()
        if all(part in amounts for part in split.split("+"))
    }
    return notes + amount_notes(title, items, official)


def _annotations(archive: Archive, names: list[str]) -> dict[str, _Objects]:
    """Read the annotations of pictures.

    All at once: a damaged one should not stop a run hours later, when its boxes are drawn.

    Raises:
        DataError: damaged ones.
    """
    found: dict[str, _Objects] = {}
    faults = []
    for name in names:
        file = archive.root / "Annotations" / f"{name}.xml"
        try:
            found[name] = _objects(archive.content(file))
        except (ElementTree.ParseError, LookupError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            faults.append(f"{archive.named(file)} ({error})")
    archive.check(faults, "damaged annotation(s)")
    return found


def _objects(content: bytes) -> _Objects:
    """Read an annotation; raises `ValueError` and what `ElementTree` raises."""
    root = ElementTree.fromstring(content)
    height, width = (_number(root, f"size/{name}") for name in ("height", "width"))
    if not (height > 0 and width > 0):
        raise ValueError(f"a picture of {width:g} x {height:g} pixels")
    states: dict[str, int] = {}
    boxes = []
    for entry in root.findall("object"):  # not the parts of persons, which lie deeper
        name = (entry.findtext("name") or "").strip()
        if not name:
            raise ValueError("an object without a name")
        difficult = (entry.findtext("difficult") or "0").strip()
        if difficult not in ("0", "1"):
            raise ValueError(f"difficult is {difficult!r}, neither 0 nor 1")
        state = IGNORED if difficult == "1" else PRESENT
        states[name] = max(state, states.get(name, state))
        top, left, bottom, right = (
            _number(entry, f"bndbox/{side}") for side in ("ymin", "xmin", "ymax", "xmax")
        )
        shares = ((top - 1) / height, (left - 1) / width, bottom / height, right / width)
        # Some official boxes end a pixel outside.
        clipped = [min(max(share, 0.0), 1.0) for share in shares]
        place = (clipped[0], clipped[1], clipped[2], clipped[3])
        boxes.append(Box(name, place, state == IGNORED))
    return _Objects(states, tuple(boxes))


def _number(entry: ElementTree.Element, path: str) -> float:
    text = entry.findtext(path)
    if text is None:
        raise ValueError(f"no {path}")
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{path} is {text.strip()}")
    return value
