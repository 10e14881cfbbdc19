"""Platt scaling against scikit-learn's and by what it is for: frequencies match probabilities."""

import numpy as np
import pytest
from sklearn.calibration import _sigmoid_calibration

from mpp_jax.svm.calibration import fit_platt, platt_probabilities


def scores_and_targets(n=400, seed=0):
    rng = np.random.default_rng(seed)
    y = np.where(rng.random((n, 3)) < [0.5, 0.1, 0.02], 1, -1)
    y[0] = 1
    s = 0.8 * y + rng.standard_normal((n, 3))
    s[:, 0] = 3 * y[:, 0] + 0.1 * rng.standard_normal(n)  # separable
    return s, y


@pytest.mark.parametrize(("unit", "shift"), [(1, 0), (1e-3, 5), (1e4, -3e4)])
def test_scikit_learns_sigmoid(unit, shift):
    s, y = scores_and_targets()
    s = unit * s + shift
    platt = fit_platt(s, y)
    p = platt_probabilities(platt, s)
    for k in range(3):
        slope, offset = _sigmoid_calibration(s[:, k], y[:, k])
        np.testing.assert_allclose(p[:, k], 1 / (1 + np.exp(slope * s[:, k] + offset)), atol=1e-6)


def test_ignored_scores_do_not_count():
    s, y = scores_and_targets()
    y[:50] = 0
    y[50] = 1
    np.testing.assert_allclose(fit_platt(s, y).slope, fit_platt(s[50:], y[50:]).slope, rtol=1e-9)


def test_probabilities_are_frequencies():
    rng = np.random.default_rng(1)
    s = rng.standard_normal((20_000, 1))
    truth = 1 / (1 + np.exp(-(2 * s - 1)))
    y = np.where(rng.random(s.shape) < truth, 1, -1)
    platt = fit_platt(s, y)
    assert platt.slope[0] == pytest.approx(-2, abs=0.1)
    assert platt.offset[0] == pytest.approx(1, abs=0.1)
    np.testing.assert_allclose(platt_probabilities(platt, s), truth, atol=0.02)


def test_useless_and_equal_scores_give_the_prior():
    y = np.array([[1], [-1], [-1], [-1], [-1]])
    p = platt_probabilities(fit_platt(np.full((5, 1), 7.0), y), [[7.0]])
    # the mean of the smoothed targets 2/3 and 4 x 1/6
    np.testing.assert_allclose(p, (2 / 3 + 4 / 6) / 5, rtol=1e-6)


def test_exclusive_classes_sum_to_one_even_far_out():
    s, y = scores_and_targets()
    platt = fit_platt(s, y)
    far = np.array([[-1e6, -1e6, -1e6], [0, 1, 2], [1e6, 0, 0]])
    p = platt_probabilities(platt, far, exclusive=True)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    plain = platt_probabilities(platt, far)
    np.testing.assert_allclose(p[1], plain[1] / plain[1].sum())


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (np.zeros(3), np.ones(3), "scores must be"),
        (np.zeros((3, 2)), [[1], [-1], [1]], "agree"),
        (np.full((2, 1), np.inf), [[1], [-1]], "finite"),
        (np.zeros((2, 1)), [[1], [1]], "no negative"),
        (np.zeros((2, 1)), [[1], [3]], "targets must be"),
    ],
)
def test_mistakes_are_named(scores, targets, message):
    with pytest.raises(ValueError, match=message):
        fit_platt(scores, np.asarray(targets))


def test_other_number_of_classes():
    s, y = scores_and_targets()
    with pytest.raises(ValueError, match=r"\(N, 3\)"):
        platt_probabilities(fit_platt(s, y), s[:, :2])
