"""Densities of mixtures: a float64 model, both formulations, gradients, samples, criteria."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import reference
from helpers.mixtures import TRUE, D, K, N, X
from sklearn.mixture import GaussianMixture

from mpp_jax.describe.dense import Descriptors
from mpp_jax.encoders.fisher import fisher_statistics, fisher_vector, fisher_vectors
from mpp_jax.encoders.sets import fisher_gmp
from mpp_jax.pooling import pool
from mpp_jax.stats import mixture
from mpp_jax.stats.codebook import Codebook
from mpp_jax.stats.mixture import GMM, aic, bic, log_prob, responsibilities, sample
from mpp_jax.stats.pca import PCA

_responsibilities = jax.jit(responsibilities)
_log_prob = jax.jit(log_prob)


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_density(offset):
    x = (X + np.float32(offset)).astype(np.float32)
    gmm = GMM(*(jnp.asarray(leaf, jnp.float32) for leaf in TRUE))
    gmm = gmm._replace(means=gmm.means + offset)
    np.testing.assert_allclose(_log_prob(x, gmm), reference.log_prob(x, gmm), atol=2e-4)
    np.testing.assert_allclose(
        _responsibilities(x, gmm), reference.responsibilities(x, gmm), atol=2e-5
    )
    cube = _responsibilities(x.reshape(4, 100, D), gmm)
    np.testing.assert_allclose(cube.reshape(N, K), _responsibilities(x, gmm), atol=1e-6)


def test_direct_formulation_where_the_expanded_one_fails(monkeypatch):
    narrow = GMM(
        jnp.asarray([0.5, 0.25, 0.25]),
        jnp.asarray([[0.0] * D, [500.0] * D, [500.01] * D]),
        jnp.asarray([[1.0] * D, [1e-4] * D, [1e-4] * D]),
    )
    x = np.float32([[500.004] * D, [500.02] * D, [0.5] * D])
    expected = reference.responsibilities(x, narrow)
    inner = mixture.gmm_frame(narrow).enter_gmm(narrow)
    assert not mixture.well_conditioned(inner)
    np.testing.assert_allclose(_responsibilities(x, narrow), expected, atol=5e-3)
    np.testing.assert_allclose(_log_prob(x, narrow), reference.log_prob(x, narrow), atol=2e-2)
    monkeypatch.setattr(mixture, "WORST_CONDITION", np.inf)
    mixture.log_joint.clear_cache()  # it knows the constant
    expanded = jax.jit(lambda x: log_prob(x, narrow))(x)
    mixture.log_joint.clear_cache()
    assert np.abs(expanded - reference.log_prob(x, narrow)).max() > 0.1


def test_a_settled_mixture_is_not_asked_again():
    """Its type is part of the program: there is no branch, which a GPU's host would wait for."""
    plain = GMM(*(jnp.asarray(leaf, jnp.float32) for leaf in TRUE))
    known = mixture.settled(plain)
    assert type(known) is mixture.WellConditioned
    for function in (log_prob, responsibilities, fisher_vector):
        texts = [jax.jit(function).lower(X, gmm).as_text() for gmm in (plain, known)]
        branches = ["stablehlo.case" in text or "stablehlo.if" in text for text in texts]
        assert branches == [True, False], function
        np.testing.assert_allclose(
            jax.jit(function)(X, known), jax.jit(function)(X, plain), rtol=1e-5, atol=1e-6
        )
    narrow = plain._replace(means=plain.means.at[0].set(500), variances=plain.variances * 1e-4)
    assert mixture.settled(narrow) is narrow
    # What holds for all components holds for those that are left.
    lighter = plain._replace(weights=plain.weights.at[0].set(0))
    assert type(mixture.living(mixture.settled(lighter))[0]) is mixture.WellConditioned


def test_dead_components_may_hold_anything():
    gmm = GMM(
        jnp.asarray([0.0, 1.0]),
        jnp.asarray([[np.nan] * D, [0.0] * D]),
        jnp.asarray([[0.0] * D, [1.0] * D]),
    )
    one = GMM(*(leaf[1:] for leaf in gmm))
    np.testing.assert_allclose(_log_prob(X, gmm), reference.log_prob(X, one), rtol=1e-5)
    np.testing.assert_allclose(_responsibilities(X, gmm), [[0, 1]] * N)


