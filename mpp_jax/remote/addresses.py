"""Addresses (``s3://``, ``gs://``, ``https://``, ...): files elsewhere, read through fsspec.

fsspec and its file systems do the talking, with the credentials, endpoints and timeouts that are
configured for them (https://filesystem-spec.readthedocs.io, "Configuration"). Added is what a long
job needs: what fails for the moment is tried again, with growing pauses and a line about it, and a
body that is shorter than the server says the file is counts as a failure, never as the file.
"""

import io
import logging
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from mpp_jax.files import without_secrets
from mpp_jax.progress import waiting

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

TRIES: Final = 6
"""How often something is asked for before it is given up."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 16.0
"""Seconds before the second try, at most; each next pause may be twice as long, up to the last."""
QUIET_SECONDS: Final = 5.0
"""At least so long between two lines about pauses: many threads may meet the same fault."""
NETWORK: Final = "the network"
"""What is waited for here, in the words of `mpp_jax.progress.waiting`."""

_ADDRESS = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]+)://(?=.)", re.IGNORECASE)
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}
_LASTING = (
    *(FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError),
    *(ImportError, MemoryError, ValueError, TypeError, NotImplementedError),
)
"""Errors that the next try would meet as well."""
_WITHOUT_KEY = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")

_LOG = logging.getLogger(__name__)
_told_at = 0.0

Found = TypeVar("Found")


class RemoteError(OSError):
    """Something at an address that cannot be had; one line that says why."""


class LengthError(OSError):
    """A body that is not as long as the file; it is asked for again."""


class Entry(NamedTuple):
    """A file at an address.

    Attributes:
        size: its bytes; None where the server does not say.
        stamp: the server's own mark of this content (an entity tag, else a time); "" for none.
    """

    size: int | None
    stamp: str


def is_address(text: str) -> bool:
    """Return whether a text names something elsewhere, ``protocol://...``."""
    return _ADDRESS.match(text) is not None


def filesystem(address: str) -> "tuple[AbstractFileSystem, str]":
    """Return the file system of an address (or local path), and its path there.

    Raises:
        RemoteError: a protocol that fsspec does not know, or whose package is not installed.
    """
    import fsspec

    match = _ADDRESS.match(address)
    protocol = match["protocol"].lower() if match else "file"
    try:
        fs, path = fsspec.core.url_to_fs(address, **_options(protocol))
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        cure = f"pip install 'mpp-jax[{extra}]'" if extra else str(error)
        raise RemoteError(f"{address}: {protocol}:// needs a package more; {cure}") from error
    except ValueError as error:
        raise RemoteError(f"{address}: {error}") from error
    if hasattr(fs, "retries"):
        fs.retries = 1  # `patiently` does it, and says so
    return fs, path


def _options(protocol: str) -> dict[str, Any]:
    """Return options that keep clients from trying again in silence, under those of the user."""
    if _EXTRAS.get(protocol) != "s3":
        return {}
    from fsspec.config import conf

    chosen = conf.get("s3", {}).get("config_kwargs", {})
    return {"config_kwargs": {"retries": {"total_max_attempts": 1}} | chosen}


def patiently(address: str, call: Callable[[], Found]) -> Found:
    """Return what a call gives, tried `TRIES` times with growing pauses while it may still work.

    Args:
        address: what it is about, for messages.
        call: what is done.

    Raises:
        FileNotFoundError: there is no such thing.
        RemoteError: it failed for good.
    """
    from tenacity import (
        RetryCallState,
        Retrying,
        retry_if_exception,
        stop_after_attempt,
        wait_random_exponential,
    )

    address = without_secrets(address)

    def tell(state: RetryCallState) -> None:
        global _told_at
        assert state.outcome is not None  # it has just failed
        assert state.next_action is not None
        if time.monotonic() - _told_at >= QUIET_SECONDS:
            _told_at = time.monotonic()
            why, pause = _reason(state.outcome.exception()), state.next_action.sleep
            _LOG.warning(
                "%s: %s; waiting %.1f s before try %d of %d",
                *(address, why, pause, state.attempt_number + 1, TRIES),
            )

    trying = Retrying(
        stop=stop_after_attempt(TRIES),
        wait=wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE),
        retry=retry_if_exception(_may_pass),
        before_sleep=tell,
        reraise=True,
    )
    try:
        with waiting(NETWORK):
            return trying(call)
    except (FileNotFoundError, RemoteError, MemoryError):
        raise
    except Exception as error:  # clients raise whatever they like
        tried = f" ({TRIES} tries)" if _may_pass(error) else ""
        raise RemoteError(f"{address}: {_reason(error)}{tried}") from error


