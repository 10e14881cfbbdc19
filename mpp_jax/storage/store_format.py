"""The file format of a store: manifest and shard files (schema: `mpp_jax.storage.store`)."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from mpp_jax.data.dataset import Item
from mpp_jax.files import file_digest

FORMAT: Final = "mpp-jax-store"
VERSION: Final = 1
MANIFEST: Final = "manifest.json"

NOT_FINITE: Final = "encoding"
"""Cause of a picture that was skipped although it could be decoded: its encoding is not finite."""

_STATE = ("complete", "items", "arrays", "seal", "dataset", "classes", "multi_label")
"""Entries of a manifest that say how far a store is, and of which pictures; vectors do not rest on
them (`mpp_jax.storage.store_list`)."""
_STATUSES = ("done", "skipped", "pending", "removed")


class StoreError(ValueError):
    """A store that cannot be used as asked; one line that says what to mend."""


@dataclass(frozen=True)
class StoredItem:
    """One item of the manifest; the fields are those of the schema in `store`."""

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

    def record(self) -> dict[str, Any]:
        """Return it as the manifest has it."""
        values = {**self.__dict__, "labels": list(self.labels), "ignored": list(self.ignored)}
        optional = ("cause", "sha256")
        return {k: v for k, v in values.items() if v is not None or k not in optional}


def differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return one phrase for each value that differs, nested objects by dotted name."""
    found: list[str] = []
    for key in sorted(set(there) | set(here)):
        old, new = there.get(key), here.get(key)
        if key == "methods" and not prefix:
            old, new = [*(old or ())], [*(new or ())]  # dimensions are known only later
        if key in _STATE and not prefix:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} was {_short(old)}, now {_short(new)}")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def shard_name(shard: int, method: str) -> str:
    """Return the file name of the rows of a method in a shard."""
    return f"shard-{shard:05d}.{method}.npy"


def seal(text: bytes) -> str:
    """Return the SHA-256 of the manifest's text before its seal, see `with_seal`."""
    return hashlib.sha256(text).hexdigest()


def with_seal(text: str) -> bytes:
    """Return a manifest's text with its seal, the last entry: the SHA-256 of all before it."""
    body = text.rstrip().removesuffix("}").rstrip().encode()
    return body + f',\n "seal": "{seal(body)}"\n}}\n'.encode()


def _check_seal(content: bytes, manifest: Mapping[str, Any]) -> None:
    """Raise a ValueError where a manifest's text is not what was sealed.

    Those of earlier versions of this program have neither a seal nor digests of arrays.
    """
    body, comma, rest = content.rpartition(b',\n "seal": "')
    sealed = comma and rest.partition(b'"')[0].decode("ascii", "replace") == seal(body)
    if not sealed and (comma or "arrays" in manifest):
        raise ValueError("it was changed after it was written")


def read_shard(
    folder: Path,
    shard: int,
    method: str,
    rows: int,
    dimension: int | None,
    sha256: str | None = None,
) -> np.ndarray | None:
    """Return a memory map of a shard; None where it is missing, damaged or of another shape.

    Args:
        folder: of the store.
        shard: its number.
        method: which representation.
        rows: that it has at least.
        dimension: of its vectors.
        sha256: of the file; None where an earlier version of this program did not record it.
    """
    place = folder / shard_name(shard, method)
    try:
        if sha256 is not None and file_digest(place) != sha256:
            return None
        array = np.load(place, mmap_mode="r", allow_pickle=False)
    except MemoryError:
        raise
    except Exception:  # a damaged header makes NumPy's parser raise whatever it likes
        return None
    fits = array.ndim == 2 and len(array) >= rows and array.shape[1] == dimension
    return array if fits and array.dtype == np.float32 else None


def read_manifest(folder: Path) -> tuple[dict[str, Any], tuple[StoredItem, ...]]:
    """Return the manifest without its items, and the items, of a store finished or not.

    Raises:
        StoreError: there is none, or it is unusable.
    """
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
        manifest = json.loads(content)
        if manifest["format"] != FORMAT:
            raise ValueError(f"format is {manifest['format']!r}")
        if manifest["version"] != VERSION:
            raise StoreError(
                f"{folder}: store version {manifest['version']}, this program reads {VERSION}; "
                "encode again"
            )
        _check_seal(content, manifest)
        items = tuple(
            StoredItem(**(r | {"labels": tuple(r["labels"]), "ignored": tuple(r["ignored"])}))
            for r in manifest.pop("items")
        )
        if any(item.status not in _STATUSES for item in items):
            raise ValueError("unknown status")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreError(f"{folder}: no encodings here (no {MANIFEST})") from error
    except StoreError:
        raise
    except KeyError as error:
        raise StoreError(f"{path}: not a manifest of encodings, or damaged (no {error})") from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise StoreError(f"{path}: not a manifest of encodings, or damaged ({error})") from error
    return manifest, items
