"""Every test picture's scores in a file: for other programs, and for comparisons of runs.

* ``FILE.npz``, for NumPy (no pickles): ``methods (M,)``, ``ids (N,)`` and ``classes (L,)`` text,
  ``scores (M, N, L)`` float32, the model's first representation first, ``targets (N, L)`` int8:
  +1 present, -1 absent, 0 ignored; and ``format``. A run keeps its own as ``scores.npz``: 4 bytes
  for each method, picture and class (3.2 MB for 8 methods, 5,000 pictures and 20 classes).
* ``FILE.csv``: a header ``method,id,CLASS...``, then a row for each method and picture. Numbers are
  the shortest that read back as the same float32.
* a folder: what the development kit of PASCAL VOC reads (``VOCevalcls.m``),
  ``comp1_cls_test_<class>.txt`` with a line ``id score`` for each picture, of the first
  representation. Ids are the pictures' names without folder and suffix. ``mpp-jax-scores.json``
  beside them holds their SHA-256.

Nothing is written over that this module did not make.
"""

import csv
import hashlib
import io
import json
import os
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

import numpy as np

from mpp_jax.files import expanded, file_digest, write_file
from mpp_jax.storage.bundle import check_place

FORMAT: Final = "mpp-jax-scores"
RECORD: Final = f"{FORMAT}.json"
SCORES: Final = "scores.npz"
"""Of a run or an evaluation, beside its ``metrics.json``."""
_HEAD = ["method", "id"]


@dataclass(frozen=True)
class ScoresPlace:
    """Where scores go.

    Attributes:
        path: the file or folder.
        kind: ``".npz"``, ``".csv"``, or ``""`` for a folder.
    """

    path: Path
    kind: str

    @classmethod
    def read(cls, text: str) -> "ScoresPlace":
        """Read what the user typed: a folder ends with ``/`` or is there, a file has a suffix.

        Raises:
            ValueError: a file of another suffix.
        """
        path = expanded(text)
        ends = text.endswith(("/", os.sep))
        if ends or path.is_dir():
            return cls(path, "")
        kind = path.suffix.lower()
        if kind not in (".npz", ".csv"):
            raise ValueError(
                f"{text}: scores are written as FILE.npz, FILE.csv, or into a folder, FOLDER/"
            )
        return cls(path, kind)

    def check(self, ids: Sequence[str], classes: Sequence[str]) -> None:
        """Raise unless scores of these pictures may be written here.

        Args:
            ids: of the test pictures.
            classes: names.

        Raises:
            ValueError: the place cannot be written, holds what this program did not make, or the
                names do not fit the development kit's files.
        """
        check_place(self.path if self.kind == "" else self.path.parent)
        if self.kind == "":
            theirs = _foreign(self.path, [_kit_name(name) for name in classes])
            kit_ids(ids, classes)
        else:
            ours = {".npz": _is_npz, ".csv": _is_csv}[self.kind]
            theirs = [self.path] if self.path.exists() and not ours(self.path) else []
        if theirs:
            raise ValueError(
                f"{theirs[0]}: is there already, and was not made by this program; give another "
                "place"
            )

    def write(
        self,
        scores: Mapping[str, np.ndarray],
        ids: Sequence[str],
        classes: Sequence[str],
        targets: np.ndarray,
        primary: str,
    ) -> None:
        """Write scores; see the module docstring.

        Args:
            scores: method -> (N, L) float32.
            ids: of the N pictures.
            classes: names of the L classes.
            targets: (N, L) in {-1, 0, +1}, 0 = ignored.
            primary: the method that comes first, or alone.

        Raises:
            ValueError: as `check`.
            OSError: the place cannot be written.
        """
        self.check(ids, classes)
        methods = [primary, *(name for name in scores if name != primary)]
        if self.kind == "":
            _write_kit(self.path, scores[primary], kit_ids(ids, classes), classes, primary)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.kind == ".csv":
            write_file(self.path, _csv(scores, methods, ids, classes))
            return
        held = {
            "format": np.array(FORMAT),
            "methods": np.array(methods),
            "ids": np.array(ids),
            "classes": np.array(classes),
            "scores": np.stack([scores[name] for name in methods]).astype(np.float32),
            "targets": targets.astype(np.int8),
        }
        write_file(self.path, lambda file: np.savez(file, **held))  # type: ignore[arg-type]


