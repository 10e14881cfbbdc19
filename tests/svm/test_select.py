"""C paths and cross-validation from one Gram matrix equal the plain fits they stand for."""

import jax
import numpy as np
import pytest
from helpers.svm_reference import problem

from mpp_jax.metrics import mean_average_precision
from mpp_jax.svm import fit_svm, fit_svm_gram, gram_matrix, one_vs_rest_targets, svm_scores
from mpp_jax.svm.select import (
    accuracy_metric,
    cross_validate_svm,
    gram_scores,
    stratified_folds,
    svm_path,
)

X, LABELS = problem(n=60, d=150)
Y = one_vs_rest_targets(LABELS)
GRAM = np.asarray(gram_matrix(X))
CS = (3.0, 0.3, 1.0)  # any order
KEY = jax.random.key(0)


def test_path_equals_single_fits():
    path = svm_path(GRAM, Y, CS, tolerance=1e-5)
    np.testing.assert_array_equal(path.cs, [0.3, 1.0, 3.0])
    assert path.coefficients.shape == (3, 60, 3)
    for i, c in enumerate(path.cs):
        _, info = fit_svm_gram(GRAM, Y, c, tolerance=1e-5)
        np.testing.assert_allclose(path.info.primal_objective[i], info.primal_objective, rtol=2e-5)
    assert path.info.converged.all()


@pytest.mark.parametrize("loss", ["hinge", "logistic"])
def test_folds_equal_fits_without_the_held_out_rows(loss):
    y = Y.copy()
    y[5:9, 2] = 0
    cv = cross_validate_svm(GRAM, y, CS, 3, key=KEY, loss=loss, tolerance=1e-6)
    for f in range(3):
        seen = cv.folds != f
        svm, info = fit_svm(X[seen], y[seen], 1.0, loss=loss, tolerance=1e-6)
        np.testing.assert_allclose(cv.info.primal_objective[1, f], info.primal_objective, rtol=3e-6)
        scores = np.asarray(svm_scores(svm, X[~seen]))
        np.testing.assert_allclose(cv.scores[1, ~seen], scores, atol=5e-3)
        ap = mean_average_precision(cv.scores[1, ~seen], y[~seen])
        assert cv.values[1, f] == pytest.approx(ap)
    np.testing.assert_allclose(cv.mean, cv.values.mean(axis=1))
    assert cv.best_c == cv.cs[np.argmax(cv.mean)]


def test_held_out_scores_do_not_know_their_targets():
    """Random labels: held-out accuracy stays at chance, where training accuracy is 1."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((120, 300)).astype(np.float32) / np.sqrt(300)
    y = one_vs_rest_targets(rng.integers(0, 2, 120))
    gram = gram_matrix(x)
    cv = cross_validate_svm(gram, y, [10.0], 4, key=KEY, metric=accuracy_metric)
    assert cv.mean[0] < 0.65
    coefficients, _ = fit_svm_gram(gram, y, 10.0)
    assert accuracy_metric(gram_scores(gram, coefficients), y) == 1.0


def test_given_folds_and_class_weights():
    folds = np.arange(60) // 20
    cv = cross_validate_svm(GRAM, Y, [1.0], folds, class_weight=[[1.0, 2.0]] * 3)
    np.testing.assert_array_equal(cv.folds, folds)
    seen = folds != 1
    _, info = fit_svm_gram(GRAM[seen][:, seen], Y[seen], 1.0, class_weight=[[1.0, 2.0]] * 3)
    np.testing.assert_allclose(cv.info.primal_objective[0, 1], info.primal_objective, rtol=1e-3)


def test_equal_means_choose_the_smallest_c():
    cv = cross_validate_svm(GRAM, Y, CS, 3, key=KEY, metric=lambda scores, targets: 0.5)
    assert cv.best_c == 0.3


def test_gram_scores_include_the_bias():
    coefficients, _ = fit_svm_gram(GRAM, Y, 1.0, bias_multiplier=2.0)
    svm, _ = fit_svm(X, Y, 1.0, bias_multiplier=2.0)
    np.testing.assert_allclose(
        gram_scores(GRAM[:7], coefficients, 2.0), svm_scores(svm, X[:7]), atol=1e-4
    )


def test_folds_are_stratified_with_several_labels():
    single = stratified_folds(one_vs_rest_targets(np.arange(47) % 4), 5, KEY)
    for k in range(4):
        counts = np.bincount(single[np.arange(47) % 4 == k], minlength=5)
        assert counts.max() - counts.min() <= 1
    rng = np.random.default_rng(0)
    several = np.where(rng.random((200, 6)) < [0.02, 0.05, 0.1, 0.3, 0.5, 0.9], 1, -1)
    folds = stratified_folds(several, 4, KEY)
    sizes = np.bincount(folds, minlength=4)
    assert sizes.max() - sizes.min() <= 6
    for k in range(6):
        counts = np.bincount(folds[several[:, k] > 0], minlength=4)
        assert counts.max() - counts.min() <= max(2, 0.15 * counts.mean())
    np.testing.assert_array_equal(folds, stratified_folds(several, 4, KEY))
    assert (folds != stratified_folds(several, 4, jax.random.key(1))).any()


def test_accuracy_metric_judges_rows_of_one_class_only():
    scores = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert accuracy_metric(scores, np.array([[1, -1], [1, -1], [1, 1]])) == 0.5
    assert np.isnan(accuracy_metric(scores[:1], np.array([[1, 1]])))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="key is needed"):
        cross_validate_svm(GRAM, Y, CS, 3)
    with pytest.raises(ValueError, match="between 2 and the number of rows"):
        cross_validate_svm(GRAM, Y, CS, 1, key=KEY)
    with pytest.raises(ValueError, match="without gaps"):
        cross_validate_svm(GRAM, Y, CS, np.where(np.arange(60) < 20, 0, 2))
    with pytest.raises(ValueError, match="folds must be a number or"):
        cross_validate_svm(GRAM, Y, CS, np.zeros(5, int))
    with pytest.raises(ValueError, match="without fold 0, class 0 has no positive"):
        cross_validate_svm(GRAM, Y, CS, np.where(LABELS == 1, 1, 0))
    with pytest.raises(ValueError, match="cs must name"):
        svm_path(GRAM, Y, [])
    with pytest.raises(ValueError, match="c must be positive"):
        svm_path(GRAM, Y, [0.0, 1.0])
    with pytest.raises(ValueError, match="no fold can be judged"):
        cross_validate_svm(GRAM, Y, [1.0], 3, key=KEY, metric=lambda s, t: float("nan"))
