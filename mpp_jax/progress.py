"""What long work tells whoever waits: lines, bars and seconds per stage, on standard error.

Whoever watches from elsewhere reads a job's log (`mpp_jax.joblog`), which hears of the same.
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from mpp_jax.files import write_file
from mpp_jax.joblog import current_log

DISK = "the disk"
"""What is waited for while vectors are written."""
LEAST_SHARE = 0.1
"""Of a stage's time, what is waited for less is no bottleneck."""
KEEP_SECONDS = 10.0
"""How often the seconds of an open stage are written down, see `Watcher.keep_in`."""


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


class Bar(tqdm):
    """A progress bar that also says what is waited for most, and how many were skipped.

    Attributes:
        done: units so far, those of earlier runs included.
        skips: units that were left out.
    """

    def __init__(self, *arguments: Any, watcher: "Watcher", **options: Any) -> None:
        """Begin; the other arguments are tqdm's."""
        self._watcher = watcher
        self._about: tuple[str, int | None] = (options["desc"], options["total"])
        self._first: int = options["initial"]
        self._begun = time.monotonic()
        self._logged = -1
        self.done = self._first
        self.skips = 0
        super().__init__(*arguments, **options)

    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            yield item
            self._count(1)

    def update(self, n: float | None = 1) -> bool | None:
        """Count units that are done; see tqdm."""
        self._count(int(n or 0))
        return super().update(n)

    def skip(self, name: str, reason: str) -> None:
        """Take note of a unit that is left out, and tell the log why; `update` counts it too."""
        self.skips += 1
        current_log().skip(name, reason)

    def close(self) -> None:
        """End; see tqdm. Python closes one that was interrupted while it was made, too."""
        if not (getattr(self, "disable", False) or hasattr(self, "start_t")):
            return
        if self._logged != self.done:
            self._log()
        super().close()

    def _count(self, n: int) -> None:
        self.done += n
        bottleneck = self._watcher.bottleneck
        parts = [f"waiting for {bottleneck}"] if bottleneck else []
        parts += [f"{self.skips} skipped"] if self.skips else []
        if parts and not self.disable:
            self.set_postfix_str(", ".join(parts), refresh=False)
        if self.done == self._about[1] or current_log().due:
            self._log()
        self._watcher.write_down()

    def _log(self) -> None:
        (stage, total), self._logged = self._about, self.done
        passed, done = time.monotonic() - self._begun, self.done - self._first
        rate = done / passed if passed > 0 and done else None
        current_log().progress(
            stage=stage,
            done=self.done,
            total=total,
            rate=rate and round(rate, 3),
            eta=round((total - self.done) / rate, 1) if rate and total is not None else None,
            bottleneck=self._watcher.bottleneck,
            skipped=self.skips,
        )


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
        self._open: dict[str, float] = {}
        self._earlier: tuple[dict[str, float], dict[str, dict[str, float]]] = ({}, {})
        self._kept: Path | None = None
        self._written = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line about progress or settings, above a bar that is open."""
        if not self.quiet:
            tqdm.write(printable(text), file=sys.stderr)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to ``name``, also where the body raises."""
        start = self._open[name] = time.perf_counter()
        token = _WAITS.set(self.waits.setdefault(name, {}))
        current_log().write("stage", stage=name)
        try:
            yield
        finally:
            _WAITS.reset(token)
            self._open.pop(name, None)
            self.add(name, time.perf_counter() - start)
            self.write_down(at_once=True)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds measured elsewhere to ``name``."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    @property
    def bottleneck(self) -> str | None:
        """What the stage that was opened last has waited for most; None for nothing much."""
        if not self._open:
            return None
        name, start = next(reversed(self._open.items()))
        passed = self.seconds.get(name, 0.0) + time.perf_counter() - start
        waits = {what: s for what, s in self.waits[name].items() if s >= LEAST_SHARE * passed}
        return max(waits, key=lambda what: waits[what], default=None)

    def keep_in(self, place: Path) -> None:
        """Go on counting from what earlier calls left in a file, and keep it up to date.

        Args:
            place: JSON, ``{"seconds": {STAGE: s}, "waiting": {STAGE: {WHAT: s}}}`` over all calls;
                its folder may be made later. What a killed call had counted stands in it as well,
                but for its last `KEEP_SECONDS`.
        """
        try:
            held = json.loads(place.read_text(encoding="utf-8"))
            waits = {name: dict(parts) for name, parts in held["waiting"].items()}
            self._earlier = {name: float(s) for name, s in held["seconds"].items()}, waits
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self.say(f"{place}: unreadable ({error}); seconds are counted from this call on")
        self._kept = place

    def totals(self) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """Return seconds and waits by stage, of this call and of those before, see `keep_in`."""
        now = time.perf_counter()
        here = _sum(self.seconds, {name: now - start for name, start in self._open.items()})
        before, waited = self._earlier
        waits = {
            name: _sum(waited.get(name, {}), self.waits.get(name, {}))
            for name in {**waited, **self.waits}
        }
        return _sum(before, here), {name: parts for name, parts in waits.items() if parts}

    def write_down(self, *, at_once: bool = False) -> None:
        """Write `totals` to the file of `keep_in`, if there is one and it is time to."""
        late = time.monotonic() - self._written >= KEEP_SECONDS
        if self._kept is not None and (late or (at_once and self._kept.parent.is_dir())):
            self._written = time.monotonic()
            self._kept.parent.mkdir(parents=True, exist_ok=True)
            seconds, waits = self.totals()
            text = json.dumps({"seconds": seconds, "waiting": waits}, indent=1)
            write_file(self._kept, f"{text}\n".encode())

    def bar(
        self,
        iterable_or_total: Iterable[Any] | int,
        description: str,
        unit: str = "it",
        *,
        initial: int = 0,
    ) -> Bar:
        """Return a progress bar with rate, remaining time, bottleneck and what was skipped.

        Args:
            iterable_or_total: what to walk through, or the number of units where the caller itself
                calls ``bar.update(n)``.
            description: stage name in front of the bar.
            unit: what is counted, for example ``"picture"``.
            initial: units already done by an earlier run; they do not count in the rate.

        Returns:
            A bar of tqdm: an iterator over the iterable, and a context manager. Where standard
            error is no terminal it is refreshed every ten seconds only, to keep logs short.
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
            "watcher": self,
        }
        if isinstance(iterable_or_total, int):
            return Bar(total=iterable_or_total, **options)
        total = len(iterable_or_total) if isinstance(iterable_or_total, Sized) else None
        return Bar(iterable_or_total, total=total, **options)

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


def _sum(before: Mapping[str, float], here: Mapping[str, float]) -> dict[str, float]:
    """Return the sums by name, in the order of first use."""
    return {name: before.get(name, 0.0) + here.get(name, 0.0) for name in {**before, **here}}
