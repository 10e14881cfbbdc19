"""The streamed products against NumPy in float64, for every accepted form of vectors."""

from functools import partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from helpers.svm_reference import problem

from mpp_jax.svm import blocks, gram
from mpp_jax.svm.blocks import resident
from mpp_jax.svm.gram import dual_to_weights, gram_matrix, row_products

X, _ = problem(n=300, d=210)
EXACT = X.astype(np.float64) @ X.astype(np.float64).T


class Blocks:
    """A re-iterable that is no sequence, as a reader of shards may be."""

    def __iter__(self):
        return iter([X[:100], X[100:101], X[101:]])


def forms(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.save(tmp_path / "a.npy", X[:130])
    np.save(tmp_path / "b.npy", X[130:])
    shards = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "ab"]
    return [X, jnp.asarray(X), mapped, shards, (X[:1], jnp.asarray(X[1:])), Blocks()]


@pytest.mark.parametrize("width", [None, 64, 210, 1000])
def test_gram_of_every_form(tmp_path, width):
    for vectors in forms(tmp_path):
        gram = np.asarray(gram_matrix(vectors, block_columns=width))
        assert gram.dtype == np.float32
        np.testing.assert_array_equal(gram, gram.T)
        np.testing.assert_allclose(gram, EXACT, atol=5e-7)


@pytest.mark.parametrize("n", [1, 5, 127, 257])  # one block of rows, and an uneven last one
def test_gram_of_few_rows(n):
    np.testing.assert_allclose(gram_matrix(X[:n]), EXACT[:n, :n], atol=5e-7)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.int32])
def test_gram_of_every_dtype(dtype):
    x = (8 * X).astype(dtype)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(gram_matrix(x), wide @ wide.T, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(gram_matrix(jnp.asarray(X, jnp.bfloat16)), EXACT, atol=1e-2)


def test_weights_and_scores_of_every_form(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "CHUNK_BYTES", 4 * 210 * 32)  # several blocks of rows
    a = np.random.default_rng(0).standard_normal((300, 4))
    weights = a.T @ X
    for vectors in forms(tmp_path):
        found = dual_to_weights(a, vectors)
        np.testing.assert_allclose(found, weights, atol=1e-5)
        np.testing.assert_allclose(row_products(vectors, found), X @ weights.T, atol=1e-4)


def test_device_arrays_compile_once_per_block_shape(monkeypatch):
    x = jnp.asarray(X)
    gram._accumulate_triangle.clear_cache()
    gram_matrix(x, block_columns=42)  # five blocks of one shape
    assert gram._accumulate_triangle._cache_size() == 1


def test_half_the_work():
    """The block triangle costs (1 + 1/panels) / 2 of the square's multiplications: here 5/8."""
    whole = jax.ShapeDtypeStruct((2048, 2048), jnp.float32)
    block = jax.ShapeDtypeStruct((2048, 64), jnp.float32)
    panels = gram.panel_count(2048)
    cost = gram._accumulate_triangle.lower(whole, block, panels).compile().cost_analysis()
    square = 2 * 2048 * 2048 * 64
    assert cost["flops"] < 0.64 * square


def test_mistakes_are_named():
    with pytest.raises(TypeError, match="one-pass iterator"):
        gram_matrix(iter([X, X]))
    with pytest.raises(TypeError, match="one-pass iterator"):
        gram_matrix(block for block in (X,))
    with pytest.raises(TypeError, match="array or an iterable"):
        gram_matrix(3.0)
    with pytest.raises(TypeError, match="real numbers"):
        gram_matrix(X.astype(complex))
    with pytest.raises(TypeError, match="real numbers"):
        gram_matrix([X, X.astype(str)])
    with pytest.raises(ValueError, match="differ in dimension"):
        gram_matrix([X, X[:, :7]])
    with pytest.raises(ValueError, match="block 0 has shape"):
        gram_matrix([[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(ValueError, match="empty"):
        gram_matrix([])
    with pytest.raises(ValueError, match="one row per vector"):
        dual_to_weights(np.ones((4, 2)), X)
    bad = X.copy()
    bad[[2, 299]] = np.inf
    with pytest.raises(ValueError, match="2 of 300 rows are not: 2, 299"):
        gram_matrix([bad[:10], bad[10:]])


def test_resident_vectors_are_the_same_on_the_device(tmp_path):
    wide = 4 * X.size
    for vectors in forms(tmp_path):
        there = resident(vectors, room=wide)
        assert isinstance(there, jax.Array)
        assert there.dtype == jnp.float32
        np.testing.assert_array_equal(there, X)
        np.testing.assert_array_equal(gram_matrix(there), gram_matrix(vectors))
        assert resident(there, room=0) is there
        if not isinstance(vectors, jax.Array):
            assert resident(vectors, room=wide - 1) is vectors
            assert resident(vectors) is vectors  # a CPU reads them where they are


def test_forms_of_accelerators(monkeypatch):
    """One panel, and blocks filled up to one width: the same matrix and the same machines."""
    a = np.random.default_rng(1).standard_normal((300, 2))
    narrow = gram.recover(a, X)
    monkeypatch.setattr(gram, "panel_count", lambda _: 1)
    for module in (blocks, gram):
        monkeypatch.setattr(module, "block_width", lambda _: 64)
    found = np.asarray(gram._gram(X, jnp.float32, None, even=True))
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_allclose(found, EXACT, atol=5e-7)
    shapes = [block.shape for _, block in gram.even_blocks(X, even=True)]
    assert shapes == [(300, 64)] * 4
    monkeypatch.setattr(gram, "even_blocks", partial(gram.even_blocks, even=True))
    filled = gram.recover(a, X)
    np.testing.assert_allclose(filled.weights, narrow.weights, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(filled.squares, narrow.squares, rtol=1e-12)
    np.testing.assert_allclose(filled.products, narrow.products, atol=1e-5)