class Scores(NamedTuple):
    """What a ``FILE.npz`` holds.

    Attributes:
        ids: of the N test pictures.
        classes: names of the L classes.
        scores: method -> (N, L) float32.
        targets: (N, L) int8 in {-1, 0, +1}, 0 = ignored.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    scores: dict[str, np.ndarray]
    targets: np.ndarray


def scores_of_run(folder: Path) -> ScoresPlace:
    """Return where a run keeps its scores."""
    return ScoresPlace(folder / SCORES, ".npz")


def read_scores(file: Path) -> Scores:
    """Read a ``FILE.npz`` back.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is damaged, or something else.
    """
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as held:
            if str(held["format"]) != FORMAT:
                raise ValueError(f"of format {held['format']}")
            methods, values, targets = held["methods"], held["scores"], held["targets"]
            ids, classes = (tuple(map(str, held[name])) for name in ("ids", "classes"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file}: no scores that can be read ({error})") from error
    shape = (len(methods), len(ids), len(classes))
    if values.shape != shape or targets.shape != shape[1:]:
        raise ValueError(f"{file}: its arrays do not fit each other; run `evaluate` again")
    scores = {str(name): part for name, part in zip(methods, values, strict=True)}
    return Scores(ids, classes, scores, targets)


def kit_ids(ids: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Return pictures' names without folder and suffix, as the development kit has them.

    Raises:
        ValueError: two pictures, or a picture or class, that its files cannot name.
    """
    names = [PurePosixPath(name).stem for name in ids]
    cure = "; write FILE.npz or FILE.csv"
    for name, given in zip(names, ids, strict=True):
        if name.split() != [name]:
            raise ValueError(
                f"scores: the name of {given!r} has blanks, unfit for a kit's file{cure}"
            )
    for name in classes:
        if set(name) & set("/\\\0"):
            raise ValueError(f"scores: class {name!r} cannot be a part of a file's name{cure}")
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        first, second, *_ = (
            given for name, given in zip(names, ids, strict=True) if name == twice[0]
        )
        raise ValueError(
            f"scores: {first!r} and {second!r} would both be {twice[0]!r} in a kit's file{cure}"
        )
    return names


def _csv(
    scores: Mapping[str, np.ndarray],
    methods: Sequence[str],
    ids: Sequence[str],
    classes: Sequence[str],
) -> bytes:
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([*_HEAD, *classes])
    for method in methods:
        for name, values in zip(ids, scores[method], strict=True):
            rows.writerow([method, name, *map(_number, values)])
    # File names that are not UTF-8 go out as the bytes that they are.
    return text.getvalue().encode("utf-8", "surrogateescape")


def _number(value: Any) -> str:
    return str(np.float32(value))


def _kit_name(name: str) -> str:
    return f"comp1_cls_test_{name}.txt"


def _write_kit(
    folder: Path, scores: np.ndarray, names: Sequence[str], classes: Sequence[str], method: str
) -> None:
    contents = {}
    for name, column in zip(classes, scores.T, strict=True):
        lines = (f"{i} {_number(value)}\n" for i, value in zip(names, column, strict=True))
        contents[_kit_name(name)] = "".join(lines).encode("utf-8", "surrogateescape")
    fresh = {name: [hashlib.sha256(content).hexdigest()] for name, content in contents.items()}
    old = _recorded(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Whoever is killed in between leaves files that are known as ours, old ones and new ones.
    both = {name: fresh.get(name, []) + old.get(name, []) for name in {**old, **fresh}}
    _record(folder, method, both)
    for name, content in contents.items():
        write_file(folder / name, content)
    for name in old.keys() - fresh.keys():
        if (folder / name).is_file() and file_digest(folder / name) in old[name]:
            (folder / name).unlink()
    _record(folder, method, fresh)


def _record(folder: Path, method: str, files: Mapping[str, Sequence[str]]) -> None:
    held = {"format": FORMAT, "method": method, "files": files}
    text = json.dumps(held, indent=1, sort_keys=True) + "\n"
    write_file(folder / RECORD, text.encode())


def _recorded(folder: Path) -> dict[str, list[str]]:
    """Return the digests of the files that were written to a folder; nothing where none were."""
    try:
        held = json.loads((folder / RECORD).read_bytes())
        if held["format"] != FORMAT:
            return {}
        return {str(name): [str(d) for d in digests] for name, digests in held["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _foreign(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return those files of a folder that would be written over and are not ours."""
    known = _recorded(folder)
    theirs = [
        folder / name
        for name in names
        if (folder / name).exists()
        and not ((folder / name).is_file() and file_digest(folder / name) in known.get(name, []))
    ]
    if (folder / RECORD).exists() and not known:
        theirs.append(folder / RECORD)
    return theirs


def _is_npz(file: Path) -> bool:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as held:
            return "format" in held and str(held["format"]) == FORMAT
    except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, zipfile.BadZipFile):
        return False


def _is_csv(file: Path) -> bool:
    try:
        with file.open(encoding="utf-8", errors="surrogateescape", newline="") as text:
            first = next(csv.reader(text), [])
    except (OSError, csv.Error):
        return False
    return first[: len(_HEAD)] == _HEAD and len(first) > len(_HEAD)
