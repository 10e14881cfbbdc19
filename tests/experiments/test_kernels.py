"""Inner products in the place of vectors: the same stacks, machines and scores."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mpp_jax.numerics import stack_unit_vectors
from mpp_jax.svm import fit_svm, svm_scores

CLASSES, EACH = 3, 12


def unit(rng: np.random.Generator, rows: int, dimension: int) -> np.ndarray:
    x = rng.normal(size=(rows, dimension)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def data() -> Any:
    labels = np.repeat(np.arange(CLASSES), EACH)
    targets = np.where(labels[:, None] == np.arange(CLASSES), 1, -1)
    return SimpleNamespace(multi_label=False, targets=lambda split: targets)


def test_stacks_and_scores_are_those_of_the_vectors(data: Any) -> None:
    from kernels import Kernel, scored, stacked

    rng = np.random.default_rng(0)
    train = [unit(rng, CLASSES * EACH, d) for d in (5, 9)]
    test = [unit(rng, 7, d) for d in (5, 9)]
    parts = [Kernel(a @ a.T, b @ a.T, a.shape[1]) for a, b in zip(train, test, strict=True)]
    together = stacked(parts)
    a, b = stack_unit_vectors(train), stack_unit_vectors(test)
    np.testing.assert_allclose(together.train, a @ a.T, atol=1e-6)
    np.testing.assert_allclose(together.cross, b @ a.T, atol=1e-6)
    assert together.dimension == 14
    svm, _ = fit_svm(a, data.targets("train"), 3.0)
    expected = np.asarray(svm_scores(svm, b))
    np.testing.assert_allclose(scored(together, data, 3.0), expected, atol=2e-2)


def test_folds_prefer_what_separates(data: Any) -> None:
    """Vectors that carry the label against noise; and what is reported belongs to the C."""
    from kernels import CS, Kernel, by_folds

    rng = np.random.default_rng(1)
    noise = unit(rng, CLASSES * EACH, 20)
    telling = noise + 0.7 * (data.targets("train") > 0) @ unit(rng, CLASSES, 20)
    telling = (telling / np.linalg.norm(telling, axis=1, keepdims=True)).astype(np.float32)
    found = [
        by_folds(Kernel(x @ x.T, np.empty((0, len(x)), np.float32), 20), data)
        for x in (noise, telling)
    ]
    assert found[1].value > found[0].value + 0.2
    assert found[1].value >= found[1].at_ten
    assert found[1].c in CS
