"""Progress bars and seconds per stage, both on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TextIO

from tqdm import tqdm


def progress(
    iterable_or_total: Iterable[Any] | int,
    description: str,
    unit: str = "it",
    *,
    quiet: bool = False,
    initial: int = 0,
) -> tqdm[Any]:
    """A progress bar with rate and remaining time.

    Args:
        iterable_or_total: What to walk through, or the number of units when the caller itself calls
            ``bar.update(n)``.
        description: Stage name in front of the bar.
        unit: What is counted, for example ``"picture"``.
        quiet: Print nothing at all.
        initial: Units already done by an earlier run; they do not count in the rate.

    Returns:
        A ``tqdm`` bar: an iterator over the iterable, and a context manager. Where standard error
        is not a terminal the bar is refreshed every ten seconds only, to keep logs short.
    """
    interactive = sys.stderr.isatty()
    options: dict[str, Any] = {
        "desc": description,
        "unit": unit if unit == "it" else f" {unit}",
        "disable": quiet,
        "initial": initial,
        "file": sys.stderr,
        "dynamic_ncols": interactive,
        "mininterval": 0.1 if interactive else 10.0,
    }
    if isinstance(iterable_or_total, int):
        return tqdm(total=iterable_or_total, **options)
    total = len(iterable_or_total) if isinstance(iterable_or_total, Sized) else None
    return tqdm(iterable_or_total, total=total, **options)


class StageTimer:
    """Collects wall-clock seconds per named stage, in the order of first use.

    Example:
        >>> timer = StageTimer()
        >>> with timer.stage("fit"):
        ...     pass
        >>> list(timer.seconds)
        ['fit']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to ``name``, also where the body raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Adds seconds measured elsewhere to ``name``."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def table(self) -> str:
        """The stages, their seconds and their share, and the sum, as aligned text lines."""
        total = sum(self.seconds.values())
        width = max([len("stage"), len("total"), *map(len, self.seconds)])
        lines = [f"{'stage':<{width}}  {'seconds':>9}  {'share':>6}"]
        for name, seconds in self.seconds.items():
            share = seconds / total if total > 0 else 0.0
            lines.append(f"{name:<{width}}  {seconds:>9.1f}  {share:>6.1%}")
        lines.append(f"{'total':<{width}}  {total:>9.1f}  {1:>6.1%}")
        return "\n".join(lines)

    def print_table(self, *, quiet: bool = False, file: TextIO | None = None) -> None:
        """Prints :meth:`table` on standard error (or ``file``) unless ``quiet``."""
        if not quiet and self.seconds:
            print(self.table(), file=sys.stderr if file is None else file)
