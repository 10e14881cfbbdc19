"""What the commands say to the user, beside what every `Watcher` says."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpp_jax.joblog import current_log
from mpp_jax.progress import Watcher, one_line, printable
from mpp_jax.remote.mirror import shown

DONE, SOME_SKIPPED = 0, 1

Skips = list[tuple[str, str]]
"""Inputs that were left out: (name, reason)."""


class Console(Watcher):
    """Says on standard error how the work goes, and on standard output what came of it.

    A quiet one says nothing but where results went and what was skipped. Copies of folders at
    addresses are called by their addresses.
    """

    def say(self, text: str) -> None:
        """Print a line about progress or settings."""
        super().say(shown(text))

    def result(self, text: str) -> None:
        """Print a result itself."""
        print(printable(shown(text)))

    def wrote(self, what: str, place: Path) -> None:
        """Print where a result went."""
        self.result(f"{what}: {place}")

    def skipped(self, entries: Sequence[tuple[str, str]]) -> int:
        """List what was left out and why; return the exit status."""
        for name, reason in entries:
            current_log().skip(name, reason)
            print(printable(f"skipped {one_line(name)}: {reason}"), file=sys.stderr)
        return SOME_SKIPPED if entries else DONE


def made_with(network: str, weights_sha256: str) -> str:
    """Return which network and weights an output comes from, in short."""
    return f"network {network}, weights sha256 {weights_sha256[:12] or 'none'}..."


def results_table(table: dict[str, dict[str, Any]]) -> str:
    """Return the figures of every method as aligned lines, in per cent."""
    columns = ("top1", "mean_class_accuracy", "map11")
    width = max(len("method"), *map(len, table))
    lines = [f"{'method':<{width}}  {'top-1':>6}  {'class':>6}  {'mAP11':>6}"]
    for method, figures in table.items():
        cells = ("-" if figures[c] is None else f"{100 * figures[c]:.2f}" for c in columns)
        lines.append(f"{method:<{width}}  " + "  ".join(f"{cell:>6}" for cell in cells))
    return "\n".join(lines)
