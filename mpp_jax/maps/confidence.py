r"""Confidence maps: where in a picture a classifier's evidence lies (Yoo et al., section 4.5).

A representation can be made of any number of descriptors, so also of one. Each descriptor x_t of
each scale is therefore represented alone by the very function that encodes whole pictures, for MPP

    v_t = l2(sqrt(l2(G({x'_t}))))                          Eq. (1) of one descriptor

and weighed by the linear machines trained on whole pictures, a_tl = w_l . v_t. The weights are
accumulated over the receptive windows W_t, clipped to the picture: at pixel p

    sum     M_l(p) = sum_{t: p in W_t} a_tl                                      the paper's text
    vote    M_l(p) = #{t: p in W_t, l = argmax_m a_tm, a_tl > 0}             the author's programs

The machines' bias belongs to the whole picture and not to a patch: added to every descriptor
(``bias=True``: a_tl = w_l . v_t + b_l) it adds b_l times the number of windows over a pixel, which
is smallest at the border, and since biases are negative and larger than what one descriptor weighs,
``sum`` then peaks at the border whatever the picture shows (``experiments/figure5.py``).

A pixel that a window covers in part counts with that part, so no mass is lost in rounding. In a
stack of n representations each enters by 1 / sqrt(n), as it did in training. A descriptor that
nothing reads (such as those below the base scale for fc7, or the coarsest scale with ``first=1``)
adds nothing.

All classes of a scale are one jitted program; vectors, 65,536 numbers each at the paper's size,
exist a few at a time.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from mpp_jax.describe.dense import Descriptors
from mpp_jax.maps.accumulation import Reading, accumulate_scores
from mpp_jax.numerics import PRECISION
from mpp_jax.pooling import Atom, Evidence, parse, pool_picture
from mpp_jax.pooling.batched import read_inputs
from mpp_jax.stats.codebook import Codebook, Codebooks
from mpp_jax.svm.machines import LinearSVM

Sources = dict[str, tuple[Descriptors, ...]]
"""Descriptors by source (a layer, or SIFT), one `Descriptors` a scale."""


@dataclass(frozen=True)
class Part:
    """The part of a stacked vector that one representation is; hashable.

    Attributes:
        atom: the representation.
        start: of its columns in the stack.
        stop: their end.
    """

    atom: Atom
    start: int
    stop: int


def vectors_at_once(dimension: int) -> int:
    """Return how many vectors a program holds: on a CPU what fits its caches."""
    floats = 2**20 if jax.default_backend() == "cpu" else 2**25
    return max(1, floats // dimension)


def _alone(
    row: tuple[Array, Array],
    k: int,
    numbers: tuple[int, ...],
    codebook: Codebook | None,
    first: int,
) -> Evidence:
    """Return a descriptor (C,) with its window (4,), alone in its picture, at the k-th scale."""
    x, window = (part[None] for part in row)
    here = [i == k for i in range(len(numbers))]
    evidence = Evidence(
        numbers,
        x=tuple(x if own else jnp.zeros_like(x) for own in here),
        mask=tuple(jnp.full(1, own) for own in here),
        window=tuple(window if own else jnp.zeros_like(window) for own in here),
        first=first,
    )
    return evidence if codebook is None else evidence.counted(codebook)


def _vector(
    atoms: Sequence[Atom],
    row: tuple[Array, Array],
    k: int,
    numbers: tuple[int, ...],
    codebooks: Codebooks,
    first: int,
) -> Array:
    """Return the representations (D,) of one descriptor alone, each of unit length, in a row."""
    shared: dict[str | None, Evidence] = {}
    vectors = []
    for atom in atoms:
        book = atom.codebook
        codebook = None if book is None else codebooks[book]
        if book not in shared:
            shared[book] = _alone(row, k, numbers, codebook, first)
        vectors.append(pool_picture(atom, shared[book], codebook))
    return jnp.concatenate(vectors)


@partial(jax.jit, static_argnames=("parts", "numbers", "stacked", "first"))
def descriptor_scores(
    scales: tuple[Descriptors, ...],
    svm: LinearSVM,
    codebooks: Codebooks,
    *,
    parts: tuple[Part, ...],
    numbers: tuple[int, ...],
    stacked: int = 1,
    first: int = 0,
) -> tuple[Array, ...]:
    """Score every descriptor of one source alone.

    Args:
        scales: descriptors of a batch, one `Descriptors` a scale.
        svm: machines of L classes, with the bias that every descriptor's score has.
        codebooks: by key.
        parts: of the machines' vectors, those that are made of this source (static).
        numbers: of the scales, from 0 (static).
        stacked: number of representations in the machines' vectors (static).
        first: index of the first scale that encodings by a codebook take (static).

    Returns:
        One (B, T, L) float32 a scale; 0 where a row holds no picture or nothing is read.
    """
    atoms = [part.atom for part in parts]
    whole = jnp.asarray(svm.weights)
    columns = [whole[:, part.start : part.stop] for part in parts]
    weights = jnp.concatenate(columns, axis=1) / math.sqrt(stacked)

    def one_scale(k: int, x: Array, mask: Array, window: Array) -> Array:
        def one(row: tuple[Array, Array]) -> Array:
            v = _vector(atoms, row, k, numbers, codebooks, first)
            score = jnp.matmul(weights, v, precision=PRECISION) + svm.bias
            return jnp.where(jnp.any(v != 0), score, 0.0)

        size = min(x.shape[0], vectors_at_once(weights.shape[1]))
        return jnp.where(mask[:, None], lax.map(one, (x, window), batch_size=size), 0.0)

    def one_picture(arrays: tuple[tuple[Array, ...], tuple[Array, ...]]) -> tuple[Array, ...]:
        rows = enumerate(zip(*arrays, scales, strict=True))
        return tuple(one_scale(k, x, mask, d.window) for k, (x, mask, d) in rows)

    # One picture after the other: each result is independent of its batch, and memory bounded.
    return lax.map(one_picture, (tuple(d.x for d in scales), tuple(d.mask for d in scales)))


def without_bias(svm: LinearSVM) -> LinearSVM:
    """Return the same machines with a bias of 0."""
    return svm._replace(bias=jnp.zeros_like(svm.bias))


_MEND = "it has no map, name one that pools local descriptors, such as mpp"


def check_local(atoms: Sequence[Atom]) -> None:
    """Raise a ValueError for a stack with external features, or of crops alone."""
    name = "+".join(atom.name for atom in atoms)
    external = [atom.name for atom in atoms if atom.external]
    if external:
        raise ValueError(
            f"method: {', '.join(external)} are features of a file, which have no place in the "
            "picture; name a method without them"
        )
    if all(atom.pooling.crops for atom in atoms):
        raise ValueError(f"method: {name!r} reads crops of the picture; {_MEND}")


@dataclass(frozen=True)
class Plan:
    """What a map of one representation needs; hashable.

    Attributes:
        parts: of the machines' vectors that are made of local descriptors.
        stacked: number of all parts.
        numbers: pairs of a source and the numbers of its scales, from 0.
        first: index of the first scale that encodings by a codebook take.
    """

    parts: tuple[Part, ...]
    stacked: int
    numbers: tuple[tuple[str, tuple[int, ...]], ...]
    first: int = 0


def plan_maps(
    atoms: Sequence[Atom],
    sources: Sources,
    codebooks: Codebooks,
    numbers: Mapping[str, Sequence[int]],
    dimension: int,
    first: int = 0,
) -> Plan:
    """Find out where in the machines' vectors each representation stands.

    Args:
        atoms: of the stack, in order.
        sources: descriptors by source; those of sources that only crops are cut from may lack.
        codebooks: by key.
        numbers: of the scales, from 0, by source.
        dimension: of the machines' vectors.
        first: index of the first scale that encodings by a codebook take.

    Raises:
        ValueError: as `check_local`; or vectors of another length than the machines'.
    """
    check_local(atoms)
    name = "+".join(atom.name for atom in atoms)
    local = [atom for atom in atoms if not atom.pooling.crops]
    counts = [
        d.x.shape[1]
        for atom in local
        for number, d in zip(numbers[atom.source], sources[atom.source], strict=True)
        if atom.pooling.scales is None or number in atom.pooling.scales
    ]
    if max(counts, default=0) < 2:
        raise ValueError(f"method: {name!r} reads one descriptor of the whole picture; {_MEND}")
    if any(math.isqrt(count) ** 2 != count for count in counts):
        raise ValueError(f"descriptors must be square grids of windows, got {counts} a picture")
    widths = [_width(atom, sources, codebooks, numbers, first) for atom in atoms]
    if widths.count(None) == 1:  # crops are not described here; what is left is theirs
        rest = dimension - sum(width or 0 for width in widths)
        widths = [rest if width is None else width for width in widths]
    ends = np.cumsum([0, *(width or 0 for width in widths)])
    if ends[-1] != dimension or min(width or 0 for width in widths) < 1:
        raise ValueError(
            f"svm: {name!r} makes vectors of {ends[-1]} dimensions of these descriptors, the "
            f"machines were trained on {dimension}; give the training's layers and codebook"
        )
    parts = [
        Part(atom, int(start), int(stop))
        for atom, start, stop in zip(atoms, ends[:-1], ends[1:], strict=True)
        if atom in local
    ]
    used = {atom.source: tuple(numbers[atom.source]) for atom in local}
    return Plan(tuple(parts), len(atoms), tuple(used.items()), first)


def _width(
    atom: Atom,
    sources: Sources,
    codebooks: Codebooks,
    numbers: Mapping[str, Sequence[int]],
    first: int,
) -> int | None:
    """Return the length of a representation's vector; None for one of crops."""
    if atom.pooling.crops:
        return None
    d, rows = sources[atom.source][0], tuple(numbers[atom.source])
    vector = jax.eval_shape(
        lambda row: _vector([atom], row, 0, rows, codebooks, first), (d.x[0, 0], d.window[0])
    )
    return vector.shape[0]


