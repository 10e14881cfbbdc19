"""Digests of weight files, remembered as long as size, time and inode stay the same.

They are kept in ``digests.json`` in the cache folder, where it can be written: what `list_weights`
asks for again and again need not be read again. Whoever uses a file reads and checks all of it.
"""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from mpp_jax.files import file_digest, write_file

NAME = "digests.json"
SETTLED_SECONDS = 2.0
"""Age from which on a file that is changed again has another time."""


class Digests:
    """What is known of weight files; those of one name are told apart by size, time and inode.

    Attributes:
        folder: where it is kept, whether or not it is there.
    """

    def __init__(self, folder: Path) -> None:
        """Read what was remembered; nothing where that cannot be."""
        self.folder = folder
        self._known = _read(folder / NAME)
        self._new = False

    def of(self, path: Path, algorithm: str) -> str:
        """Return the digest of a file.

        Raises:
            OSError: it is not there or cannot be read.
        """
        about = path.stat()
        entry = [about.st_size, about.st_mtime_ns, about.st_ino]
        key = f"{algorithm}:{path.name}"
        known = self._known.get(key, [])
        if known[:3] == entry:
            return str(known[3])
        digest = file_digest(path, algorithm)
        if time.time() - about.st_mtime >= SETTLED_SECONDS:
            self._known[key], self._new = [*entry, digest], True
        return digest

    def keep(self) -> None:
        """Write down what is new, where the folder can be written."""
        if self._new:
            with contextlib.suppress(OSError):
                write_file(self.folder / NAME, (json.dumps(self._known, indent=1) + "\n").encode())


def _read(place: Path) -> dict[str, list[Any]]:
    try:
        known = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {k: v for k, v in known.items() if isinstance(v, list) and len(v) == 4}
