"""Vectors that are read by rows: the three ways to one optimum, and how much is read at once."""

import jax
import numpy as np
import pytest
from helpers.svm_reference import primal, problem

from mpp_jax.svm import blocks as blocks_module
from mpp_jax.svm import certificate as certificate_module
from mpp_jax.svm import (
    cross_validate_svm,
    cross_validate_svm_primal,
    fit_svm,
    fit_svm_primal,
    gram_matrix,
    one_vs_rest_targets,
    svm_scores,
)
from mpp_jax.svm import primal as primal_module
from mpp_jax.svm.gram import exact_gram_matrix, recover

X, LABELS = problem(n=300, d=120, classes=3)
EXACT = X.astype(np.float64) @ X.astype(np.float64).T
KEY = jax.random.key(0)


class Reader:
    """Rows on a disk, as far as a fit can tell; `most` were read at once, `total` in all."""

    def __init__(self, x):
        self.x, self.shape = x, x.shape
        self.most = self.total = 0

    def __getitem__(self, rows):
        part = self.x[rows]
        self.most, self.total = max(self.most, len(part)), self.total + len(part)
        return part


def several_labels():
    """Targets with several labels a row and ignored ones."""
    rng = np.random.default_rng(1)
    y = one_vs_rest_targets(LABELS).astype(int)
    y[rng.random(y.shape) < 0.1] = 1
    y[rng.random(y.shape) < 0.15] = 0
    return y


TARGETS = {"exclusive": one_vs_rest_targets(LABELS), "several and ignored": several_labels()}


@pytest.fixture
def _small(monkeypatch):
    """Blocks, pieces and buffers of 32, 8 and 64 rows."""
    monkeypatch.setattr(blocks_module, "CHUNK_BYTES", 4 * 120 * 32)
    monkeypatch.setattr(primal_module, "PIECE_BYTES", 4 * 120 * 8)
    monkeypatch.setattr(primal_module, "BUFFER_BYTES", 4 * 120 * 64)
    monkeypatch.setattr(certificate_module, "CHUNK", 3 * 70)


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("resident", [1, 4 * 120 * 70])
def test_gram_by_rows(resident):
    reader = Reader(X)
    gram = np.asarray(gram_matrix(reader, resident_bytes=resident))
    np.testing.assert_array_equal(gram, gram.T)
    np.testing.assert_allclose(gram, EXACT, atol=5e-7)
    groups = {1: 10, 4 * 120 * 70: 5}[resident]
    assert reader.most == {10: 32, 5: 64}[groups]
    assert reader.total <= 300 * (groups + 1) / 2 + 32 * groups
    wide = exact_gram_matrix(reader)
    assert wide.dtype == np.float64
    np.testing.assert_allclose(wide, EXACT, rtol=1e-13, atol=1e-15)


@pytest.mark.usefixtures("_small")
def test_weights_by_rows():
    a = np.random.default_rng(0).standard_normal((300, 4))
    found, whole = recover(a, Reader(X)), recover(a, X)
    np.testing.assert_array_equal(found.weights, whole.weights)
    np.testing.assert_allclose(found.squares, whole.squares, rtol=1e-13)
    np.testing.assert_allclose(found.products, whole.products, rtol=1e-12, atol=1e-13)


@pytest.mark.usefixtures("_small")
def test_three_ways_to_one_optimum():
    """Each certificate is that of the machine itself, and all lie in each other's bounds.

    The loss is that whose certificate takes one more pass; for the hinge see
    `tests/runs/test_large_sets.py`.
    """
    y, reader, loss = TARGETS["several and ignored"], Reader(X), "logistic"
    small = gram_matrix(Reader(X), resident_bytes=1)
    fits = {
        "gram": fit_svm(X, y, 2.0, loss=loss),
        "streamed": fit_svm(reader, y, 2.0, loss=loss, gram=small),
    }
    svm, info = fit_svm_primal(reader, y, 2.0, loss=loss, key=KEY, tolerance=1e-3, batch_size=64)
    fits["primal"] = svm, info.certificate
    assert reader.most <= 32
    best = min(np.sum(info.primal_objective) for _, info in fits.values())
    for way, (svm, info) in fits.items():
        assert info.converged.all(), way
        assert (info.relative_gap <= 1e-3).all(), way
        w, b = (np.asarray(part, np.float64) for part in svm)
        u = 2.0 * (y != 0)
        truth = [primal(w[k], b[k], X.astype(float), y[:, k], u[:, k], loss) for k in range(3)]
        np.testing.assert_allclose(truth, info.primal_objective, rtol=1e-9, err_msg=way)
        for _, other in fits.values():
            assert (info.dual_objective <= other.primal_objective).all(), way
        assert np.sum(truth) <= best * 1.001
    scores = [np.asarray(svm_scores(svm, X)) for svm, _ in fits.values()]
    np.testing.assert_allclose(scores[1], scores[0], atol=2e-3)
    np.testing.assert_allclose(scores[2], scores[0], atol=0.1)


