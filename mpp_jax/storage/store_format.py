"""The files of a store: head, records and arrays (layout and schema: `mpp_jax.storage.store`)."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import numpy as np

from mpp_jax.data.dataset import Item
from mpp_jax.files import file_digest

FORMAT: Final = "mpp-jax-store"
VERSION: Final = 2
MANIFEST: Final = "manifest.json"

NOT_FINITE: Final = "encoding"
"""Cause of a picture that was skipped although it could be decoded: its encoding is not finite."""

STATUSES: Final = ("done", "skipped", "pending", "removed")

SETTINGS: Final = (
    *("network", "weights_sha256", "codebook_sha256", "config", "methods", "shard_size", "dtype"),
)
"""Entries of a head that decide the vectors and their files; the others tell of the pictures, which
may change (`mpp_jax.storage.store_list`)."""


class StoreError(ValueError):
    """A store that cannot be used as asked; one line that says what to mend."""


class DamagedError(StoreError):
    """A file of a store that is not what was written there."""


@dataclass(frozen=True, slots=True)
class StoredItem:
    """One picture of a store.

    Attributes:
        id: its name in the data set.
        split: "train" or "test".
        labels: indices of its classes.
        ignored: indices of the classes that do not count for it.
        status: "done", "skipped", "pending", or "removed": the data held it no more.
        reason: why it was skipped, one line.
        shard: number of its shard.
        row: of its vectors in the shard's arrays; a removed one may have its own still.
        cause: "encoding" where it was skipped although it could be decoded.
        sha256: of the content that was encoded, where it was a file.
    """

    id: str
    split: str
    labels: tuple[int, ...]
    ignored: tuple[int, ...]
    status: str
    reason: str | None
    shard: int
    row: int | None
    cause: str | None = None
    sha256: str | None = None

    @classmethod
    def pending(cls, item: Item, shard: int) -> Self:
        """Return the entry of an item that is not encoded yet."""
        return cls(item.id, item.split, item.labels, item.ignored, "pending", None, shard, None)

    def begun_anew(self) -> Self:
        """Return the entry without anything that was encoded."""
        nothing: dict[str, Any] = dict.fromkeys(("reason", "row", "cause", "sha256"))
        return replace(self, status="pending", **nothing)


class ArrayFile(NamedTuple):
    """What is known of the file of a shard's vectors by one method.

    Attributes:
        rows: that it has, at least.
        dimension: of the vectors; None where a store of version 1 does not know it.
        bytes: its size; None in version 1.
        sha256: of the file; None where an early program did not record it.
    """

    rows: int
    dimension: int | None
    bytes: int | None
    sha256: str | None


def settings_digest(head: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what decides the vectors; each record carries it."""
    text = json.dumps({key: head[key] for key in SETTINGS}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return one phrase for each value that differs, nested objects by dotted name."""
    found: list[str] = []
    for key in sorted(set(there) | set(here)):
        old, new = there.get(key), here.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} was {_short(old)}, now {_short(new)}")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def array_name(shard: int, method: str) -> str:
    """Return the file name of the vectors of a method in a shard."""
    return f"shard-{shard:05d}.{method}.npy"


def record_name(shard: int) -> str:
    """Return the file name of a shard's record."""
    return f"shard-{shard:05d}.json"


# ------------------------------------------------------------------------------ sealed JSON files


def sealed(entries: Mapping[str, Any]) -> bytes:
    """Return entries as JSON, one a line, with a seal: the SHA-256 of all bytes before it."""
    lines = ",\n ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in entries.items())
    body = f"{{\n {lines}".encode()
    return body + f',\n "seal": "{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode()


def unsealed(content: bytes, *, needed: bool = True) -> dict[str, Any]:
    """Read what `sealed` wrote.

    Args:
        content: of the file.
        needed: whether it must have a seal; where it has one, that must fit anyhow.

    Raises:
        ValueError: it is no JSON object, or was changed after it was written.
    """
    entries = json.loads(content)
    if not isinstance(entries, dict):
        raise ValueError("no JSON object")
    body, comma, rest = content.rpartition(b',\n "seal": "')
    fits = comma and rest == f'{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode()
    if not fits and (needed or comma):
        raise ValueError("it was changed after it was written")
    return entries


def read_head(folder: Path) -> dict[str, Any]:
    """Return the head of a store of version 2, or the manifest of one of version 1.

    Raises:
        DamagedError: there is one that cannot be believed.
        StoreError: there is none, or it is of another version or format.
    """
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
        found = json.loads(content)
        if found["format"] != FORMAT:
            raise ValueError(f"format is {found['format']!r}")
        version = found["version"]
        if version not in (1, VERSION):
            raise StoreError(
                f"{folder}: store version {version}, this program reads {VERSION} and 1; "
                "encode again"
            )
        # The first programs wrote manifests without seal and digests of arrays.
        head = unsealed(content, needed=version != 1 or "arrays" in found)
        if version == VERSION:
            missing = {*SETTINGS, *("items", "shards", "list_sha256", "classes")} - set(head)
            if missing:
                raise KeyError(min(missing))
        return head
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreError(f"{folder}: no encodings here (no {MANIFEST})") from error
    except StoreError:
        raise
    except KeyError as error:
        raise DamagedError(
            f"{path}: not a manifest of encodings, or damaged (no {error})"
        ) from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DamagedError(f"{path}: not a manifest of encodings, or damaged ({error})") from error


# ------------------------------------------------------------------------------------- the arrays


def read_array(
    folder: Path, shard: int, method: str, wanted: ArrayFile, *, trusted: bool = False
) -> np.ndarray | None:
    """Return a memory map of a shard's vectors; None where they are missing or damaged.

    Args:
        folder: of the store.
        shard: its number.
        method: which representation.
        wanted: what its record says of it.
        trusted: whether its bytes were compared with their digest before.
    """
    place = folder / array_name(shard, method)
    try:
        if wanted.bytes is not None and place.stat().st_size != wanted.bytes:
            return None
        if not trusted and wanted.sha256 is not None and file_digest(place) != wanted.sha256:
            return None
        array = np.load(place, mmap_mode="r", allow_pickle=False)
    except MemoryError:
        raise
    except Exception:  # a damaged header makes NumPy's parser raise whatever it likes
        return None
    fits = array.ndim == 2 and len(array) >= wanted.rows and array.shape[1] == wanted.dimension
    return array if fits and array.dtype in (np.float32, np.float16) else None
