"""What a comparison of runs is made of: a table for each data set, a row for each method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mpp_jax.intervals import Figure, Interval, Resampled
from mpp_jax.report.finished_runs import FinishedRun

TITLES: Mapping[Figure, str] = {
    "top1": "Top-1 accuracy",
    "mean_class_accuracy": "Mean class accuracy",
    "map11": "Mean average precision (11-point)",
    "map_area": "Mean average precision (area)",
}


class Deviating(NamedTuple):
    """A mean over seeds.

    Attributes:
        mean: None where the figure is unknown.
        deviation: of the sample (n - 1); None with one seed, or where the figure is unknown.
    """

    mean: float | None
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Deviating":
        """Return mean and deviation, of nothing where one of them is None or NaN."""
        known = np.array([np.nan if value is None else value for value in values])
        if np.isnan(known).any():
            return cls(None, None)
        deviation = float(known.std(ddof=1)) if len(known) > 1 else None
        return cls(float(known.mean()), deviation)


@dataclass(frozen=True, eq=False)
class Row:
    """One method of one group of runs.

    Attributes:
        method: its name.
        label: what tells its runs from others on the data; empty where there are no others.
        network: that it read.
        seeds: rising.
        value: the figure.
        per_class: (C,) the figure within each class that counts, NaN where it has none.
        resampled: of the mean over the seeds, C classes; None without scores.
        tested: which pictures each seed was tested on, numbers among all of the data set.
    """

    method: str
    label: str
    network: str
    seeds: tuple[int, ...]
    value: Deviating
    per_class: np.ndarray
    resampled: Resampled | None = None
    tested: frozenset[tuple[int, ...]] = frozenset()

    @property
    def name(self) -> str:
        """What tells it from all others on the data."""
        return f"{self.method} ({self.label})" if self.label else self.method

    @property
    def interval(self) -> Interval | None:
        """The figure's interval; None without scores."""
        return None if self.resampled is None else self.resampled.interval

    def class_interval(self, k: int) -> Interval | None:
        """Return the interval of the figure within a class; None without scores or figure."""
        if self.resampled is None or np.isnan(self.per_class[k]):
            return None
        return Interval.of(float(self.per_class[k]), self.resampled.class_draws[:, k])

    def minus(self, other: "Row") -> Interval | None:
        """Return the difference to another row on the same data; None without scores of both."""
        if self.resampled is None or other.resampled is None:
            return None
        return self.resampled.minus(other.resampled)

    def paired(self, other: "Row") -> bool:
        """Return whether both were tested on the same pictures."""
        return self.tested == other.tested


@dataclass(frozen=True)
class Table:
    """All runs on one data set.

    Attributes:
        data: its name.
        figure: what is compared.
        rows: in the order of the runs, and of their methods.
        baseline: the row that differences are to.
        classes: those that count.
        test_pictures: of all runs together.
        notes: what the reader must know, a sentence each.
        runs: all of them, by group and seed.
    """

    data: str
    figure: Figure
    rows: tuple[Row, ...]
    baseline: Row
    classes: tuple[str, ...]
    test_pictures: int
    notes: tuple[str, ...]
    runs: tuple[FinishedRun, ...]

    def short(self, row: Row) -> str:
        """Return a row's name for narrow places: its method, numbered where there are settings."""
        number = self.rows.index(row) + 1
        return f"{number} {row.method}" if any(r.label for r in self.rows) else row.method

    def is_best(self, row: Row) -> bool:
        """Return whether no row is better."""
        known = [other.value.mean for other in self.rows if other.value.mean is not None]
        return len(known) > 1 and row.value.mean == max(known)
