"""Joining the parts of a store that processes without knowledge of each other have written.

What comes out has the bytes that one process would have written. A whole store is joined with
nothing: of version 1, it becomes one of the present version.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mpp_jax.files import file_digest, replaced_folder, write_file
from mpp_jax.progress import Watcher
from mpp_jax.storage.store_format import (
    FORMAT,
    MANIFEST,
    SETTINGS,
    VERSION,
    ArrayFile,
    StoreError,
    array_name,
    differences,
    read_array,
    read_head,
    record_name,
    sealed,
    settings_digest,
)
from mpp_jax.storage.store_reading import Held, check_list, read_held, read_version_1
from mpp_jax.storage.store_records import (
    joint_list_digest,
    list_entries,
    record_bytes,
)

BESIDE = ("codebook", "config.json")
"""What a store carries of those who made it; parts of one store have the same."""


class _Part(NamedTuple):
    folder: Path
    head: dict[str, Any]
    held: Held

    @property
    def number(self) -> int:
        """Which part, from 1."""
        return int(self.head["part"][0])


def merge_stores(folders: Sequence[Path], out: Path, watcher: Watcher | None = None) -> int:
    """Write one store of all parts of it.

    Args:
        folders: the parts, in any order; or one whole store.
        out: folder for the store, absent or empty.
        watcher: is shown how far the work is; None for a new one.

    Returns:
        The number of pictures.

    Raises:
        StoreError: parts that are missing, unfinished, damaged, given twice, or of another store;
            a folder that is taken. Everything that is wrong with the parts is named.
    """
    if out.exists() and (not out.is_dir() or any(p.name[0] != "." for p in out.iterdir())):
        raise StoreError(f"{out}: not empty; give a new folder")
    parts = [_opened(folder) for folder in folders]
    whole = [part for part in parts if "part" not in part.head]
    if whole and len(parts) > 1:
        raise StoreError(
            f"{whole[0].folder}: is whole, no part of a store; `encode --append` adds pictures to "
            "one"
        )
    if not whole:
        _check_parts(parts)
    head = {key: value for key, value in parts[0].head.items() if key not in ("part", "seal")}
    if head["version"] != VERSION:
        head = _head_of_version_1(head, parts[0].held)
    shards = [(part, shard) for part in parts for shard in _shards(part)]
    with replaced_folder(out, ()) as place:
        write_file(place / MANIFEST, sealed(head))
        for part, shard in (watcher or Watcher()).bar(shards, "merge", "shard"):
            _copy_shard(part, shard, head, place)
        for name in BESIDE:
            # A part that was killed at the very end lacks it.
            sources = (part.folder / name for part in parts)
            source = next(filter(Path.exists, sources), None)
            if source is None:
                continue
            if source.is_dir():
                shutil.copytree(source, place / name)
            else:
                shutil.copy2(source, place / name)
    return int(head["items"])


def _opened(folder: Path) -> _Part:
    head = read_head(folder)
    if head["version"] == 1:
        head, held = read_version_1(folder, head)
    else:
        held = read_held(folder, head)
        check_list(folder, head, held)
    pending = len(held.items.of(status="pending"))
    if pending:
        raise StoreError(
            f"{folder}: unfinished, {pending} of {len(held.items)} pictures are not encoded yet; "
            "give its encode command again"
        )
    return _Part(folder, head, held)


def _check_parts(parts: Sequence[_Part]) -> None:
    """Raise unless these are all parts of one store, each once."""
    first = parts[0]
    for part in parts[1:]:
        found = differences(_of_all(first.head), _of_all(part.head))
        if found:
            raise StoreError(
                f"{part.folder}: is no part of the store that {first.folder} is one of: "
                f"{'; '.join(found)}"
            )
    count = int(first.head["part"][1])
    numbers = [part.number for part in parts]
    twice = {number for number in numbers if numbers.count(number) > 1}
    if twice:
        folders = [str(part.folder) for part in parts if part.number in twice]
        raise StoreError(f"{', '.join(folders)}: hold the same part of the store; give one of them")
    missing = [str(number) for number in range(1, count + 1) if number not in numbers]
    if missing:
        raise StoreError(
            f"{len(missing)} of {count} parts missing: {', '.join(missing)}; encode them with "
            f"--shard {missing[0]}/{count} and so on, or name their folders"
        )
    lists = {shard: digest for part in parts for shard, digest in part.held.lists.items()}
    if joint_list_digest(lists[shard] for shard in sorted(lists)) != first.head["list_sha256"]:
        raise StoreError("the parts' pictures are not those of the list that all of them name")


def _of_all(head: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the heads of all parts of a store have in common."""
    others = {key: value for key, value in head.items() if key not in ("part", "seal")}
    return others | {"parts": head["part"][1]}


def _shards(part: _Part) -> Sequence[int]:
    if part.head["version"] != VERSION:
        return range(1 + max(part.held.items.shards.tolist(), default=-1))
    return sorted(part.held.lists)


def _copy_shard(part: _Part, shard: int, head: Mapping[str, Any], place: Path) -> None:
    """Copy a shard's files, whose bytes are those that its record names."""
    files: dict[str, ArrayFile] = {}
    for method, known in part.held.files.get(shard, {}).items():
        name = array_name(shard, method)
        source, target = part.folder / name, place / name
        array = read_array(part.folder, shard, method, known, trusted=True)
        if array is not None:
            shutil.copyfile(source, target)
            files[method] = ArrayFile(
                len(array), array.shape[1], target.stat().st_size, file_digest(target)
            )
        if array is None or known.sha256 not in (None, files[method].sha256):
            raise StoreError(
                f"{source}: missing or damaged; give its encode command again to have it remade"
            )
    if part.head["version"] == VERSION:
        shutil.copyfile(part.folder / record_name(shard), place / record_name(shard))
        return
    items = [*part.held.items[part.held.items.shards == shard]]
    record = record_bytes(shard, settings_digest(head), items, part.held.classes, files)
    write_file(place / record_name(shard), record)


def _head_of_version_1(head: Mapping[str, Any], held: Held) -> dict[str, Any]:
    pictures = ("dataset", "classes", "multi_label")
    return {
        "format": FORMAT,
        "version": VERSION,
        **{key: head[key] for key in (*pictures, *SETTINGS)},
        **list_entries([*held.items], held.classes),
    }
