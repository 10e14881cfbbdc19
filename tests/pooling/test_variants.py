"""What every registered variant must have, and the definitions of those beyond the paper's five."""

import jax.numpy as jnp
import numpy as np
import pytest

from mpp_jax.describe.dense import Activations, Descriptors
from mpp_jax.encoders.fisher import fisher_vector
from mpp_jax.encoders.sets import gem_pooling, second_order_pooling
from mpp_jax.encoders.vlad import vlad
from mpp_jax.numerics import l2_normalize, power_l2
from mpp_jax.pooling import POOLINGS, checks, encode, parse, pool
from mpp_jax.pooling.notation import grid_cells
from mpp_jax.stats.codebook import project

ALIKE = {f"fv{k}" for k in range(2, 8)}  # one function serves all seven
SCALES = checks.make_scales()
CODEBOOK = checks.make_codebook()


@pytest.mark.parametrize("check", checks.ALL, ids=lambda check: check.__name__)
def test_every_variant(check) -> None:
    check([*sorted(set(POOLINGS) - ALIKE), "avg+sp2x2"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test-long", "lengths"),
        ("test-order", "the order of positions"),
        ("test-masked", "not zero without any descriptor"),
        ("test-leak", "masked rows"),
        ("test-nan", "gradient holds NaN"),
    ],
)
def test_the_checks_find_what_is_wrong(name: str, message: str, monkeypatch) -> None:
    """Each check fails on a variant that lacks its property."""

    def first(evidence, codebook):
        return evidence.x[0][0]

    def masked(evidence, codebook):
        return l2_normalize(evidence.x[-1].mean(axis=0))

    def leak(evidence, codebook):
        return l2_normalize((evidence.x[-1] * evidence.mask[-1][:, None]).sum(axis=0))

    def ordered(evidence, codebook):
        return l2_normalize(jnp.where(evidence.mask[-1][:, None], evidence.x[-1], 0)[0])

    def rooted(evidence, codebook):
        return l2_normalize(
            jnp.sqrt(jnp.where(evidence.mask[-1][:, None], evidence.x[-1], 0)).sum(0)
        )

    functions = {
        "test-long": first,
        "test-masked": masked,
        "test-leak": leak,
        "test-order": ordered,
        "test-nan": rooted,
    }
    template = POOLINGS["avg"]
    bad = type(template)(name, functions[name], codebook=None)
    monkeypatch.setitem(POOLINGS, name, bad)
    with pytest.raises(AssertionError, match=message):
        checks.check_all([name])


def one(name: str, scales: tuple[Descriptors, ...] = SCALES) -> np.ndarray:
    """Return the first picture's vector."""
    return np.asarray(pool(name, scales, CODEBOOK))[0]


def rows(s: Descriptors) -> np.ndarray:
    """Return the first picture's activations that are not masked."""
    return np.asarray(s.x[0])[np.asarray(s.mask[0])]


def power(v: np.ndarray) -> np.ndarray:
    root = np.sign(v) * np.sqrt(np.abs(v))
    return root / np.linalg.norm(root)


def unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)


def test_scale_fisher_vectors() -> None:
    for k in (0, 2, 4):
        y = project(CODEBOOK, jnp.asarray(rows(SCALES[k])))
        wanted = power_l2(fisher_vector(y, CODEBOOK.gmm))
        np.testing.assert_allclose(one(f"fv{k + 1}"), wanted, atol=1e-5)
    # By the scale's number, wherever it stands.
    later = pool("fv3", SCALES[2:4], CODEBOOK, scales=(2, 3))
    np.testing.assert_allclose(later[0], one("fv3"), atol=1e-6)


def test_entropy_weights() -> None:
    total, weights = np.zeros(2 * 3 * 4), []
    for s in SCALES:
        y = np.asarray(project(CODEBOOK, jnp.asarray(rows(s))), np.float64)
        w, mu, var = (np.asarray(a, np.float64) for a in CODEBOOK.gmm)
        log = np.log(w) - 0.5 * (np.log(var).sum(1) + ((y[:, None] - mu) ** 2 / var).sum(2))
        q = np.exp(log - log.max(axis=1, keepdims=True))
        q /= q.sum(axis=1, keepdims=True)
        share = q.mean(axis=0)
        weights.append(-(share * np.log(np.maximum(share, 1e-300))).sum() / np.log(3))
        total += weights[-1] * unit(np.asarray(fisher_vector(jnp.asarray(y), CODEBOOK.gmm)))
    assert max(weights) > 1.5 * min(weights)  # else plain mpp would pass
    np.testing.assert_allclose(one("mpp-entropy"), power(total), atol=2e-4)
    # A single descriptor that is one component's has no entropy; the scale still counts alone.
    np.testing.assert_allclose(one("mpp-entropy", SCALES[:1]), one("mpp", SCALES[:1]), atol=1e-5)


