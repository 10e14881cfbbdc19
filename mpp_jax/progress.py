"""What long work tells whoever waits: lines, bars and seconds per stage, on standard error."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

from tqdm import tqdm


def printable(text: str) -> str:
    """Return text that any terminal takes: file names need not be valid UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def one_line(text: str) -> str:
    """Return text on one line: file names may hold line breaks and other control characters."""
    return "".join(c if c.isprintable() or c == " " else ascii(c)[1:-1] for c in text)


_WAITS: ContextVar[dict[str, float] | None] = ContextVar("waits", default=None)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Add the time spent inside to what the open stage of a `Watcher` waited for."""
    start = time.perf_counter()
    try:
        yield
    finally:
        waits = _WAITS.get()
        if waits is not None:
            waits[what] = waits.get(what, 0.0) + time.perf_counter() - start


class Watcher:
    """Watches one piece of work: says lines, shows bars, and adds up the seconds of its stages.

    Everything goes to standard error; a quiet watcher only counts.

    Attributes:
        quiet: whether nothing is printed.
        seconds: wall-clock seconds by stage, in the order of first use.
        waits: by stage, the seconds that it did nothing but wait, by what it waited for; what
            takes most of them is the bottleneck.

    Example:
        >>> watcher = Watcher(quiet=True)
        >>> with watcher.stage("fit"):
        ...     pass
        >>> list(watcher.seconds)
        ['fit']
    """

    def __init__(self, quiet: bool = False) -> None:
        """Start with no stage."""
        self.quiet = quiet
        self.seconds: dict[str, float] = {}
        self.waits: dict[str, dict[str, float]] = {}

    def say(self, text: str) -> None:
        """Print a line about progress or settings, above a bar that is open."""
        if not self.quiet:
            tqdm.write(printable(text), file=sys.stderr)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to ``name``, also where the body raises."""
        start = time.perf_counter()
        token = _WAITS.set(self.waits.setdefault(name, {}))
        try:
            yield
        finally:
            _WAITS.reset(token)
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds measured elsewhere to ``name``."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def bar(
        self,
        iterable_or_total: Iterable[Any] | int,
        description: str,
        unit: str = "it",
        *,
        initial: int = 0,
    ) -> "tqdm[Any]":
        """Return a progress bar with rate and remaining time.

        Args:
            iterable_or_total: what to walk through, or the number of units where the caller itself
                calls ``bar.update(n)``.
            description: stage name in front of the bar.
            unit: what is counted, for example ``"picture"``.
            initial: units already done by an earlier run; they do not count in the rate.

        Returns:
            A tqdm bar: an iterator over the iterable, and a context manager. Where standard error
            is no terminal it is refreshed every ten seconds only, to keep logs short.
        """
        interactive = sys.stderr.isatty()
        options: dict[str, Any] = {
            "desc": description,
            "unit": unit if unit == "it" else f" {unit}",
            "disable": self.quiet,
            "initial": initial,
            "file": sys.stderr,
            "dynamic_ncols": interactive,
            "mininterval": 0.1 if interactive else 10.0,
        }
        if isinstance(iterable_or_total, int):
            return tqdm(total=iterable_or_total, **options)
        total = len(iterable_or_total) if isinstance(iterable_or_total, Sized) else None
        return tqdm(iterable_or_total, total=total, **options)

    def table(self) -> str:
        """Return the stages, their seconds and their share, and the sum, as aligned lines."""
        total = sum(self.seconds.values())
        waits = {
            name: {f"  waiting for {what}": s for what, s in self.waits.get(name, {}).items()}
            for name in self.seconds
        }
        names = [*self.seconds, *(what for parts in waits.values() for what in parts)]
        width = max([len("stage"), len("total"), *map(len, names)])
        lines = [f"{'stage':<{width}}  {'seconds':>9}  {'share':>6}"]
        for name, seconds in self.seconds.items():
            for part, spent in {name: seconds, **waits[name]}.items():
                share = spent / total if total > 0 else 0.0
                lines.append(f"{part:<{width}}  {spent:>9.1f}  {share:>6.1%}")
        lines.append(f"{'total':<{width}}  {total:>9.1f}  {1:>6.1%}")
        return "\n".join(lines)

    def print_table(self, file: TextIO | None = None) -> None:
        """Print `table` on standard error (or ``file``), unless quiet or without any stage."""
        if not self.quiet and self.seconds:
            print(self.table(), file=sys.stderr if file is None else file)
