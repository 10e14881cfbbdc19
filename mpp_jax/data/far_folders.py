"""Folders of pictures at an address: the rules of `mpp_jax.data.folders`, read from one listing."""

from dataclasses import replace
from pathlib import PurePosixPath
from urllib.parse import unquote

from mpp_jax.data.content import FarPicture
from mpp_jax.data.dataset import (
    SPLITS,
    DataError,
    Dataset,
    Item,
    make_dataset,
    stratified_test_ids,
)
from mpp_jax.data.folders import ignored_name, is_picture_name
from mpp_jax.remote.listing import listing


def open_far_folder(
    address: str, test_fraction: float, seed: int, *, to_train: bool = True
) -> Dataset:
    """Open a folder of class folders at an address; see `mpp_jax.data.open_dataset`.

    Raises:
        DataError: one line: what is wrong and how to mend it.
        RemoteError: it cannot be listed.
    """
    found = far_files(address)
    if not found:
        raise DataError(f"{address}: no such folder, or nothing in it")
    root = address.rstrip("/")
    folders = {name.split("/")[0] for name in found if "/" in name}
    if "train" in folders and "test" in folders:
        places: tuple[str, ...] = SPLITS
    elif not to_train and "test" in folders:
        places = ("test",)
    elif folders & {*SPLITS}:
        [given], [lacking] = sorted(folders & {*SPLITS}), sorted({*SPLITS} - folders)
        raise DataError(
            f"{root}: has {given}/ but no {lacking}/; add {lacking}/<class>/, or give "
            f"{root}/{given} to have it split"
        )
    else:
        places = ("",)
    inside = {
        name: parts[-1].split("/")
        for name in found
        if (parts := name.split("/", 1) if places != ("",) else ["", name])[0] in places
        and len(parts) == 2
    }
    classes = sorted({parts[0] for parts in inside.values() if len(parts) > 1})
    label_of = {name: label for label, name in enumerate(classes)}
    loose = [n for n, parts in inside.items() if len(parts) == 1 and is_picture_name(n)]
    if not classes and to_train:
        wanted = "<class>/*" if places == ("",) else "train/<class>/*, test/<class>/*"
        raise DataError(f"{root}: no class folder; pictures are expected in {wanted}")

    def item(name: str, labels: tuple[int, ...]) -> Item:
        split = name.split("/")[0] if places != ("",) else ("train" if classes else "test")
        return Item(name, labels, split, read=found[name], far=True)

    notes, warnings = [], []
    if classes:
        items = [item(n, (label_of[p[0]],)) for n, p in inside.items() if len(p) > 1]
        if loose:
            warnings.append(
                f"{len(loose)} picture file(s) in {root} outside the class folders, ignored"
            )
    else:
        items = [item(name, ()) for name in inside]
        notes.append("no class folders: pictures without labels")
    if others := sorted(folders - {*places}) if places != ("",) else []:
        notes.append(f"folder {others[0]!r} beside {' and '.join(places)} ignored")
    if places == ("",) and classes:
        groups: dict[int, list[str]] = {}
        for one in items:
            groups.setdefault(one.labels[0], []).append(one.id)
        test = stratified_test_ids(groups, test_fraction, seed)
        items = [replace(i, split="test" if i.id in test else "train") for i in items]
        notes.append(f"seeded split, {test_fraction:g} of each class for test, seed {seed}")
    return make_dataset(
        PurePosixPath(root).name,
        classes,
        items,
        multi_label=not classes,
        notes=notes,
        warnings=warnings,
        to_train=to_train,
    )


def far_files(address: str) -> dict[str, FarPicture]:
    """Return the files below a folder at an address that count, by relative name, sorted.

    Raises:
        RemoteError: it cannot be listed.
    """
    root = address.rstrip("/")
    written = unquote if root.lower().startswith(("http://", "https://")) else str
    found = {
        written(name): FarPicture(f"{root}/{name}", None, *about)
        for name, about in listing(address).items()
        if not any(map(ignored_name, name.split("/")))
    }
    return dict(sorted(found.items()))
