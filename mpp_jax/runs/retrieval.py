"""How well a search finds pictures of the same classes: mean average precision, class by class.

Every test picture asks, and the training pictures are ranked by their cosine. For each of its
classes this is one ranking, of which the average precision is taken (un-interpolated, as
`mpp_jax.metrics` has it); the figure of a class is the mean over the pictures that ask for it. A
class that is unclear in a ranked picture takes it out of the class's rankings. Where there is one
split alone, each of its pictures asks for the others.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from mpp_jax.data.dataset import seeded_order, target_matrix
from mpp_jax.metrics import average_precision
from mpp_jax.progress import Watcher
from mpp_jax.runs.search import Searchable, similarities

AT_ONCE = 64
"""Queries whose similarities to everything that is ranked are held at once."""


@dataclass(frozen=True)
class Figures:
    """Retrieval figures.

    Attributes:
        mean: mean over the classes of `per_class`; None without any.
        per_class: mean average precision by class; None where no picture asks, or none is relevant.
        queries: pictures that asked.
        ranked: pictures that were ranked for each.
        leave_one_out: whether they are the same pictures.
    """

    mean: float | None
    per_class: dict[str, float | None]
    queries: int
    ranked: int
    leave_one_out: bool

    def to_dict(self) -> dict[str, Any]:
        """Return them as JSON values."""
        return dict(self.__dict__)


def retrieval_figures(
    searched: Searchable,
    *,
    queries: int | None = None,
    seed: int = 0,
    watcher: Watcher | None = None,
) -> Figures:
    """Return how well the pictures of a store or an index find each other.

    Args:
        searched: a store's vectors or an index.
        queries: how many ask at most, drawn with the seed; None for all.
        seed: of the draw.
        watcher: is shown how far the work is; None for a new one.

    Raises:
        ValueError: no labels, or fewer than two pictures.
    """
    classes = searched.classes
    entries = {split: list(searched.entries(split)) for split in ("train", "test")}
    alone = not (entries["train"] and entries["test"])
    asking = "test" if entries["test"] else "train"
    ranked = asking if alone else "train"
    if not classes or len(entries[ranked]) < 1 + alone:
        raise ValueError("figures need labelled pictures, two at least")
    chosen = {entry.id for entry in entries[asking]}
    if queries is not None:
        chosen = set(seeded_order(chosen, seed, "queries")[:queries])
    rows = [i for i, entry in enumerate(entries[asking]) if entry.id in chosen]
    targets = target_matrix(entries[ranked], len(classes))
    found: list[list[float]] = [[] for _ in classes]
    with (watcher or Watcher()).bar(len(rows), "retrieve", "query") as bar:
        vectors = _rows_of(searched, asking, rows)
        for first in range(0, len(rows), AT_ONCE):
            mine = rows[first : first + AT_ONCE]
            asked = np.stack(list(islice(vectors, len(mine))))
            scores = similarities(asked, searched.blocks(ranked))
            for row, similarity in zip(mine, scores, strict=True):
                for label in entries[asking][row].labels:
                    relevant = targets[:, label].copy()
                    if alone:
                        relevant[row] = 0  # oneself
                    found[label].append(float(average_precision(similarity, relevant, "area")[0]))
            bar.update(len(mine))
    means = {name: _mean(values) for name, values in zip(classes, found, strict=True)}
    return Figures(
        _mean([value for value in means.values() if value is not None]),
        means,
        len(rows),
        len(entries[ranked]) - alone,
        alone,
    )


def _rows_of(searched: Searchable, split: str, rows: list[int]) -> Iterator[np.ndarray]:
    """Yield some vectors of a split, as its blocks have them."""
    wanted, start = np.array(rows), 0
    for block in searched.blocks(split):
        yield from block[wanted[(wanted >= start) & (wanted < start + len(block))] - start]
        start += len(block)


def _mean(values: list[float]) -> float | None:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else None
