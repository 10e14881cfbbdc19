"""How sure a figure is: bootstrap over the test pictures, paired between methods.

Test pictures are drawn with replacement, N of N, again and again (B. Efron and R. Tibshirani, "An
Introduction to the Bootstrap", 1993, percentile intervals). In every draw all methods are judged on
the same pictures, so that the interval of a difference is that of the methods, not of the pictures:
two methods that err on the same pictures differ more surely than their own intervals let think.

A draw is the vector of how often each picture was drawn. Pictures are sorted once for each class;
what a draw changes is then their weights, and the average precision of the resampled list, in which
copies of a picture stand side by side, is a matter of cumulative sums. `mpp_jax.metrics` defines
the figures; on a draw of each picture once they are equal to it.

Since copies rank together, average precision comes out higher on a draw than on the pictures
themselves, by a point or so where a class has twenty pictures, by more where it has fewer, and
intervals lie as much too high. In differences of methods this goes out almost wholly.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from jax.typing import ArrayLike

Figure = Literal["top1", "mean_class_accuracy", "map11", "map_area"]
FIGURES: tuple[Figure, ...] = get_args(Figure)
LEVEL = 0.95
DRAWS = 2000
_BLOCK = 1 << 20
"""Weights of drawn pictures that are held at once."""

_Judge = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Takes weights (N, D) int32, gives figures (D,) and those of the chosen classes (D, C)."""


class Interval(NamedTuple):
    """A figure, or a difference of two, with its 95% interval.

    Attributes:
        value: on the test pictures as they are.
        low: the 2.5% quantile over the draws.
        high: the 97.5% quantile.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, draws: np.ndarray) -> "Interval":
        """Return the percentile interval over draws (D,); draws without a figure (NaN) left out."""
        known = draws[~np.isnan(draws)]
        if not known.size:
            return cls(value, np.nan, np.nan)
        low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return cls(value, float(low), float(high))


@dataclass(frozen=True)
class Resampled:
    """One method's figure on the test pictures and on every draw of them.

    Attributes:
        value: the figure; NaN where no class has one.
        draws: (D,) float64, the figure of each draw.
        per_class: (L,) float64, the average precision of each class, or the accuracy within it; NaN
            for one without positives, and for those outside the chosen ones.
        class_draws: (D, L) float64, the same of each draw.
    """

    value: float
    draws: np.ndarray
    per_class: np.ndarray
    class_draws: np.ndarray

    @property
    def interval(self) -> Interval:
        """The figure's interval."""
        return Interval.of(self.value, self.draws)

    def minus(self, other: "Resampled") -> Interval:
        """Return the difference to a method that was resampled in the same call."""
        return Interval.of(self.value - other.value, self.draws - other.draws)


def bootstrap(
    scores: Mapping[str, ArrayLike],
    targets: ArrayLike,
    figure: Figure = "map11",
    *,
    classes: Sequence[int] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Resampled]:
    """Return every method's figure on one test set, and on the same draws of its pictures.

    A class without a positive in a draw is left out of that draw's mean, as it is of the figure.

    Args:
        scores: method -> (N, L), higher is likelier.
        targets: (N, L) in {-1, 0, +1}, 0 = the picture does not count for the class; or (N,) class
            numbers. Accuracies want one +1 in a row; a row of zeros alone counts for nothing. (So
            methods that were tested on different pictures are resampled together: each call has a
            row for every picture of any, and equal seeds.)
        figure: "top1", "mean_class_accuracy", "map11" (11-point) or "map_area".
        classes: columns that count; None for all. For "top1" pictures of other classes are left
            out; the prediction is among all L classes all the same.
        draws: how many, D.
        seed: of the draws; equal seeds draw the same of as many pictures.

    Returns:
        By method, in the order given.

    Raises:
        ValueError: shapes disagree, a score is NaN, a target or class is out of range, a picture
            without exactly one class where accuracies are asked for.
    """
    if figure not in FIGURES:
        raise ValueError(f"figure must be one of {', '.join(FIGURES)}, got {figure!r}")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    arrays = {name: np.asarray(values) for name, values in scores.items()}
    y = _checked(arrays, np.asarray(targets))
    pictures, count = y.shape
    by_accuracy = figure in ("top1", "mean_class_accuracy")
    if by_accuracy and ((y > 0).sum(axis=1) != (y != 0).any(axis=1)).any():
        raise ValueError(f"{figure} wants pictures of exactly one class; take map11 or map_area")
    chosen = np.unique(range(count) if classes is None else classes)
    if not (chosen.size and chosen[0] >= 0 and chosen[-1] < count):
        raise ValueError(f"classes must be numbers in 0..{count - 1}, one or more, got {classes}")
    make = _accuracy_judge if by_accuracy else _precision_judge
    judges = {name: make(values, y, chosen, figure) for name, values in arrays.items()}
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in arrays}
    for weights in _weights(pictures, draws, seed):
        for name, judge in judges.items():
            found[name].append(judge(weights))
    result = {}
    for name, blocks in found.items():
        whole = np.concatenate([values for values, _ in blocks])
        per_class = np.full((len(whole), count), np.nan)
        per_class[:, chosen] = np.concatenate([each for _, each in blocks])
        result[name] = Resampled(float(whole[0]), whole[1:], per_class[0], per_class[1:])
    return result


def mean_of(parts: Sequence[Resampled]) -> Resampled:
    """Return the mean of figures that share their draws, such as one method's with several seeds.

    A class that some of them have no figure of (NaN) has none in the mean.
    """
    return Resampled(*(sum(each) / len(parts) for each in zip(*map(astuple, parts), strict=True)))


