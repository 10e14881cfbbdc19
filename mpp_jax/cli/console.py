"""What the commands say to the user, and how they open what the user names."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from mpp_jax.data import Dataset, open_dataset
from mpp_jax.data.dataset import SPLITS
from mpp_jax.nets import Network
from mpp_jax.weights.load import load_network

DONE, SOME_SKIPPED = 0, 1

Skips = list[tuple[str, str]]
"""Inputs that were left out: (name, reason)."""


def printable(text: str) -> str:
    """Return text that any terminal takes: file names need not be valid UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


class Output:
    """Talks to the user on standard error; the results themselves go to files or standard out."""

    def __init__(self, quiet: bool) -> None:
        """With ``quiet``, say nothing but where results went and what was skipped."""
        self.quiet = quiet

    def say(self, text: str) -> None:
        """A line about progress or settings."""
        if not self.quiet:
            print(printable(text), file=sys.stderr)

    def result(self, text: str) -> None:
        """A result itself."""
        print(printable(text))

    def wrote(self, what: str, place: Path) -> None:
        """A line about a result's place."""
        self.result(f"{what}: {place}")

    def skipped(self, entries: Sequence[tuple[str, str]]) -> int:
        """List what was left out and why; return the exit status."""
        for name, reason in entries:
            print(printable(f"skipped {name}: {reason}"), file=sys.stderr)
        return SOME_SKIPPED if entries else DONE


def open_data(
    data: str, *, test_fraction: float, seed: int, limit_per_class: int | None, output: Output
) -> Dataset:
    """Open DATA and say what is in it."""
    dataset = open_dataset(
        data, test_fraction=test_fraction, seed=seed, limit_per_class=limit_per_class
    )
    train, test = len(dataset.split("train")), len(dataset.split("test"))
    output.say(
        f"{dataset.name}: {len(dataset.classes)} classes, {train} training pictures, {test} test"
    )
    for note in dataset.notes:
        output.say(note)
    return dataset


def check_outside(data: str, *places: Path | None) -> None:
    """Raise where something would be written among the pictures, to be read as one the next time.

    Args:
        data: DATA of the command line.
        places: folders to be written; None for none.

    Raises:
        ValueError: one that lies in a class folder, or where it would be one itself.
    """
    folder = Path(data).expanduser()
    for place in places if folder.is_dir() else ():
        if place is None or not place.resolve().is_relative_to(folder.resolve()):
            continue
        parts = place.resolve().relative_to(folder.resolve()).parts
        beside_splits = (folder / "train").is_dir() and parts and parts[0] not in SPLITS
        if not beside_splits:
            raise ValueError(
                f"{place}: lies among the pictures of {data} and would be taken for some of them "
                "the next time; give a folder elsewhere"
            )


def open_network(name: str, weights: str | None, dtype: str, output: Output) -> Network:
    """Load a network and say which."""
    network = load_network(name, weights, dtype=jnp.dtype(dtype))
    output.say(made_with(network.spec.name, network.weights_sha256))
    return network


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
