"""Whole files and folders: written beside their place and moved there, found again by digest.

Whoever is killed while writing leaves what was there before; a reader meets the old content or the
new one, never a part. Formats are not this module's business.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Return the hexadecimal digest of a file's bytes, which are read in pieces.

    Args:
        path: the file.
        algorithm: a name that `hashlib` knows.

    Raises:
        OSError: the file is not there or cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def folder_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by relative path with forward slashes.

    Raises:
        OSError: the folder is not there, or a file in it cannot be read.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder.name}")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}


def write_file(path: Path, content: bytes | Callable[[BinaryIO], Any]) -> None:
    """Write a file whole: beside its place, to the disk, then renamed.

    Args:
        path: where; its folder exists.
        content: the bytes, or a function that writes them to an open file.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            content(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


@contextlib.contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside ``folder`` to be filled, and move it there at the end.

    Where the body raises, ``folder`` stays what it was, and what was written is removed.

    Raises:
        OSError: the folder cannot be written or moved.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = (folder.with_name(f".{folder.name}.{state}") for state in ("partial", "old"))
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir()
    try:
        yield fresh
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