def _may_pass(error: BaseException) -> bool:
    """Return whether another try may do better."""
    if isinstance(error, _LASTING) or type(error).__name__ in _WITHOUT_KEY:
        return False
    status = getattr(error, "status", None) or getattr(error, "code", None)
    refused = isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429)
    return isinstance(error, Exception) and not isinstance(error, RemoteError) and not refused


def _reason(error: BaseException | None) -> str:
    text = without_secrets(" ".join(str(error).split()))
    return text[:200] or type(error).__name__


def entry(address: str) -> Entry:
    """Return what is known of a file.

    Raises:
        FileNotFoundError: there is none.
        RemoteError: it cannot be asked for.
    """
    fs, path = filesystem(address)

    def ask() -> Entry:
        fs.invalidate_cache()
        return entry_of(fs.info(path))

    return patiently(address, ask)


def entry_of(info: dict[str, Any]) -> Entry:
    """Return what matters of what a file system says of a file."""
    names = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "updated", "created")
    stamp = next((str(info[name]) for name in names if info.get(name)), "")
    return Entry(info.get("size"), stamp)


def read_whole(address: str, size: int | None = None) -> bytes:
    """Return the content of a file, as long as the server says that it is.

    Args:
        address: of the file.
        size: its bytes, where a listing has told; one that was replaced since may have others.

    Raises:
        FileNotFoundError: there is none.
        RemoteError: it cannot be read, or comes short each time.
    """
    fs, path = filesystem(address)
    known = [size]

    def read() -> bytes:
        if known[0] is None:
            known[0] = entry(address).size
        wanted = known[0]
        if wanted == 0:
            return b""
        # With a range s3fs asks once; else it would put parts together, and trust their lengths.
        # One byte more than there should be shows a file that has grown.
        part = {} if wanted is None else {"start": 0, "end": wanted + 1}
        content: bytes = fs.cat_file(path, **part)
        if wanted is not None and len(content) != wanted:
            known[0] = None  # it may be another file by now
            raise LengthError(f"{len(content):,} bytes came instead of {wanted:,}")
        return content

    return patiently(address, read)


def read_range(address: str, start: int, size: int) -> bytes:
    """Return ``size`` bytes of a file from byte ``start`` on; a local file is tried once.

    Raises:
        FileNotFoundError: there is none.
        RemoteError: it cannot be read, or ends before.
    """
    if not is_address(address):
        with open(address, "rb") as file:
            file.seek(start)
            content = file.read(size)
        if len(content) != size:
            raise RemoteError(f"{address}: ends before byte {start + size:,}")
        return content
    fs, path = filesystem(address)

    def read() -> bytes:
        content: bytes = fs.cat_file(path, start=start, end=start + size)
        if len(content) > size:
            raise RemoteError(
                f"{without_secrets(address)}: the server does not give parts of files"
            )
        if len(content) != size:
            raise LengthError(f"{len(content):,} of {size:,} bytes came from byte {start:,} on")
        return content

    return patiently(address, read) if size else b""


class RangeReader(io.RawIOBase):
    """A file at an address that is read by ranges, each of them patiently.

    Attributes:
        size: its bytes.
    """

    def __init__(self, address: str, size: int) -> None:
        """Start at its first byte."""
        self.size = size
        self._address = address
        self._place = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the number of the next byte."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte; nothing is read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.size}[whence]
        self._place = max(base + offset, 0)
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Read as much as fits, or the rest."""
        count = max(min(len(buffer), self.size - self._place), 0)
        buffer[:count] = read_range(self._address, self._place, count)
        self._place += count
        return count
