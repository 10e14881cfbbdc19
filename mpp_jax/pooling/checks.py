"""Properties that every pooling variant must have, as functions that fail with an AssertionError.

They run on small made-up evidence of any number of channels; a variant of your own is tested by::

    from mpp_jax.pooling import checks, load_plugin

    def test_my_variants():
        checks.check_all(load_plugin(Path("top.py")))

Each check takes representations by name and runs them in one program.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mpp_jax.describe.dense import Activations, Descriptors
from mpp_jax.encoders.fisher import FisherStatistics, fisher_statistics
from mpp_jax.pooling.batched import countable, encode, encode_counted
from mpp_jax.pooling.notation import Atom, parse_all
from mpp_jax.stats.codebook import Codebook, Codebooks, project
from mpp_jax.stats.mixture import GMM
from mpp_jax.stats.pca import PCA

CHANNELS, REDUCED, COMPONENTS = 7, 4, 3
SIDES = (1, 2, 3, 3, 4)
"""Positions an axis of the scales 0..4."""
SPARE = 3
"""Masked rows at the end of every scale."""
TOLERANCE = 5e-6

Scales = tuple[Descriptors, ...]


def make_codebook(seed: int = 0) -> Codebook:
    """Return a codebook of unequal weights and variances, far from the origin."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(CHANNELS, REDUCED)))[0].T
    pca = PCA(
        jnp.asarray(rng.uniform(0.2, 0.6, CHANNELS), jnp.float32),
        jnp.asarray(axes, jnp.float32),
        jnp.ones(REDUCED),
    )
    means = jnp.asarray(rng.normal(0, 0.3, (COMPONENTS, REDUCED)), jnp.float32)
    variances = jnp.asarray(rng.uniform(0.05, 0.4, (COMPONENTS, REDUCED)), jnp.float32)
    return Codebook(pca, GMM(jnp.array([0.2, 0.5, 0.3]), means, variances))


def make_scales(batch: int = 2, seed: int = 1) -> Scales:
    """Return rectified activations on regular grids, as networks give them, and masked rows."""
    rng = np.random.default_rng(seed)
    scales = []
    for side in SIDES:
        x = np.maximum(rng.normal(0.3, 0.5, (batch, side * side, CHANNELS)), 0)
        top, left = np.divmod(np.arange(side * side), side)
        corner = np.stack([top, left], axis=1) / side
        window = np.concatenate([corner, corner + 1 / side], axis=1)
        x, window = (
            np.concatenate([a, np.zeros((*a.shape[:-2], SPARE, a.shape[-1]))], axis=-2)
            for a in (x, window)
        )
        mask = np.broadcast_to(np.arange(side * side + SPARE) < side * side, x.shape[:2])
        scales.append(
            Descriptors(
                jnp.asarray(x, jnp.float32), jnp.asarray(mask), jnp.asarray(window, jnp.float32)
            )
        )
    return tuple(scales)


def encoded(methods: tuple[Atom, ...], scales: Scales) -> dict[str, Array]:
    """Return every method's vectors (B, D) of some scales, and of the same crops each time."""
    cut = np.random.default_rng(2).uniform(0, 1, (1, 10, CHANNELS)).astype(np.float32)
    crops = {
        (atom.pooling.crops, atom.pooling.flip): jnp.tile(cut, (scales[0].x.shape[0], 1, 1))
        for atom in methods
        if atom.pooling.crops
    }
    books: Codebooks = {a.codebook: make_codebook() for a in methods if a.codebook is not None}
    sources = {atom.source: Activations(scales, crops) for atom in methods}
    numbers = tuple((source, tuple(range(len(scales)))) for source in sources)
    return encode(sources, books, methods, numbers)


def _same(one: dict[str, Array], other: dict[str, Array], what: str) -> None:
    for name, wanted in one.items():
        difference = float(np.max(np.abs(np.asarray(wanted) - np.asarray(other[name]))))
        assert difference <= TOLERANCE, f"{name}: changes by {difference:.1e} with {what}"


def check_unit_norm(names: Sequence[str]) -> None:
    """Check that vectors are of unit length, (B, D); of a picture without descriptors, zero."""
    methods, scales = parse_all(names), make_scales()
    for name, vectors in encoded(methods, scales).items():
        assert vectors.ndim == 2, f"{name}: one vector a picture is wanted"
        norms = np.linalg.norm(vectors, axis=1)
        assert np.allclose(norms, 1, atol=1e-4), f"{name}: lengths {norms}, wanted 1"
    nothing = encoded(methods, tuple(s._replace(mask=jnp.zeros_like(s.mask)) for s in scales))
    for atom in methods:
        if not atom.pooling.crops:
            found = np.asarray(nothing[atom.name])
            assert not found.any(), f"{atom.name}: not zero without any descriptor"


