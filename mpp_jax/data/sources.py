"""Where pictures and labels come from: class folders, list files, TFDS.

Every source ends as a `mpp_jax.data.dataset.Dataset`: class names, and items in a fixed
order, training pictures first (class folders: by id; lists: by row; TFDS: by record). Nothing is
decoded here.
"""

import csv
import os
from dataclasses import replace
from pathlib import Path

from mpp_jax.data.dataset import (
    SPLITS,
    DataError,
    Dataset,
    Item,
    limited_items,
    make_dataset,
    stratified_test_ids,
)
from mpp_jax.files import expanded

# What operating systems leave beside pictures; names that begin with a dot are ignored as well.
_SIDE_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx"})
_PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
)
# Recognised, whatever their case, where the first row of a list says them.
_HEADERS = (["path", "label", "split"], ["path", "labels", "split"])


def open_dataset(
    spec: str | os.PathLike[str],
    *,
    test_fraction: float = 0.2,
    seed: int = 0,
    limit_per_class: int | None = None,
) -> Dataset:
    """Open a data specification.

    * A folder with ``train/<class>/*`` and ``test/<class>/*``.
    * A folder with ``<class>/*``: a seeded, stratified split; every class keeps at least one
      training picture, and gives at least one test picture where it has two.
    * A CSV list ``path,label[;label],split`` (UTF-8; a header line is optional; paths are relative
      to the list; split is ``train`` or ``test``). One row with several labels makes the set
      multi-label; only then may a row have no label.
    * ``tfds:NAME[:CONFIG]``, prepared data, read without TensorFlow (`mpp_jax.data.tfds_source`).

    Files of a class folder are found at any depth. Hidden files and what operating systems leave
    behind (``Thumbs.db``, ``.DS_Store``) are ignored. Whether a file is a picture shows when it is
    decoded. A class without any picture is left out with a warning, so that one empty folder does
    not stop a long run; a class that only the test pictures have is an error, because no classifier
    can be trained for it.

    Args:
        spec: as above.
        test_fraction: share of test pictures for sources without a split, in (0, 1).
        seed: of the split and of ``limit_per_class``.
        limit_per_class: keep this many seeded pictures of each class in each split (of a
            multi-label set: every picture that some class keeps).

    Returns:
        The dataset.

    Raises:
        DataError: one line: what is wrong and how to mend it.
        ValueError: ``test_fraction`` or ``limit_per_class`` out of range.
    """
    if not 0.0 < test_fraction < 1.0:
        raise ValueError(f"test_fraction must lie between 0 and 1, got {test_fraction}")
    if limit_per_class is not None and limit_per_class < 1:
        raise ValueError(f"limit_per_class must be at least 1, got {limit_per_class}")
    text = os.fspath(spec)
    if text.startswith("tfds:"):
        from mpp_jax.data.tfds_source import open_tfds  # heavy import

        dataset = open_tfds(text.removeprefix("tfds:"), test_fraction=test_fraction, seed=seed)
    else:
        path = expanded(text)
        if path.is_dir():
            dataset = _open_folder(path, test_fraction, seed)
        elif path.is_file():
            dataset = _open_list(path)
        else:
            raise DataError(f"{text}: no such folder or list file")
    if limit_per_class is not None:
        dataset = replace(dataset, items=limited_items(dataset, limit_per_class, seed))
    return dataset


# --- class folders ------------------------------------------------------------------------------


def _ignored_name(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _SIDE_FILES


def _class_folders(folder: Path) -> list[Path]:
    inside = [path for path in folder.iterdir() if path.is_dir() and not _ignored_name(path.name)]
    return sorted(inside, key=lambda path: path.name)


def _loose_pictures(folder: Path) -> int:
    return sum(
        path.suffix.lower() in _PICTURE_SUFFIXES and not _ignored_name(path.name)
        for path in folder.iterdir()
        if path.is_file()
    )


def _files(folder: Path) -> list[Path]:
    def fail(error: OSError) -> None:
        raise error  # os.walk alone would leave the folder out without a word

    found: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not _ignored_name(name)]
        found.extend(Path(place, name) for name in names if not _ignored_name(name))
    return found


