"""Sets of class folders in their official layouts, and all official layouts by prefix.

``mit67:PATH``: MIT Indoor Scenes 67, ``Images/<class>/*`` with the published lists
``TrainImages.txt`` (80 a class) and ``TestImages.txt`` (20 a class) beside it. (A. Quattoni and
A. Torralba, "Recognizing Indoor Scenes", CVPR 2009.)

``caltech101:PATH``: ``101_ObjectCategories/<class>/*``. ``BACKGROUND_Google`` is no class and left
out. 30 pictures of each class are drawn for training, and at most 50 of the others for the test.
(As S. Lazebnik, C. Schmid and J. Ponce did in "Beyond Bags of Features", CVPR 2006, section 5.2,
and most papers since.)

``scene15:PATH``: the fifteen class folders of the same paper, 100 drawn of each class for training
and all others for the test (its section 5.1). A copy that is divided already, into
``train/<class>/*`` and ``test/<class>/*``, is taken as it is.

What is drawn follows from the seed and the pictures' names, class by class.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

from mpp_jax.data.archives import Archive, Asked, amount_notes, find_archive
from mpp_jax.data.dataset import Dataset, Item, make_dataset, seeded_order
from mpp_jax.data.flowers102 import open_flowers102
from mpp_jax.data.folders import Walk, class_folders, open_folder
from mpp_jax.data.voc import open_voc

_LISTS = {"train": "TrainImages.txt", "test": "TestImages.txt"}
_BACKGROUND = "BACKGROUND_Google"
_CALTECH_TRAIN, _CALTECH_TEST = 30, 50
_SCENE_CLASSES, _SCENE_TRAIN = 15, 100


def open_mit67(path: Path, asked: Asked) -> Dataset:
    """Open MIT Indoor 67, see the module docstring.

    Args:
        path: the folder with ``Images`` and the lists, or one above it.
        asked: without ``to_train`` the list of training pictures may be missing.

    Returns:
        A data set of one label a picture; ids are ``Images/<class>/<file>``.

    Raises:
        DataError: one line that says what is missing, how often and where first.
    """
    archive = find_archive(
        "mit67", path, _is_mit67, "Images/ with TrainImages.txt and TestImages.txt"
    )
    lists = dict(_LISTS)
    if not asked.to_train:
        there = {side: name for side, name in lists.items() if (archive.root / name).is_file()}
        lists = there or lists
    members = {side: _listed(archive, name) for side, name in lists.items()}
    if len(members) == 2:
        archive.check_apart(members["train"], members["test"], " and ".join(_LISTS.values()))
    folders: dict[str, frozenset[str]] = {}
    for names in members.values():
        for folder in {PurePosixPath(name).parts[0] for name in names} - folders.keys():
            folders[folder] = archive.names_in(archive.root / "Images" / folder)
    for side, names in members.items():
        parts = [PurePosixPath(name).parts for name in names]
        lost = [repr(f"{folder}/{file}") for folder, file in parts if file not in folders[folder]]
        archive.check(lost, f"picture(s) of {lists[side]!r} are not in Images")
    classes = sorted(folders)
    number = {name: label for label, name in enumerate(classes)}
    items = [
        Item(
            f"Images/{name}",
            (number[name.split("/")[0]],),
            side,
            path=archive.root / "Images" / name,
        )
        for side, names in members.items()
        for name in names
    ]
    official = {side: {"train": 5360, "test": 1340}[side] for side in members}
    return make_dataset(
        "mit67",
        classes,
        items,
        multi_label=False,
        notes=amount_notes("MIT Indoor 67", items, official),
        to_train=asked.to_train,
    )


def _is_mit67(folder: Path) -> bool:
    listed = any((folder / name).is_file() for name in _LISTS.values())
    return listed and (folder / "Images").is_dir()


def _listed(archive: Archive, name: str) -> list[str]:
    """Return the pictures of a list, as ``<class>/<file>``."""
    names = archive.lines(archive.root / name)
    odd = [repr(n) for n in names if len(PurePosixPath(n).parts) != 2 or ".." in n.split("/")]
    archive.check(odd, f"row(s) of {name!r} are not <class>/<file>")
    plain = [PurePosixPath(n).as_posix() for n in names]
    return list(dict.fromkeys(plain))


def open_caltech101(path: Path, asked: Asked) -> Dataset:
    """Open Caltech 101, see the module docstring.

    Args:
        path: the folder with ``101_ObjectCategories``, or one above it.
        asked: seed, and how many of each class are for training (30).

    Returns:
        A data set of one label a picture; ids are ``101_ObjectCategories/<class>/<file>``.

    Raises:
        DataError: one line that says what is missing, how often and where first.
    """
    archive = find_archive("caltech101", path, _is_caltech, "folder 101_ObjectCategories")
    walk = Walk(archive.root)
    folders = class_folders(archive.root / "101_ObjectCategories")
    classes = [folder for folder in folders if folder.name != _BACKGROUND]
    train = asked.train_per_class or _CALTECH_TRAIN
    items = _drawn(archive, walk, classes, train, _CALTECH_TEST, asked.seed)
    notes = [
        f"{train} of each class for training and at most {_CALTECH_TEST} of the others for the "
        f"test, seed {asked.seed}"
    ]
    if len(classes) < len(folders):
        notes.append(f"{_BACKGROUND} is no class and left out")
    if len(classes) != 101:
        notes.append(
            f"{len(classes)} classes, where the official Caltech 101 has 101: figures do not "
            "compare with published ones"
        )
    return make_dataset(
        _drawn_name("caltech101", asked),
        [folder.name for folder in classes],
        items,
        multi_label=False,
        notes=notes + walk.notes,
        warnings=walk.warnings,
        to_train=asked.to_train,
    )


def _is_caltech(folder: Path) -> bool:
    return (folder / "101_ObjectCategories").is_dir()


def open_scene15(path: Path, asked: Asked) -> Dataset:
    """Open Scene-15, see the module docstring.

    Args:
        path: the folder with the fifteen class folders, or with ``train`` and ``test``, or one
            above it.
        asked: seed, and how many of each class are for training (100), where it is not divided.

    Returns:
        A data set of one label a picture; ids are paths relative to that folder.

    Raises:
        DataError: one line that says what is missing, how often and where first.
    """
    archive = find_archive(
        "scene15", path, _is_scene15, "fifteen class folders, and no train/ and test/"
    )
    if _is_divided(archive.root):
        if asked.train_per_class is not None:
            archive.fail("is divided into train/ and test/ already; train_per_class does not apply")
        dataset = open_folder(archive.root, 0.2, asked.seed, to_train=asked.to_train)
        official = {"train": 1500, "test": 2985}
        notes = (*dataset.notes, *amount_notes("Scene-15", dataset.items, official))
        return replace(dataset, name="scene15", notes=notes)
    walk = Walk(archive.root)
    folders = class_folders(archive.root)
    train = asked.train_per_class or _SCENE_TRAIN
    items = _drawn(archive, walk, folders, train, None, asked.seed)
    return make_dataset(
        _drawn_name("scene15", asked),
        [folder.name for folder in folders],
        items,
        multi_label=False,
        notes=[
            f"{train} of each class for training, all others for the test, seed {asked.seed}",
            *amount_notes("Scene-15", items, {"train": 15 * train, "test": 4485 - 15 * train}),
            *walk.notes,
        ],
        warnings=walk.warnings,
        to_train=asked.to_train,
    )


def _is_divided(folder: Path) -> bool:
    return (folder / "train").is_dir() and (folder / "test").is_dir()


def _is_scene15(folder: Path) -> bool:
    try:
        return _is_divided(folder) or len(class_folders(folder)) == _SCENE_CLASSES
    except OSError:
        return False


def _drawn_name(name: str, asked: Asked) -> str:
    number = asked.train_per_class
    return name if number is None else f"{name} ({number} of each class)"


def _drawn(
    archive: Archive,
    walk: Walk,
    folders: Sequence[Path],
    train: int,
    most_test: int | None,
    seed: int,
) -> list[Item]:
    """Return seeded training pictures of each class folder, and of the others those for the test.

    Raises:
        DataError: classes that have not one picture more than are for training.
    """
    items: list[Item] = []
    few: list[str] = []
    for label, folder in enumerate(folders):
        try:
            files = walk.files(folder)
        except OSError as error:
            archive.fail(f"{error.filename}: cannot be read ({error.strerror})")
        paths = {path.relative_to(archive.root).as_posix(): path for path in files}
        if len(paths) <= train:
            few.append(f"{folder.name!r} with {len(paths)}")
            continue
        order = seeded_order(paths, seed, "split")
        chosen = set(order[:train])
        tested = set(order[train:][:most_test])
        items += [
            Item(name, (label,), "train" if name in chosen else "test", path=paths[name])
            for name in sorted(chosen | tested)
        ]
    archive.check(
        few,
        f"class folder(s) have no more than {train} pictures, the number for training "
        "(train_per_class)",
    )
    return items


OPENERS: Final[Mapping[str, Callable[[Path, Asked], Dataset]]] = {
    "voc": open_voc,
    "mit67": open_mit67,
    "flowers102": open_flowers102,
    "caltech101": open_caltech101,
    "scene15": open_scene15,
}
"""Prefix of a data specification -> what opens it."""
