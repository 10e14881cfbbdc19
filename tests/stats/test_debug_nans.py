"""Nothing computes a NaN on the way to a sound result: all runs under ``jax_debug_nans``."""

import jax
import numpy as np
import pytest

from mpp_jax.config import Encoder
from mpp_jax.encoders import sets
from mpp_jax.encoders.fisher import fisher_vector
from mpp_jax.encoders.vlad import vlad
from mpp_jax.stats.codebook import fit_codebook
from mpp_jax.stats.gmm import fit_gmm
from mpp_jax.stats.kmeans import fit_kmeans
from mpp_jax.stats.mixture import GMM
from mpp_jax.stats.pca import fit_pca
from mpp_jax.svm import fit_svm, fit_svm_primal

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
Y = np.where(X[:, 0] > 0, 1, -1)
SPREAD = GMM(np.full(4, 0.25, np.float32), X[:4], np.ones((4, 3), np.float32))

CALLS = {
    "gmm": lambda: fit_gmm(KEY, X, 2)[1].log_likelihood,
    "gmm of a stream": lambda: fit_gmm(KEY, [X[:40], X[40:]], 2)[1].log_likelihood,
    "gmm of equal starts": lambda: fit_gmm(KEY, np.repeat(X[:3], 9, 0), 5)[0],
    "kmeans": lambda: fit_kmeans(KEY, X, 2, restarts=2)[1].inertia,
    "pca": lambda: fit_pca(X, 2, whiten=True),
    "codebook": lambda: fit_codebook(KEY, X, Encoder(pca=2, components=2))[0],
    "svm": lambda: fit_svm(X, Y)[0],
    "logistic svm": lambda: fit_svm(X, Y, loss="logistic")[0],
    "squared svm": lambda: fit_svm(X, Y, loss="squared_hinge")[0],
    "primal svm": lambda: fit_svm_primal(X, Y, key=KEY)[0],
    "fisher": lambda: fisher_vector(X, SPREAD),
    "fisher, masked": lambda: fisher_vector(X, SPREAD, np.arange(60) < 0),
    "vlad": lambda: vlad(X, X[:4], residual=True, mass=True, power=True, intra=True),
    "soft vlad": lambda: vlad(X, X[:4], assignment="soft", neighbours=2),
    "super vector": lambda: sets.super_vector(X, X[:4]),
    "max": lambda: sets.max_pooling(X),
    "gem": lambda: sets.gem_pooling(X),
    "second order": lambda: sets.second_order_pooling(X),
    "fisher gmp": lambda: sets.fisher_gmp(X, SPREAD),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_nan_on_the_way(call):
    with jax.debug_nans(True):
        result = call()
    assert result is not None


def test_histories_end_in_nan():
    with jax.debug_nans(True):
        _, info = fit_gmm(KEY, X, 2)
    done = int(info.iterations)
    assert np.isfinite(info.log_likelihood[: done + 1]).all()
    assert np.isnan(info.log_likelihood[done + 1 :]).all()
