"""Tolerances by backend, in one place.

The tests' tolerances were set on CPUs. An accelerator adds in another order, by blocks, and its
exponentials and roots are its own: the same products in float32 come out a few roundings further
from the exact value. The tolerances of `numpy.testing.assert_allclose` and `pytest.approx` are
multiplied there; one of zero stays zero, so that what must be equal to the bit must be so
everywhere.
"""

from collections.abc import Mapping
from typing import Any, Final

import jax
import numpy as np
import pytest

FACTORS: Final[Mapping[str, float]] = {"cpu": 1.0, "gpu": 8.0, "tpu": 32.0}
"""By `jax.default_backend`; those of accelerators are reasoned, not measured (a TPU makes a float32
product of six bfloat16 ones)."""


def factor() -> float:
    """Return what tolerances are multiplied by on the device of this session."""
    return FACTORS.get(jax.default_backend(), FACTORS["gpu"])


def widen(monkeypatch: pytest.MonkeyPatch, times: float) -> None:
    """Multiply the tolerances of both comparisons, as long as the patch lasts."""
    assert_allclose, approx = np.testing.assert_allclose, pytest.approx

    def all_close(actual: Any, desired: Any, rtol: float = 1e-7, atol: float = 0, **rest: Any):
        __tracebackhide__ = True
        assert_allclose(actual, desired, rtol=times * rtol, atol=times * atol, **rest)

    def approximate(expected: Any, rel: float | None = None, abs: float | None = None, **rest: Any):
        if rel is None and abs is None:
            rel, abs = 1e-6, 1e-12  # pytest's own; a stated one alone stays alone
        wide = {k: None if v is None else times * v for k, v in (("rel", rel), ("abs", abs))}
        return approx(expected, **wide, **rest)

    monkeypatch.setattr(np.testing, "assert_allclose", all_close)
    monkeypatch.setattr(pytest, "approx", approximate)
