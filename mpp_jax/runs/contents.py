"""Pictures by content: what was read, and whether it is still there.

Names say nothing of what a file holds. Each picture's digest is taken of the very bytes that are
decoded, kept beside its vectors (and, of all training pictures together, beside the codebook), and
compared where earlier work is taken up.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from mpp_jax.data import DecodeError, Item
from mpp_jax.data.content import read_picture


class Contents:
    """The digests of pictures' contents, as they were read for their vectors and as they are now.

    Pictures that are no files (records of TFDS, generated scenes) have none.
    """

    def __init__(self) -> None:
        """Start with nothing read."""
        self._read: dict[str, str] = {}
        self._now: dict[str, str | None] = {}

    def watched(self, items: Iterable[Item]) -> list[Item]:
        """Return the pictures such that whoever reads one leaves its digest here."""
        return [item if item.path is None else self._watch(item) for item in items]

    def _watch(self, item: Item) -> Item:
        path, name = item.path, item.id
        assert path is not None  # `watched` looks

        def read() -> bytes:
            content = read_picture(path)
            self._read[name] = hashlib.sha256(content).hexdigest()
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

        It is read for that once.
        """
        if item.id not in self._now:
            digest = None
            if item.path is not None:
                try:
                    digest = hashlib.sha256(read_picture(item.path)).hexdigest()
                except (DecodeError, OSError):
                    digest = None
            self._now[item.id] = digest
        return self._now[item.id]


def joint_digest(items: Sequence[Item], digests: dict[str, str]) -> str | None:
    """Return the SHA-256 of the contents of pictures together; None where none has a digest.

    Args:
        items: pictures, in order; those without a digest do not count.
        digests: by id.
    """
    lines = [f"{item.id} {digests[item.id]}" for item in items if item.id in digests]
    text = "\n".join(lines).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest() if lines else None
