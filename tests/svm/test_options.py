"""The options of every fit: one list, one set of defaults, and names that are checked."""

import jax
import numpy as np
import pytest

from mpp_jax.svm import (
    SVMOptions,
    cross_validate_svm,
    fit_svm,
    fit_svm_gram,
    fit_svm_primal,
    one_vs_rest_targets,
    svm_path,
)
from mpp_jax.svm.options import DEFAULTS, loss_weights, resolve

X = np.eye(6, dtype=np.float32)
Y = one_vs_rest_targets([0, 1, 0, 1, 0, 1])
KEY = jax.random.key(0)
FITS = {
    "fit_svm": lambda **options: fit_svm(X, Y, **options),
    "fit_svm_gram": lambda **options: fit_svm_gram(X, Y, **options),
    "svm_path": lambda **options: svm_path(X, Y, [1.0], **options),
    "cross_validate_svm": lambda **options: cross_validate_svm(X, Y, [1.0], 2, key=KEY, **options),
    "fit_svm_primal": lambda **options: fit_svm_primal(X, Y, key=KEY, **options),
}


@pytest.mark.parametrize("name", FITS)
def test_unknown_options_are_named(name):
    with pytest.raises(TypeError, match=r"unknown option 'tol'.*bias_multiplier.*sample_weight"):
        FITS[name](tol=1e-3)


@pytest.mark.parametrize("name", FITS)
def test_wrong_values_are_named(name):
    for option, value in (("loss", "absolute"), ("bias_multiplier", -1.0), ("tolerance", 0.0)):
        with pytest.raises(ValueError, match=option):
            FITS[name](**{option: value})
    with pytest.raises(ValueError, match="class_weight"):
        FITS[name](class_weight="even")


def test_epochs_are_not_iterations():
    with pytest.raises(TypeError, match="unknown option 'max_iterations'"):
        FITS["fit_svm_primal"](max_iterations=3)


def test_every_option_has_a_default_and_is_documented():
    assert set(DEFAULTS) == SVMOptions.__optional_keys__
    assert all(f"{name}:" in SVMOptions.__doc__ for name in DEFAULTS)
    assert resolve({}) == DEFAULTS
    assert resolve({"loss": "logistic"}, tolerance=0.1) == {
        **DEFAULTS,
        "loss": "logistic",
        "tolerance": 0.1,
    }


def test_balanced_weights_are_scikit_learns():
    y = np.array([[1, 1], [-1, 0], [-1, -1], [-1, -1]], float)
    u = loss_weights(y, 10.0, "balanced")
    np.testing.assert_allclose(u[:, 0], 10 * np.array([2, 2 / 3, 2 / 3, 2 / 3]))
    np.testing.assert_allclose(u[:, 1], 10 * np.array([1.5, 0, 0.75, 0.75]))