def test_codings_take_the_place_of_the_fisher_vector() -> None:
    raw = {"max": lambda x: x.max(axis=0), "gem": lambda x: gem_pooling(x, 3.0)}
    book = {
        "vlad": lambda y: vlad(y, CODEBOOK.gmm.means),
        "cov": lambda y: second_order_pooling(y, centred=False),
    }
    for name, encoder in (raw | book).items():
        sets = [jnp.asarray(rows(s)) for s in SCALES]
        if name in book:
            sets = [project(CODEBOOK, x) for x in sets]
        wanted = power(np.mean([unit(np.asarray(encoder(x))) for x in sets], axis=0))
        # A few descriptors have moments of low rank, whose root shows the square root of rounding.
        tolerance = 2e-4 if name == "cov" else 2e-5
        np.testing.assert_allclose(one(name), wanted, atol=tolerance, err_msg=name)


def test_mop() -> None:
    """fc7 and the VLADs of scales 3 and 5, with a codebook of its own."""
    (atom,) = parse("mop")
    assert atom.codebook == "default.pca500-k100"
    sources = {"default": Activations(SCALES, {})}
    numbers = (("default", tuple(range(len(SCALES)))),)
    vectors = encode(sources, {atom.codebook: CODEBOOK}, (atom,), numbers)["mop"]
    parts = [unit(rows(SCALES[0]).mean(axis=0))]
    parts += [
        np.asarray(vlad(project(CODEBOOK, jnp.asarray(rows(SCALES[k]))), CODEBOOK.gmm.means))
        for k in (2, 4)
    ]
    np.testing.assert_allclose(vectors[0], unit(np.concatenate(parts)), atol=1e-5)


def test_grid_is_the_variant_of_each_cell() -> None:
    cells = grid_cells("sp1x1_3x1")
    assert cells[0] == (0, 0, 1, 1)
    assert cells[1:] == ((0, 0, 1 / 3, 1), (1 / 3, 0, 2 / 3, 1), (2 / 3, 0, 1, 1))
    parts = []
    for top, _, bottom, _ in cells:
        inside = []
        for s in SCALES:
            centre = (s.window[:, 0] + s.window[:, 2]) / 2
            kept = (centre >= top) & (centre < bottom)
            inside.append(s._replace(mask=s.mask & kept[None, :]))
        parts.append(np.asarray(pool("mpp", tuple(inside), CODEBOOK))[0])
    np.testing.assert_allclose(one("mpp+sp"), unit(np.concatenate(parts)), atol=1e-5)


def test_layers_and_stacks() -> None:
    """A layer by name has activations and a codebook of its own."""
    other = tuple(s._replace(x=s.x[:, :, ::-1] ** 2) for s in SCALES)
    given = {"default": SCALES, "pool5": other}
    books = {"default.fisher": CODEBOOK, "pool5.fisher": checks.make_codebook(3)}
    both = pool("mpp+mpp(pool5)", given, books)
    alone = pool("mpp", other, books["pool5.fisher"])
    np.testing.assert_allclose(both[:, 24:], np.asarray(alone) / np.sqrt(2), atol=1e-6)
    np.testing.assert_allclose(
        both[:, :24], np.asarray(pool("mpp", SCALES, CODEBOOK)) / np.sqrt(2), atol=1e-6
    )


@pytest.mark.parametrize("name", ["avg", "ap10", "gem", "mpp"])
def test_activations_in_bfloat16_are_pooled_in_float32(name: str) -> None:
    """What is lost is what the activations lost, and rows are of unit length all the same."""
    short = [d._replace(x=d.x.astype(jnp.bfloat16)) for d in SCALES]
    same = [d._replace(x=d.x.astype(jnp.float32)) for d in short]
    cut = SCALES[0].x[:, :1].repeat(10, axis=1).astype(jnp.bfloat16) if name == "ap10" else None
    got = pool(name, short, CODEBOOK, crops=cut)
    want = pool(name, same, CODEBOOK, crops=None if cut is None else cut.astype(jnp.float32))
    np.testing.assert_allclose(got, want, atol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(got, axis=1), 1, atol=1e-5)
