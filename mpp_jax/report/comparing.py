"""Several runs compared: a figure for every method of every run, with intervals and differences.

Rows are methods of groups of runs that differ in their seed alone: the mean over the seeds, and
their sample deviation. Intervals and differences are by `mpp_jax.intervals`: all pictures that any
run on a data set was tested on are resampled together, and every run is judged on those of them
that are its own. So methods of one test set are paired, whether they come from one run or from two,
and runs on different pictures are compared as what they are.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mpp_jax.data.dataset import listed_classes
from mpp_jax.intervals import DRAWS, Figure, Resampled, bootstrap, mean_of
from mpp_jax.report.comparison import Deviating, Row, Table
from mpp_jax.report.finished_runs import FinishedRun, Group, grouped


@dataclass(frozen=True)
class _Set:
    """A data set and what is asked of the runs on it.

    Attributes:
        name: of the data.
        groups: the runs on it.
        figure: what is compared.
        classes: those that count.
        chosen: whether they were named, so that figures of all classes do not answer.
        pictures: numbers of all that any run was tested on, by id.
    """

    name: str
    groups: Sequence[Group]
    figure: Figure
    classes: tuple[str, ...]
    chosen: bool
    pictures: Mapping[str, int]

    @classmethod
    def of(
        cls,
        name: str,
        groups: Sequence[Group],
        figure: Figure | None,
        classes: Sequence[str] | None,
    ) -> "_Set":
        """Settle what is asked.

        Raises:
            ValueError: a figure or a class that the data set does not have.
        """
        runs = [run for group in groups for run in group.runs]
        multi_label = {run.multi_label for run in runs}
        if len(multi_label) > 1:
            raise ValueError(
                f"{name}: pictures have one class in some runs and several in others, which no "
                "figure compares; compare them apart"
            )
        if figure in ("top1", "mean_class_accuracy") and True in multi_label:
            raise ValueError(
                f"{name}: its pictures have several classes, so {figure} does not apply; give "
                "--figure map11 or map_area"
            )
        for run in runs:
            unknown = [each for each in classes or () if each not in run.classes]
            if unknown:
                raise ValueError(
                    f"{run.folder}: has no {listed_classes(unknown)}; {name} has "
                    f"{listed_classes(run.classes)}"
                )
        every = dict.fromkeys(each for run in runs for each in run.classes)
        ids = dict.fromkeys(i for run in runs if run.scores is not None for i in run.scores.ids)
        return cls(
            name,
            groups,
            figure or ("map11" if True in multi_label else "top1"),
            tuple(classes or every),
            bool(classes),
            {each: number for number, each in enumerate(ids)},
        )


def compare(
    runs: Sequence[FinishedRun],
    *,
    figure: Figure | None = None,
    classes: Sequence[str] | None = None,
    baseline: str | None = None,
    draws: int = DRAWS,
    each: Callable[[Sequence[FinishedRun]], Iterable[FinishedRun]] = iter,
) -> list[Table]:
    """Return a table for every data set.

    Args:
        runs: of any data, one or more.
        figure: None for the 11-point mAP where pictures have several classes, else top-1 accuracy.
        classes: those that count; None for all.
        baseline: the method that differences are to, of the first run on the data that has it; None
            for the method that headlines the first run.
        draws: of the bootstrap.
        each: wraps the runs as they are worked through, to show progress.

    Raises:
        ValueError: a figure, class or method that a data set does not have.
    """
    sets = {name: _Set.of(name, groups, figure, classes) for name, groups in grouped(runs).items()}
    known = dict.fromkeys(method for run in runs for method in run.methods)
    if baseline is not None and baseline not in known:
        raise ValueError(f"baseline: no run has {baseline!r}; they have {', '.join(known)}")
    judged = {run.folder: _judge(run, sets[run.data], draws) for run in each(runs)}
    return [_table(found, judged, baseline) for found in sets.values()]


_NONE: frozenset[str] = frozenset()


class _Judged(NamedTuple):
    """What one run says of one method; see `Row`."""

    value: float | None
    per_class: np.ndarray
    resampled: Resampled | None


def _judge(run: FinishedRun, asked: _Set, draws: int) -> dict[str, _Judged]:
    """Return the figures of every method of a run, resampled with all pictures of its data set."""
    if run.scores is None:
        return {method: _stated(run, method, asked) for method in run.methods}
    held = run.scores
    rows = np.array([asked.pictures[name] for name in held.ids])
    columns = np.array([held.classes.index(c) if c in held.classes else -1 for c in asked.classes])
    there = columns >= 0
    targets = np.zeros((len(asked.pictures), len(held.classes)), np.int8)
    targets[rows] = held.targets
    scores = {}
    for method in run.methods:
        scores[method] = np.zeros(targets.shape, np.float32)
        scores[method][rows] = held.scores[method]
    found = bootstrap(scores, targets, asked.figure, classes=columns[there].tolist(), draws=draws)
    judged = {}
    for method, one in found.items():
        one = replace(
            one,
            per_class=np.where(there, one.per_class[columns], np.nan),
            class_draws=np.where(there, one.class_draws[:, columns], np.nan),
        )
        judged[method] = _Judged(one.value, one.per_class, one)
    return judged


def _stated(run: FinishedRun, method: str, asked: _Set) -> _Judged:
    """Return what ``metrics.json`` says of a method: all that is known without scores."""
    result = run.metrics["results"][method]
    within = "map11" if run.multi_label else "mean_class_accuracy"
    known = result["per_class"] or {}
    if asked.figure not in (within, *(() if run.multi_label else ("top1",))):
        known = {}  # those are of another figure
    held = [known.get(name) for name in asked.classes]
    per_class = np.array([np.nan if value is None else value for value in held])
    value = result.get(asked.figure)
    if asked.chosen:
        some = asked.figure == within and not np.isnan(per_class).all()
        value = float(np.nanmean(per_class)) if some else None
    return _Judged(value, per_class, None)


def _table(
    asked: _Set, judged: Mapping[Path, Mapping[str, _Judged]], baseline: str | None
) -> Table:
    rows = []
    for group in asked.groups:
        for method in group.runs[0].methods:
            if all(method in run.methods for run in group.runs):
                parts = [judged[run.folder][method] for run in group.runs]
                rows.append(_row(method, group, parts, asked.pictures))
    if not rows:
        raise ValueError(f"{asked.name}: its runs of several seeds have no method in common")
    able = [row for row in rows if row.resampled is not None] or rows
    mine = next((row for row in able if row.method == baseline), able[0])
    notes = _notes(asked, rows, mine, baseline)
    count = len(asked.pictures) or int(asked.groups[0].runs[0].metrics["pictures"]["test"] or 0)
    runs = tuple(run for group in asked.groups for run in group.runs)
    return Table(
        *(asked.name, asked.figure, tuple(rows), mine),
        *(asked.classes, count, tuple(notes), runs),
    )


def _row(method: str, group: Group, parts: Sequence[_Judged], pictures: Mapping[str, int]) -> Row:
    known = [part.resampled for part in parts if part.resampled is not None]
    tested = [
        tuple(sorted(pictures[name] for name in run.scores.ids))
        for run in group.runs
        if run.scores is not None
    ]
    return Row(
        method,
        group.label,
        str(group.runs[0].metrics["network"]),
        tuple(run.seed for run in group.runs),
        Deviating.of([part.value for part in parts]),
        np.mean([part.per_class for part in parts], axis=0),
        mean_of(known) if len(known) == len(parts) else None,
        frozenset(tested),
    )


def _notes(asked: _Set, rows: Sequence[Row], mine: Row, baseline: str | None) -> list[str]:
    """Return what the reader must know of a table."""
    runs = [run for group in asked.groups for run in group.runs]
    notes = []
    bare = [str(run.folder) for run in runs if run.scores is None]
    if bare:
        notes.append(
            f"Without intervals and differences, for want of a scores.npz: {', '.join(bare)}. "
            "Their mpp-jax run or evaluate, given again, writes it."
        )
    if baseline is not None and mine.method != baseline:
        notes.append(f"No run on this data has {baseline}; differences are to {mine.name}.")
    drawn = [g for g in asked.groups if len({frozenset(_ids(run)) for run in g.runs} - {_NONE}) > 1]
    if drawn:
        notes.append(
            f"The seeds{_of(drawn)} have different test pictures, since the seed also draws split "
            "or limit: their deviation is of pictures and codebooks together."
        )
    others = [row for row in rows if row.tested and mine.tested and not row.paired(mine)]
    if others:
        names = dict.fromkeys(row.label or row.method for row in others)
        notes.append(
            f"Tested on other pictures than {mine.name}, so not paired with it (pictures that both "
            f"have are drawn together): {'; '.join(names)}."
        )
    if differing := _labelled_otherwise(runs):
        notes.append(
            f"{differing} test pictures are labelled otherwise in one run than in another; each "
            "run is judged by its own labels."
        )
    if len({frozenset(run.classes) for run in runs}) > 1 and not asked.chosen:
        notes.append("The runs have different classes; each is judged on its own. See --classes.")
    undefined = [
        name
        for k, name in enumerate(asked.classes)
        if all(np.isnan(row.per_class[k]) for row in rows)
    ]
    if undefined and len(undefined) < len(asked.classes):
        notes.append(f"In no mean, for want of test pictures: {', '.join(undefined)}.")
    for group in asked.groups:
        if any(run.chosen for run in group.runs):
            each = ", ".join(f"{run.chosen or 'none'} ({run.seed})" for run in group.runs)
            notes.append(f"By seed, best{_of([group])} is {each}.")
        lost = {m for run in group.runs for m in run.methods} - {
            row.method for row in rows if row.label == group.label
        }
        if lost:
            notes.append(f"Not in all seeds{_of([group])}, left out: {', '.join(sorted(lost))}.")
    return notes


def _of(groups: Sequence[Group]) -> str:
    labels = "; ".join(group.label for group in groups)
    return f" of {labels}" if labels else ""


def _ids(run: FinishedRun) -> tuple[str, ...]:
    return () if run.scores is None else run.scores.ids


def _labelled_otherwise(runs: Sequence[FinishedRun]) -> int:
    """Return how many pictures have other labels in one run than in another."""
    seen: dict[str, frozenset[tuple[str, int]]] = {}
    found = set()
    for run in runs:
        if run.scores is None:
            continue
        for name, row in zip(run.scores.ids, run.scores.targets, strict=True):
            labels = frozenset(
                (run.scores.classes[k], int(row[k])) for k in np.flatnonzero(row >= 0)
            )
            if seen.setdefault(name, labels) != labels:
                found.add(name)
    return len(found)
