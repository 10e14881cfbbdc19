"""Whole files and folders: written beside their place and moved there, found again by digest.

Whoever is killed while writing leaves what was there before; a reader meets the old content or the
new one, never a part. Two processes may write the same file: the one that ends last wins, whole.
Formats are not this module's business.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

CACHE_VARIABLE = "MPP_JAX_CACHE"
"""Environment variable: another cache folder."""

STALE_SECONDS = 24 * 3600
"""Age at which what a killed process left of a file is nobody's any more."""

REMOVALS = 20
"""Tries to remove a folder, a twentieth of a second apart."""

# What tensorstore, and NumPy's `tofile`, say in words alone.
_NO_SPACE = re.compile(r"No space left|Disk quota exceeded|\d+ requested and \d+ written")


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` and ``~user`` replaced by the home folder.

    Raises:
        ValueError: there is no such user, or this one has no home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"{os.fspath(path)}: there is no such home folder; write the path out"
        ) from error


def without_secrets(text: str) -> str:
    """Return a text whose addresses lack passwords and queries: signed ones open what they name."""
    text = re.sub(r"://[^/?#\s@]*@", "://", text)
    return re.sub(r"(\bhttps?://[^?\s]*\?)[^\s,;'\")]*", r"\1...", text)


def cache_folder() -> Path:
    """Return where downloads and imported networks are kept, whether or not it is there.

    ``$MPP_JAX_CACHE``, or the platform's place for caches; for a user without a home, a folder of
    theirs among the temporary files.

    Raises:
        ValueError: a chosen folder in a home that there is not; a temporary folder of this name
            that is another user's.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return expanded(chosen)
    stated, usual = {
        "win32": (os.environ.get("LOCALAPPDATA"), "AppData/Local"),
        "darwin": (None, "Library/Caches"),
    }.get(sys.platform, (os.environ.get("XDG_CACHE_HOME"), ".cache"))
    if stated:
        return Path(stated) / "mpp_jax"
    try:
        return Path.home() / usual / "mpp_jax"
    except RuntimeError:  # neither HOME nor an entry among the users
        return _without_home()


def _without_home() -> Path:
    # Not by `tempfile`, which looks for a place by writing: there may be none, and no need of one.
    temporary = next(filter(None, map(os.environ.get, ("TMPDIR", "TEMP", "TMP"))), "/tmp")
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(temporary) / f"mpp_jax-{user}"
    with contextlib.suppress(FileNotFoundError):
        if folder.lstat().st_uid != user:  # networks found there would be another user's
            raise ValueError(f"{folder}: is another user's; set {CACHE_VARIABLE} to a folder")
    return folder


class BusyError(ValueError):
    """A place that another process is writing to."""


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Return the hexadecimal digest of a file's bytes, which are read in pieces.

    Args:
        path: the file.
        algorithm: a name that `hashlib` knows.

    Raises:
        OSError: the file is not there or cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def folder_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by relative path with forward slashes.

    Raises:
        OSError: the folder is not there, or a file in it cannot be read.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder.name}")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}


def seal(entries: Mapping[str, Any]) -> str:
    """Return the SHA-256 of JSON entries, all but one named ``seal``, which may hold it."""
    others = {name: value for name, value in entries.items() if name != "seal"}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def write_file(
    path: Path, content: bytes | Callable[[BinaryIO], Any], *, durable: bool = True
) -> None:
    """Write a file whole: beside its place, to the disk, then renamed.

    Args:
        path: where; its folder exists.
        content: the bytes, or a function that writes them to an open file.
        durable: whether to wait for the disk; without, the file may be torn when the power fails.

    Raises:
        OSError: it cannot be written; what was there before is untouched. A full disk is told by
            its number, with the path, whatever wrote the content.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        with full_disk_named(path), temporary.open("wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_full(error: BaseException) -> bool:
    """Return whether an error says that a disk or quota is full, by its number or in words."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return True
    numbered = getattr(error, "errno", None) is not None
    return not numbered and _NO_SPACE.search(str(error)) is not None


@contextlib.contextmanager
def full_disk_named(place: Path) -> Iterator[None]:
    """Raise what says that the disk is full as one `OSError` that names a place."""
    try:
        yield
    except Exception as error:
        if is_full(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place)) from error
        raise


def remove_leftovers(folder: Path, *, seconds: float = STALE_SECONDS) -> None:
    """Remove what killed processes left of files in a folder, once it is old enough."""
    for leftover in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):  # another process may be quicker
            if time.time() - leftover.stat().st_mtime >= seconds:
                leftover.unlink()


@contextlib.contextmanager
def replaced_folder(folder: Path, own: Collection[str] | None = None) -> Iterator[Path]:
    """Give an empty folder beside ``folder`` to be filled, and move it there at the end.

    Where the body raises, ``folder`` stays what it was, and what was written is removed.

    Args:
        folder: the place.
        own: names that an earlier folder there has from this program; what else lies in it is
            somebody's and is carried over. None: everything is this program's.

    Raises:
        OSError: the folder cannot be written or moved; a full disk as by `write_file`.
    """
    with undisturbed(), full_disk_named(folder):
        yield from _replaced(folder, own)


def _replaced(folder: Path, own: Collection[str] | None) -> Iterator[Path]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    restore_folder(folder)
    fresh, old = _fresh(folder), _old(folder)
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir()
    try:
        yield fresh
        if own is not None and folder.is_dir():
            for entry in folder.iterdir():
                if entry.name not in own and not (fresh / entry.name).exists():
                    _copy(entry, fresh / entry.name)
    except BaseException:
        _remove(fresh)
        raise
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Put off Ctrl-C and SIGTERM until the body is done; the second one ends the process at once.

    For writing that libraries do in threads of their own, which an exception in the middle would
    leave behind, complaining; and for libraries that set handlers themselves, which are not set.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[tuple[int, FrameType | None]] = []

    def note(number: int, frame: FrameType | None) -> None:
        if arrived:
            os._exit(128 + number)
        arrived.append((number, frame))

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, old in before.items():
        if callable(old):  # neither ignored nor the system's own
            signal.signal(number, note)
    set_handler = signal.signal

    def set_others(number: Any, handler: Any) -> Any:
        # Ray's raises `SystemExit`, which is lost where Python can only ignore an exception.
        return signal.getsignal(number) if number in before else set_handler(number, handler)

    signal.signal = set_others  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.signal = set_handler
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)
        for late, frame in arrived:
            handler = before[signal.Signals(late)]
            if callable(handler):
                handler(late, frame)


def _remove(folder: Path) -> None:
    """Remove a folder that threads of a library which failed may still be writing to."""
    for _ in range(REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)


def restore_folder(folder: Path) -> None:
    """Put back a folder whose replacement was killed between the old one's move and the new one's.

    The new one was whole by then; it is taken.
    """
    if folder.exists():
        return
    for candidate in (_fresh(folder), _old(folder)):
        if _old(folder).is_dir() and candidate.is_dir():
            candidate.rename(folder)
            return


def _fresh(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _copy(source: Path, target: Path) -> None:
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


@contextlib.contextmanager
def exclusive(place: Path) -> Iterator[None]:
    """Hold a place to write to for this process alone, by a lock file beside it.

    The lock dies with its process. Where the platform has no locks, nothing is held.

    Args:
        place: file or folder, there or not.

    Raises:
        BusyError: another process, or another thread of this one, holds it.
    """
    lock = place.absolute().with_name(f".{place.absolute().name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("ab")
    except OSError:  # a place that cannot be written is its writer's to refuse
        yield
        return
    with file:
        # Whoever held it may have removed the file since it was opened here.
        if not try_lock(file.fileno()) or not is_open_file(file.fileno(), lock):
            raise BusyError(
                f"{place}: another process is writing there; wait until it is done, "
                "or give another place"
            )
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def try_lock(descriptor: int) -> bool:
    """Lock an open file if nobody else has; return whether this process holds it now.

    Always true where the platform has no locks.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_open_file(descriptor: int, path: Path) -> bool:
    """Return whether a path still names an open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
