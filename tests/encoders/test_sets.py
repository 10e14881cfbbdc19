"""Bag of words, super-vectors, plain, second-order and generalised max pooling."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import reference
from jax.test_util import check_grads

from mpp_jax.encoders import sets
from mpp_jax.encoders.fisher import fisher_vector
from mpp_jax.stats.mixture import GMM

N, D, K = 40, 5, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, D)).astype(np.float32)
CENTRES = RNG.normal(size=(K, D)).astype(np.float32)
WEIGHTS = np.array([0.1, 0.4, 0.3, 0.2], np.float32)
MIXTURE = GMM(*map(jnp.asarray, (WEIGHTS, CENTRES, RNG.gamma(3, 0.3, (K, D)).astype(np.float32))))

ASSIGNMENTS = [("hard", 1), ("hard", 2), ("soft", 0), ("soft", 3)]
CALLS = {
    "bag_of_words": partial(sets.bag_of_words, assignment="soft", neighbours=0),
    "super_vector": sets.super_vector,
    "mean_pooling": sets.mean_pooling,
    "max_pooling": sets.max_pooling,
    "gem_pooling": sets.gem_pooling,
    "second_order_pooling": sets.second_order_pooling,
    "generalized_max_pooling": sets.generalized_max_pooling,
    "fisher_gmp": sets.fisher_gmp,
}
PARAMETERS = {
    "bag_of_words": CENTRES,
    "super_vector": CENTRES,
    "gem_pooling": 2.5,
    "generalized_max_pooling": 0.5,
    "fisher_gmp": MIXTURE,
}


def call(name):
    function, params = CALLS[name], PARAMETERS.get(name)
    return lambda x, mask=None: function(x, params, mask)


@pytest.mark.parametrize(("kind", "neighbours"), ASSIGNMENTS)
def test_bag_of_words(kind, neighbours):
    got = sets.bag_of_words(X, CENTRES, assignment=kind, neighbours=neighbours, sharpness=0.8)
    expected = reference.assignments(X, CENTRES, kind, neighbours, 0.8).mean(0)
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize(("kind", "neighbours"), ASSIGNMENTS)
def test_super_vector(kind, neighbours):
    got = sets.super_vector(
        X, CENTRES, scale=0.3, assignment=kind, neighbours=neighbours, sharpness=0.8
    )
    a = reference.assignments(X, CENTRES, kind, neighbours, 0.8)
    assert reference.relative(got, reference.super_vector(X, CENTRES, a, 0.3)) < 1e-5


def test_super_vector_with_an_empty_cluster():
    centres = np.concatenate([CENTRES, np.full((1, D), 99, np.float32)])
    a = reference.assignments(X, centres)
    encode = jax.jit(sets.super_vector)
    got = encode(X, centres)
    assert reference.relative(got, reference.super_vector(X, centres, a)) < 1e-5
    assert not np.asarray(got)[-D - 1 :].any()
    gradient = jax.grad(lambda x: jnp.sum(encode(x, centres) ** 3))(X)
    assert np.isfinite(gradient).all()


def test_mean_and_max():
    np.testing.assert_allclose(sets.mean_pooling(X), X.mean(0), atol=1e-6)
    np.testing.assert_allclose(sets.max_pooling(X), X.max(0))
    assert (np.asarray(sets.max_pooling(-np.abs(X))) < 0).all()


@pytest.mark.parametrize("power", [1.0, 3.0, -2.0, 40.0, np.linspace(1, 9, D)])
def test_gem(power):
    positive = np.abs(X) * 1e3
    got = sets.gem_pooling(positive, power)
    expected = (positive.astype(np.float64) ** power).mean(0) ** (1 / np.asarray(power))
    assert reference.relative(got, expected) < 1e-5


def test_gem_learns_its_power():
    with jax.enable_x64(True):
        positive = jnp.asarray(np.abs(np.asarray(X, np.float64)) + 0.1)
        power = jnp.asarray(2.5)
        check_grads(jax.jit(sets.gem_pooling), (positive, power), order=1, modes=("rev",))


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("root", [True, False])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_second_order(centred, root, ridge):
    encode = jax.jit(partial(sets.second_order_pooling, centred=centred, root=root))
    got = encode(X, ridge=ridge)
    assert reference.relative(got, reference.second_order(X, centred, root, ridge)) < 1e-5


def test_second_order_of_fewer_descriptors_than_dimensions():
    few = X[:3]
    encode = jax.jit(sets.second_order_pooling)
    got = encode(few)
    assert reference.relative(got, reference.second_order(few)) < 1e-3
    gradient = jax.grad(lambda x: jnp.sum(encode(x) ** 2))(few)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("values", [[4.0, 1.0, 0.5], [2.0, 2.0, 1.0]])
def test_derivative_of_the_matrix_root(values):
    """Equal eigenvalues too, where differentiating eigh divides by zero."""
    with jax.enable_x64(True):
        basis = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
        matrix = jnp.asarray((basis * np.asarray(values)) @ basis.T)
        root = sets.matrix_sqrt(matrix)
        np.testing.assert_allclose(root @ root, matrix, atol=1e-12)

        def of_symmetric(m):
            return sets.matrix_sqrt((m + m.T) / 2)

        check_grads(jax.jit(of_symmetric), (matrix,), order=1, modes=("fwd", "rev"))


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("strength", [0.1, 10.0])
def test_generalized_max(unit, strength):
    got = sets.generalized_max_pooling(X, strength, unit=unit)
    assert reference.relative(got, reference.generalized_max(X, strength, unit)) < 1e-4


def test_generalized_max_equalizes():
    """A frequent descriptor weighs no more than a rare one."""
    rare, often = np.eye(2, 6, dtype=np.float32)
    pooled = sets.generalized_max_pooling(np.stack([rare] + [often] * 50), 1e-3)
    np.testing.assert_allclose(np.asarray(pooled)[:2], 1, atol=2e-3)


@pytest.mark.parametrize("unit", [True, False])
def test_fisher_gmp(unit):
    """Without storing a single one-descriptor Fisher vector."""
    one = jax.jit(lambda x: fisher_vector(x[None], MIXTURE, prune=0.0))
    phi = np.stack([one(x) for x in X])
    got = jax.jit(partial(sets.fisher_gmp, unit=unit, strength=0.7, tolerance=1e-6))(X, MIXTURE)
    assert reference.relative(got, reference.generalized_max(phi, 0.7, unit)) < 1e-4


def test_fisher_gmp_with_a_dead_component():
    weights = jnp.asarray([0.5, 0.0, 0.5, 0.0])
    dead = MIXTURE._replace(weights=weights)
    living = GMM(*(leaf[::2] for leaf in dead))
    gmp = jax.jit(sets.fisher_gmp)
    got = np.asarray(gmp(X, dead)).reshape(2, K, D)
    assert not got[:, 1::2].any()
    expected = np.asarray(gmp(X, living)).reshape(2, K // 2, D)
    assert reference.relative(got[:, ::2], expected) < 1e-4


@pytest.fixture(scope="module", params=CALLS)
def encode(request):
    """Each encoding, compiled once for sets of N descriptors with a mask."""
    return jax.jit(call(request.param))


def test_permutation_and_padding(encode):
    whole = encode(X, np.ones(N, bool))
    shuffled = np.random.default_rng(2).permutation(X)
    assert reference.relative(encode(shuffled, np.ones(N, bool)), whole) < 2e-5
    garbage = [np.concatenate([X[:30], np.full((10, D), v, np.float32)]) for v in (0, 7, np.nan)]
    first, *others = (encode(x, np.arange(N) < 30) for x in garbage)
    for other in others:
        assert reference.relative(other, first) < 1e-6


def test_no_descriptor_is_zero(encode):
    assert not np.asarray(encode(X, np.zeros(N, bool))).any()


def test_mask_is_a_subset_and_vmap(encode):
    keep = np.arange(N) < 30
    both = jax.vmap(encode)(np.stack([X, X * 0.5]), np.stack([keep, ~keep]))
    assert reference.relative(both[0], encode(X[:30], np.ones(30, bool))) < 2e-5


def test_dtype_and_gradient(encode):
    narrow = encode(jnp.asarray(X, jnp.bfloat16), np.ones(N, bool))
    assert narrow.dtype == jnp.float32
    assert reference.relative(narrow, encode(X, np.ones(N, bool))) < 0.1
    gradient = jax.grad(lambda x: jnp.sum(encode(x, np.ones(N, bool)) ** 3))(X)
    assert np.isfinite(gradient).all()
    assert np.asarray(gradient).any()


@pytest.mark.parametrize("n", [5, 5_000])
def test_nan_is_passed_on(n):
    """XLA's maximum drops NaN over long arrays, and no order of NaN is a nearest word."""
    x = np.random.default_rng(0).normal(size=(n, D)).astype(np.float32)
    x[n // 2, 1] = np.nan
    assert np.isnan(sets.max_pooling(x)[1])
    assert np.isfinite(np.delete(sets.max_pooling(x), 1)).all()
    for assignment in ("hard", "soft"):
        words = sets.bag_of_words(x, x[:2], assignment=assignment)
        assert np.isnan(words).all()
