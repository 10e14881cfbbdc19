"""One folder for a set of arrays and what belongs to them: codebooks and models on disk.

Layout::

    FOLDER/record.json     {"format": KIND, "version": 2, "arrays_sha256": hex, ...the record,
                            "seal": SHA-256 of these entries}
    FOLDER/arrays.sha256   of its files, for ``sha256sum --check``; none without arrays
    FOLDER/arrays/         an orbax checkpoint of a nested dict of NumPy arrays; none if it is empty

Whatever is changed afterwards is found: the arrays by their checksums, the record by its seal.
Version 1, which is read as well, with a note, had no seal.

Leaves are NumPy arrays, so a bundle opens on any number and kind of devices. A folder is written
beside its place and moved there when it is whole.
"""

import functools
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mpp_jax.checkpoint import CheckpointError, restore_arrays, save_arrays
from mpp_jax.files import folder_digests, replaced_folder, restore_folder, seal

VERSION = 2
READ_VERSIONS = (1, 2)
RECORD = "record.json"
CHECKSUMS = "arrays.sha256"
OWN = (RECORD, CHECKSUMS, "arrays", "config.json")
"""Names that a bundle has from this program; what else lies in its folder is carried over."""


_LOG = logging.getLogger(__name__)


class BundleError(ValueError):
    """A codebook or model folder that cannot be read, or is of another kind."""


def arrays_digest(tree: Any) -> str:
    """Return the SHA-256 of a pytree's arrays: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def holds_bundle(folder: Path) -> bool:
    """Return whether there is a bundle, of whatever kind and state."""
    restore_folder(folder)
    return (folder / RECORD).is_file()


def check_place(folder: Path, kind: str | None = None) -> None:
    """Raise unless a folder may be written: absent, empty, or a bundle of this kind.

    With ``kind`` None any folder will do.

    Raises:
        BundleError: the place is taken by something else.
    """
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise BundleError(f"{nearest}: is a file; give a new folder")
    if not os.access(nearest, os.W_OK):
        raise BundleError(f"{nearest}: cannot be written; give another folder")
    if kind is not None and nearest == folder and any(folder.iterdir()):
        try:
            _read_record(folder, kind, trusted=True)
        except BundleError as error:
            what = kind.removeprefix("mpp-jax-")
            raise BundleError(
                f"{folder}: not empty, and what it holds is no {what} that this program can "
                "replace; give a new folder"
            ) from error


def write_bundle(
    folder: Path, kind: str, arrays: Mapping[str, Any], record: Mapping[str, Any]
) -> None:
    """Write a bundle, replacing one of the same kind.

    Args:
        folder: its place.
        kind: what it is, for instance "mpp-jax-model".
        arrays: nested dict of arrays.
        record: JSON values.

    Raises:
        BundleError: the place is taken by something else.
    """
    folder = folder.resolve()
    check_place(folder, kind)
    leaves = jax.tree.map(np.asarray, dict(arrays))
    head = {"format": kind, "version": VERSION, "arrays_sha256": arrays_digest(leaves)}
    entries = json.loads(json.dumps(head | dict(record), allow_nan=False))  # as they are read
    text = json.dumps(entries | {"seal": seal(entries)}, indent=1) + "\n"
    with replaced_folder(folder, OWN) as place:
        if leaves:
            save_arrays(place / "arrays", leaves)
            (place / CHECKSUMS).write_text(file_checksums(place / "arrays"), encoding="utf-8")
        (place / RECORD).write_text(text, encoding="utf-8")


def read_bundle(folder: Path, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (arrays, record) of a bundle.

    Raises:
        BundleError: nothing there, of another kind, or damaged.
    """
    folder = folder.resolve()
    restore_folder(folder)
    record = _read_record(folder, kind)
    if record["arrays_sha256"] == arrays_digest({}):
        return {}, record
    # tensorstore reads damaged files in threads that outlive its error: they are found here.
    try:
        checksums = (folder / CHECKSUMS).read_text(encoding="utf-8")
        found = file_checksums(folder / "arrays")
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder}: its arrays cannot be read ({error})") from error
    if checksums != found:
        raise BundleError(
            f"{folder}: its arrays do not match their checksum ({CHECKSUMS}); make it anew"
        )
    try:
        arrays = restore_arrays(folder / "arrays")
    except CheckpointError as error:
        raise BundleError(f"{folder}: its arrays cannot be read ({error}); make it anew") from error
    if arrays_digest(arrays) != record["arrays_sha256"]:
        raise BundleError(f"{folder}: its arrays do not match their checksum; make it anew")
    return arrays, record


def file_checksums(folder: Path) -> str:
    """Return the SHA-256 of every file below a folder, in the format of ``sha256sum``.

    Raises:
        OSError: no such folder, or a file in it cannot be read.
    """
    digests = folder_digests(folder)
    return "".join(f"{digest}  {folder.name}/{name}\n" for name, digest in digests.items())


@functools.cache
def _note_unsealed(place: Path, what: str) -> None:
    """Say once that a record of version 1 is taken as it is."""
    _LOG.warning(
        "%s: of an earlier version of this program, without a seal, so a change to it would not be "
        "found; make the %s anew to have one",
        *(place, what),
    )


def _read_record(folder: Path, kind: str, *, trusted: bool = False) -> dict[str, Any]:
    """Read a record; a trusted one need not fit its seal, for it is only to be replaced."""
    what = kind.removeprefix("mpp-jax-")
    place = folder / RECORD
    try:
        record = json.loads(place.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"{folder}: no {what} (it has no {RECORD})") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{place}: cannot be read ({error})") from error
    if not isinstance(record, dict) or record.get("format") != kind:
        found = record.get("format") if isinstance(record, dict) else None
        raise BundleError(f"{folder}: wanted a {what}, found {found or 'something else'}")
    if not isinstance(record.get("arrays_sha256"), str):
        raise BundleError(f"{place}: damaged (no checksum of the arrays); make it anew")
    version = record.get("version")
    if version not in READ_VERSIONS:
        raise BundleError(f"{folder}: {what} of version {version}, want {VERSION}")
    sealed = version != 1 or "seal" in record
    if sealed and not trusted and record.get("seal") != seal(record):
        raise BundleError(f"{place}: damaged (it was changed after writing); make it anew")
    if not sealed and not trusted:
        _note_unsealed(place, what)
    return record
