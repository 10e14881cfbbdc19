"""The certificate holds for the returned float32 machines, whatever the scale of the vectors."""

import jax
import numpy as np
import pytest
from helpers.svm_reference import primal
from sklearn.datasets import load_wine

from mpp_jax.svm import fit_svm, fit_svm_primal, machines, one_vs_rest_targets

X, LABELS = load_wine(return_X_y=True)  # of scales from 0.1 to 1,000
X = X.astype(np.float32)
Y = one_vs_rest_targets(LABELS)
KEY = jax.random.key(0)


def truth(svm, c, loss="hinge", bias=1.0):
    w, b = (np.asarray(part, np.float64) for part in svm)
    u = np.full(len(X), c)
    return np.array([primal(w[k], b[k], X.astype(float), Y[:, k], u, loss, bias) for k in range(3)])


def test_unscaled_features_reach_the_optimum_they_claim():
    svm, info = fit_svm(X, Y, 1.0)
    assert info.converged.all()
    assert (info.relative_gap <= 1e-3).all()
    np.testing.assert_allclose(truth(svm, 1.0), info.primal_objective, rtol=1e-9)
    # A lower bound must lie under every machine's objective.
    better, tight = fit_svm(X, Y, 1.0, tolerance=1e-4, max_iterations=100_000)
    assert tight.converged.all()
    assert (info.dual_objective <= truth(better, 1.0)).all()
    assert (truth(svm, 1.0) <= truth(better, 1.0) * 1.001).all()


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge", "logistic"])
@pytest.mark.parametrize("bias", [0.0, 2.0])
def test_what_is_not_reached_is_not_claimed(loss, bias, monkeypatch):
    monkeypatch.setattr(machines, "EXACT_ROWS", 0)
    options = {"loss": loss, "bias_multiplier": bias, "max_iterations": 500}
    svm, info = fit_svm(X, Y, 1.0, **options)
    wanted = truth(svm, 1.0, loss, bias)
    np.testing.assert_allclose(wanted, info.primal_objective, rtol=1e-9)
    np.testing.assert_array_equal(info.converged, info.relative_gap <= 1e-3)


def test_mini_batches_certify_what_they_return():
    svm, info = fit_svm_primal(X, Y, 1.0, key=KEY, max_epochs=20)
    certificate = info.certificate
    np.testing.assert_allclose(truth(svm, 1.0), certificate.primal_objective, rtol=1e-9)
    np.testing.assert_array_equal(certificate.converged, certificate.relative_gap <= 1e-2)
    best = fit_svm(X, Y, 1.0)[1].primal_objective
    assert (certificate.dual_objective <= best).all()
