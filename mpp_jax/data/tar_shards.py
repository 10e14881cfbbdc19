"""What lies in a tar: names, places and small texts, found in one pass without unpacking.

A local tar is passed over by seeking. One at an address is read once from end to end, piece by
piece, and what was found is kept in the cache folder as long as the tar stays what it is (size and
entity tag); its pictures are read by ranges afterwards.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

from mpp_jax.data.dataset import DataError
from mpp_jax.files import cache_folder, seal, write_file
from mpp_jax.remote.addresses import Entry, RangeReader, RemoteError, entry, is_address

PIECE = 2**22
"""Bytes of a tar that are read at once from an address (4 MiB)."""
MAX_TEXT = 2**20
"""Most bytes of a label or description (1 MiB)."""
_PACKED = {
    # A tar begins with a name, which may begin with BZh too, but not go on so.
    rb"\x1f\x8b\x08": "gzip",
    rb"BZh[1-9]1AY&SY": "bzip2",
    rb"\xfd7zXZ\x00": "xz",
    rb"\x28\xb5\x2f\xfd": "zstd",
}


class Member(NamedTuple):
    """A file in a tar.

    Attributes:
        name: its path in the tar.
        start: its first byte in the tar.
        size: its bytes.
        text: its content where that was asked for, else None.
    """

    name: str
    start: int
    size: int
    text: str | None = None


class Shard(NamedTuple):
    """A tar and what lies in it.

    Attributes:
        address: where; or a local path.
        stamp: the server's mark of its content; "" for a local one.
        members: its files, in order.
    """

    address: str
    stamp: str
    members: tuple[Member, ...]


def read_shard(address: str, is_text: Callable[[str], bool]) -> Shard:
    """Find what lies in a tar.

    Args:
        address: where; or a local path.
        is_text: whether the content of a member of this name is wanted.

    Raises:
        DataError: missing, no tar, packed, or cut short; one line.
    """
    try:
        if not is_address(address):
            with open(address, "rb") as file:
                return Shard(address, "", _members(address, file, is_text))
        known = entry(address)
        kept = _kept(address)
        found = _recalled(kept, address, known)
        if found is None:
            if known.size is None:
                raise DataError(f"{address}: the server does not say how long it is")
            reader = io.BufferedReader(RangeReader(address, known.size), PIECE)
            found = _members(address, reader, is_text)
            _keep(kept, address, known, found)
        return Shard(address, known.stamp, found)
    except FileNotFoundError as error:
        raise DataError(f"{address}: no such file") from error
    except RemoteError as error:
        raise DataError(str(error)) from error
    except OSError as error:
        raise DataError(f"{address}: cannot be read ({error.strerror or error})") from error


def _members(address: str, file: IO[bytes], is_text: Callable[[str], bool]) -> tuple[Member, ...]:
    """Return the regular files of a tar.

    Raises:
        DataError: no tar, packed, or cut short.
    """
    head = file.read(10)
    file.seek(0)
    if packing := next((_PACKED[magic] for magic in _PACKED if re.match(magic, head)), None):
        raise DataError(
            f"{address}: a tar packed with {packing}, whose pictures cannot be read singly; "
            "unpack it to a plain .tar"
        )
    found: list[Member] = []
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                if not info.isreg() or info.issparse():
                    continue
                text = None
                if is_text(info.name):
                    text = _text(address, file, info)
                found.append(Member(info.name, info.offset_data, info.size, text))
            # What ends without the two empty blocks was cut, which `tarfile` does not mind.
            file.seek(tar.offset)
            whole = file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
    except tarfile.TarError as error:
        where = f" behind {found[-1].name!r}" if found else ""
        raise DataError(f"{address}: no tar, or damaged{where} ({error})") from error
    if not whole:
        where = f"its last whole file is {found[-1].name!r}" if found else "nothing in it is whole"
        raise DataError(f"{address}: cut short or damaged, {where}; fetch it again")
    return tuple(found)


def _text(address: str, file: IO[bytes], info: tarfile.TarInfo) -> str:
    if info.size > MAX_TEXT:
        raise DataError(f"{address}: {info.name!r} has more than {MAX_TEXT:,} bytes")
    file.seek(info.offset_data)
    try:
        return file.read(info.size).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{address}: {info.name!r} is no UTF-8 text") from error


def _kept(address: str) -> Path:
    return cache_folder() / "tars" / f"{hashlib.sha256(address.encode()).hexdigest()[:32]}.json"


def _recalled(place: Path, address: str, known: Entry) -> tuple[Member, ...] | None:
    """Return what was found in a tar before; None where it is another, or nothing is known."""
    if not known.stamp:
        return None
    try:
        held = json.loads(place.read_text(encoding="utf-8"))
        if held["seal"] == seal(held) and held["of"] == [address, *known]:
            return tuple(Member(*member) for member in held["members"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass  # none, or damaged: it is made anew
    return None


def _keep(place: Path, address: str, known: Entry, members: tuple[Member, ...]) -> None:
    held = {"of": [address, *known], "members": [list(member) for member in members]}
    with suppress(OSError):  # it only saves time
        place.parent.mkdir(parents=True, exist_ok=True)
        write_file(place, json.dumps(held | {"seal": seal(held)}).encode())
