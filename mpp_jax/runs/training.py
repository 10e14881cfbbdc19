"""One representation's machines from a store: C, the machines themselves, and probabilities.

`train_method` is the way from stored vectors to what a model holds of one representation. Which
solver it takes is settled before (`mpp_jax.runs.solvers`), for all representations alike.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from mpp_jax.config import AUTO, Svm
from mpp_jax.memory import mapped_zeros
from mpp_jax.metrics import mean_average_precision
from mpp_jax.progress import Watcher
from mpp_jax.runs.solvers import Plan
from mpp_jax.storage.store import Store
from mpp_jax.svm import (
    CrossValidation,
    LinearSVM,
    PlattScaling,
    SVMInfo,
    Vectors,
    accuracy_metric,
    cross_validate_svm,
    cross_validate_svm_primal,
    fit_platt,
    fit_svm,
    fit_svm_primal,
    gram_matrix,
)
from mpp_jax.svm.blocks import resident


class StoredVectors:
    """The vectors of a split of a store, read by rows: a `mpp_jax.svm.RowReader`.

    Attributes:
        shape: pictures and dimensions (N, D).
    """

    def __init__(self, store: Store, method: str, split: str) -> None:
        """Read nothing yet."""
        self._store, self._method = store, method
        self._items = store.items(split)
        self.shape = (len(self._items), store.dimension(method))

    def __getitem__(self, rows: slice, /) -> np.ndarray:
        """Return some consecutive rows, float32."""
        chosen = self._items[rows]
        out = mapped_zeros((len(chosen), self.shape[1]))
        start = 0
        for part in self._store.vectors_of(self._method, chosen):
            out[start : start + len(part)] = part
            start += len(part)
        return out


@dataclass(frozen=True)
class Folds:
    """How well held-out folds of the training pictures did.

    Attributes:
        metric: "top1" or, of pictures with several labels, "map11"; as in ``metrics.json``.
        cs: the values of C.
        scores: the metric for each C and fold; None where a fold cannot be judged.
        mean: over the folds, for each C.
    """

    metric: str
    cs: tuple[float, ...]
    scores: tuple[tuple[float | None, ...], ...]
    mean: tuple[float | None, ...]

    @property
    def best(self) -> float:
        """The highest mean."""
        return max(mean for mean in self.mean if mean is not None)

    def gain(self, other: Self) -> tuple[float, float]:
        """Return by how much the mean is above another's, and the standard error of that.

        Each at its best C, over the folds that both have; NaN where there are too few.
        """
        pairs = zip(self._at_best(), other._at_best(), strict=True)
        gains = np.array([a - b for a, b in pairs if a is not None and b is not None])
        if len(gains) < 2:
            return float("nan"), float("nan")
        return float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains)))

    def _at_best(self) -> tuple[float | None, ...]:
        return self.scores[self.mean.index(self.best)]

    @classmethod
    def of(cls, judged: CrossValidation, multi_label: bool) -> Self:
        """Return what is kept of a cross-validation."""

        def plain(value: float) -> float | None:
            return None if np.isnan(value) else float(value)

        return cls(
            "map11" if multi_label else "top1",
            tuple(map(float, judged.cs)),
            tuple(tuple(map(plain, row)) for row in judged.values),
            tuple(map(plain, judged.mean)),
        )

    @classmethod
    def from_dict(cls, held: Mapping[str, Any]) -> Self:
        """Read one from JSON values.

        Raises:
            KeyError, TypeError: entries that are missing or of another form.
        """
        scores = tuple(map(tuple, held["scores"]))
        return cls(held["metric"], tuple(held["cs"]), scores, tuple(held["mean"]))


@dataclass(frozen=True)
class Trained:
    """How the machines of one representation were trained: what is kept beside them.

    Attributes:
        solver: "gram", "streamed" or "primal".
        c: the cost C that they were trained with.
        relative_gap: the largest of the classes' certified duality gaps; None where it is not
            finite.
        folds: the cross-validation; None without one.
        candidates: by representation, the cross-validation of those that it was chosen among; None
            for one that was named.
    """

    solver: str
    c: float
    relative_gap: float | None
    folds: Folds | None = None
    candidates: Mapping[str, Folds] | None = None

    def summary(self, name: str) -> str:
        """Return C and what the held-out folds say of it, in one line for people."""
        return "; ".join(filter(None, (self._of_c(), self._of_candidates(name))))

    def _of_candidates(self, name: str) -> str:
        if self.candidates is None:
            return ""
        first = next(iter(self.candidates.values()))
        shown = (f"{name} {_per_cent(folds.best)}" for name, folds in self.candidates.items())
        highest = max(folds.best for folds in self.candidates.values())
        sure = name not in self.candidates or self.candidates[name].best == highest
        kept = "" if sure else " (what is higher is not surely better than the first)"
        return (
            f"chosen by the mean {_title(first.metric)} of {len(first.scores[0])} held-out folds, "
            f"%: {', '.join(shown)}{kept}"
        )

    def _of_c(self) -> str:
        if self.folds is None:
            return f"C {self.c:g}"
        tried, means, count = self.folds.cs, self.folds.mean, len(self.folds.scores[0])
        name = _title(self.folds.metric)
        shown = map(_per_cent, means)
        each = ", ".join(f"{text} at {c:g}" for c, text in zip(tried, shown, strict=True))
        edge = len(tried) > 1 and self.c in (tried[0], tried[-1])
        note = " (at the edge of what was tried)" if edge else ""
        return f"C {self.c:g}{note}; mean {name} of {count} held-out folds, %: {each}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        values = {**self.__dict__, "folds": None if self.folds is None else {**self.folds.__dict__}}
        among = values.pop("candidates")
        if among is not None:
            values["candidates"] = {name: {**folds.__dict__} for name, folds in among.items()}
        return values

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            KeyError, TypeError: entries that are missing or of another form.
        """
        held, among = record["folds"], record.get("candidates")
        folds = None if held is None else Folds.from_dict(held)
        if among is not None:
            among = {name: Folds.from_dict(entry) for name, entry in among.items()}
        return cls(record["solver"], record["c"], record["relative_gap"], folds, among)


