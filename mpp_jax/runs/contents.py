"""Pictures by content: what was read, and whether it is still there.

Names say nothing of what a file holds. Each picture's digest is taken of the very bytes that are
decoded, kept beside its vectors (and, of all training pictures together, beside the codebook), and
compared where earlier work is taken up.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from mpp_jax.data import DecodeError, Item
from mpp_jax.data.content import FarPicture, read_picture
from mpp_jax.remote.digests import known_digest, remember_digest

EMPTY = hashlib.sha256(b"").hexdigest()
"""Of a file with nothing in it."""


class Contents:
    """The digests of pictures' contents, as they were read for their vectors and as they are now.

    Pictures that are no files (records of TFDS, generated scenes) have none. One at an address or
    in a tar has; it is not read again as long as the server's mark of it stays the same. What is
    read has one whether or not it is a picture.

    Attributes:
        marks: of those among them that were read here, with their digests.
    """

    def __init__(self) -> None:
        """Start with nothing read."""
        self._read: dict[str, str] = {}
        self._now: dict[str, str | None] = {}
        self.marks: dict[str, str] = {}

    def watched(self, items: Iterable[Item]) -> list[Item]:
        """Return the pictures such that whoever reads one leaves its digest here."""
        return [self._watch(item, read) if (read := _file_of(item)) else item for item in items]

    def _watch(self, item: Item, read_file: Callable[[], bytes]) -> Item:
        name = item.id

        def read() -> bytes:
            with _emptiness_noted(self._read, name):
                content = read_file()
            self._read[name] = digest = hashlib.sha256(content).hexdigest()
            if isinstance(read_file, FarPicture) and len(content) == read_file.size:
                mark = read_file.mark()
                if mark is not None:
                    self.marks[mark] = digest
                    remember_digest(mark, digest)
            return content

        return replace(item, path=None, read=read)

    def read(self, items: Iterable[Item]) -> dict[str, str]:
        """Return the digests of what was read last of some pictures, by id."""
        return {item.id: self._read[item.id] for item in items if item.id in self._read}

    def note(self, digests: Mapping[str, str]) -> None:
        """Take the digests of pictures, by id, that were read elsewhere."""
        self._read |= digests

    def now(self, item: Item) -> str | None:
        """Return the digest of a picture as it is now; None where it is no file or unreadable.

        It is read for that once, or not at all, see the class.
        """
        if item.id not in self._now:
            self._now[item.id], read = None, _file_of(item)
            if read is not None:
                with suppress(DecodeError, OSError), _emptiness_noted(self._now, item.id):
                    mark = read.mark() if isinstance(read, FarPicture) else None
                    known = None if mark is None else known_digest(mark)
                    self._now[item.id] = known or hashlib.sha256(read()).hexdigest()
        return self._now[item.id]


def _file_of(item: Item) -> Callable[[], bytes] | None:
    """Return what reads the file that a picture is, here or elsewhere; None where it is none."""
    if item.path is not None:
        return partial(read_picture, item.path)
    return item.read if isinstance(item.read, FarPicture) else None


@contextmanager
def _emptiness_noted(digests: dict[str, Any], name: str) -> Iterator[None]:
    """Note the digest of a file without content, which is refused as it is read."""
    try:
        yield
    except DecodeError as error:
        if error.permanent:
            digests[name] = EMPTY
        raise


def joint_digest(items: Sequence[Item], digests: dict[str, str]) -> str | None:
    """Return the SHA-256 of the contents of pictures together; None where none has a digest.

    Args:
        items: pictures, in order; those without a digest do not count.
        digests: by id.
    """
    lines = [f"{item.id} {digests[item.id]}" for item in items if item.id in digests]
    text = "\n".join(lines).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest() if lines else None
