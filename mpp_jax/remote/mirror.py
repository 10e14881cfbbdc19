"""Folders at addresses, and their copies in the cache folder where the work is done.

What is read (a model, encodings, a codebook) is copied first; what is written is written to the
copy and sent from there: finished files as they appear, the rest at the end, also after an
interruption. Descriptions go after the arrays that they describe, so whoever reads the address
meets nothing that is not there yet. Only what has changed is copied, either way, by size and the
server's mark of the content; a job goes on from what is at the address, on whatever machine, and
from what it could not send the last time on this one.

Two jobs on this machine that write to one address tell each other; those on several do not: object
stores have no locks. A copy may be removed whenever no job is on it.
"""

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mpp_jax.files import cache_folder, exclusive, write_file
from mpp_jax.remote.addresses import (
    Entry,
    LengthError,
    RemoteError,
    entry,
    filesystem,
    is_address,
    patiently,
)
from mpp_jax.remote.listing import listing

SEND_SECONDS = 30.0
"""How often finished files are sent while a job writes."""

_UNFINISHED = re.compile(r"(^|/)\.[^/]*\.(tmp|lock|partial|old)(/|$)")
_DESCRIPTIONS = (".json", ".sha256", ".html")

_copies: dict[Path, str] = {}


def local_copy(place: str | os.PathLike[str]) -> Path:
    """Return a path as it is, or that of a fresh copy of a folder at an address.

    Raises:
        RemoteError: it cannot be copied, or nothing is there.
        BusyError: a job on this machine is writing to it.
    """
    text = os.fspath(place)
    return Mirror(text).fetched() if is_address(text) else Path(place)


def local_file(place: str | os.PathLike[str]) -> Path:
    """Return a path as it is, or that of a fresh copy of a file (with a slash: folder) elsewhere.

    Raises:
        RemoteError: it cannot be copied, or nothing is there.
        BusyError: a job on this machine is writing to its folder.
    """
    text = os.fspath(place)
    if not is_address(text) or text.endswith("/"):
        return local_copy(place)
    above, _, name = text.rpartition("/")
    return Mirror(above).fetched_file(name)


def shown(text: str) -> str:
    """Return a text with the addresses of copies in place of their paths."""
    for folder, address in _copies.items():
        text = text.replace(str(folder), address)
    return text


def is_copy(place: Path) -> bool:
    """Return whether a path lies in the copy of a folder at an address, on this disk alone."""
    return any(place.is_relative_to(folder) for folder in _copies)