class Machines(NamedTuple):
    """What training one representation gives.

    Attributes:
        svm: one-vs-rest machines.
        info: their certificate.
        trained: how it went.
        platt: sigmoids; None unless they were asked for.
    """

    svm: LinearSVM
    info: SVMInfo
    trained: Trained
    platt: PlattScaling | None


def train_method(
    store: Store,
    method: str,
    targets: np.ndarray,
    svm: Svm,
    plan: Plan,
    key: jax.Array,
    watcher: Watcher,
) -> Machines:
    """Train one-vs-rest machines on the stored training vectors of a representation.

    Args:
        store: encodings.
        method: the representation.
        targets: (N, L) of the training pictures.
        svm: settings.
        plan: the way, see `mpp_jax.runs.solvers`.
        key: of folds, and of the order of examples where that matters.
        watcher: hears of fits that take long.
    """
    vectors: Vectors
    vectors = StoredVectors(store, method, "train")
    if plan.solver == "gram":
        vectors = resident(store.vectors(method, "train"))
    gram = None
    if plan.solver != "primal":
        gram = gram_matrix(vectors, resident_bytes=plan.resident_bytes)
    judged, c = None, svm.c
    if svm.cross_validated:
        judged = cross_validate(store, vectors, gram, targets, svm, plan, key, watcher)
        c = judged.best_c if svm.c == AUTO else svm.c
    assert c != AUTO
    if gram is None:
        with watcher.bar(svm.max_epochs, f"{method}, at most", "epoch") as bar:
            machines, fitted = fit_svm_primal(
                vectors,
                targets,
                c,
                key=key,
                tolerance=svm.tolerance,
                max_epochs=svm.max_epochs,
                on_epoch=lambda epoch, gap: _advance(bar),
            )
        info = fitted.certificate
    else:
        machines, info = fit_svm(
            vectors,
            targets,
            c,
            gram=gram,
            tolerance=svm.tolerance,
            max_iterations=svm.max_iterations,
        )
    gap = float(np.max(info.relative_gap))
    folds = None if judged is None else Folds.of(judged, store.multi_label)
    trained = Trained(plan.solver, c, gap if math.isfinite(gap) else None, folds)
    platt = None
    if svm.probabilities and judged is not None:
        platt = fit_platt(judged.scores[int(np.flatnonzero(judged.cs == c)[0])], targets)
    return Machines(machines, info, trained, platt)


def cross_validate(
    store: Store,
    vectors: Vectors,
    gram: Any,
    targets: np.ndarray,
    svm: Svm,
    plan: Plan,
    key: jax.Array,
    watcher: Watcher,
) -> CrossValidation:
    """Judge each C that comes into question on held-out folds of the training pictures.

    Args:
        store: of whose pictures they are.
        vectors: (N, D), read where there is no Gram matrix.
        gram: (N, N) of them; None for the way by mini-batches.
        targets: (N, L).
        svm: settings.
        plan: the way, see `mpp_jax.runs.solvers`.
        key: of folds, and of the order of examples where that matters.
        watcher: hears of fits that take long.
    """
    cs: Sequence[float] = svm.cs if svm.c == AUTO else (svm.c,)
    metric = mean_average_precision if store.multi_label else accuracy_metric
    if gram is not None:
        return cross_validate_svm(
            gram,
            targets,
            cs,
            svm.folds,
            key=key,
            metric=metric,
            columns=plan.columns,
            tolerance=svm.tolerance,
            max_iterations=svm.max_iterations,
        )
    with watcher.bar(len(cs) * svm.folds, "folds", "fit") as bar:
        return cross_validate_svm_primal(
            vectors,
            targets,
            cs,
            svm.folds,
            key=key,
            metric=metric,
            tolerance=svm.tolerance,
            max_epochs=svm.max_epochs,
            on_fit=lambda c, fold: _advance(bar),
        )


def _advance(bar: Any) -> None:
    bar.update(1)


def _title(metric: str) -> str:
    return "top-1" if metric == "top1" else "mAP11"


def _per_cent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
