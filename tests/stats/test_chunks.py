"""Sums over chunks, streams, and samples of rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpp_jax.numerics import compensated_add
from mpp_jax.stats.chunks import (
    ChunkStream,
    _array_stats,
    data_stats,
    open_data,
    row_layout,
    sample_rows,
    sum_over_rows,
)

X = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)


def total(shift, x, mask):
    return {"count": jnp.sum(mask), "sum": jnp.sum((x + shift) * mask[:, None], axis=0)}


@pytest.mark.parametrize("rows", [1, 7, 50, 99, 100, 1000])
def test_every_row_counts_once(rows):
    mask = jnp.asarray(np.arange(100) % 4 > 0, jnp.float32)
    got = sum_over_rows(total, jnp.float32(2.0), jnp.asarray(X), mask, rows)
    assert float(got["count"]) == 75
    np.testing.assert_allclose(got["sum"], (X + 2)[np.arange(100) % 4 > 0].sum(0), rtol=1e-5)


def test_long_sums_do_not_stop_growing():
    """After 1e8, float32 has no room for a 1: a plain sum would lose every one of them."""
    x = jnp.ones((5000, 1)).at[0].set(1e8)
    got = sum_over_rows(total, jnp.float32(0), x, jnp.ones(5000), 1)
    assert float(got["sum"][0]) == np.float32(1e8 + 4999)
    high, low = jnp.float32(1e8), jnp.float32(0)
    high, low = compensated_add(high, low, jnp.float32(1))
    assert (float(high), float(low)) == (1e8, 1.0)


def test_blocks_of_a_stream():
    pieces = [X[:3], X[3:3], X[3:60], X[60:]]
    blocks = list(ChunkStream(pieces, 32))
    assert [x.shape for x, _ in blocks] == [(32, 3)] * 4
    assert [int(mask.sum()) for _, mask in blocks] == [32, 32, 32, 4]
    kept = np.concatenate([x[mask > 0] for x, mask in blocks])
    np.testing.assert_array_equal(kept, X)
    assert np.isfinite(blocks[-1][0]).all()


def test_peek_loses_no_row():
    stream, columns = ChunkStream((p for p in [X[:10], X[10:]]), 64).peek()
    assert columns == 3
    assert sum(int(mask.sum()) for _, mask in stream) == 100


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_statistics(offset):
    x = (X + np.float32(offset)).astype(np.float32)
    exact = x.astype(np.float64)
    for data in (open_data(x, rows=16), open_data([x[:50], x[50:]], rows=16)):
        stats = data_stats(data)
        assert stats.count == 100
        np.testing.assert_allclose(stats.mean, exact.mean(0), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(stats.variance, exact.var(0), rtol=1e-5)
        assert stats.dtype == np.float32


def test_statistics_of_wide_rows_need_no_second_copy():
    """A gigabyte of activations must not be spread over another one on the way to its mean."""
    x = jax.ShapeDtypeStruct((2048, 4096), jnp.float32)
    mask = jax.ShapeDtypeStruct((2048,), jnp.float32)
    program = _array_stats.lower(x, mask, rows=64, layout=None).compile()
    assert program.memory_analysis().temp_size_in_bytes < 4 * 2048 * 4096 / 8


def test_equal_rows_have_no_variance():
    stats = data_stats(open_data(np.full((100, 2), 1.1e12, np.float32), rows=16))
    assert not stats.variance.any()


def test_same_sample_from_array_and_stream():
    key = jax.random.key(3)
    whole = np.asarray(sample_rows(open_data(X), key, 20))
    streamed = sample_rows(open_data([X[:33], X[33:]], rows=8), key, 20)
    np.testing.assert_array_equal(whole, streamed)
    assert len({tuple(row) for row in whole}) == 20
    np.testing.assert_array_equal(sample_rows(open_data(X), key, 500), X)
    mask = np.arange(100) < 30
    rows = {tuple(row) for row in X[:30]}
    masked = np.asarray(sample_rows(open_data(X, mask), key, 20))
    assert all(tuple(row) in rows for row in masked)


def test_plain_arrays_have_no_layout():
    assert row_layout(X) is None
    assert row_layout(jnp.asarray(X)) is None
