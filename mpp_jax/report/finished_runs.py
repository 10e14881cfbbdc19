"""Finished runs read back from their folders, those of one setting and several seeds together."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mpp_jax.metrics import mean_average_precision
from mpp_jax.pooling.notation import members
from mpp_jax.report.metrics_json import checked_metrics
from mpp_jax.report.scores import SCORES, Scores, read_scores

SEEDS = "seeds"
"""Key of ``metrics.json`` in a folder of several seeds: their numbers, whose runs lie in it."""

_NO_SETTING = {"seed", "pooling", "cache_bytes", "features", "svm.solver"}
"""What tells no setting from another: rows are methods, and solvers find the same machines."""


class RunError(ValueError):
    """A folder that is no finished run; one line that says what to do."""


@dataclass(frozen=True)
class FinishedRun:
    """One run, as its folder tells.

    Attributes:
        folder: where it is.
        metrics: of ``metrics.json``.
        scores: of every test picture; None where an earlier version of this program kept none.
        chosen: what "best" stands for among the methods, where the seeds chose differently.
    """

    folder: Path
    metrics: Mapping[str, Any]
    scores: Scores | None
    chosen: str | None = None

    @property
    def data(self) -> str:
        """Name of the data set."""
        return str(self.metrics["data"])

    @property
    def seed(self) -> int:
        """What the run's seed was."""
        return int(self.metrics["config"].get("seed", 0))

    @property
    def methods(self) -> tuple[str, ...]:
        """Its representations, the one that headlines first."""
        results = self.metrics["results"]
        named = list(self.metrics["config"].get("pooling", ()))
        choice = None if self.chosen else _choice(self)
        if choice is not None:
            named[named.index(choice[0])] = choice[1]
        return tuple(dict.fromkeys(name for name in (*named, *results) if name in results))

    @property
    def multi_label(self) -> bool:
        """Whether its pictures have several classes, so that no accuracy applies."""
        return all(result["top1"] is None for result in self.metrics["results"].values())

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        if self.scores is not None:
            return self.scores.classes
        return tuple(next(iter(self.metrics["results"].values()))["per_class"] or ())

    @property
    def setting(self) -> dict[str, str]:
        """Everything that decides the figures but seed, data and methods, as text by name."""
        flat = {"network": str(self.metrics["network"])}
        flat |= _flat(self.metrics["config"])
        flat["weights"] = str(self.metrics["weights_sha256"] or "none")[:8]
        return {name: value for name, value in flat.items() if name not in _NO_SETTING}


def read_runs(folders: Sequence[Path]) -> list[FinishedRun]:
    """Read runs from the folders that `run` and `evaluate` wrote, in order.

    A folder of several seeds stands for the runs in it.

    Raises:
        RunError: a folder that is none, or unfinished, or damaged, or named twice.
    """
    found: list[FinishedRun] = []
    for folder in folders:
        metrics = _read_metrics(folder)
        if SEEDS in metrics:
            inside = [folder / f"seed-{seed}" for seed in metrics[SEEDS]]
            found += [_read(place, _read_metrics(place)) for place in inside]
        else:
            found.append(_read(folder, metrics))
    places = [run.folder.resolve() for run in found]
    for run, place in zip(found, places, strict=True):
        if places.count(place) > 1:
            raise RunError(f"{run.folder}: is named twice")
    return _named_alike(found)


