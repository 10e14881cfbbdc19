"""Lists: CSV files that name pictures, their classes and splits.

A row is ``path,label[;label],split``; the file is UTF-8, with or without a byte order mark.

* **path**: relative to the list. A quoted path keeps its outer spaces. One picture stands in one
  row, by whatever name: ``a.jpg``, ``sub/../a.jpg`` and the absolute path are the same.
* **label**: the class, or several with ``;`` between. ``?label`` says that it is unclear whether
  the picture shows this class: it is ignored for the picture, in training and in test (as the
  "difficult" objects of PASCAL VOC are). A row with several classes or an unclear one makes the
  set multi-label; only then may a row have no label. A class name cannot begin with ``?``.
* **split**: ``train`` or ``test``. Rows of ``val`` (``valid``, ``validation``, ``dev``) are left
  out, with a note: they are neither.

`write_list` writes any set of picture files so; ``mpp-jax data show DATA --list FILE`` does it.

A header line is optional. With one, which has ``path`` and one of ``label``, ``labels`` and
``split`` in it, columns may stand in any order; one without a name (the index that pandas writes)
is passed over, and others are ignored with a note.
"""

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from mpp_jax.data.dataset import SPLITS, DataError, Dataset, Item, make_dataset
from mpp_jax.files import write_file

_WANTED = "path,label[;label],split"
_VALIDATION = ("val", "valid", "validation", "dev")
# What pandas makes of a column without a name when it reads and writes it again.
_NAMELESS = re.compile(r"(unnamed: \d+)?")
_FIELD = re.compile(r'[ \t]*"(?P<quoted>(?:[^"]|"")*)"[ \t]*|(?P<plain>[^,\r\n]*)')
_ROW_END = re.compile(r"\r\n|\n|\r|\Z")


class _Row(NamedTuple):
    line: int
    path: str
    labels: tuple[str, ...]
    unclear: tuple[str, ...]
    split: str


class _Columns(NamedTuple):
    """Where the columns are, of how many."""

    path: int = 0
    label: int = 1
    split: int = 2
    number: int = 3


def open_list(path: Path, *, to_train: bool = True) -> Dataset:
    """Open a list; see the module docstring.

    Raises:
        DataError: one line: what is wrong and how to mend it.
    """
    rows, notes = _rows(path)
    multi_label = any(len(row.labels) > 1 or row.unclear for row in rows)
    if not to_train:
        multi_label |= not all(row.labels for row in rows)
    classes = sorted({label for row in rows for label in (*row.labels, *row.unclear)})
    label_of = {name: label for label, name in enumerate(classes)}
    items: list[Item] = []
    seen: dict[tuple[str, str], tuple[int, str]] = {}
    parents: dict[str, str] = {}
    for row in rows:
        identity = Path(row.path).as_posix()
        place = path.parent / row.path
        line, first = seen.setdefault(_picture(place, parents), (row.line, identity))
        if line != row.line:
            both = repr(identity) if first == identity else f"{first!r} alias {identity!r}"
            raise DataError(
                f"{path}: lines {line} and {row.line} both name {both}; remove one "
                "(several labels of one picture stand in one line, separated by ';')"
            )
        if not row.labels and not multi_label:
            raise DataError(f"{path}: line {row.line}: no label for {identity!r}")
        labels = tuple(sorted(label_of[label] for label in row.labels))
        ignored = tuple(sorted(label_of[label] for label in row.unclear))
        items.append(Item(identity, labels, row.split, path=place, ignored=ignored))
    if items and not any(os.path.exists(path.parent / row.path) for row in rows):
        raise DataError(
            f"{path}: none of its pictures ({len(items)}) exists; paths are relative to "
            f"{path.parent.resolve()}, the first is {items[0].id!r}"
        )
    return make_dataset(
        path.stem, classes, items, multi_label=multi_label, notes=notes, to_train=to_train
    )


def write_list(dataset: Dataset, path: Path) -> None:
    """Write a set as a list, which reads as the same pictures, labels, unclear labels and splits.

    Ids become the paths: relative ones of what lies below the list's folder, else absolute ones.
    A multi-label set of which every picture happens to have just one label reads as single-label.

    Args:
        dataset: of picture files; boxes are not written.
        path: the list.

    Raises:
        DataError: a picture that is no file, or a name that a list cannot hold.
        OSError: it cannot be written.
    """
    for name in dataset.classes:
        if ";" in name or name.startswith("?") or name != name.strip() or not name:
            raise DataError(
                f"{path}: a list cannot hold class {name!r}: no ';', no '?' in front, no outer "
                "spaces; rename it"
            )
    text = io.StringIO()
    table = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    table.writerow(("path", "label", "split"))
    folder = path.absolute().parent
    for item in dataset.items:
        if item.path is None:
            raise DataError(f"{path}: picture {item.id!r} is no file, so a list cannot name it")
        place = item.path.absolute()
        place = place.relative_to(folder) if place.is_relative_to(folder) else place
        labels = [dataset.classes[label] for label in item.labels]
        labels += [f"?{dataset.classes[label]}" for label in item.ignored]
        table.writerow((place.as_posix(), ";".join(labels), item.split))
    try:
        content = text.getvalue().encode()
    except UnicodeEncodeError as error:
        where = error.object[max(error.start - 20, 0) : error.start + 1]
        raise DataError(f"{path}: a name is no UTF-8 text ({where!r})") from error
    write_file(path, content)


