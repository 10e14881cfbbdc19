"""Fisher vectors: VLFeat's numbers, a float64 model, autodiff as an oracle, and every option."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import reference
from jax.test_util import check_grads

from mpp_jax.encoders.fisher import (
    FisherStatistics,
    fisher_from_statistics,
    fisher_statistics,
    fisher_vector,
    fisher_vectors,
    weighted_sums,
)
from mpp_jax.numerics import l2_normalize, power_l2, signed_sqrt
from mpp_jax.stats import mixture
from mpp_jax.stats.mixture import GMM, log_prob

K, D, N = 5, 7, 40
encode = jax.jit(fisher_vector, static_argnames=("blocks", "prune"))
finish = jax.jit(power_l2)


@pytest.fixture(scope="module")
def gmm() -> GMM:
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(K) * 2)
    means, variances = rng.normal(size=(K, D)), rng.gamma(2, 0.5, size=(K, D)) + 0.05
    return GMM(*(jnp.asarray(a, jnp.float32) for a in (weights, means, variances)))


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(N, D)).astype(np.float32) * 1.5


def golden_gmm(z) -> GMM:
    return GMM(*(jnp.asarray(z[name]) for name in ("weights", "means", "variances")))


@pytest.mark.parametrize("name", ["small", "offset50", "priorfloor", "single_pruned", "k256"])
def test_vlfeat(golden_dir, name):
    with np.load(golden_dir / f"fisher_{name}.npz") as z:
        suffix = "" if name == "k256" else "_f64"
        plain = encode(z["X"], golden_gmm(z))
        assert plain.dtype == jnp.float32
        assert reference.relative(plain, z["fv_plain" + suffix]) < 1e-5
        assert reference.relative(finish(plain), z["fv_improved" + suffix]) < 1e-5
        if name == "small":
            assert reference.relative(jax.jit(signed_sqrt)(plain), z["fv_sqrt_f64"]) < 1e-5
            assert reference.relative(jax.jit(l2_normalize)(plain), z["fv_norm_f64"]) < 1e-5
            single = encode(z["X_single"], golden_gmm(z))
            assert reference.relative(single, z["fv_single_plain_f64"]) < 1e-5
        if name == "priorfloor":
            blocks = np.asarray(plain).reshape(2, 16, 32)
            assert not blocks[:, [2, 5]].any()
            assert blocks[:, 9].any()
        if name == "single_pruned":
            kept = finish(encode(z["X"], golden_gmm(z), prune=0.0))
            assert reference.relative(kept, z["fv_improved_noprune_f64"]) < 1e-5


@pytest.mark.parametrize("distance", ["10", "100", "1000", "10000", "1e+06"])
def test_vlfeat_far_away(golden_dir, distance):
    with np.load(golden_dir / "fisher_far.npz") as z:
        plain = encode(z[f"X_far_{distance}"], golden_gmm(z))
        assert reference.relative(plain, z[f"fv_far_{distance}_plain_f64"]) < 1e-5
        improved = z[f"fv_far_{distance}_improved_f64"]
        assert reference.relative(finish(plain), improved) < 1e-5


def test_overflowing_descriptor_stays_finite(golden_dir):
    """VLFeat returns NaN in every entry; here only the one descriptor is clipped."""
    with np.load(golden_dir / "fisher_far.npz") as z:
        plain = encode(z["X_overflow"], golden_gmm(z))
        assert np.isfinite(plain).all()
        assert np.linalg.norm(finish(plain)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("blocks", "prune"),
    [
        (("mean", "sigma"), 1e-6),
        (("weight", "mean", "sigma"), 0.0),
        (("sigma",), 0.05),
        (("mean", "weight"), 1e-6),
    ],
)
def test_reference(gmm, x, blocks, prune):
    expected = reference.fisher_vector(x, gmm, blocks, prune)
    assert reference.relative(encode(x, gmm, blocks=blocks, prune=prune), expected) < 1e-5


@pytest.mark.parametrize("offset", [0.0, 100.0, 1e4])
def test_far_from_the_origin(gmm, x, offset):
    # What float32 holds of the shifted numbers is the input of both.
    moved = np.float32(x + np.float32(offset))
    far = GMM(gmm.weights, gmm.means + offset, gmm.variances)
    assert reference.relative(encode(moved, far), reference.fisher_vector(moved, far)) < 1e-5


def test_narrow_components_far_apart(x):
    """An expanded square would lose every digit here; the direct formulation keeps them."""
    rng = np.random.default_rng(3)
    means = (rng.normal(size=(K, D)) * 30).astype(np.float32)
    variances = np.full((K, D), 1e-4, np.float32)
    variances[0] = 2.0
    near = means[rng.integers(1, K, 30)] + rng.normal(size=(30, D)).astype(np.float32) * 0.01
    descriptors = np.concatenate([x, near.astype(np.float32)])
    gmm = GMM(jnp.full(K, 0.2), jnp.asarray(means), jnp.asarray(variances))
    expected = reference.fisher_vector(descriptors, gmm)
    assert reference.relative(encode(descriptors, gmm), expected) < 1e-5


def test_is_the_whitened_gradient_of_the_log_likelihood(gmm, x):
    """d/dmu, d/dsigma of the mean log-likelihood, over the root of the Fisher information."""
    with jax.enable_x64(True):
        gmm64 = GMM(*(jnp.asarray(np.asarray(leaf, np.float64)) for leaf in gmm))
        x64 = jnp.asarray(np.asarray(x, np.float64))

        def mean_log_likelihood(logits, means, sigma):
            return jnp.mean(log_prob(x64, GMM(jax.nn.softmax(logits), means, sigma**2)))

        args = (jnp.log(gmm64.weights), gmm64.means, jnp.sqrt(gmm64.variances))
        gradient = jax.jit(jax.grad(mean_log_likelihood, argnums=(0, 1, 2)))
        by_logit, by_mean, by_sigma = gradient(*args)
        weights, sigma = gmm64.weights / gmm64.weights.sum(), args[2]
        root = jnp.sqrt(weights)[:, None]
        oracle = jnp.concatenate(
            [
                by_logit / jnp.sqrt(weights),
                (by_mean * sigma / root).ravel(),
                (by_sigma * sigma / root).ravel() / jnp.sqrt(2.0),
            ]
        )
        gmm64 = gmm64._replace(weights=weights)
        vector = encode(x64, gmm64, blocks=("weight", "mean", "sigma"), prune=0.0)
        assert vector.dtype == jnp.float64
        np.testing.assert_allclose(vector, oracle, rtol=0, atol=1e-13)


def test_statistics_add(gmm, x):
    """Seven scales in one or one by one, chunks, devices: the sums only add."""
    statistics = jax.jit(fisher_statistics)
    whole = statistics(x, gmm)
    parts = [statistics(x[i : i + 10], gmm) for i in range(0, N, 10)]
    total = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    assert isinstance(total, FisherStatistics)
    assert float(whole.count) == N
    for a, b in zip(total, whole, strict=True):
        assert reference.relative(a, b) < 1e-5
    vector = fisher_from_statistics(total, gmm)
    assert reference.relative(vector, reference.fisher_vector(x, gmm)) < 1e-5


def test_permutation(gmm, x):
    shuffled = np.random.default_rng(2).permutation(x)
    assert reference.relative(encode(shuffled, gmm), encode(x, gmm)) < 1e-5


@jax.jit
@jax.grad
def masked_gradient(x, gmm, mask):
    return jnp.sum(power_l2(fisher_vector(x, gmm, mask)) ** 3)


@pytest.mark.parametrize("padding", [0.0, 1e9, np.inf, np.nan])
def test_mask_hides_padding(gmm, x, padding):
    padded = np.concatenate([x[:3], np.full((4, D), padding, np.float32), x[3:]])
    mask = np.array([True] * 3 + [False] * 4 + [True] * (N - 3))
    expected = reference.fisher_vector(x, gmm)
    assert reference.relative(encode(padded, gmm, mask), expected) < 1e-5
    gradient = masked_gradient(padded, gmm, mask)
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[3:7].any()


def test_no_descriptor_is_zero_with_zero_gradient(gmm, x):
    none = np.zeros(N, bool)

    def loss(x):
        return jnp.sum(power_l2(fisher_vector(x, gmm, none)))

    assert not np.asarray(encode(x, gmm, none)).any()
    value, gradient = jax.jit(jax.value_and_grad(loss))(x)
    assert value == 0
    assert not np.asarray(gradient).any()
    assert not np.asarray(encode(x[:0], gmm)).any()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.uint8])
def test_narrow_inputs_compute_in_float32(gmm, x, dtype):
    narrow = jnp.asarray(np.abs(x) * 2).astype(dtype)
    vector = encode(narrow, gmm)
    assert vector.dtype == jnp.float32
    expected = reference.fisher_vector(np.asarray(narrow.astype(jnp.float32)), gmm)
    assert reference.relative(vector, expected) < 1e-5


@pytest.mark.parametrize("batch", [None, 2])
def test_batches(gmm, x, batch):
    sets = np.stack([x, x[::-1] * 0.5, x + 1])
    mask = np.random.default_rng(4).random((3, N)) < 0.7
    batched = jax.jit(partial(fisher_vectors, batch=batch))
    got = batched(sets, gmm, mask)
    for vector, rows, keep in zip(got, sets, mask, strict=True):
        assert reference.relative(vector, reference.fisher_vector(rows[keep], gmm)) < 1e-5


def test_vmap_over_mixtures(gmm, x):
    other = GMM(gmm.weights[::-1], gmm.means * 0.5, gmm.variances * 2)
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), gmm, other)
    got = jax.jit(jax.vmap(fisher_vector, in_axes=(None, 0)))(x, both)
    for vector, one in zip(got, (gmm, other), strict=True):
        assert reference.relative(vector, reference.fisher_vector(x, one)) < 1e-5


def test_gradients(gmm, x):
    """By descriptors and by codebook, in float64."""
    with jax.enable_x64(True):
        gmm64 = GMM(*(jnp.asarray(np.asarray(leaf, np.float64)) for leaf in gmm))
        few = jnp.asarray(np.asarray(x[:6], np.float64))

        def finished(x, weights, means, variances):
            vector = fisher_vector(x, GMM(weights, means, variances), prune=0.0)
            return l2_normalize(vector)

        check_grads(jax.jit(finished), (few, *gmm64), order=1, modes=("rev",))


def test_gradients_of_the_direct_formulation(gmm, x, monkeypatch):
    monkeypatch.setattr(mixture, "WORST_CONDITION", -1.0)
    for jitted in (mixture.log_joint, weighted_sums):
        jitted.clear_cache()  # it knows the constant
    assert not mixture.well_conditioned(gmm)
    with jax.enable_x64(True):
        gmm64 = GMM(*(jnp.asarray(np.asarray(leaf, np.float64)) for leaf in gmm))
        few = jnp.asarray(np.asarray(x[:4], np.float64))

        def finished(x, means):
            return l2_normalize(fisher_vector(x, gmm64._replace(means=means), prune=0.0))

        check_grads(jax.jit(finished), (few, gmm64.means), order=1, modes=("rev",))


def test_normalisations_at_and_near_zero():
    v = jnp.array([0.0, 4.0, -9.0, 1e-30])
    root, normalize = jax.jit(signed_sqrt), jax.jit(l2_normalize, static_argnames="axis")
    np.testing.assert_allclose(root(v), [0, 2, -3, 1e-15], rtol=1e-6)
    assert jax.jit(jax.grad(lambda v: jnp.sum(signed_sqrt(v))))(v)[0] == 0
    assert np.isfinite(jax.jit(jax.grad(lambda v: jnp.sum(power_l2(v))))(jnp.zeros(3))).all()
    assert not np.asarray(finish(jnp.zeros(3))).any()
    # Squares of these overflow or underflow float32.
    np.testing.assert_allclose(normalize(jnp.array([3e30, 4e30])), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(
        normalize(jnp.array([3e-25, 4e-25]), smallest=1e-30), [0.6, 0.8], rtol=1e-6
    )
    # VLFeat's guard: shorter vectors are not blown up to unit length.
    np.testing.assert_allclose(normalize(jnp.array([1e-13, 0.0])), [0.1, 0], rtol=1e-6)
    rows = normalize(jnp.array([[3.0, 4.0], [0.0, 0.0]]), axis=0)
    np.testing.assert_allclose(rows, [[1, 1], [0, 0]], rtol=1e-6)
    check_grads(finish, (jnp.array([0.5, -2.0, 1.0]),), order=1, modes=("rev",), rtol=2e-2)


@pytest.mark.parametrize(
    ("pick", "mask", "message"),
    [
        (np.s_[:, :3], None, r"x must have shape \(N, 7\)"),
        (np.s_[0], None, r"x must have shape \(N, 7\)"),
        (np.s_[None], None, "vmap over batches"),
        (np.s_[:], np.ones(3), "mask must have shape"),
    ],
)
@pytest.mark.parametrize("encoder", [fisher_vector, encode])
def test_sets_of_other_shapes_are_refused(gmm, x, pick, mask, message, encoder):
    with pytest.raises(ValueError, match=message):
        encoder(x[pick], gmm, mask)


def test_unknown_block(gmm, x):
    with pytest.raises(ValueError, match="blocks must be some of"):
        fisher_vector(x, gmm, blocks=("means",))
