r"""What a pooling variant is, and the list of them.

A variant is a pure function of one picture's `Evidence` and a codebook to one finished unit vector:

    pool(evidence, codebook) -> (D,)

It is written for a single picture; batches, padding, spatial grids, stacks, other layers, storage,
training and the report are done outside, for every variant alike. What it does not read is never
computed. In five lines::

    import jax.numpy as jnp
    import mpp_jax as mpp

    @mpp.register_pooling("top", codebook=None)
    def top(evidence, codebook):
        x = jnp.where(evidence.mask[-1][:, None], evidence.x[-1], 0)
        return mpp.l2_normalize(jnp.sort(x, axis=0)[-3:].mean(axis=0))

A file with these lines is read by ``mpp-jax run DATA --plugin top.py --pooling mpp,top``; a package
may name such modules as entry points of the group ``mpp_jax.pooling`` instead, which are loaded
when a name is not known. `mpp_jax.pooling.checks` holds the properties that every variant must
have (permutation, padding, batch = loop, gradients); run them on yours.
"""

import hashlib
import importlib.metadata
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from mpp_jax.encoders.fisher import FisherStatistics, fisher_statistics
from mpp_jax.stats.codebook import FISHER, Codebook, Recipe, project

ENTRY_POINTS = "mpp_jax.pooling"


class Evidence(NamedTuple):
    """What one picture gives to a pooling variant. Tuples run over the scales, coarsest first.

    Attributes:
        scales: numbers of the scales, from 0 (the network's own input side).
        x: (T, C) activations.
        mask: (T,) bool; rows where it is False hold nothing.
        window: (T, 4) receptive windows (top, left, bottom, right), fractions of the picture.
        statistics: Fisher statistics of the projected activations; empty without a codebook. They
            are there because many variants share them, and they add over scales. Where all that
            is computed reads "statistics", `x`, `mask` and `window` may be empty.
        crops: (n, C) activations of the crops that the variant asked for, or None.
        first: index of the first scale that encodings by a codebook take.
    """

    scales: tuple[int, ...]
    x: tuple[Array, ...]
    mask: tuple[Array, ...]
    window: tuple[Array, ...]
    statistics: tuple[FisherStatistics, ...] = ()
    crops: Array | None = None
    first: int = 0

    def select(self, scales: tuple[int, ...]) -> "Evidence":
        """Return the evidence of these scales alone, all of them to be encoded."""
        rows = [self.scales.index(k) for k in scales]
        x, mask, window = (
            tuple(part[i] for i in rows) if part else ()
            for part in (self.x, self.mask, self.window)
        )
        statistics = tuple(self.statistics[i] for i in rows) if self.statistics else ()
        return Evidence(scales, x, mask, window, statistics, self.crops)

    def within(self, cell: tuple[float, float, float, float], codebook: Codebook) -> "Evidence":
        """Return the evidence whose windows have their centre in a cell (top, left, bottom, right).

        Cells are half open, so that those of a grid share no descriptor.
        """
        top, left, bottom, right = cell
        masks = []
        for mask, window in zip(self.mask, self.window, strict=True):
            centre = (window[:, :2] + window[:, 2:]) / 2
            centre = jnp.clip(centre, 0, 1 - 1e-6)
            inside = (centre >= jnp.array([[top, left]])) & (centre < jnp.array([[bottom, right]]))
            masks.append(mask & jnp.all(inside, axis=1))
        inside_cell = self._replace(mask=tuple(masks))
        return inside_cell.counted(codebook) if self.statistics else inside_cell

    def counted(self, codebook: Codebook) -> "Evidence":
        """Return the evidence with the statistics of its descriptors under a codebook."""
        statistics = tuple(
            fisher_statistics(project(codebook, x), codebook.gmm, mask)
            for x, mask in zip(self.x, self.mask, strict=True)
        )
        return self._replace(statistics=statistics)


def projected(evidence: Evidence, codebook: Codebook) -> list[tuple[Array, Array]]:
    """Return (descriptors (T, P) in the codebook's space, mask (T,)) of the encoded scales."""
    rows = range(evidence.first, len(evidence.x))
    return [(project(codebook, evidence.x[i]), evidence.mask[i]) for i in rows]


def scale_statistics(evidence: Evidence) -> tuple[FisherStatistics, ...]:
    """Return the Fisher statistics of the encoded scales."""
    return evidence.statistics[evidence.first :]


Pool = Callable[[Evidence, Codebook], Array]
Reads = Literal["activations", "statistics"]