def planned_maps(
    plan: Plan,
    sources: Sources,
    svm: LinearSVM,
    codebooks: Codebooks,
    sizes: Array,
    chosen: Array,
    reading: Reading,
    side: int,
) -> Array:
    """Return (B, n, side, side) maps of the classes ``chosen`` (n,); see `confidence_maps`."""
    scores: list[Array] = []
    windows: list[Array] = []
    for source, numbers in plan.numbers:
        scores += descriptor_scores(
            sources[source],
            svm,
            codebooks,
            parts=tuple(part for part in plan.parts if part.atom.source == source),
            numbers=numbers,
            stacked=plan.stacked,
            first=plan.first,
        )
        windows += [d.window for d in sources[source]]
    return accumulate_scores(tuple(scores), tuple(windows), sizes, chosen, reading, side)


def confidence_maps(
    descriptors: Sequence[Descriptors] | Mapping[str, Sequence[Descriptors]],
    svm: LinearSVM,
    codebook: Codebook | Codebooks | None,
    sizes: Array | np.ndarray | Sequence[Sequence[int]],
    *,
    method: str = "mpp",
    reading: Reading = "sum",
    bias: bool = False,
    classes: Sequence[int] | None = None,
    scales: Sequence[int] | None = None,
    first: int = 0,
    side: int | None = None,
) -> Array:
    """Return the confidence maps of a batch of pictures.

    Args:
        descriptors: as for `mpp_jax.pool`, one `Descriptors` a scale, or those of several layers.
        svm: machines of L classes, trained on ``method``'s vectors.
        codebook: that those vectors were made with, or several by key; None where they need none.
        sizes: (B, 2) height and width of each map: the picture's own, or smaller.
        method: representation that the machines were trained on.
        reading: "sum" or "vote", see the module.
        bias: whether the machines' bias is part of every descriptor's score.
        classes: numbers of the classes wanted, at least one; None for all. Votes are among all.
        scales: numbers of the scales from 0; None for 0, 1, 2, ...
        first: index of the first scale that encodings by a codebook take.
        side: of the square canvas that maps are laid on; None for the largest of ``sizes``. One
            program is compiled for each side and number of classes.

    Returns:
        (B, n, side, side) float32; map b fills ``[b, :, :height, :width]``, the rest is 0.

    Raises:
        ValueError: a method without local descriptors, an unknown reading or class, machines that
            were trained on other vectors, or sizes that do not fit.
    """
    if reading not in get_args(Reading):
        raise ValueError(f"reading must be sum or vote, got {reading!r}")
    atoms = parse(method)
    sources, numbers, books = read_inputs(atoms, descriptors, codebook, scales)
    total = np.shape(svm.weights)[0]
    chosen = np.arange(total) if classes is None else np.asarray(classes)
    if chosen.ndim != 1 or not np.issubdtype(chosen.dtype, np.integer) or not len(chosen):
        raise ValueError(f"classes must be numbers of classes, at least one, got {classes!r}")
    if np.min(chosen) < 0 or np.max(chosen) >= total:
        raise ValueError(f"classes must lie in 0..{total - 1}, got {classes!r}")
    batch = next(iter(sources.values()))[0].x.shape[0]
    wanted = np.asarray(sizes)
    if wanted.shape != (batch, 2) or wanted.min() < 1:
        raise ValueError(f"sizes must be ({batch}, 2) positive heights and widths, got {sizes!r}")
    room = int(wanted.max()) if side is None else side
    if wanted.max() > room:
        raise ValueError(f"side must be at least {wanted.max()}, the largest size, got {side}")
    machines = svm if bias else without_bias(svm)
    plan = plan_maps(atoms, sources, books, numbers, np.shape(svm.weights)[1], first)
    on_device = jnp.asarray(wanted, jnp.float32)
    return planned_maps(
        plan, sources, machines, books, on_device, jnp.asarray(chosen), reading, room
    )
