"""Tar shards as img2dataset and webdataset write them: ``wds:PATTERN``.

PATTERN is a path or an address with ``{00000..00099}``, ``{a,b}``, ``*`` and ``[...]`` in it, or a
folder, whose ``*.tar`` are taken.

* **Samples**: files of one name up to the first dot belong together, ``000012.jpg``,
  ``000012.json`` and ``000012.cls``. Each has one picture. ``.txt`` (captions) and whatever else
  lies there are ignored, as are names that begin with ``__`` or a dot. Ids are the pictures' names;
  a name that is there twice, in one tar or in two, is a mistake that is named.
* **Labels**: ``.cls`` (a number or a class), else a field of ``.json``: the one that is asked for,
  else the first of ``label``, ``labels``, ``cls`` and ``class`` that there is. A list makes the set
  multi-label.
* **Splits**: the field ``split`` of ``.json`` (or the one asked for); else ``train``, ``val`` or
  ``test`` as a word in the tars' names, or as the name of their folder; else a seeded part is for
  the test. Where no other splits are asked for, ``test`` is the test, or where there is none
  ``val``; a ``val`` beside a ``test`` is left out, with a note.

A tar that is missing, packed or cut short is refused before any work is done: its pictures would
come and go from one day to the next. (`mpp_jax.data.tar_shards`)
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, Final, NamedTuple

from mpp_jax.data.archives import Asked
from mpp_jax.data.content import FarPicture
from mpp_jax.data.dataset import DataError, Dataset, Item, make_dataset, stratified_test_ids
from mpp_jax.data.tar_shards import Member, Shard, read_shard
from mpp_jax.files import expanded
from mpp_jax.progress import Watcher
from mpp_jax.remote.addresses import RemoteError, is_address
from mpp_jax.remote.listing import matching

LABEL_FIELDS: Final = ("label", "labels", "cls", "class")
SPLIT_FIELD: Final = "split"
THREADS: Final = 8
"""Tars that are looked into at once."""

_PICTURES = frozenset(
    {"jpg", "jpeg", "jpe", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "avif", "heic"}
)
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


class Fields(NamedTuple):
    """The fields of ``.json`` that count.

    Attributes:
        label: that of the class or classes; None for the first of `LABEL_FIELDS` that is there.
        split: that of the split; None for `SPLIT_FIELD`.
    """

    label: str | None = None
    split: str | None = None


PLAIN: Final = Fields()


@dataclass
class _Sample:
    """Files of one name."""

    shard: Shard
    files: dict[str, Member] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)


class _Read(NamedTuple):
    """What a sample says: its labels, None for none; whether they were a list; its split."""

    labels: tuple[str, ...] | None
    listed: bool
    split: str | None


def open_webdataset(
    pattern: str,
    asked: Asked,
    test_fraction: float = 0.2,
    fields: Fields = PLAIN,
    watcher: Watcher | None = None,
) -> Dataset:
    """Open tar shards, see the module docstring.

    Args:
        pattern: of their paths or addresses.
        asked: how they are to be split; splits are named as the data name them, joined by ``+``.
        test_fraction: share of the test where the data have no splits.
        fields: of ``.json``.
        watcher: is shown how far the look into the tars is; None for nobody.

    Returns:
        The dataset; ids are the names of the pictures in their tars.

    Raises:
        DataError: one line: what is wrong and how to mend it.
    """
    spec = f"wds:{pattern}"
    shards = _shards(spec, pattern, watcher or Watcher(quiet=True))
    samples, notes, warnings = _samples(spec, shards)
    read = {key: _read(sample, key, fields) for key, sample in samples.items()}
    unlabelled = [key for key, said in read.items() if said.labels is None]
    if asked.to_train and unlabelled:
        raise DataError(f"{spec}: {_without_label(samples, unlabelled, fields)}")
    names = {label for said in read.values() for label in said.labels or ()}
    classes = sorted(names, key=_rank if all(map(str.isdecimal, names)) else str)
    number = {name: label for label, name in enumerate(classes)}
    splits = {key: said.split or _in_path(samples[key].shard.address) for key, said in read.items()}
    items = [
        Item(
            sample.pictures[0],
            tuple(sorted(number[label] for label in read[key].labels or ())),
            splits[key] or "",
            read=_picture(sample),
            far=is_address(sample.shard.address),
        )
        for key, sample in samples.items()
    ]
    items, said = _split(spec, items, asked, test_fraction)
    return make_dataset(
        _title(pattern),
        classes,
        items,
        multi_label=any(one.listed for one in read.values()) or bool(unlabelled),
        notes=[*notes, *said],
        warnings=warnings,
        to_train=asked.to_train,
    )


def _rank(name: str) -> tuple[int, str]:
    return int(name), name


def _title(pattern: str) -> str:
    path = pattern.partition("?")[0] if is_address(pattern) else pattern  # a query may be secret
    last = re.split(r"[/\\]", path.rstrip("/"))[-1]
    return re.sub(r"[-_.]*[{*\[].*|\.tar$", "", last) or "wds"


def _picture(sample: _Sample) -> FarPicture:
    shard, member = sample.shard, sample.files[sample.pictures[0]]
    return FarPicture(shard.address, member.start, member.size, shard.stamp)


# ------------------------------------------------------------------------------ finding the tars


def _shards(spec: str, pattern: str, watcher: Watcher) -> list[Shard]:
    """Look into every tar of a pattern.

    Raises:
        DataError: none, or some that cannot be used; how many and the first.
    """
    addresses = _addresses(spec, pattern)

    def look(address: str) -> Shard | DataError:
        try:
            return read_shard(address, _is_text)
        except DataError as error:
            return error

    with (
        watcher.stage("look into tars"),
        watcher.bar(len(addresses), "look into", "tar") as bar,
        ThreadPoolExecutor(THREADS, thread_name_prefix="tars") as pool,
    ):
        found = []
        for one in pool.map(look, addresses):
            found.append(one)
            bar.update(1)
    faults = [str(one) for one in found if isinstance(one, DataError)]
    if faults:
        raise DataError(
            f"{spec}: {len(faults)} of {len(found)} tar(s) cannot be used; "
            f"{'it is' if len(faults) == 1 else 'first'} {faults[0]}"
        )
    return [one for one in found if isinstance(one, Shard)]


def _addresses(spec: str, pattern: str) -> list[str]:
    from braceexpand import braceexpand

    try:
        written = list(braceexpand(pattern))
    except ValueError as error:
        raise DataError(f"{spec}: unbalanced braces; write {{00000..00099}} or {{a,b}}") from error
    addresses: list[str] = []
    for text in written:
        # Whole paths: workers may be elsewhere.
        place = text if is_address(text) else str(expanded(text).absolute())
        if ".tar" not in text if is_address(text) else expanded(text).is_dir():
            place = f"{place.rstrip('/')}/"
        if place.endswith("/"):
            place += "*.tar"
        try:
            # A question mark belongs to many web addresses.
            addresses += matching(place) if re.search(r"[*\[]", place) else [place]
        except (RemoteError, OSError) as error:
            raise DataError(f"{spec}: {error}") from error
    if not addresses:
        raise DataError(f"{spec}: no tar fits this pattern")
    if len(set(addresses)) < len(addresses):
        twice = next(one for one, count in Counter(addresses).items() if count > 1)
        raise DataError(f"{spec}: names {twice} twice")
    return addresses


def _is_text(name: str) -> bool:
    return _parts(name)[1] in ("json", "cls")


def _parts(name: str) -> tuple[str, str]:
    """Return (key, extension): split at the first dot of the file's own name."""
    path = PurePosixPath(name)
    stem, _, extension = path.name.partition(".")
    return str(path.with_name(stem)) if stem else name, extension.lower()


