"""Folders of pictures: one folder a class, with or without a split.

Links to folders are followed, and said so. A folder is read once for a class, so loops end; real
folders come before links, so ids do not depend on where else a picture can be found. Pipes,
devices and sockets are left out with a warning: nobody may read them in passing.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from mpp_jax.data.dataset import (
    SPLITS,
    DataError,
    Dataset,
    Item,
    make_dataset,
    stratified_test_ids,
)

# What operating systems leave beside pictures; names that begin with a dot are ignored as well.
_SIDE_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx"})
_PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
)


def open_folder(root: Path, test_fraction: float, seed: int, *, to_train: bool = True) -> Dataset:
    """Open a folder of class folders; see `mpp_jax.data.open_dataset`.

    Raises:
        DataError: one line: what is wrong and how to mend it.
    """
    name = root.resolve().name or str(root)
    walk = Walk(root)
    try:
        present = {path.name: path for path in class_folders(root)}
        if "train" in present and "test" in present:
            places = {split: present[split] for split in SPLITS}
        elif not to_train and "test" in present:
            places = {"test": present["test"]}
        elif "train" in present or "test" in present:
            given, lacking = ("train", "test") if "train" in present else ("test", "train")
            raise DataError(
                f"{root}: has {given}/ but no {lacking}/; add {lacking}/<class>/, "
                f"or give {root / given} to have it split"
            )
        elif misspelt := [name for name in present if name.casefold() in SPLITS]:
            # They would be taken for classes.
            raise DataError(
                f"{root}: has {' and '.join(f'{name}/' for name in misspelt)}; "
                "the folders of a split are called train and test"
            )
        else:
            places = {"": root}
        others = sorted(present.keys() - places.keys()) if "test" in places else []
        notes = [f"folder {other!r} beside {' and '.join(places)} ignored" for other in others]
        warnings = [
            f"{loose} picture file(s) directly in {place}, outside the class folders, ignored"
            for place in places.values()
            if (loose := _loose_pictures(place))
        ]
        classes, items = _folder_items(walk, places)
        labelled = bool(classes)
        if not labelled and not to_train:
            items = [
                Item(path.relative_to(root).as_posix(), (), split or "test", path=path)
                for split, place in places.items()
                for path in sorted(walk.files(place))
            ]
            warnings, notes = [], [*notes, "no class folders: pictures without labels"]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error
    if not classes and to_train:
        inside = "/<class>/*, ".join([*places]) + "/<class>/*" if len(places) > 1 else "<class>/*"
        raise DataError(f"{root}: no class folder; pictures are expected in {inside}")
    if "" in places and labelled:
        groups: dict[int, list[str]] = {}
        for item in items:
            groups.setdefault(item.labels[0], []).append(item.id)
        test = stratified_test_ids(groups, test_fraction, seed)
        items = [replace(item, split="test" if item.id in test else "train") for item in items]
        notes.append(f"seeded split, {test_fraction:g} of each class for test, seed {seed}")
    notes += walk.notes
    warnings += walk.warnings
    return make_dataset(
        name,
        classes,
        items,
        multi_label=not labelled,
        notes=notes,
        warnings=warnings,
        to_train=to_train,
    )


@dataclass
class Walk:
    """What was met on the way through folders of pictures.

    Attributes:
        root: all names below are relative to it.
        linked: links to folders that were followed.
        again: links to what had been read for the class already, and to what it lies in.
        special: pipes, devices and sockets.
        readers: by device and inode of a folder: the first name it was read by.
        shared: (name, first name) of folders that were read for several classes or splits.
    """

    root: Path
    linked: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)
    readers: dict[tuple[int, int], str] = field(default_factory=dict)
    shared: list[tuple[str, str]] = field(default_factory=list)

    def files(self, folder: Path) -> list[Path]:
        """Return the files below a class folder, at any depth.

        Raises:
            OSError: a folder cannot be read; leaving it out in silence would not do.
        """
        found: list[Path] = []
        above = {*folder.absolute().parents, *folder.resolve().parents}
        seen = {_identity(place) for place in above}
        folders, links = [folder], list[Path]()
        if folder.is_symlink():
            self.linked.append(self._name(folder))
        while folders or links:
            linked = not folders
            place = links.pop(0) if linked else folders.pop()
            identity = _identity(place)
            if identity in seen:
                self.again.append(self._name(place))
                continue
            if linked:
                self.linked.append(self._name(place))
            seen.add(identity)
            first = self.readers.setdefault(identity, self._name(place))
            if first != self._name(place):
                self.shared.append((self._name(place), first))
            with os.scandir(place) as inside:
                entries = sorted(inside, key=lambda entry: entry.name)
            for entry in entries:
                if ignored_name(entry.name):
                    continue
                path = Path(place, entry.name)
                match _kind(entry):
                    case "folder":
                        (links if entry.is_symlink() else folders).append(path)
                    case "file":
                        found.append(path)
                    case _:
                        self.special.append(self._name(path))
        return found

    @property
    def notes(self) -> list[str]:
        """What was done with links, one line each."""
        notes = []
        if self.linked:
            notes.append(f"{len(self.linked)} linked folder(s) followed: {_listed(self.linked)}")
        if self.again:
            notes.append(
                f"{len(self.again)} linked folder(s) lead to what was read already and were not "
                f"read again: {_listed(self.again)}"
            )
        return notes

    @property
    def warnings(self) -> list[str]:
        """What was left out, or counts twice, one line each."""
        warnings = []
        if self.special:
            warnings.append(
                f"{len(self.special)} special file(s) (pipes, devices, sockets) left out: "
                f"{_listed(self.special)}"
            )
        if self.shared:
            name, first = self.shared[0]
            warnings.append(
                f"{len(self.shared)} folder(s) are there under several names, so their pictures "
                f"count several times: {name!r} is {first!r}"
            )
        return warnings

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _identity(place: Path) -> tuple[int, int]:
    status = place.stat()
    return status.st_dev, status.st_ino


def _kind(entry: os.DirEntry[str]) -> str:
    """Return "folder", "file" or "special"; what cannot be looked at is a file that is no picture.

    So is a link that leads nowhere: it is listed as skipped when it is to be decoded.
    """
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        return "special" if os.path.exists(entry.path) else "file"
    except OSError:
        return "file"


def _listed(names: list[str], most: int = 3) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def ignored_name(name: str) -> bool:
    """Return whether a name is hidden, or what an operating system leaves beside pictures."""
    return name.startswith(".") or name.casefold() in _SIDE_FILES


def is_picture_name(name: str) -> bool:
    """Return whether a file's name is one of a picture."""
    return Path(name).suffix.lower() in _PICTURE_SUFFIXES and not ignored_name(Path(name).name)


def class_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder that may be classes, by name.

    Raises:
        OSError: it cannot be read.
    """
    inside = [path for path in folder.iterdir() if path.is_dir() and not ignored_name(path.name)]
    return sorted(inside, key=lambda path: path.name)


def _loose_pictures(folder: Path) -> int:
    return sum(is_picture_name(path.name) for path in folder.iterdir() if path.is_file())


def _folder_items(walk: Walk, places: dict[str, Path]) -> tuple[list[str], list[Item]]:
    folders = {split: class_folders(place) for split, place in places.items()}
    classes = sorted({folder.name for inside in folders.values() for folder in inside})
    label_of = {name: label for label, name in enumerate(classes)}
    items = [
        Item(
            id=path.relative_to(walk.root).as_posix(),
            labels=(label_of[folder.name],),
            split=split or "train",
            path=path,
        )
        for split, inside in folders.items()
        for folder in inside
        for path in walk.files(folder)
    ]
    return classes, sorted(items, key=lambda item: item.id)
