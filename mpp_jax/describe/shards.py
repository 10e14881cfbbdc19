"""Shards of activations on disk: whole, checked, and shared by processes.

Layout of a folder::

    key.json      what the activations are of, in clear
    <shard>.npy   float16 (n, T, C): one scale, or one set of crops, of n pictures
    <shard>.json  {"pictures": [SHA-256 of a picture's content, ...],
                   "rows": [its row in the array, or null, ...],
                   "reasons": [null, or why it can never be decoded, ...],
                   "decoder": versions of what decoded it,
                   "array": SHA-256 of the .npy file, or null where there is none,
                   "seal": SHA-256 of these entries}

Any number of processes may write to a folder at the same time: files appear whole, a shard that
another process wrote is as good as one's own, and one that was damaged, or is gone, is as if it
had never been.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np

from mpp_jax.data.formats import decoder_version
from mpp_jax.files import remove_leftovers, seal, write_file

KEY = "key.json"

Stamp: TypeAlias = tuple[int, int, int]
"""What tells one state of a file from the next: inode, size, time of the last change."""


class LostError(Exception):
    """A picture's activations that are not there any more, or damaged."""


class Place(NamedTuple):
    """Where a picture is.

    Attributes:
        shard: name of the files.
        row: in the array.
    """

    shard: str
    row: int


class _Record(NamedTuple):
    stamp: Stamp
    array: str | None
    places: dict[str, Place | str]