def _picture(place: Path, parents: dict[str, str]) -> tuple[str, str]:
    """Return what tells one picture from another: its folder, links resolved, and its name."""
    folder = os.path.dirname(place)
    if folder not in parents:
        parents[folder] = os.path.realpath(folder)
    return parents[folder], os.path.basename(place)


def _rows(path: Path) -> tuple[list[_Row], list[str]]:
    """Return the rows of training and test, and notes."""
    text = _text(path)
    rows: list[_Row] = []
    notes: list[str] = []
    left_out = Counter[str]()
    columns: _Columns | None = None
    for line, cells in _csv(path, text):
        names = [cell.strip() for cell, _ in cells]
        if not any(names):
            continue
        if columns is None:
            columns, others = _header(path, line, [name.casefold() for name in names])
            if others is not None:
                if others:
                    notes.append(f"column(s) {', '.join(map(repr, others))} ignored")
                continue
        if len(cells) != columns.number:
            raise DataError(
                f"{path}: line {line}: {len(cells)} column(s) instead of {columns.number}"
                + (f" ({_WANTED})" if columns.number == 3 else "")
            )
        name, quoted = cells[columns.path]
        name = name if quoted else name.strip()
        if not name.strip():
            raise DataError(f"{path}: line {line}: no path ({_WANTED})")
        split = names[columns.split]
        if split in _VALIDATION:
            left_out[split] += 1
            continue
        if split not in SPLITS:
            raise DataError(
                f"{path}: line {line}: split is {split!r}, must be 'train' or 'test' "
                "(rows of 'val' are left out)"
            )
        labels, unclear = _labels(path, line, names[columns.label])
        rows.append(_Row(line, name, labels, unclear, split))
    notes += [
        f"{count} row(s) of split {split!r} left out; call them train or test to use them"
        for split, count in left_out.items()
    ]
    if not rows:
        if left_out:
            raise DataError(f"{path}: {notes[-1]}; there are no others")
        raise DataError(f"{path}: an empty list; one line a picture is expected: {_WANTED}")
    return rows, notes


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a UTF-8 text list ({_WANTED}), nor a folder") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if "\0" in text:
        line = 1 + text[: text.index("\0")].count("\n")
        raise DataError(f"{path}: line {line} holds a NUL character; save the list as UTF-8 text")
    return text


def _header(path: Path, line: int, names: list[str]) -> tuple[_Columns, list[str] | None]:
    """Return where the columns are, and the names of others; None where it is no header."""

    def fail(what: str) -> NoReturn:
        raise DataError(f"{path}: line {line}: {what} (a header names path, label and split)")

    known = {"path": "path", "label": "label", "labels": "label", "split": "split"}
    if "path" not in names or not {"label", "labels", "split"} & set(names):
        return _Columns(), None
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        if name in known and known[name] in places:
            fail(f"two columns {known[name]!r}")
        if name in known:
            places[known[name]] = place
    for column in ("label", "split"):
        if column not in places:
            fail(f"no column {column!r}")
    others = [name for name in names if name not in known and not _NAMELESS.fullmatch(name)]
    return _Columns(**places, number=len(names)), others


def _labels(path: Path, line: int, cell: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the classes of a cell, and the unclear ones."""
    parts = [part for piece in cell.split(";") if (part := piece.strip())]
    labels = tuple(dict.fromkeys(part for part in parts if not part.startswith("?")))
    unclear = tuple(dict.fromkeys(part[1:].strip() for part in parts if part.startswith("?")))
    if "" in unclear:
        raise DataError(f"{path}: line {line}: '?' without a class")
    if both := [name for name in labels if name in unclear]:
        raise DataError(f"{path}: line {line}: {both[0]!r} is both there and unclear (?)")
    return labels, unclear


def _csv(path: Path, text: str) -> Iterator[tuple[int, list[tuple[str, bool]]]]:
    """Yield (line, [(text, whether it was quoted), ...]) of each row (RFC 4180).

    Python's own reader does not tell quoted fields from others.
    """
    place, line = 0, 1
    while place < len(text):
        start, first = place, line
        cells: list[tuple[str, bool]] = []
        while True:
            field = _FIELD.match(text, place)
            assert field is not None  # it matches nothing at all, too
            quoted = field["quoted"]
            place = field.end()
            if quoted is None and field["plain"].lstrip().startswith('"'):
                raise DataError(f"{path}: not a CSV list ({_WANTED}): line {line}: an open quote")
            cells.append((field["plain"], False) if quoted is None else (_plain(quoted), True))
            if not text.startswith(",", place):
                break
            place += 1
        end = _ROW_END.match(text, place)
        if end is None:
            raise DataError(
                f"{path}: not a CSV list ({_WANTED}): line {line}: text after a closing quote"
            )
        place = end.end()
        line += len(re.findall(r"\r\n|\n|\r", text[start:place]))
        yield first, cells


def _plain(quoted: str) -> str:
    return quoted.replace('""', '"')