def _open_folder(root: Path, test_fraction: float, seed: int) -> Dataset:
    name = root.resolve().name or str(root)
    try:
        present = {path.name: path for path in _class_folders(root)}
        if "train" in present and "test" in present:
            places = {split: present[split] for split in SPLITS}
            others = sorted(present.keys() - set(SPLITS))
            notes = [f"folder {other!r} beside train and test ignored" for other in others]
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
            places, notes = {"": root}, []
        warnings = [
            f"{loose} picture file(s) directly in {place}, outside the class folders, ignored"
            for place in places.values()
            if (loose := _loose_pictures(place))
        ]
        classes, items = _folder_items(root, places)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from error
    if not classes:
        inside = "/<class>/*, ".join([*places]) + "/<class>/*" if len(places) > 1 else "<class>/*"
        raise DataError(f"{root}: no class folder; pictures are expected in {inside}")
    if "" in places:
        groups: dict[int, list[str]] = {}
        for item in items:
            groups.setdefault(item.labels[0], []).append(item.id)
        test = stratified_test_ids(groups, test_fraction, seed)
        items = [replace(item, split="test" if item.id in test else "train") for item in items]
        notes.append(f"seeded split, {test_fraction:g} of each class for test, seed {seed}")
    return make_dataset(name, classes, items, multi_label=False, notes=notes, warnings=warnings)


def _folder_items(root: Path, places: dict[str, Path]) -> tuple[list[str], list[Item]]:
    folders = {split: _class_folders(place) for split, place in places.items()}
    classes = sorted({folder.name for inside in folders.values() for folder in inside})
    label_of = {name: label for label, name in enumerate(classes)}
    items = [
        Item(
            id=path.relative_to(root).as_posix(),
            labels=(label_of[folder.name],),
            split=split or "train",
            path=path,
        )
        for split, inside in folders.items()
        for folder in inside
        for path in _files(folder)
    ]
    return classes, sorted(items, key=lambda item: item.id)


# --- list files ---------------------------------------------------------------------------------


def _open_list(path: Path) -> Dataset:
    rows = _list_rows(path)
    multi_label = any(len(labels) > 1 for _, _, labels, _ in rows)
    classes = sorted({label for _, _, labels, _ in rows for label in labels})
    label_of = {name: label for label, name in enumerate(classes)}
    items: list[Item] = []
    seen: dict[str, int] = {}
    for line, name, labels, split in rows:
        identity = Path(name).as_posix()
        if identity in seen:
            raise DataError(
                f"{path}: lines {seen[identity]} and {line} both name {identity!r}; remove one "
                "(several labels of one picture stand in one line, separated by ';')"
            )
        seen[identity] = line
        if not labels and not multi_label:
            raise DataError(f"{path}: line {line}: no label for {identity!r}")
        numbers = tuple(label_of[label] for label in labels)
        items.append(Item(identity, numbers, split, path=path.parent / name))
    if not any(item.path is not None and item.path.exists() for item in items):
        raise DataError(
            f"{path}: none of its pictures ({len(items)}) exists; paths are relative to "
            f"{path.parent.resolve()}, the first is {items[0].id!r}"
        )
    return make_dataset(path.stem, classes, items, multi_label=multi_label)


def _list_rows(path: Path) -> list[tuple[int, str, list[str], str]]:
    """Return rows as (line number, path, labels, split)."""
    rows: list[tuple[int, str, list[str], str]] = []
    wanted = "path,label[;label],split"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for fields in reader:
                line = reader.line_num
                cells = [cell.strip() for cell in fields]
                if not any(cells):
                    continue
                header = [cell.casefold() for cell in cells]
                if not rows and header in _HEADERS:
                    continue
                if len(cells) != 3:
                    raise DataError(
                        f"{path}: line {line}: {len(cells)} column(s) instead of 3 ({wanted})"
                    )
                if not cells[0]:
                    raise DataError(f"{path}: line {line}: no path ({wanted})")
                if cells[2] not in SPLITS:
                    raise DataError(
                        f"{path}: line {line}: split is {cells[2]!r}, must be 'train' or 'test'"
                    )
                labels = [label for part in cells[1].split(";") if (label := part.strip())]
                rows.append((line, cells[0], labels, cells[2]))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a UTF-8 text list ({wanted}), nor a folder") from error
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV list ({wanted}): {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if not rows:
        raise DataError(f"{path}: an empty list; one line a picture is expected: {wanted}")
    return rows
