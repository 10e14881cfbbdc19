"""Batches of pictures through any number of variants, in one jitted program."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from mpp_jax.describe.dense import DEFAULT, Activations, Descriptors
from mpp_jax.encoders.fisher import FisherStatistics
from mpp_jax.numerics import l2_normalize, over_pictures, real_dtype
from mpp_jax.pooling.notation import Atom, grid_cells, parse
from mpp_jax.pooling.protocol import Evidence
from mpp_jax.stats.codebook import FISHER, Codebook, Codebooks
from mpp_jax.stats.mixture import check_mixture


@partial(jax.jit, static_argnames=("numbers", "methods", "first"))
def encode(
    sources: dict[str, Activations],
    codebooks: Codebooks,
    methods: tuple[Atom, ...],
    numbers: tuple[tuple[str, tuple[int, ...]], ...],
    first: int = 0,
) -> dict[str, Array]:
    """Encode a batch of pictures with several variants in one program.

    Args:
        sources: activations of the batch by source, see `Atom.source`.
        codebooks: by key, see `Atom.codebook`.
        methods: what is computed (static).
        numbers: pairs of a source and the numbers of its scales, from 0 (static).
        first: index of the first scale that encodings by a codebook take (static).

    Returns:
        {atom's name: (B, D) float32}, rows of unit length (zero where a picture has no
        descriptor).
    """
    scales = dict(numbers)
    windows = {name: tuple(d.window for d in source.scales) for name, source in sources.items()}
    arrays = {
        name: (tuple(d.x for d in s.scales), tuple(d.mask for d in s.scales), s.crops)
        for name, s in sources.items()
    }

    def one(pictures: dict) -> dict[str, Array]:
        # Sums and norms in bfloat16 keep two digits, and rows would not be of unit length.
        pictures = jax.tree.map(_at_least_float32, pictures)
        shared: dict[tuple[str, str | None], Evidence] = {}
        result = {}
        for atom in methods:
            x, mask, crops = pictures[atom.source]
            pooling, book = atom.pooling, atom.codebook
            codebook = None if book is None else codebooks[book]
            if (atom.source, book) not in shared:
                evidence = Evidence(scales[atom.source], x, mask, windows[atom.source], first=first)
                shared[atom.source, book] = (
                    evidence if codebook is None else evidence.counted(codebook)
                )
            crop = crops[pooling.crops, pooling.flip] if pooling.crops else None
            evidence = shared[atom.source, book]._replace(crops=crop)
            result[atom.name] = pool_picture(atom, evidence, codebook).astype(jnp.float32)
        return result

    return over_pictures(one, arrays)


@partial(jax.jit, static_argnames=("methods", "numbers", "first"))
def encode_counted(
    statistics: dict[str, tuple[FisherStatistics, ...]],
    codebooks: Codebooks,
    methods: tuple[Atom, ...],
    numbers: tuple[tuple[str, tuple[int, ...]], ...],
    first: int = 0,
) -> dict[str, Array]:
    """Encode a batch of pictures whose descriptors are counted already: `encode` without them.

    Args:
        statistics: of the batch, (B, ...) one a scale, by the codebook's key.
        codebooks: by key.
        methods: what is computed, such that `countable` is true of each (static).
        numbers: as in `encode` (static).
        first: as in `encode` (static).

    Returns:
        As `encode`.
    """
    scales = dict(numbers)

    def one(pictures: dict[str, tuple[FisherStatistics, ...]]) -> dict[str, Array]:
        result = {}
        for atom in methods:
            book = atom.codebook
            assert book is not None  # it is countable
            evidence = Evidence(scales[atom.source], (), (), (), pictures[book], first=first)
            result[atom.name] = pool_picture(atom, evidence, codebooks[book]).astype(jnp.float32)
        return result

    return over_pictures(one, statistics)


def _at_least_float32(array: Array) -> Array:
    """Return an array of activations in `real_dtype`; masks stay what they are."""
    return array if array.dtype == bool else array.astype(real_dtype(array))


def countable(atom: Atom) -> bool:
    """Return whether a variant is computed from the Fisher statistics of each scale alone."""
    return not atom.external and atom.pooling.reads == "statistics" and atom.grid is None


def pool_picture(atom: Atom, evidence: Evidence, codebook: Codebook | None) -> Array:
    """Return the finished vector (D,) of one picture: the variant, on its scales and grid."""
    pooling = atom.pooling
    if pooling.scales is not None:
        evidence = evidence.select(pooling.scales)
    if atom.grid is None:
        return pooling.function(evidence, codebook)  # type: ignore[arg-type]
    cells = [
        pooling.function(evidence.within(cell, codebook), codebook)  # type: ignore[arg-type]
        for cell in grid_cells(atom.grid)
    ]
    return l2_normalize(jnp.concatenate(cells))


def check_methods(
    methods: Sequence[Atom], *, codebooks: Mapping[str, object] | None, scales: Sequence[int]
) -> None:
    """Raise a ValueError where a variant lacks its codebook or a scale (numbers from 0).

    With ``codebooks`` None only the scales are checked.
    """
    for atom in methods:
        if atom.external:
            continue
        if codebooks is not None and atom.codebook is not None and atom.codebook not in codebooks:
            there = ", ".join(sorted(codebooks)) or "none"
            raise ValueError(
                f"pooling: {atom.name!r} needs the codebook {atom.codebook!r} (there: {there}); "
                "fit it first, with the same --pooling"
            )
        missing = sorted(set(atom.pooling.scales or ()) - set(scales))
        if missing and not atom.pooling.crops:
            wanted = ", ".join(str(k + 1) for k in missing)
            given = ", ".join(str(k + 1) for k in scales)
            raise ValueError(
                f"pooling: {atom.name!r} reads scale {wanted}, which is not among {given}"
            )


class Inputs(NamedTuple):
    """What `pool` and `mpp_jax.confidence_maps` are given, in the one form that all else takes.

    Attributes:
        sources: descriptors by source, one `Descriptors` a scale.
        numbers: of the scales, from 0, of the sources that the atoms read.
        codebooks: by key.
    """

    sources: dict[str, tuple[Descriptors, ...]]
    numbers: dict[str, tuple[int, ...]]
    codebooks: Codebooks


def read_inputs(
    atoms: Sequence[Atom],
    descriptors: Sequence[Descriptors] | Mapping[str, Sequence[Descriptors]],
    codebook: Codebook | Codebooks | None,
    scales: Sequence[int] | None,
) -> Inputs:
    """Bring what was given for some atoms into one form.

    Args:
        atoms: what will be computed.
        descriptors: one `Descriptors` a scale, of the default source; or those of several by name.
        codebook: the Fisher vector's of the default source; or several by key.
        scales: numbers of the scales from 0; None for 0, 1, 2, ...

    Raises:
        ValueError: an atom lacks its descriptors, codebook or scale, or numbers do not fit; a
            codebook's mixture cannot be one.
    """
    given = descriptors if isinstance(descriptors, Mapping) else {DEFAULT: descriptors}
    sources = {source: tuple(parts) for source, parts in given.items()}
    books = codebook if isinstance(codebook, dict) else {}
    if isinstance(codebook, Codebook):
        books = {f"{DEFAULT}.{FISHER.name}": codebook}
    for key, book in books.items():
        check_mixture(book.gmm, f"codebook {key!r}: gmm")
    numbers: dict[str, tuple[int, ...]] = {}
    for atom in atoms:
        parts = sources.get(atom.source, ())
        if not parts and not atom.pooling.crops:
            raise ValueError(
                f"descriptors: {atom.name!r} needs those of at least one scale of "
                f"{atom.source!r}, got none"
            )
        rows = tuple(range(len(parts)) if scales is None or not parts else scales)
        if len(rows) != len(parts):
            raise ValueError(f"scales must number {len(parts)} sets of descriptors, got {scales}")
        numbers[atom.source] = rows
        check_methods([atom], codebooks=books, scales=rows)
    return Inputs(sources, numbers, books)


def pool(
    name: str,
    descriptors: Sequence[Descriptors] | Mapping[str, Sequence[Descriptors]],
    codebook: Codebook | Codebooks | None = None,
    *,
    crops: Array | None = None,
    scales: Sequence[int] | None = None,
) -> Array:
    """Encode pictures with one registered variant, on a grid or stacked as `notation` has it.

    Args:
        name: "mpp", "mpp+avg", "mpp(fc7,pool5)+sp" ...
        descriptors: one `Descriptors` a scale, coarsest first, as `dense_descriptors` gives them;
            or those of several layers by name.
        codebook: from `fit_codebook`; variants without Fisher vectors need none. Where several are
            needed, by key: "default.fisher" for the one layer, "pool5.fisher" for a named one.
        crops: (B, n, C) activations of crops for ap1, ap10 and ap50, of the layer they name.
        scales: numbers of the scales from 0; None for 0, 1, 2, ...

    Returns:
        (B, D) float32.

    Raises:
        ValueError: an unknown variant, or one that lacks its codebook, crops or scales.
    """
    atoms = parse(name)
    wanted = {(a.pooling.crops, a.pooling.flip) for a in atoms if a.pooling.crops}
    if wanted and (crops is None or len(wanted) > 1):
        raise ValueError(f"crops: {name!r} needs the activations of one set of crops")
    given = read_inputs(atoms, descriptors, codebook, scales)
    cut = {kind: jnp.asarray(crops) for kind in wanted}
    sources = {key: Activations(given.sources.get(key, ()), cut) for key in given.numbers}
    vectors = encode(sources, given.codebooks, atoms, tuple(given.numbers.items()))
    parts = [vectors[atom.name] for atom in atoms]
    return parts[0] if len(parts) == 1 else l2_normalize(jnp.concatenate(parts, axis=1))
