"""Is everything on disk what was written there? Stores, indices, codebooks, models, whole runs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mpp_jax.files import file_digest
from mpp_jax.storage.bundle import CHECKSUMS, RECORD, BundleError, read_bundle
from mpp_jax.storage.index import RECORD as INDEX
from mpp_jax.storage.index import BadIndexError, is_index, read_record
from mpp_jax.storage.store_format import (
    MANIFEST,
    DamagedError,
    StoreError,
    array_name,
    read_array,
    read_head,
    record_name,
)
from mpp_jax.storage.store_reading import check_list, read_held, read_version_1

PARTS = ("encodings", "codebook", "model")
"""What the folder of a run, a store or an index may hold beside its own files."""


class Finding(NamedTuple):
    """A file that was looked at, or several together.

    Attributes:
        place: the file.
        problem: what is wrong with it, one line; None where it is sound.
    """

    place: Path
    problem: str | None


def verify(folder: Path) -> Iterator[Finding]:
    """Compare every file of a store, index, codebook, model or run with what was recorded of it.

    Args:
        folder: its place.

    Raises:
        ValueError: it is none of them.
    """
    found = False
    if (folder / MANIFEST).is_file():
        found = True
        yield from _store(folder)
    elif (folder / RECORD).is_file():
        found = True
        yield from _bundle(folder)
    elif is_index(folder):
        found = True
        yield from _index(folder)
    for name in PARTS:
        inside = folder / name
        if (inside / MANIFEST).is_file() or (inside / RECORD).is_file():
            found = True
            yield from verify(inside)
        elif inside.is_dir():
            found = True
            head = MANIFEST if name == "encodings" else RECORD
            yield Finding(inside / head, "missing")
    if not found:
        raise ValueError(
            f"{folder}: nothing to verify (no {MANIFEST}, {RECORD} or {INDEX}); give the folder of "
            "encodings, an index, a codebook, a model or a run"
        )


def _store(folder: Path) -> Iterator[Finding]:
    try:
        head = read_head(folder)
        if head["version"] == 1:
            head, held = read_version_1(folder, head)
        else:
            held = read_held(folder, head)
    except StoreError as error:
        yield Finding(folder / MANIFEST, _reason(error))
        return
    yield Finding(folder / MANIFEST, None)
    for shard, lost in held.lost.items():
        yield Finding(folder / record_name(shard), _reason(lost).partition(";")[0])
    for shard, files in held.files.items():
        yield Finding(folder / record_name(shard), None)
        for method, file in files.items():
            sound = read_array(folder, shard, method, file) is not None
            yield Finding(
                folder / array_name(shard, method), None if sound else "missing or damaged"
            )
    if not held.lost and head["version"] != 1:
        try:
            check_list(folder, head, held)
        except DamagedError as error:
            yield Finding(folder / MANIFEST, _reason(error))


def _reason(error: Exception) -> str:
    return str(error).partition(": ")[2]


def _index(folder: Path) -> Iterator[Finding]:
    try:
        record = read_record(folder)
    except BadIndexError as error:
        yield Finding(folder / INDEX, _reason(error))
        return
    yield Finding(folder / INDEX, None)
    for name, digest in record["files"].items():
        yield _compared(folder / name, digest, INDEX)


def _compared(place: Path, digest: str, record: str) -> Finding:
    try:
        sound = file_digest(place) == digest
    except OSError:
        sound = False
    return Finding(place, None if sound else f"missing or damaged (by {record})")


def _bundle(folder: Path) -> Iterator[Finding]:
    found = False
    try:
        lines = (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        lines = []
    except (OSError, ValueError) as error:
        yield Finding(folder / CHECKSUMS, f"cannot be read ({error})")
        found, lines = True, []
    for line in lines:
        digest, _, name = line.partition("  ")
        finding = _compared(folder / name, digest, CHECKSUMS)
        found = found or finding.problem is not None
        yield finding
    if found:
        return
    try:  # the record's seal, and the arrays by their values
        kind = json.loads((folder / RECORD).read_text(encoding="utf-8"))["format"]
        read_bundle(folder, str(kind))
    except (BundleError, OSError, ValueError, KeyError, TypeError) as error:
        reason = _reason(error) if isinstance(error, BundleError) else f"damaged ({error})"
        yield Finding(folder / RECORD, reason)
    else:
        yield Finding(folder / RECORD, None)