class Mirror:
    """A folder at an address and its copy.

    Attributes:
        address: of the folder.
        folder: the copy.
    """

    def __init__(self, address: str) -> None:
        """Copy nothing yet."""
        self.address = address.rstrip("/")
        name = re.sub(r"[^A-Za-z0-9._-]", "_", self.address.rsplit("/", 1)[-1])
        above = cache_folder() / "copies" / hashlib.sha256(self.address.encode()).hexdigest()[:24]
        self.folder = above / name
        self._record = above / "record.json"
        # By name: what is there, and what is here, that are the same.
        self._same: dict[str, tuple[Entry, list[int]]] = {}

    def fetched(self) -> Path:
        """Bring the copy up to date, and return it.

        Raises:
            RemoteError: it cannot be copied, or nothing is there.
            BusyError: a job on this machine is writing to it.
        """
        with self._held():
            if not self._fetch():
                raise RemoteError(f"{self.address}: no such folder, or nothing in it")
        return self.folder

    def fetched_file(self, name: str) -> Path:
        """Bring the copy of one file up to date, and return it.

        Raises:
            RemoteError: it cannot be copied, or is not there.
            BusyError: a job on this machine is writing to the folder.
        """
        with self._held():
            try:
                self._take_changed(name, entry(f"{self.address}/{name}"))
            except FileNotFoundError as error:
                raise RemoteError(f"{self.address}/{name}: no such file") from error
            finally:
                self._write()
        return self.folder / name

    @contextmanager
    def written(self) -> Iterator[Path]:
        """Give the copy to be written to, and send what is finished.

        Raises:
            RemoteError: it cannot be copied or sent; what was made lies in the copy.
            BusyError: another job on this machine is writing to it.
        """
        with self._held():
            self._fetch()
            ended = threading.Event()
            sender = threading.Thread(target=self._send_on, args=(ended,), daemon=True)
            sender.start()
            try:
                yield self.folder
            finally:
                ended.set()
                sender.join()
                try:
                    self._send()
                except RemoteError as error:
                    raise RemoteError(
                        f"{error}; not everything was sent, what was made is kept in "
                        f"{self.folder.parent}: give the same command again"
                    ) from error

    @contextmanager
    def _held(self) -> Iterator[None]:
        self._record.parent.mkdir(parents=True, exist_ok=True)
        _copies[self._record.parent / "record.json"] = _copies[self.folder] = self.address
        with exclusive(self._record):
            self._same = _read(self._record)
            yield

    # ------------------------------------------------------------------------------- from there

    def _fetch(self) -> bool:
        """Bring the copy up to date; return whether anything is there."""
        there = listing(self.address)
        try:
            for name, about in there.items():
                self._take_changed(name, about)
            # What was sent and is there no more was removed by somebody.
            for name in [name for name in self._same if name not in there]:
                (self.folder / name).unlink(missing_ok=True)
                del self._same[name]
        finally:
            self._write()
        return bool(there)

    def _take_changed(self, name: str, about: Entry) -> None:
        known, here = self._same.get(name), _stamp(self.folder / name)
        if known is None or known[0] != about or not about.stamp or here is None:
            self._take(name, about)

    def _take(self, name: str, about: Entry) -> None:
        if name.startswith("/") or ".." in name.split("/"):
            raise RemoteError(f"{self.address}/{name}: leads out of its folder")
        fs, path = filesystem(f"{self.address}/{name}")
        place = self.folder / name
        part = place.with_name(f".{place.name}.{os.getpid()}.tmp")
        place.parent.mkdir(parents=True, exist_ok=True)

        def take() -> None:
            fs.get_file(path, str(part))
            if about.size is not None and part.stat().st_size != about.size:
                raise LengthError(f"{part.stat().st_size:,} bytes came instead of {about.size:,}")

        try:
            patiently(f"{self.address}/{name}", take)
            part.replace(place)
        except FileNotFoundError as error:
            raise RemoteError(f"{self.address}/{name}: went while it was copied") from error
        finally:
            part.unlink(missing_ok=True)
        self._same[name] = (about, _stamp(place) or [])

    # ------------------------------------------------------------------------------------ there

    def _send_on(self, ended: threading.Event) -> None:
        while not ended.wait(SEND_SECONDS):
            with suppress(OSError):  # it is tried again, at the end for the last time
                self._send()

    def _send(self) -> None:
        """Send what is finished and has changed; remove there what is here no more.

        Raises:
            RemoteError: the server takes it not.
            FileNotFoundError: a file was replaced meanwhile.
        """
        # Descriptions are read before the arrays are looked for, and sent after them: whatever is
        # described is among those then, also where the job writes meanwhile.
        described = {n: stamp for n, stamp in self._here().items() if n.endswith(_DESCRIPTIONS)}
        late = {n: (self.folder / n).read_bytes() for n in self._new(described)}
        arrays = {n: stamp for n, stamp in self._here().items() if not n.endswith(_DESCRIPTIONS)}
        here = described | arrays
        try:
            for name in [*self._new(arrays), *late]:
                self._give(name, here[name], late.get(name))
            for name in [name for name in self._same if name not in here]:
                self._remove(name)
        finally:
            self._write()

    def _here(self) -> dict[str, list[int]]:
        """Return the stamps of finished files by name."""
        return {
            name: stamp
            for path in sorted(self.folder.rglob("*"))
            if not _UNFINISHED.search(name := path.relative_to(self.folder).as_posix())
            and path.is_file()
            and (stamp := _stamp(path)) is not None
        }

    def _new(self, here: Mapping[str, list[int]]) -> list[str]:
        """Return which files are not the same there."""
        return [n for n, stamp in here.items() if n not in self._same or self._same[n][1] != stamp]

    def _remove(self, name: str) -> None:
        fs, path = filesystem(f"{self.address}/{name}")
        with suppress(FileNotFoundError):
            patiently(f"{self.address}/{name}", lambda: fs.rm_file(path))
        del self._same[name]

    def _give(self, name: str, stamp: list[int], content: bytes | None) -> None:
        address, place = f"{self.address}/{name}", self.folder / name
        fs, path = filesystem(address)

        def give() -> Entry:
            if content is None:
                fs.put_file(str(place), path)
            else:
                fs.pipe_file(path, content)
            there, size = entry(address), stamp[0] if content is None else len(content)
            if there.size not in (None, size):
                raise LengthError(f"{there.size:,} bytes arrived instead of {size:,}")
            return there

        self._same[name] = (patiently(address, give), stamp)

    def _write(self) -> None:
        held = {name: [*about, *stamp] for name, (about, stamp) in self._same.items()}
        write_file(self._record, json.dumps({"address": self.address, "same": held}).encode())


def _stamp(path: Path) -> list[int] | None:
    """Return what tells a file's content from another; None where there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _read(record: Path) -> dict[str, tuple[Entry, list[int]]]:
    """Return what a record says is the same here and there; nothing where it says nothing."""
    try:
        held: Mapping[str, Any] = json.loads(record.read_text(encoding="utf-8"))["same"]
        return {name: (Entry(*values[:2]), values[2:]) for name, values in held.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
