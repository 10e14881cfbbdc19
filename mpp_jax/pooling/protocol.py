r"""Pooling: from the local activations of one picture to one vector.

Notation: x_s the activations of scale s, x'_s after the codebook's projection, G(X) the Fisher
vector of a set X, l2 the division by the Euclidean norm, S the scales that have descriptors.

    fc7          l2(x_0)                                   the whole picture at the base side
    ap1          l2(centre crop of 256 x 256)              the paper's "FC7" (Table 2)
    ap10, ap50   l2(mean over 5 or 25 crops and flips)     Table 2
    avg          l2(1/|S| sum_s l2(mean x_s))
    nfk          l2(sqrt(G(union_s x'_s)))                 Eq. (2)
    csf          l2(sqrt(concat_s l2(G(x'_s))))            Table 2
    mpp          l2(sqrt(1/|S| sum_s l2(G(x'_s))))         Eq. (1)

with sqrt the signed square root ("power normalisation" with exponent 1/2). "a+b" stacks finished
representations: l2(concat(a, b)).

A variant is a pure function of one picture's `Evidence` and the codebook; batching is `vmap`,
outside. One jitted program computes any number of them and shares what they share: all Fisher
vectors come from one pass over the descriptors, because its statistics add over scales.

Register one of your own::

    @register_pooling("max")
    def max_pooling(evidence, codebook):
        return l2_normalize(jnp.max(jnp.concatenate(evidence.x), axis=0))
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from mpp_jax.codebook import Codebook, project
from mpp_jax.dense import Descriptors
from mpp_jax.fisher import (
    FisherStatistics,
    fisher_from_statistics,
    fisher_statistics,
    l2_normalize,
    power_l2,
)
from mpp_jax.pyramid import over_pictures


class Evidence(NamedTuple):
    """What one picture gives to a pooling variant. Tuples run over the scales.

    What a variant does not read is never computed.

    Attributes:
        x: (T, C) activations.
        mask: (T,) bool; rows where it is False hold nothing.
        window: (T, 4) receptive windows as fractions of the picture.
        statistics: Fisher statistics of the projected activations; empty without a codebook.
        crops: (n, C) activations of the crops that the variant asked for, or None.
    """

    x: tuple[Array, ...]
    mask: tuple[Array, ...]
    window: tuple[Array, ...]
    statistics: tuple[FisherStatistics, ...]
    crops: Array | None


Pool = Callable[[Evidence, Codebook], Array]


@dataclass(frozen=True)
class Pooling:
    """A registered variant.

    Attributes:
        name: as on the command line.
        function: of one picture's evidence and the codebook, to a finished unit vector.
        crops: 0, or 1, 5, 25 crops that it reads instead of the scales.
        flip: whether the crops' mirror images follow them.
        codebook: whether it needs one.
        base_only: whether it reads no scale but the base one (which then must be there).
    """

    name: str
    function: Pool
    crops: int = 0
    flip: bool = False
    codebook: bool = True
    base_only: bool = False


POOLINGS: dict[str, Pooling] = {}
_NAME = re.compile(r"[a-z0-9_-]+")


def register_pooling(
    name: str,
    *,
    crops: int = 0,
    flip: bool = False,
    codebook: bool = True,
    base_only: bool = False,
) -> Callable[[Pool], Pool]:
    """Register a variant under a name; the decorated function is returned unchanged.

    Args:
        name: letters, digits, ``_`` and ``-``; the command line and file names carry it.
        crops: as the others, see `Pooling`.
        flip: likewise.
        codebook: likewise.
        base_only: likewise.

    Raises:
        ValueError: a name that is taken or has other characters, or an unknown number of crops.
    """
    if not _NAME.fullmatch(name) or name in POOLINGS:
        raise ValueError(f"name must be new, of lower-case letters, digits, _ and -, got {name!r}")
    if crops not in (0, 1, 5, 25):
        raise ValueError(f"crops must be 0, 1, 5 or 25, got {crops}")

    def register(function: Pool) -> Pool:
        POOLINGS[name] = Pooling(name, function, crops, flip, codebook, base_only)
        return function

    return register


def get_pooling(name: str) -> Pooling:
    """Return a registered variant.

    Raises:
        ValueError: none of that name.
    """
    if name not in POOLINGS:
        raise ValueError(f"pooling: no variant {name!r}; there are {', '.join(sorted(POOLINGS))}")
    return POOLINGS[name]


def split_stacks(names: Sequence[str]) -> tuple[str, ...]:
    """Return the variants that single names and stacks ``a+b`` are made of, each once, in order.

    Raises:
        ValueError: an unknown variant, or one stacked with itself.
    """
    parts: dict[str, None] = {}
    for name in names:
        stack = name.split("+")
        if len(set(stack)) != len(stack):
            raise ValueError(f"pooling: {name!r} stacks a representation with itself")
        for part in stack:
            parts[get_pooling(part).name] = None
    return tuple(parts)


def mean_descriptor(x: Array, mask: Array) -> Array:
    """Return the mean (C,) of the valid rows of x (T, C); zero where there is none."""
    weight = mask.astype(x.dtype)[:, None]
    total = jnp.sum(jnp.where(mask[:, None], x, 0), axis=0)
    return total / jnp.maximum(jnp.sum(weight), 1)


def scale_fisher_vectors(evidence: Evidence, codebook: Codebook) -> tuple[list[Array], list[Array]]:
    """Return the L2-normalised Fisher vector of every scale, and 1.0 or 0.0 for its presence."""
    vectors = [
        l2_normalize(fisher_from_statistics(statistics, codebook.gmm))
        for statistics in evidence.statistics
    ]
    return vectors, [(s.count > 0).astype(jnp.float32) for s in evidence.statistics]


@register_pooling("fc7", codebook=False, base_only=True)
def fc7(evidence: Evidence, codebook: Codebook) -> Array:
    """The activation of the whole picture: the base scale, averaged where it has several."""
    return l2_normalize(mean_descriptor(evidence.x[0], evidence.mask[0]))


def _crops(evidence: Evidence, codebook: Codebook) -> Array:
    assert evidence.crops is not None  # encode() checks
    return l2_normalize(jnp.mean(evidence.crops, axis=0))


register_pooling("ap1", crops=1, codebook=False)(_crops)
register_pooling("ap10", crops=5, flip=True, codebook=False)(_crops)
register_pooling("ap50", crops=25, flip=True, codebook=False)(_crops)


@register_pooling("avg", codebook=False)
def avg(evidence: Evidence, codebook: Codebook) -> Array:
    """Mean over scales of the L2-normalised mean activation: scale-wise, but without Fisher."""
    pairs = zip(evidence.x, evidence.mask, strict=True)
    return l2_normalize(sum(l2_normalize(mean_descriptor(x, mask)) for x, mask in pairs))


@register_pooling("nfk")
def nfk(evidence: Evidence, codebook: Codebook) -> Array:
    """Naive Fisher kernel, Eq. (2): one Fisher vector of all descriptors of all scales."""
    together = jax.tree.map(lambda *parts: sum(parts), *evidence.statistics)
    return power_l2(fisher_from_statistics(together, codebook.gmm))


@register_pooling("csf")
def csf(evidence: Evidence, codebook: Codebook) -> Array:
    """Concatenation of the scale-wise normalised Fisher vectors."""
    vectors, _ = scale_fisher_vectors(evidence, codebook)
    return power_l2(jnp.concatenate(vectors))


@register_pooling("mpp")
def mpp(evidence: Evidence, codebook: Codebook) -> Array:
    """Multi-scale pyramid pooling, Eq. (1): mean of the scale-wise normalised Fisher vectors."""
    vectors, present = scale_fisher_vectors(evidence, codebook)
    return power_l2(sum(vectors) / jnp.maximum(sum(present), 1.0))


def _evidence(scales: tuple[Descriptors, ...], codebook: Codebook | None, first: int) -> Evidence:
    statistics = (
        ()
        if codebook is None
        else tuple(
            fisher_statistics(project(codebook, d.x), codebook.gmm, d.mask) for d in scales[first:]
        )
    )
    return Evidence(
        tuple(d.x for d in scales),
        tuple(d.mask for d in scales),
        tuple(d.window for d in scales),
        statistics,
        None,
    )


@partial(jax.jit, static_argnames=("methods", "first"))
def encode(
    scales: tuple[Descriptors, ...],
    crops: dict[tuple[int, bool], Array],
    codebook: Codebook | None,
    methods: tuple[str, ...],
    first: int = 0,
) -> dict[str, Array]:
    """Encode a batch of pictures with several variants in one program.

    Args:
        scales: descriptors of the batch, one `Descriptors` a scale.
        crops: (B, n, C) activations of crops, by (number of crops, flipped).
        codebook: None where no method needs one.
        methods: single variants, no stacks (static).
        first: index of the first scale that Fisher encodings take (static).

    Returns:
        {method: (B, D) float32}, rows of unit length (zero where a picture has no descriptor).
    """
    windows = tuple(d.window for d in scales)

    def one(arguments: tuple[tuple[Array, ...], tuple[Array, ...], dict]) -> dict[str, Array]:
        x, mask, cut = arguments
        evidence = _evidence(tuple(map(Descriptors, x, mask, windows)), codebook, first)
        result = {}
        for name in methods:
            pooling = get_pooling(name)
            crop = cut[pooling.crops, pooling.flip] if pooling.crops else None
            vector = pooling.function(evidence._replace(crops=crop), codebook)  # type: ignore[arg-type]
            result[name] = vector.astype(jnp.float32)
        return result

    return over_pictures(one, (tuple(d.x for d in scales), tuple(d.mask for d in scales), crops))


def check_methods(methods: Sequence[str], *, codebook: bool, scales: Sequence[int]) -> None:
    """Raise a ValueError where a variant lacks its codebook or its scale (numbers from 0)."""
    for name in methods:
        pooling = get_pooling(name)
        if pooling.codebook and not codebook:
            raise ValueError(f"pooling: {name!r} needs a codebook (fit one first)")
        if pooling.base_only and 0 not in scales:
            given = ", ".join(str(k + 1) for k in scales)
            raise ValueError(f"pooling: {name!r} reads scale 1, which is not among {given}")


def pool(
    name: str,
    descriptors: Sequence[Descriptors],
    codebook: Codebook | None = None,
    *,
    crops: Array | None = None,
) -> Array:
    """Encode pictures with one registered variant or a stack ``a+b``.

    Args:
        name: of the variant.
        descriptors: one `Descriptors` a scale, coarsest first, as `dense_descriptors` gives them.
        codebook: from `fit_codebook`; variants without Fisher vectors need none.
        crops: (B, n, C) activations of crops for ap1, ap10 and ap50.

    Returns:
        (B, D) float32.

    Raises:
        ValueError: an unknown variant, or one that lacks its codebook, crops or scales.
    """
    methods = split_stacks([name])
    check_methods(methods, codebook=codebook is not None, scales=[0])
    if not descriptors and not all(get_pooling(m).crops for m in methods):
        raise ValueError(f"descriptors: {name!r} needs those of at least one scale, got none")
    wanted = {(get_pooling(m).crops, get_pooling(m).flip) for m in methods if get_pooling(m).crops}
    if wanted and (crops is None or len(wanted) > 1):
        raise ValueError(f"crops: {name!r} needs the activations of one set of crops")
    given = {key: jnp.asarray(crops) for key in wanted}
    parts = encode(tuple(descriptors), given, codebook, methods)
    vectors = [parts[m] for m in methods]
    return vectors[0] if len(vectors) == 1 else l2_normalize(jnp.concatenate(vectors, axis=1))