def _named_alike(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """Call "best" by that name where runs that differ in their seed chose different methods."""
    choices = [_choice(run) for run in runs]
    asked = [
        None if choice is None else (run.data, run.setting, choice[0])
        for run, choice in zip(runs, choices, strict=True)
    ]
    found = []
    for run, choice, mine in zip(runs, choices, asked, strict=True):
        alike = [one for one, other in zip(choices, asked, strict=True) if other == mine]
        differ = choice is not None and any(one != choice for one in alike)
        found.append(_renamed(run, *choice) if choice is not None and differ else run)
    return found


def _choice(run: FinishedRun) -> tuple[str, str] | None:
    """Return ("best", the method that it is); None where none was chosen, or several were."""
    asked = [name for name in run.metrics["config"].get("pooling", ()) if members(name)]
    training = run.metrics.get("training") or {}
    chosen = [name for name, held in training.items() if held and held.get("candidates")]
    if len(asked) != 1 or len(chosen) != 1 or chosen[0] not in run.metrics["results"]:
        return None
    return asked[0], chosen[0]


def _renamed(run: FinishedRun, asked: str, chosen: str) -> FinishedRun:
    """Give what was chosen the name that was asked for; it keeps its own if that was asked too."""

    def named(held: Mapping[str, Any]) -> dict[str, Any]:
        both = chosen in run.metrics["config"]["pooling"]
        rest = {name: value for name, value in held.items() if both or name != chosen}
        return {asked: held[chosen], **rest}

    metrics = {**run.metrics, "results": named(run.metrics["results"])}
    scores = run.scores and run.scores._replace(scores=named(run.scores.scores))
    return replace(run, metrics=metrics, scores=scores, chosen=chosen)


def _read_metrics(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "is not there"
        raise RunError(f"{folder}: {what}; give what --out of `mpp-jax run` was")
    file = folder / "metrics.json"
    if not file.exists():
        begun = any((folder / part).exists() for part in ("codebook", "encodings", "seed-0"))
        raise RunError(
            f"{folder}: the run is not finished (no metrics.json yet); give its `mpp-jax run` "
            "again, it goes on where it stopped"
            if begun
            else f"{folder}: no run's folder (it has no metrics.json); give what --out of "
            "`mpp-jax run` or `evaluate` was"
        )
    try:
        metrics = checked_metrics(json.loads(file.read_bytes()))
        if not metrics["results"] or not isinstance(metrics["config"], dict):
            raise ValueError("it lacks methods or settings")
        metrics |= {SEEDS: [int(seed) for seed in metrics[SEEDS]]} if SEEDS in metrics else {}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{file}: cannot be read ({error}); run `mpp-jax evaluate` again") from error
    return metrics


def _read(folder: Path, metrics: dict[str, Any]) -> FinishedRun:
    file = folder / SCORES
    try:
        scores = read_scores(file)
    except FileNotFoundError:
        return FinishedRun(folder, metrics, None)
    except ValueError as error:
        raise RunError(str(error)) from error
    for name, result in metrics["results"].items():
        stated = result["map11"]
        again = np.nan
        if name in scores.scores:
            again = mean_average_precision(scores.scores[name], scores.targets)
        if not np.isclose(np.nan if stated is None else stated, again, atol=1e-6, equal_nan=True):
            raise RunError(
                f"{file}: is of another evaluation than metrics.json beside it ({name}: 11-point "
                f"mAP {again:.4f}, there {stated}); give the `mpp-jax run` or `evaluate` again"
            )
    return FinishedRun(folder, metrics, scores)


def _flat(held: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    rows: dict[str, str] = {}
    for key, value in held.items():
        if isinstance(value, dict):
            rows |= _flat(value, f"{prefix}{key}.")
        elif prefix + key == "pyramid.scales":
            rows[prefix + key] = ranges([scale + 1 for scale in value])
        else:
            rows[prefix + key] = json.dumps(value).strip('"')
    return rows


def ranges(numbers: Sequence[int]) -> str:
    """Return rising numbers as on the command line: 1-3,5."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    Attributes:
        runs: by rising seed.
        label: what tells them from others on the same data; empty where there are no others.
    """

    runs: tuple[FinishedRun, ...]
    label: str = ""


def grouped(runs: Sequence[FinishedRun]) -> dict[str, list[Group]]:
    """Return groups by name of the data set, in the order of their first runs."""
    data: dict[str, list[list[FinishedRun]]] = {}
    for run in runs:
        groups = data.setdefault(run.data, [])
        for group in groups:
            same = group[0].setting == run.setting
            # The same seed once more is another run, not another seed.
            if same and run.seed not in {other.seed for other in group}:
                group.append(run)
                break
        else:
            groups.append([run])
    # Over all data, so that equal settings are called the same everywhere.
    settings = [group[0].setting for groups in data.values() for group in groups]
    names = dict.fromkeys(name for setting in settings for name in setting)
    differing = [name for name in names if len({s.get(name) for s in settings}) > 1]
    if "network" in differing and "weights" in differing:
        differing.remove("weights")  # other networks have others
    return {name: _labelled(groups, differing) for name, groups in data.items()}


def _labelled(groups: Sequence[list[FinishedRun]], differing: Sequence[str]) -> list[Group]:
    labels = []
    for group in groups:
        setting = group[0].setting
        labels.append(", ".join(_phrase(n, setting[n]) for n in differing if n in setting))
    found = []
    for group, label in zip(groups, labels, strict=True):
        place = str(group[0].folder) if labels.count(label) > 1 else ""
        runs = tuple(sorted(group, key=lambda run: run.seed))
        found.append(Group(runs, ", ".join(filter(None, (label, place)))))
    return found


def _phrase(name: str, value: str) -> str:
    return value if name == "network" else f"{name.rpartition('.')[2]} {value}"
