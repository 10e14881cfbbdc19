"""Principal components of few very long rows, by their Gram matrix: exact, and when it is taken."""

import jax
import numpy as np
import pytest
from helpers import reference

import mpp_jax.stats.pca as module
from mpp_jax.stats import gram_pca
from mpp_jax.stats.pca import fit_pca


@pytest.mark.parametrize("rows", [50, 90])
def test_gram_of_very_wide_rows(rows, monkeypatch):
    """Resident or not, array or stream, with rows that do not count: nothing is approximate."""
    x = np.random.default_rng(2).normal(size=(90, 2000)).astype(np.float32)
    x = x * np.linspace(3, 0.1, 90)[:, None].astype(np.float32) + 10
    monkeypatch.setattr(gram_pca, "RESIDENT_BYTES", 4 * 2000 * 20)
    mean, components, variance = reference.pca(x[:rows], 8)
    masked = x.copy()
    masked[rows:] = np.nan
    given = {
        "array": (x[:rows], None),
        "masked": (masked, np.arange(90) < rows),
        "stream": ([x[:13], x[13:rows]], None),
    }
    for name, (data, mask) in given.items():
        pca = fit_pca(data, 8, solver="gram", mask=mask, rows=10)
        np.testing.assert_allclose(pca.mean, mean, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(pca.explained_variance, variance, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(pca.components, components, atol=2e-5, err_msg=name)


def test_gram_keeps_as_many_components_as_rows():
    """The last of them has no variance, and is orthonormal to the others all the same."""
    x = np.random.default_rng(3).normal(size=(6, 200)).astype(np.float32)
    pca = fit_pca(x, 6, solver="gram")
    np.testing.assert_allclose(pca.components @ pca.components.T, np.eye(6), atol=1e-5)
    np.testing.assert_allclose(pca.explained_variance[5], 0, atol=1e-4)


@pytest.mark.parametrize(("most", "taken"), [(30, "gram"), (29, "randomized")])
def test_wide_rows_are_fitted_by_their_number(most, taken, monkeypatch):
    x = np.random.default_rng(2).normal(size=(30, 2000)).astype(np.float32)
    for name, value in (("EIGH_SIZE", 50), ("COVARIANCE_SIZE", 100), ("GRAM_ROWS", most)):
        monkeypatch.setattr(module, name, value)
    seen = []
    for solver in ("gram", "randomized"):
        real = getattr(module, name := {"gram": "_fit_by_gram"}.get(solver, "_fit_randomized"))
        monkeypatch.setattr(module, name, lambda *a, r=real, s=solver: seen.append(s) or r(*a))
    fit_pca(x, 4, key=jax.random.key(0))
    assert seen == [taken]


def test_masked_rows_count_for_the_size_of_the_matrix(monkeypatch):
    """It is of all rows of an array, whatever the mask leaves of them."""
    x = np.random.default_rng(2).normal(size=(60, 2000)).astype(np.float32)
    for name, value in (("EIGH_SIZE", 50), ("COVARIANCE_SIZE", 100), ("GRAM_ROWS", 40)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module, "_fit_by_gram", None)
    few = fit_pca(x, 4, mask=np.arange(60) < 20, key=jax.random.key(0))
    assert few.components.shape == (4, 2000)


def test_rows_of_low_rank_converge(monkeypatch):
    """Eigenvalues of zero are rounding in float32, and no reason for LAPACK's whole spectrum."""
    rng = np.random.default_rng(4)
    x = (rng.normal(size=(300, 10)) @ rng.normal(size=(10, 2000))).astype(np.float32)
    monkeypatch.setattr(module, "EIGH_SIZE", 50)
    monkeypatch.setattr(module, "top_by_eigh", None)
    pca = fit_pca(x, 16, solver="gram")
    _, components, variance = reference.pca(x, 10)
    np.testing.assert_allclose(pca.explained_variance[:10], variance, rtol=1e-4)
    np.testing.assert_allclose(pca.explained_variance[10:] / variance[0], 0, atol=1e-5)
    np.testing.assert_allclose(pca.components[:10], components, atol=1e-3)
    np.testing.assert_allclose(pca.components @ pca.components.T, np.eye(16), atol=1e-4)