def test_a_gram_matrix_at_hand_changes_nothing():
    y = TARGETS["exclusive"]
    once, info = fit_svm(X, y, 1.0)
    again, same = fit_svm(X, y, 1.0, gram=gram_matrix(X))
    np.testing.assert_array_equal(once.weights, again.weights)
    np.testing.assert_array_equal(info.primal_objective, same.primal_objective)


@pytest.mark.usefixtures("_small")
def test_pieces_cover_an_epoch_once():
    reader, seen = Reader(X), []
    batches = primal_module._batch_source(reader)
    for rows, real, block in batches(KEY, 48):
        np.testing.assert_array_equal(block, X[rows])
        assert len(rows) == 48
        seen.append(rows[real])
    assert (reader.most, reader.total) == (8, 300)
    order = np.concatenate(seen)
    np.testing.assert_array_equal(np.sort(order), np.arange(300))
    assert (np.diff(order) != 1).mean() > 0.9  # pieces are mixed
    again = np.concatenate([rows[real] for rows, real, _ in batches(KEY, 48)])
    np.testing.assert_array_equal(order, again)
    other = np.concatenate([rows[real] for rows, real, _ in batches(jax.random.key(1), 48)])
    assert (order != other).any()


@pytest.mark.usefixtures("_small")
def test_bad_rows_are_named():
    bad = X.copy()
    bad[[7, 250]] = np.nan
    with pytest.raises(ValueError, match="2 of 300 rows are not: 7, 250"):
        fit_svm(Reader(bad), TARGETS["exclusive"])
    with pytest.raises(ValueError, match="vectors must be finite"):
        fit_svm_primal(Reader(bad), TARGETS["exclusive"], key=KEY, batch_size=64)
    with pytest.raises(ValueError, match="rows, dimensions"):
        fit_svm(Reader(X[:, 0]), TARGETS["exclusive"])


def test_groups_of_folds_and_classes_are_judged_alike():
    y, options = TARGETS["several and ignored"], {"class_weight": [[1, 2], [1, 1], [2, 1]]}
    whole = cross_validate_svm(EXACT, y, [1.0, 0.1], 4, key=KEY, **options)
    parts = cross_validate_svm(EXACT, y, [1.0, 0.1], 4, key=KEY, columns=4, **options)
    np.testing.assert_array_equal(whole.folds, parts.folds)
    np.testing.assert_allclose(parts.scores, whole.scores, atol=1e-4)
    np.testing.assert_allclose(parts.values, whole.values, atol=1e-6)
    assert parts.info.relative_gap.shape == (2, 4, 3)
    assert parts.info.converged.all()


@pytest.mark.usefixtures("_small")
def test_folds_by_mini_batches():
    y, fits = TARGETS["exclusive"], []
    whole = cross_validate_svm(EXACT, y, [0.1, 1.0], 4, key=KEY)
    found = cross_validate_svm_primal(
        Reader(X),
        y,
        [0.1, 1.0],
        4,
        key=KEY,
        tolerance=1e-3,
        batch_size=64,
        on_fit=lambda *fit: fits.append(fit),
    )
    assert fits == [(c, fold) for c in (0.1, 1.0) for fold in range(4)]
    np.testing.assert_array_equal(found.folds, whole.folds)
    np.testing.assert_allclose(found.scores, whole.scores, atol=0.1)
    np.testing.assert_allclose(found.values, whole.values, atol=0.05)
    assert found.best_c == whole.best_c
    assert found.info.converged.all()