def check_permutation(names: Sequence[str]) -> None:
    """Check that the order of the positions within a scale does not matter."""
    methods, scales = parse_all(names), make_scales()
    rng = np.random.default_rng(5)
    shuffled = []
    for s in scales:
        order = rng.permutation(s.x.shape[1])
        shuffled.append(Descriptors(s.x[:, order], s.mask[:, order], s.window[order]))
    _same(encoded(methods, scales), encoded(methods, tuple(shuffled)), "the order of positions")


def check_padding(names: Sequence[str]) -> None:
    """Check that masked rows do not matter, whatever they hold."""
    methods, scales = parse_all(names), make_scales()
    spoilt = tuple(s._replace(x=jnp.where(s.mask[:, :, None], s.x, jnp.nan)) for s in scales)
    _same(encoded(methods, scales), encoded(methods, spoilt), "masked rows")


def check_batch(names: Sequence[str]) -> None:
    """Check that a picture's vector does not depend on the pictures beside it."""
    methods, scales = parse_all(names), make_scales(batch=2)
    together = encoded(methods, scales)
    for row in range(2):
        alone, _ = _alone(methods, tuple(jnp.asarray(s.x[row : row + 1]) for s in scales))
        mine = {name: vectors[row : row + 1] for name, vectors in together.items()}
        _same(mine, alone, "the batch")


def check_single_scale(names: Sequence[str]) -> None:
    """Check that one scale is enough, for variants that ask for none in particular."""
    free = tuple(atom for atom in parse_all(names) if atom.pooling.scales is None)
    for name, vectors in encoded(free, make_scales()[:1]).items():
        assert np.isfinite(np.asarray(vectors)).all(), f"{name}: NaN with a single descriptor"


def check_gradient(names: Sequence[str]) -> None:
    """Check that the gradient in the activations is finite (that of counts is zero)."""
    methods, scales = parse_all(names), make_scales()
    x = tuple(jnp.asarray(s.x[:1]) for s in scales)

    def finite(some: tuple[Atom, ...]) -> bool:
        _, gradient = _alone(some, x)
        return all(bool(jnp.isfinite(part).all()) for part in gradient)

    if not finite(methods):
        bad = [atom.name for atom in methods if not finite((atom,))]
        raise AssertionError(f"{', '.join(bad)}: the gradient holds NaN or infinity")


def check_statistics(names: Sequence[str]) -> None:
    """Check that variants that say so read nothing but the statistics of their descriptors."""
    methods, scales = tuple(filter(countable, parse_all(names))), make_scales()
    if not methods:
        return
    books: Codebooks = {a.codebook: make_codebook() for a in methods if a.codebook is not None}

    def count(book: Codebook, x: Array, mask: Array) -> FisherStatistics:
        return fisher_statistics(project(book, x), book.gmm, mask)

    counts = {
        key: tuple(jax.vmap(partial(count, book))(s.x, s.mask) for s in scales)
        for key, book in books.items()
    }
    numbers = tuple((atom.source, tuple(range(len(scales)))) for atom in methods)
    alone = encode_counted(counts, books, methods, tuple(dict.fromkeys(numbers)))
    _same(encoded(methods, scales), alone, "statistics in the place of activations")


@partial(jax.jit, static_argnums=0)
def _alone(
    methods: tuple[Atom, ...], x: tuple[Array, ...]
) -> tuple[dict[str, Array], tuple[Array, ...]]:
    """Return vectors (1, D) of a single picture, and the gradient of a number made of them."""
    scales = make_scales(batch=1)

    def number(x: tuple[Array, ...]) -> tuple[Array, dict[str, Array]]:
        moved = tuple(s._replace(x=v) for s, v in zip(scales, x, strict=True))
        vectors = encoded(methods, moved)
        total = sum(jnp.sum(v * jnp.cos(jnp.arange(v.size))[None, :]) for v in vectors.values())
        return jnp.asarray(total), vectors

    (_, vectors), gradient = jax.value_and_grad(number, has_aux=True)(x)
    return vectors, gradient


ALL = (
    check_unit_norm,
    check_permutation,
    check_padding,
    check_batch,
    check_single_scale,
    check_gradient,
    check_statistics,
)


def check_all(names: Sequence[str]) -> None:
    """Run every check on some representations.

    Args:
        names: as on the command line.

    Raises:
        AssertionError: a property that a variant lacks.
        ValueError: an unknown variant.
    """
    for check in ALL:
        check(names)