def test_gradient_of_the_density_is_finite_and_right():
    with jax.enable_x64(True):
        gmm = GMM(*(jnp.asarray(leaf) for leaf in TRUE))
        x = jnp.asarray(X[:5].astype(np.float64))
        got = jax.jit(jax.grad(lambda x: jnp.sum(log_prob(x, gmm))))(x)
        q = reference.responsibilities(x, TRUE)
        score = -(np.asarray(x)[:, None] - TRUE.means) / TRUE.variances
        np.testing.assert_allclose(got, (q[:, :, None] * score).sum(1), atol=1e-12)


def test_sample_moments():
    gmm = GMM(*(jnp.asarray(leaf, jnp.float32) for leaf in TRUE))
    draw = jax.jit(sample, static_argnums=2)
    x, label = (np.asarray(leaf) for leaf in draw(jax.random.key(0), gmm, 40_000))
    np.testing.assert_allclose(np.bincount(label) / 40_000, TRUE.weights, atol=0.01)
    for k in range(K):
        np.testing.assert_allclose(x[label == k].mean(0), TRUE.means[k], atol=0.06)
        np.testing.assert_allclose(x[label == k].var(0), TRUE.variances[k], rtol=0.08)


def test_information_criteria():
    gmm = GMM(*(jnp.asarray(leaf, jnp.float32) for leaf in TRUE))
    theirs = GaussianMixture(K, covariance_type="diag")
    theirs.weights_, theirs.means_, theirs.covariances_ = wide = reference.wide(*gmm)
    theirs.precisions_cholesky_ = 1 / np.sqrt(wide[2])
    assert bic(X, gmm) == pytest.approx(theirs.bic(X.astype(np.float64)), rel=1e-5)
    assert aic(X, gmm) == pytest.approx(theirs.aic(X.astype(np.float64)), rel=1e-5)
    assert bic([X[:100], X[100:]], gmm) == pytest.approx(bic(X, gmm), rel=1e-6)


IMPOSSIBLE = {
    "negative variance": ({"variances": np.full((K, D), -1.0)}, "variances must be positive"),
    "no variance": ({"variances": np.zeros((K, D))}, "variances must be positive"),
    "weights of sum 3": ({"weights": np.ones(K)}, "sum to 1"),
    "negative weight": ({"weights": np.r_[-0.5, 1.5, np.zeros(K - 2)]}, "sum to 1"),
    "NaN": ({"means": np.full((K, D), np.nan)}, "NaN or infinity"),
    "other shape": ({"variances": np.ones((K, D + 1))}, "must have weights"),
}


@pytest.mark.parametrize(("change", "message"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_cannot_be_a_mixture_is_refused(change, message):
    gmm = GMM(*TRUE)._replace(**change)
    x = X[:8]
    for call in (log_prob, responsibilities, fisher_vector, fisher_statistics, fisher_gmp, bic):
        with pytest.raises(ValueError, match=message):
            call(gmm=gmm, x=x)
    with pytest.raises(ValueError, match=message):
        fisher_vectors(x[None], gmm)
    eye = np.eye(D, dtype=np.float32)
    book = Codebook(PCA(eye[0], eye, eye[0]), gmm)
    scale = Descriptors(x[None], np.ones((1, 8), bool), np.zeros((8, 4)))
    with pytest.raises(ValueError, match=message):
        pool("mpp", [scale], book)


def test_what_may_be_a_mixture_is_not_refused():
    """Dead components hold anything, narrow dtypes round, and a trace knows no values."""
    dead = GMM(*(np.array(leaf, np.float32) for leaf in TRUE))
    dead.weights[0] = 0
    dead.weights[:] /= dead.weights.sum()
    dead.means[0], dead.variances[0] = np.nan, -1
    assert np.isfinite(log_prob(X, dead)).all()
    many = GMM(jnp.full(100, 0.01, jnp.bfloat16), jnp.zeros((100, D)), jnp.ones((100, D)))
    assert np.isfinite(log_prob(X[:2], many)).all()
    assert _log_prob(X[:2], GMM(*TRUE)._replace(weights=np.ones(K))).shape == (2,)
