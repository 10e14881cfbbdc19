"""The bytes of picture files: bounded, from regular files alone, a named pipe once.

Other people's folders hold pipes that nobody writes to, devices that never end and files of any
size. None of them is opened as a picture unless its name was given on its own (`ReadOnce`).
"""

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, Self

MAX_FILE: Final = 2**31
"""Most bytes of a picture file (2 GiB); a longer one is refused unread."""
_PIECE = 2**20

_KINDS = {
    stat.S_IFDIR: "is a folder, not a picture",
    stat.S_IFIFO: "is a named pipe, not a picture file",
    stat.S_IFSOCK: "is a socket, not a picture file",
    stat.S_IFCHR: "is a device, not a picture file",
    stat.S_IFBLK: "is a device, not a picture file",
}


class DecodeError(ValueError):
    """A file that is no usable picture.

    Attributes:
        path: the file, as given (``"<bytes>"`` for bytes).
        reason: one line that says what is wrong with it.
        permanent: whether the content itself is broken, so that the same bytes will fail again
            with this version of the decoder. False where another try may succeed: the file could
            not be read, memory was short, or the format is none that this Pillow reads.
    """

    def __init__(self, path: str, reason: str, permanent: bool = False) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
        self.permanent = permanent

    def __reduce__(self) -> tuple[type[Self], tuple[str, str, bool]]:
        return type(self), (self.path, self.reason, self.permanent)


class ReadOnce:
    """The content of a picture that was named on its own, which may be a pipe.

    Called, it gives the content; the file is read at the first call, and never again: a pipe
    (``<(command)``, ``/dev/stdin``) can be read only once.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._content: bytes | None = None

    def __call__(self) -> bytes:
        """Return the content.

        Raises:
            DecodeError: it cannot be read, is empty, or longer than `MAX_FILE`.
        """
        with self._lock:
            if self._content is None:
                with reading_reported(os.fspath(self._path)), open(self._path, "rb") as file:
                    self._content = read_stream(file, os.fspath(self._path))
            return self._content


class FarPicture:
    """The content of a picture at an address, or of one in a tar; called, it is read anew.

    Attributes:
        address: of the file, or of the tar (which may be a local path).
        start: its first byte in the tar; None for a file of its own.
        size: its bytes; None where that is not known.
        stamp: the server's mark of the file's or tar's content, see `mpp_jax.remote`; "" for none.
    """

    def __init__(
        self, address: str, start: int | None = None, size: int | None = None, stamp: str = ""
    ) -> None:
        """Read nothing yet."""
        self.address = address
        self.start = start
        self.size = size
        self.stamp = stamp

    def mark(self) -> str | None:
        """Return what tells this content from any other, without reading it; None for nothing.

        Raises:
            DecodeError: the server does not say.
        """
        with reading_reported(self.address):
            self._ask()
        part = "" if self.start is None else f" {self.start}+{self.size}"
        return f"{self.address}{part} {self.size} {self.stamp}" if self.stamp else None

    def _ask(self) -> None:
        """Learn size and stamp of a file that no listing has told of."""
        from mpp_jax.remote.addresses import entry

        if self.start is None and self.size is None:
            self.size, self.stamp = entry(self.address)

    def __call__(self) -> bytes:
        """Return the content.

        Raises:
            DecodeError: it cannot be read, is empty, or longer than `MAX_FILE`.
        """
        from mpp_jax.remote.addresses import read_range, read_whole

        with reading_reported(self.address):
            self._ask()
            if self.size is not None and self.size > MAX_FILE:
                raise DecodeError(self.address, _too_long(f"{self.size:,} bytes"))
            if self.start is None:
                content = read_whole(self.address, self.size)
            else:
                assert self.size is not None  # a tar says it
                content = read_range(self.address, self.start, self.size)
        if not content:
            raise DecodeError(self.address, "empty file (0 bytes)", permanent=True)
        return content


def is_pipe(path: str | os.PathLike[str]) -> bool:
    """Return whether a path names a pipe, which a picture may come from if named on its own."""
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def read_stream(file: BinaryIO, name: str) -> bytes:
    """Return what an open stream still holds.

    Raises:
        DecodeError: nothing, or more than `MAX_FILE` bytes.
        OSError: it cannot be read.
    """
    content = bytearray()
    while piece := file.read(_PIECE):
        content += piece
        if len(content) > MAX_FILE:
            raise DecodeError(name, _too_long(f"more than {MAX_FILE:,} bytes"))
    if not content:
        raise DecodeError(name, "empty (0 bytes)")
    return bytes(content)


def read_picture(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a picture file.

    Raises:
        DecodeError: as for `open_picture`, or it cannot be read.
    """
    with reading_reported(os.fspath(path)), open_picture(path) as file:
        return file.read(os.fstat(file.fileno()).st_size)


@contextmanager
def open_picture(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a picture file for reading.

    Raises:
        DecodeError: no regular file, an empty one, or one longer than `MAX_FILE`.
        OSError: it cannot be opened.
    """
    name = os.fspath(path)
    if "\0" in name:
        raise DecodeError(name.replace("\0", "\\0"), "its name holds a NUL character")
    if reason := special_kind(Path(path)):  # before it is opened: that alone can act on a device
        raise DecodeError(name, reason)
    with open(path, "rb", opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):  # changed meanwhile
            raise DecodeError(name, _kind(status.st_mode))
        if status.st_size == 0:
            raise DecodeError(name, "empty file (0 bytes)", permanent=True)
        if status.st_size > MAX_FILE:
            raise DecodeError(name, _too_long(f"{status.st_size:,} bytes"))
        yield file


def special_kind(path: Path) -> str | None:
    """Return what a path names that is no regular file, for a message; None for a regular file.

    Raises:
        OSError: nothing is there, or it cannot be looked at.
    """
    mode = path.stat().st_mode
    return None if stat.S_ISREG(mode) else _kind(mode)


@contextmanager
def reading_reported(name: str) -> Iterator[None]:
    """Turn what goes wrong while a file is read into a `DecodeError` that is not permanent."""
    try:
        yield
    except DecodeError:
        raise
    except FileNotFoundError as error:
        raise DecodeError(name, "no such file") from error
    except OSError as error:
        raise DecodeError(name, f"cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise DecodeError(name, "not enough memory to read it") from error


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "is no regular file")


def _too_long(what: str) -> str:
    return f"too large: {what}, the limit is {MAX_FILE:,}"


def _without_waiting(path: str, flags: int) -> int:
    # A pipe that takes the file's place meanwhile must not be waited for.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
