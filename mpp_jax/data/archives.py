"""What the readers of official layouts share: finding an archive, reading lists, one-line faults.

Archives are read where they were unpacked, and nothing in them is believed: lists name pictures
that are not there, annotations are cut short, people give the folder above. Faults are collected
and told in one line: how many there are, and the first.
"""

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from mpp_jax.data.dataset import DataError, Item

MAX_TEXT = 2**26
"""Most bytes of a list, an annotation or a MATLAB file (64 MiB); official ones have under 1 MiB."""


@dataclass(frozen=True)
class Asked:
    """How an archive is to be split.

    Attributes:
        seed: of splits that are drawn.
        to_train: whether a classifier is to be trained on it, see `mpp_jax.data.open_dataset`.
        split_train: which of its own splits are for training, joined by ``+``; None for the usual.
        split_test: which are for the test.
        train_per_class: how many of each class are drawn for training; None for the usual number.
    """

    seed: int = 0
    to_train: bool = True
    split_train: str | None = None
    split_test: str | None = None
    train_per_class: int | None = None


@dataclass(frozen=True)
class Archive:
    """An archive that was found.

    Attributes:
        spec: what the user gave, for messages.
        root: its folder; ids are paths relative to it.
    """

    spec: str
    root: Path

    def fail(self, what: str) -> NoReturn:
        """Raise one line about the archive.

        Raises:
            DataError: always.
        """
        raise DataError(f"{self.spec}: {what}")

    def check(self, faults: Sequence[str], what: str) -> None:
        """Raise where there are faults: how many, and the first; ``what`` names their kind.

        Raises:
            DataError: there are.
        """
        if faults:
            self.fail(
                f"{len(faults)} {what}; {'it is' if len(faults) == 1 else 'first'} {faults[0]}"
            )

    def lines(self, file: Path) -> list[str]:
        """Return the lines of a text file that are not empty, without outer spaces.

        Bytes that are not UTF-8 become what the file system makes of them, so that names match.

        Raises:
            DataError: it cannot be read, is too long, or holds nothing.
        """
        text = self.content(file).decode("utf-8-sig", "surrogateescape")
        lines = [stripped for line in text.splitlines() if (stripped := line.strip())]
        if not lines:
            self.fail(f"{self.named(file)} is empty")
        return lines

    def content(self, file: Path) -> bytes:
        """Return the bytes of a small file.

        Raises:
            DataError: no regular file, it cannot be read, or it is longer than `MAX_TEXT`.
        """
        try:
            if not file.is_file():
                self.fail(f"{self.named(file)} is {'no file' if file.exists() else 'missing'}")
            if file.stat().st_size > MAX_TEXT:
                self.fail(f"{self.named(file)} has more than {MAX_TEXT:,} bytes")
            return file.read_bytes()
        except OSError as error:
            self.fail(f"{self.named(file)} cannot be read ({error.strerror})")

    def named(self, file: Path) -> str:
        """Return a file's name for messages."""
        return f"{file.relative_to(self.root).as_posix()!r}"

    def names_in(self, folder: Path) -> frozenset[str]:
        """Return what lies in a folder; nothing where there is no such folder.

        Raises:
            DataError: it cannot be read.
        """
        try:
            return frozenset(os.listdir(folder)) if folder.is_dir() else frozenset()
        except OSError as error:
            self.fail(f"{self.named(folder)} cannot be read ({error.strerror})")

    def check_apart(self, train: Collection[str], test: Iterable[str], splits: str) -> None:
        """Raise where pictures are for training and for the test.

        Raises:
            DataError: some are.
        """
        train = frozenset(train)
        both = [repr(name) for name in test if name in train]
        self.check(both, f"picture(s) both in training and in test ({splits})")


def find_archive(prefix: str, path: Path, holds: Callable[[Path], bool], wanted: str) -> Archive:
    """Find an archive: the folder itself, or the only one in it, or in a folder of it.

    Args:
        prefix: of the specification, without its colon.
        path: what the user gave.
        holds: whether a folder is such an archive.
        wanted: what makes it one, to stand behind "no" in messages.

    Raises:
        DataError: none, or several.
    """
    spec = f"{prefix}:{path}"
    if not path.is_dir():
        there = os.path.exists(path)
        cure = "is no folder; unpack the archive and give its folder" if there else "no such folder"
        raise DataError(f"{spec}: {cure}")
    if holds(path):
        return Archive(spec, path)
    inside = _folders(path)
    found = [folder for folder in inside if holds(folder)]
    found = found or [deep for folder in inside for deep in _folders(folder) if holds(deep)]
    if len(found) == 1:
        return Archive(spec, found[0])
    if found:
        names = ", ".join(repr(folder.relative_to(path).as_posix()) for folder in found[:5])
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise DataError(f"{spec}: holds {names}{more}; give one of them, as {prefix}:{found[0]}")
    above = next((folder for folder in path.absolute().parents[:2] if holds(folder)), None)
    if above is not None:
        raise DataError(f"{spec}: is a part of an archive; give the whole, {prefix}:{above}")
    raise DataError(f"{spec}: no {wanted} in it, nor in a folder of it")


def _folders(place: Path) -> list[Path]:
    """Return the folders in a folder, by name; none where it cannot be looked into."""
    try:
        return sorted(folder for folder in place.iterdir() if folder.is_dir())
    except OSError:
        return []


def amount_notes(name: str, items: Iterable[Item], official: Mapping[str, int]) -> list[str]:
    """Return a note where an archive has not as many pictures as the official one.

    Args:
        name: of the official archive.
        items: what is there.
        official: pictures of each split.
    """
    count = dict.fromkeys(official, 0)
    for item in items:
        count[item.split] = count.get(item.split, 0) + 1
    if all(count[split] == number for split, number in official.items()):
        return []
    here = " and ".join(f"{count[split]:,} {split}" for split in official)
    there = " and ".join(f"{number:,}" for number in official.values())
    return [
        f"{here} pictures, where the official {name} has {there}: figures do not compare with "
        "published ones"
    ]
