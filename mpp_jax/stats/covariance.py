"""The covariance of the rows of an array or a stream: one triangle of blocks, compensated.

Chunk by chunk, each moved by a common centre first; or, from a stream, moved by each block's own
mean and merged in float64.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mpp_jax.numerics import PRECISION, check_values, mask_rows, real_dtype
from mpp_jax.stats.chunks import ArrayData, ChunkStream, Layout, data_stats, sum_over_rows

BLOCK = 512
"""Columns per block of the covariance on a CPU: one triangle of blocks is half of the work."""


def block_columns(d: int) -> int:
    """Return the columns per block of a covariance (D, D).

    All of them on accelerators: each product of another shape is compiled, and tried out in many
    forms, for seconds, to save milliseconds.
    """
    return BLOCK if jax.default_backend() == "cpu" else d


def _scatter_blocks(mean: Array, x: Array, mask: Array) -> tuple[tuple[Array, ...], Array]:
    """Return ``sum_i z_i z_i^T``, ``z = x - mean``, as rows of blocks, and ``sum_i z_i``."""
    z = (mask_rows(x.astype(mean.dtype), mask, mean) - mean[None, :]) * mask[:, None]
    d = z.shape[1]
    step = block_columns(d)
    blocks = tuple(
        jnp.matmul(z[:, i : i + step].T, z[:, i:], precision=PRECISION) for i in range(0, d, step)
    )
    return blocks, jnp.sum(z, axis=0)


@partial(jax.jit, static_argnames=("rows", "layout"))
def _array_scatter(x: Array, mask: Array, mean: Array, rows: int, layout: Layout) -> Any:
    return sum_over_rows(_scatter_blocks, mean, x, mask, rows, layout)


_block_scatter = jax.jit(_scatter_blocks)


def _assemble(blocks: tuple[Array, ...], d: int) -> np.ndarray:
    """Return the symmetric float64 matrix (D, D) from rows of blocks, each from the diagonal on."""
    full = np.empty((d, d))
    for block in blocks:
        i = d - block.shape[1]
        full[i : i + block.shape[0], i:] = block
        full[i:, i : i + block.shape[0]] = np.asarray(block).T
    return full


def covariance(data: ArrayData | ChunkStream) -> tuple[int, np.ndarray, np.ndarray]:
    """Return count, mean (D,) and covariance (D, D), divided by ``count - 1``, both float64."""
    if isinstance(data, ArrayData):
        count, mean, change, blocks = array_moments(data)
        scatter = _assemble(blocks, len(mean)) - count * np.outer(change, change)
    else:
        count, mean, scatter = _stream_scatter(data)
    check_count(count, data)
    return count, mean, scatter / (count - 1)


def array_moments(
    data: ArrayData,
) -> tuple[int, np.ndarray, np.ndarray, tuple[Array, ...]]:
    """Return count, mean (D,), by how much that differs from the centre, and the scatter there."""
    stats = data_stats(data)
    count, mean = stats.count, np.asarray(stats.mean, np.float64)
    args = (data.x, data.mask, jnp.asarray(stats.mean))
    blocks, rest = _array_scatter(*args, rows=data.rows, layout=data.layout)
    change = np.asarray(rest, np.float64) / count
    return count, mean + change, change, blocks


def check_count(count: int, data: ArrayData | ChunkStream) -> None:
    """Raise a `ValueError` unless there are two rows at least."""
    if count < 2:
        raise ValueError(f"{data.name} has {count} row; a covariance needs two at least.")


@jax.jit
def symmetric(blocks: tuple[Array, ...], change: Array, count: Array) -> Array:
    """Return the covariance (D, D) float64 from rows of blocks, each from the diagonal on."""
    d = change.shape[0]
    wide = [
        jnp.pad(block.astype(change.dtype), ((0, 0), (d - block.shape[1], 0))) for block in blocks
    ]
    upper = jnp.triu(jnp.concatenate(wide))
    full = upper + jnp.triu(upper, 1).T
    return (full - count * (change[:, None] * change[None, :])) / (count - 1)


def _stream_scatter(data: ChunkStream) -> tuple[int, np.ndarray, np.ndarray]:
    count, mean, scatter = 0, np.zeros(0), np.zeros((0, 0))
    for block, mask in data:
        n = int(mask.sum())
        x = np.asarray(block[:n], np.float64)
        check_values(float(np.max(np.abs(x))), data.name)
        centre = x.mean(axis=0).astype(real_dtype(block))
        blocks, rest = _block_scatter(jnp.asarray(centre), block, mask)
        shift = np.asarray(rest, np.float64) / n
        own = centre.astype(np.float64) + shift
        part = _assemble(blocks, x.shape[1]) - n * np.outer(shift, shift)
        if count == 0:
            count, mean, scatter = n, own, part
            continue
        # Chan, Golub and LeVeque's pairwise update.
        change = own - mean
        scatter += part + np.outer(change, change) * (count * n / (count + n))
        mean = mean + change * (n / (count + n))
        count += n
    return count, mean, scatter