class Shards:
    """The shards of one folder: which pictures are there, and their arrays."""

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        """Use a folder, which is made when there is something to keep."""
        self._folder = folder
        self._key = key
        self._places: dict[str, Place | str] = {}
        self._records: dict[str, _Record] = {}
        self._sound: dict[str, Stamp] = {}
        if folder.is_dir():
            remove_leftovers(folder)
        self.refresh()

    def refresh(self) -> None:
        """Read the records that are new, or changed, since the last time."""
        try:
            found = sorted(entry.name for entry in os.scandir(self._folder))
        except FileNotFoundError:
            return
        for name in found:
            if name.endswith(".json") and name != KEY:
                self._load(name.removesuffix(".json"))

    def __contains__(self, digest: str) -> bool:
        """Whether a picture is there: activations in a sound shard, or why there are none."""
        place = self._places.get(digest)
        while isinstance(place, Place):
            try:
                with self._opened(place.shard):
                    return True
            except LostError:
                place = self._places.get(digest)  # of a shard that was written anew
        return place is not None

    def reason(self, digest: str) -> str | None:
        """Return why a picture can never be decoded; None where that is not known."""
        place = self._places.get(digest)
        return place if isinstance(place, str) else None

    def activations(self, digest: str) -> np.ndarray:
        """Return a picture's activations (T, C) float16.

        Raises:
            LostError: they are not there (any more).
        """
        place = self._places.get(digest)
        if not isinstance(place, Place):
            raise LostError(digest)
        with self._opened(place.shard) as file:
            _, positions, channels = _header(file)
            size = positions * channels * 2
            file.seek(place.row * size, os.SEEK_CUR)
            return np.frombuffer(file.read(size), np.float16).reshape(positions, channels)

    def write(
        self, digests: Sequence[str], reasons: Sequence[str | None], rows: Mapping[int, np.ndarray]
    ) -> None:
        """Keep activations.

        Args:
            digests: of the pictures' contents.
            reasons: why they can never be decoded, or None.
            rows: activations (T, C) float16 by position among the digests.

        Raises:
            OSError: the folder cannot be written.
        """
        shard = hashlib.sha256("".join(digests).encode()).hexdigest()[:32]
        order = sorted(rows)
        numbers = {position: row for row, position in enumerate(order)}
        kept = [i for i, reason in enumerate(reasons) if i in numbers or reason is not None]
        if not kept:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        if not (self._folder / KEY).is_file():
            write_file(self._folder / KEY, (json.dumps(self._key, indent=1) + "\n").encode())
        record: dict[str, Any] = {
            "pictures": [digests[i] for i in kept],
            "rows": [numbers.get(i) for i in kept],
            "reasons": [reasons[i] for i in kept],
            "decoder": decoder_version(),
            "array": None,
        }
        if order:
            array = np.stack([rows[position] for position in order])
            stamps: list[Stamp] = []

            def write_array(file: BinaryIO) -> None:
                hashing = _Hashing(file)
                np.lib.format.write_array(hashing, array, allow_pickle=False)
                file.flush()
                stamps.append(_stamp(os.fstat(file.fileno())))
                record["array"] = hashing.digest.hexdigest()

            write_file(self._folder / f"{shard}.npy", write_array)
        # After the array: what it names is there.
        record["seal"] = seal(record)
        place = self._folder / f"{shard}.json"
        write_file(place, json.dumps(record).encode())
        self._take(shard, _Record(_stamp(place.stat()), record["array"], _places(shard, record)))
        if order:
            self._sound[shard] = stamps[0]

    def _load(self, shard: str) -> None:
        """Read a record if it is another than the one that is known."""
        place = self._folder / f"{shard}.json"
        try:
            stamp = _stamp(place.stat())
            if shard in self._records and self._records[shard].stamp == stamp:
                return
            record = json.loads(place.read_text(encoding="utf-8"))
            if record["seal"] == seal(record):
                self._take(shard, _Record(stamp, record["array"], _places(shard, record)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return  # damaged, gone, or not ours

    def _take(self, shard: str, record: _Record) -> None:
        self._forget(shard)
        self._records[shard] = record
        self._places |= record.places

    @contextmanager
    def _opened(self, shard: str) -> Iterator[BinaryIO]:
        """Open an array whose bytes are those that its record names, checked once for each state.

        Raises:
            LostError: it is not there, or damaged; its pictures are forgotten, unless another
                process has written it anew.
        """
        record = self._records[shard]
        try:
            with (self._folder / f"{shard}.npy").open("rb") as file:
                stamp = _stamp(os.fstat(file.fileno()))
                sound = self._sound.get(shard) == stamp
                if not sound:
                    digest = hashlib.file_digest(file, "sha256")
                    sound = digest.hexdigest() == record.array
                    file.seek(0)
                if sound:
                    self._sound[shard] = stamp
                    yield file
                    return
        except FileNotFoundError:
            pass
        except OSError as error:  # it may be readable another time
            self._forget(shard)
            raise LostError(shard) from error
        self._forget(shard)
        self._load(shard)
        if shard in self._records and self._records[shard].stamp == record.stamp:
            self._forget(shard)
            (self._folder / f"{shard}.json").unlink(missing_ok=True)  # of use to nobody
        raise LostError(shard)

    def _forget(self, shard: str) -> None:
        record = self._records.pop(shard, None)
        self._sound.pop(shard, None)
        for digest in record.places if record else ():
            place = self._places.get(digest)
            if isinstance(place, Place) and place.shard == shard:
                del self._places[digest]


def _places(shard: str, record: Mapping[str, Any]) -> dict[str, Place | str]:
    """Return where a record's pictures are; reasons count for the same decoder alone."""
    same = record["decoder"] == decoder_version()
    places: dict[str, Place | str] = {}
    for digest, row, reason in zip(
        record["pictures"], record["rows"], record["reasons"], strict=True
    ):
        if row is not None:
            places[digest] = Place(shard, int(row))
        elif same:
            places[digest] = str(reason)
    return places


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _header(file: BinaryIO) -> tuple[int, int, int]:
    """Read the head of an array; return its shape."""
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("another version of the format")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if len(shape) != 3 or fortran or dtype != np.float16:
        raise ValueError(f"{shape} {dtype}")
    return shape[0], shape[1], shape[2]


class _Hashing:
    """A file to write to that takes the digest of what passes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, content: bytes) -> int:
        """Write and count in."""
        self.digest.update(content)
        return self._file.write(content)
