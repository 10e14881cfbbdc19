"""Digests of contents at addresses, remembered by the server's mark of each content.

So a job that goes on need not fetch a million pictures again to see that they are what they were:
their marks (entity tags) say so. They are kept in ``digests.sqlite`` in the cache folder, which may
be removed at any time; where it cannot be used, nothing is remembered.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from mpp_jax.files import cache_folder

NAME = "digests.sqlite"


def known_digest(mark: str) -> str | None:
    """Return the SHA-256 of the content with a mark; None where it is not known."""
    with suppress(sqlite3.Error, OSError), _opened() as base:
        row = base.execute("SELECT digest FROM digests WHERE mark = ?", (mark,)).fetchone()
        return None if row is None else str(row[0])
    return None


def remember_digest(mark: str, digest: str) -> None:
    """Remember the SHA-256 of the content with a mark."""
    with suppress(sqlite3.Error, OSError), _opened() as base:
        base.execute("INSERT OR REPLACE INTO digests VALUES (?, ?)", (mark, digest))


@contextmanager
def _opened() -> Iterator[sqlite3.Connection]:
    """Open the file for one question: many threads ask, and several processes."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(folder / NAME, isolation_level=None)) as base:
        base.execute("PRAGMA synchronous = OFF")  # the last ones may go with the machine's power
        base.execute(
            "CREATE TABLE IF NOT EXISTS digests (mark TEXT PRIMARY KEY, digest TEXT NOT NULL)"
        )
        yield base
