"""The tolerances of an accelerator: wider by a factor, those of zero as they are."""

import numpy as np
import pytest
from helpers.tolerance import widen


def test_tolerances_are_multiplied():
    with pytest.MonkeyPatch.context() as patch:
        widen(patch, 8)
        np.testing.assert_allclose(1 + 7e-5, 1, rtol=1e-5)
        np.testing.assert_allclose([7e-5], [0], 0, 1e-5)
        np.testing.assert_allclose(1 + 7e-7, 1)
        assert pytest.approx(1) == 1 + 7e-6
        assert pytest.approx(1, rel=1e-4) == 1 + 7e-4
        assert pytest.approx(0, abs=1e-4) == 7e-4
        assert pytest.approx(1, abs=1e-9) != 1 + 7e-6
        for options in ({}, {"rtol": 1e-7}):
            with pytest.raises(AssertionError):
                np.testing.assert_allclose(1 + 9e-7, 1, **options)
        with pytest.raises(AssertionError):
            np.testing.assert_allclose(1 + 1e-7, 1, rtol=0)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(1 + 7e-5, 1, rtol=1e-5)
    assert pytest.approx(1) != 1 + 7e-6
