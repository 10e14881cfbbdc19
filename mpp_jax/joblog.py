"""A job's log: JSON lines for those who watch from elsewhere.

One object a line, flushed a line at a time; a job that goes on appends. Each has ``time`` (UTC,
ISO 8601), ``event`` and, by event::

    start      command, arguments, process
    stage      stage
    progress   stage, done, total, rate (a second), eta (seconds), bottleneck, skipped
    skip       path, reason
    error      status, message
    end        status, seconds

What does not apply or is not known is null. ``end`` is the last line of every job that was not
killed; statuses are the command's (143: ended by SIGTERM, what was done is kept).
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from mpp_jax.files import without_secrets

PROGRESS_SECONDS = 5.0
"""At least so long between two lines of progress, but for the last one of a bar."""


class JobLog:
    """A log that is written to a file, or to none."""

    def __init__(self, file: TextIO | None = None) -> None:
        """Take an open file; None: nothing is written."""
        self._file = file
        self._begun = time.monotonic()
        self._next = 0.0
        self._skipped: set[str] = set()

    @property
    def due(self) -> bool:
        """Whether it is time for a line of progress."""
        return self._file is not None and time.monotonic() >= self._next

    def write(self, event: str, **fields: Any) -> None:
        """Write a line."""
        if self._file is None:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": event, **fields})
        try:
            self._file.write(f"{line}\n")
            self._file.flush()
        except OSError as error:  # the job is worth more than its log
            self._file = None
            print(f"log: cannot be written any more ({error.strerror})", file=sys.stderr)

    def progress(self, **fields: Any) -> None:
        """Write a line of progress."""
        self._next = time.monotonic() + PROGRESS_SECONDS
        self.write("progress", **fields)

    def skip(self, path: str, reason: str) -> None:
        """Write that an input is left out, once for each."""
        if path not in self._skipped:
            self._skipped.add(path)
            self.write("skip", path=path, reason=reason)

    def end(self, status: int) -> None:
        """Write the last line."""
        self.write("end", status=status, seconds=round(time.monotonic() - self._begun, 3))


_LOG: ContextVar[JobLog] = ContextVar("log", default=JobLog())  # noqa: B039  # it holds nothing


def current_log() -> JobLog:
    """Return the log of the job that runs here; one that writes nothing where there is none."""
    return _LOG.get()


@contextmanager
def logged(path: Path | None, command: str, arguments: Mapping[str, Any]) -> Iterator[JobLog]:
    """Let a job write to a log, and say that it has begun.

    Args:
        path: the file, which is appended to; None for no log.
        command: what is done.
        arguments: with what.

    Raises:
        OSError: the file cannot be written.
    """
    if path is None:
        yield current_log()
        return
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        log = JobLog(file)
        token = _LOG.set(log)
        try:
            given = {name: str(value) for name, value in arguments.items() if value is not None}
            shown = {name: without_secrets(value) for name, value in given.items()}
            log.write("start", command=command, arguments=shown, process=os.getpid())
            yield log
        finally:
            _LOG.reset(token)