def _weights(pictures: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each picture is in a draw, (N, D) int32: the test set itself, then draws."""
    yield np.ones((pictures, 1), np.int32)
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // pictures)
    for start in range(0, draws, block):
        size = min(block, draws - start)
        drawn = rng.integers(0, pictures, (size, pictures))
        drawn += pictures * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * pictures)
        yield np.ascontiguousarray(counts.reshape(size, pictures).T, np.int32)


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Return the mean of each row of (D, C) that leaves NaN out; NaN where a row has nothing."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.divide(total, known.sum(axis=1), out=np.full(len(values), np.nan), where=known.any(1))


def _accuracy_judge(
    scores: np.ndarray, targets: np.ndarray, chosen: np.ndarray, figure: Figure
) -> _Judge:
    truth = np.where((targets > 0).any(axis=1), targets.argmax(axis=1), -1)
    right = scores.argmax(axis=1) == truth
    # (C, N) products of whole numbers below 2^24: exact in float32, which BLAS is quick at.
    of_class = (truth == chosen[:, None]).astype(np.float32)
    of_class_right = of_class * right

    def judge(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        w = weights.astype(np.float32)
        hits = (of_class_right @ w).T.astype(np.float64)
        there = (of_class @ w).T.astype(np.float64)
        nothing = np.full(there.shape, np.nan)
        each = np.divide(hits, there, out=nothing, where=there > 0)
        if figure == "mean_class_accuracy":
            return _mean_of_defined(each), each
        total = there.sum(axis=1)
        return np.divide(hits.sum(axis=1), total, out=nothing[:, 0].copy(), where=total > 0), each

    return judge


def _precision_judge(
    scores: np.ndarray, targets: np.ndarray, chosen: np.ndarray, figure: Figure
) -> _Judge:
    precision = _eleven_point if figure == "map11" else _area
    orders = []
    for k in chosen:
        used = np.flatnonzero(targets[:, k])
        order = used[np.argsort(-scores[used, k].astype(np.float64), kind="stable")]
        orders.append((order, np.flatnonzero(targets[order, k] > 0)))

    def judge(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        each = np.full((weights.shape[1], len(chosen)), np.nan)
        for i, (order, positive) in enumerate(orders):
            if positive.size:
                each[:, i] = precision(*_counts(weights[order[: positive[-1] + 1]], positive))
        return _mean_of_defined(each), each

    return judge


def _counts(weights: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each positive was drawn, and the pictures drawn up to and with it: (P, D).

    Args:
        weights: (R, D) in the order of falling scores.
        positive: (P,) rising places of the positives, the last one R - 1.
    """
    between = np.concatenate([[0], positive[:-1] + 1])
    return weights[positive], np.cumsum(np.add.reduceat(weights, between, axis=0), axis=0)


def _eleven_point(drawn: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Return the 11-point average precision (D,) of counts (P, D), see `_counts`.

    The largest precision at a recall or beyond it is that at the last copy of some positive: what
    follows, up to the next one, lowers it, and each further copy raises it.
    """
    found = np.cumsum(drawn, axis=0)
    precision = np.divide(found, ranks, out=np.zeros(found.shape), where=ranks > 0)
    best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    every = np.arange(found.shape[1])
    points = np.empty((found.shape[1], 11))
    for tenth in range(11):
        first = (10 * found < tenth * found[-1]).sum(axis=0)
        points[:, tenth] = best[first, every]
    return np.where(found[-1] > 0, points.mean(axis=1), np.nan)


def _area(drawn: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Return the area average precision (D,) of counts (P, D): every copy at its own rank."""
    found = np.cumsum(drawn, axis=0)
    before, above = found - drawn, ranks - drawn
    total = np.zeros(drawn.shape)
    for copy in range(1, int(drawn.max()) + 1):
        total += np.where(copy <= drawn, (before + copy) / (above + copy), 0.0)
    whole = np.ascontiguousarray(total.T).sum(axis=1)
    return np.divide(whole, found[-1], out=np.full(len(whole), np.nan), where=found[-1] > 0)


def _checked(scores: Mapping[str, np.ndarray], targets: np.ndarray) -> np.ndarray:
    """Return targets as (N, L), or raise where something does not fit."""
    if not scores:
        raise ValueError("scores holds no method")
    for name, values in scores.items():
        if values.ndim != 2 or not values.size or len(values) != len(targets):
            raise ValueError(
                f"scores[{name!r}] must be (N, L), a row for each of {len(targets)} targets, got "
                f"{values.shape}"
            )
        if np.isnan(values).any():
            raise ValueError(f"scores[{name!r}] holds NaN")
    classes = next(iter(scores.values())).shape[1]
    if targets.ndim == 1:
        if not np.issubdtype(targets.dtype, np.integer) or not (
            0 <= targets.min() <= targets.max() < classes
        ):
            raise ValueError(f"targets (N,) must be whole numbers in 0..{classes - 1}")
        targets = np.where(targets[:, None] == np.arange(classes), 1, -1)
    if not np.isin(targets, (-1, 0, 1)).all():
        raise ValueError("targets must be -1, 0 (ignored) or +1")
    for name, values in scores.items():
        if values.shape != targets.shape:
            raise ValueError(
                f"scores[{name!r}] is {values.shape} and targets {targets.shape}; want one shape"
            )
    return targets