@dataclass(frozen=True)
class Pooling:
    """A registered variant.

    Attributes:
        name: as on the command line.
        function: of one picture's evidence and the codebook, to a finished unit vector.
        crops: 0, or 1, 5, 25 crops that it reads instead of the scales.
        flip: whether the crops' mirror images follow them.
        codebook: how its codebook is fitted; None where it reads none.
        scales: numbers of the scales that it reads, from 0; None for all there are.
        reads: "statistics" of a variant that looks at nothing else of its evidence: then an
            accelerator keeps no activations; else "activations".
        code: SHA-256 of the source that it comes from; empty for those of this package.
    """

    name: str
    function: Pool
    crops: int = 0
    flip: bool = False
    codebook: Recipe | None = FISHER
    scales: tuple[int, ...] | None = None
    reads: Reads = "activations"
    code: str = ""


POOLINGS: dict[str, Pooling] = {}
_SEEN: set[str] = set()
_NAME = re.compile(r"[a-z][a-z0-9_]*(-[a-z][a-z0-9_]*)*")
_GRID_LIKE = re.compile(r"(.*-)?sp(\d.*)?")


def register_pooling(
    name: str,
    *,
    crops: int = 0,
    flip: bool = False,
    codebook: Recipe | None = FISHER,
    scales: tuple[int, ...] | None = None,
    reads: Reads = "activations",
    replace: bool = False,
) -> Callable[[Pool], Pool]:
    """Register a variant under a name; the decorated function is returned unchanged.

    A variant of one's own may be registered again from the same place, as by running a notebook's
    cell twice: the new one is taken.

    Args:
        name: words of lower-case letters, digits and ``_`` that begin with a letter, joined by
            ``-``; the command line and file names carry it.
        crops: as the others, see `Pooling`.
        flip: likewise.
        codebook: likewise.
        scales: likewise.
        reads: likewise.
        replace: take the place of a variant of this name, wherever that comes from.

    Raises:
        ValueError: a name that is taken or ill formed, an unknown number of crops, or statistics
            to be read without a codebook.
    """
    if not _NAME.fullmatch(name) or _GRID_LIKE.fullmatch(name):
        raise ValueError(
            f"name must be words of a-z, 0-9 and _ joined by -, and none of the form sp..., which "
            f"means a spatial grid; got {name!r}"
        )
    if crops not in (0, 1, 5, 25):
        raise ValueError(f"crops must be 0, 1, 5 or 25, got {crops}")
    if crops and codebook is not None:
        raise ValueError("codebook must be None for a variant that reads crops")
    if reads not in ("activations", "statistics"):
        raise ValueError(f"reads must be 'activations' or 'statistics', got {reads!r}")
    if reads == "statistics" and (codebook is None or not codebook.mixture):
        raise ValueError("reads='statistics' needs a codebook with a mixture")

    def register(function: Pool) -> Pool:
        code = code_of(function)
        if name in POOLINGS:
            old = POOLINGS[name]
            if not replace and not (old.code and _place(old.function) == _place(function)):
                raise ValueError(
                    f"name: there is a variant {name!r} already; choose another name, or give "
                    "replace=True"
                )
        if name in _SEEN:
            jax.clear_caches()  # compiled programs know variants by their names
        _SEEN.add(name)
        POOLINGS[name] = Pooling(name, function, crops, flip, codebook, scales, reads, code)
        return function

    return register


def code_of(function: Callable[..., object]) -> str:
    """Return the SHA-256 of the source that a function stands in; empty for this package's own.

    The whole file counts, for a constant beside a function decides as much as the function does;
    of a notebook the cell.
    """
    place = _place(function)
    if place.partition(".")[0] == "mpp_jax":
        return ""
    inner = getattr(function, "func", function)  # of a partial
    for what in (sys.modules.get(place), inner):
        try:
            source = inspect.getsource(what)  # type: ignore[arg-type]  # None is a TypeError
        except (OSError, TypeError):
            continue
        return hashlib.sha256(source.encode()).hexdigest()
    code = getattr(inner, "__code__", None)
    parts = (code.co_code, code.co_consts, code.co_names) if code is not None else inner
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _place(function: Callable[..., object]) -> str:
    """Return the name of the module that a function comes from."""
    return str(getattr(getattr(function, "func", function), "__module__", None))


def get_pooling(name: str) -> Pooling:
    """Return a registered variant; where there is none, installed packages are asked for it.

    Raises:
        ValueError: none of that name.
    """
    if name not in POOLINGS:
        for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
            entry.load()
    if name not in POOLINGS:
        raise ValueError(
            f"pooling: no variant {name!r}; there are {', '.join(sorted(POOLINGS))}. "
            "(One of a file of yours needs --plugin FILE.)"
        )
    return POOLINGS[name]