# ---------------------------------------------------------------------------- files into samples


def _samples(spec: str, shards: Sequence[Shard]) -> tuple[dict[str, _Sample], list[str], list[str]]:
    """Return samples by key in the tars' order, notes, and warnings.

    Raises:
        DataError: names that are there twice, or samples of several pictures.
    """
    samples: dict[str, _Sample] = {}
    twice: list[str] = []
    for shard in shards:
        for member in shard.members:
            key, extension = _parts(member.name)
            if not extension or PurePosixPath(member.name).name.startswith(("__", ".")):
                continue
            sample = samples.setdefault(key, _Sample(shard))
            if sample.shard is not shard:
                if extension in _PICTURES:
                    twice.append(f"{key!r} in {sample.shard.address} and {shard.address}")
                continue
            if member.name in sample.files:
                twice.append(f"{member.name!r} in {shard.address}")
            sample.files[member.name] = member
            if extension in _PICTURES:
                sample.pictures.append(member.name)
    if twice:
        raise DataError(
            f"{spec}: {len(twice)} name(s) are there twice; "
            f"{'it is' if len(twice) == 1 else 'first'} {twice[0]}"
        )
    several = [sample for sample in samples.values() if len(sample.pictures) > 1]
    if several:
        raise DataError(
            f"{spec}: {len(several)} sample(s) have several pictures; first "
            f"{' and '.join(map(repr, several[0].pictures[:2]))} in {several[0].shard.address}"
        )
    without = [key for key, sample in samples.items() if not sample.pictures]
    with_one = {key: sample for key, sample in samples.items() if sample.pictures}
    notes = [f"{len(shards)} tar(s)"]
    warnings = []
    if without:
        warnings.append(
            f"{len(without)} sample(s) without a picture left out, first {without[0]!r}"
        )
    return with_one, notes, warnings


def _read(sample: _Sample, key: str, fields: Fields) -> _Read:
    """Return what a sample's ``.cls`` and ``.json`` say.

    Raises:
        DataError: no JSON object, or values that are no classes.
    """
    texts = {_parts(m.name)[1]: m for m in sample.files.values() if m.text is not None}
    where = f"{sample.shard.address}: {key!r}"
    held: dict[str, Any] = {}
    if "json" in texts:
        try:
            held = json.loads(texts["json"].text or "")
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: its .json is damaged ({error})") from error
        if not isinstance(held, dict):
            raise DataError(f"{where}: its .json is no object")
    split = held.get(fields.split or SPLIT_FIELD)
    split = None if split in (None, "") else str(split)
    if fields.label is None and "cls" in texts:
        label = (texts["cls"].text or "").strip()
        if not label:
            raise DataError(f"{where}: its .cls is empty")
        return _Read((label,), False, split)
    names = LABEL_FIELDS if fields.label is None else (fields.label,)
    value = next((held[name] for name in names if held.get(name) is not None), None)
    if value is None:
        return _Read(None, False, split)
    listed = isinstance(value, list)
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str | int) and not isinstance(one, bool) for one in values):
        raise DataError(f"{where}: its label is {json.dumps(value)[:60]}, no class or list of them")
    labels = tuple(dict.fromkeys(str(one).strip() for one in values))
    if "" in labels:
        raise DataError(f"{where}: its label is empty")
    return _Read(labels, listed, split)


def _without_label(samples: dict[str, _Sample], keys: Sequence[str], fields: Fields) -> str:
    """Say which samples have no label, and what the first one has instead."""
    first = samples[keys[0]]
    texts = [m for m in first.files.values() if _parts(m.name)[1] == "json"]
    there = ", ".join(map(repr, json.loads(texts[0].text or "{}"))) if texts else ""
    has = f"has the fields {there[:200]}" if there else "has no .json or .cls with one"
    asked = repr(fields.label) if fields.label else "label"
    return (
        f"{len(keys)} of {len(samples)} pictures have no {asked}; {keys[0]!r} in "
        f"{first.shard.address} {has}; name the field with --label-field"
    )


# ---------------------------------------------------------------------------------------- splits


def _in_path(address: str) -> str | None:
    """Return the split that a tar's path names: a word of its own name, or its folder's name."""
    *_, folder, name = ("", *address.lower().split("/"))
    words = [word for word in re.split(r"[^a-z]+", name) if word in _SPLITS]
    return _SPLITS[words[-1]] if words else _SPLITS.get(folder)


def _split(
    spec: str, items: Iterable[Item], asked: Asked, test_fraction: float
) -> tuple[list[Item], list[str]]:
    """Return the items as training and test, and notes.

    Raises:
        DataError: pictures without split among others with, or a split that is not there.
    """
    items = list(items)
    count = Counter(_SPLITS.get(item.split.lower(), item.split) for item in items)
    chosen = asked.split_train is not None or asked.split_test is not None
    if count[""] == len(items) and not chosen:
        if not asked.to_train:
            return [_moved(item, "test") for item in items], ["no splits: all pictures are test"]
        groups: dict[int, list[str]] = {}
        for item in items:
            # A multi-label picture counts for its first class.
            groups.setdefault(item.labels[0] if item.labels else -1, []).append(item.id)
        test = stratified_test_ids(groups, test_fraction, asked.seed)
        note = f"seeded split, {test_fraction:g} of each class for test, seed {asked.seed}"
        return [_moved(i, "test" if i.id in test else "train") for i in items], [note]
    if count[""] == len(items):
        raise DataError(f"{spec}: the data have no splits to choose from; name --split-field")
    if count[""]:
        raise DataError(f"{spec}: {count['']} of {len(items)} pictures have no split, others have")
    there = ", ".join(repr(name) for name in sorted(count))
    parts = {
        "train": (asked.split_train or "train").split("+"),
        "test": (asked.split_test or ("test" if count["test"] else "val")).split("+"),
    }
    place: dict[str, str] = {}
    for side, names in parts.items():
        for name in names:
            known = _SPLITS.get(name.lower(), name)
            if chosen and known not in count:
                raise DataError(f"{spec}: no split {name!r}; there are {there}")
            if place.setdefault(known, side) != side:
                raise DataError(f"{spec}: split {name!r} is both for training and for the test")
    used = [_SPLITS.get(item.split.lower(), item.split) for item in items]
    left_out = Counter(name for name in used if name not in place)
    notes = [f"split {name!r} left out ({number} pictures)" for name, number in left_out.items()]
    if not count["test"] and count["val"] and not chosen:
        notes.append("no split 'test', 'val' is test")
    kept = zip(items, used, strict=True)
    return [_moved(item, place[name]) for item, name in kept if name in place], notes


def _moved(item: Item, split: str) -> Item:
    return replace(item, split=split)
