"""Gram matrices of wide vectors that need not fit on the device, and the two products beside them.

A linear machine over N vectors of D dimensions, N much smaller than D, sees its data only through

    G = X X^T                      (N, N)   once, before training
    W = A^T X                      (L, D)   once, after training: weights from dual coefficients A
    S = X W^T                      (N, L)   scores of new vectors

All three are sums over blocks of columns (G, W) or rows (S), so a memory map of encodings passes
through the device a block at a time. G is symmetric: a CPU multiplies only the block triangle on
and below the diagonal, 1/2 + 1/(2 panels) of the full work. An accelerator, for which each product
of another shape is compiled and tried out for seconds, has one panel, and blocks of one width.

Vectors that are read by rows from a disk (`mpp_jax.svm.blocks.RowReader`) pass by in blocks of rows
throughout. For G some of them are resident and meet all those before them, then the next ones are;
with R resident rows every vector is read (1 + N / R) / 2 times.
"""

from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from mpp_jax.devices import current_mesh, spread
from mpp_jax.numerics import DEVICES, PRECISION
from mpp_jax.svm.blocks import (
    RowReader,
    Vectors,
    block_height,
    block_width,
    even_blocks,
    is_reader,
    row_blocks,
    vectors_shape,
)

RESIDENT_BYTES = 512 * 2**20
"""Most bytes of vectors that are resident while others are read from a disk."""

PANEL_ROWS = 512
"""Rows of a panel of the Gram matrix: fewer waste less above the diagonal, but multiply slower."""


def panel_count(rows: int) -> int:
    """Return the panels of a Gram matrix of so many rows."""
    if jax.default_backend() != "cpu":
        return 1
    return min(16, max(1, round(rows / PANEL_ROWS)))


def gram_matrix(
    vectors: Vectors,
    *,
    block_columns: int | None = None,
    resident_bytes: int = RESIDENT_BYTES,
) -> jax.Array:
    """Return all inner products of the rows of `vectors`: ``G[i, j] = <x_i, x_j>``.

    The columns are shared out to the devices of `mpp_jax.devices`.

    Gram matrices of several representations of the same pictures add up to that of the stacked
    representation: ``gram_matrix(a) + gram_matrix(b)`` is `gram_matrix` of ``[a, b]``.

    Args:
        vectors: (N, D), see `mpp_jax.svm.blocks` for the accepted forms.
        block_columns: columns sent to a device at a time; by default at most 1,024 on a CPU,
            4,096 elsewhere, and 64 MiB. Of no account for vectors that are read by rows.
        resident_bytes: of vectors that are read by rows, how many bytes are resident at once: the
            more, the less often each is read.

    Returns:
        (N, N) float32, exactly symmetric.

    Raises:
        TypeError: `vectors` is a one-pass iterator or not numeric.
        ValueError: `vectors` is not two-dimensional, is empty, or holds NaN, infinity, or rows
            whose squared norm exceeds float32 (the rows are named).
    """
    gram = _gram(vectors, jnp.float32, block_columns, resident_bytes=resident_bytes)
    # The diagonal holds the squared norms: it is finite exactly if every row is (and fits).
    check_finite_rows(np.isfinite(np.asarray(jnp.diagonal(gram))), "vectors")
    return gram


def exact_gram_matrix(vectors: Vectors) -> jax.Array:
    """Return `gram_matrix` with products and sums in float64, of the vectors in float32."""
    with jax.enable_x64(True):
        return _gram(vectors, jnp.float64)


def _gram(
    vectors: Vectors,
    dtype: Any,
    block_columns: int | None = None,
    even: bool | None = None,
    resident_bytes: int = RESIDENT_BYTES,
) -> jax.Array:
    n, _ = vectors_shape(vectors)
    if is_reader(vectors):
        return _gram_by_rows(vectors, dtype, resident_bytes)
    mesh = current_mesh()
    if mesh is not None:
        return _spread_gram(vectors, dtype, block_columns or block_width(n), mesh)
    gram = jnp.zeros((n, n), dtype)
    for _, block in even_blocks(vectors, block_columns, even):
        gram = _accumulate_triangle(gram, block, panel_count(n))
    return _mirror(gram)


def _spread_gram(vectors: Vectors, dtype: Any, width: int, mesh: Mesh) -> jax.Array:
    """Return the Gram matrix, of which each device sums the products of its share of columns."""
    n, d = vectors_shape(vectors)
    width = min(width * mesh.size, d + -d % mesh.size)
    lead = NamedSharding(mesh, PartitionSpec(DEVICES))
    parts = jnp.zeros((mesh.size, n, n), dtype, device=lead)
    for _, block in even_blocks(vectors, width, even=True):
        parts = _accumulate_triangles(parts, spread(block, mesh, axis=1), panel_count(n), mesh)
    return jax.device_put(_mirror_sum(parts), mesh.devices.flat[0])


def _gram_by_rows(vectors: RowReader, dtype: Any, resident_bytes: int) -> jax.Array:
    n, d = vectors.shape
    height = block_height(d)
    resident = height * max(1, resident_bytes // (4 * d * height))
    gram = np.zeros((n, n), dtype)
    for low in range(0, n, resident):
        own = jnp.asarray(vectors[low : min(low + resident, n)], jnp.float32)
        high = low + own.shape[0]
        gram[low:high, low:high] = _gram(own, dtype)
        for start, block in row_blocks(vectors, height, stop=low):
            tile = np.asarray(_tile(own, block, dtype=dtype))
            gram[low:high, start : start + height] = tile
            gram[start : start + height, low:high] = tile.T
    return jnp.asarray(gram)


def dual_to_weights(coefficients: ArrayLike, vectors: Vectors) -> np.ndarray:
    """Return weight vectors ``W = A^T X`` from dual coefficients, a block of columns at a time.

    Products and sums are float64, for large coefficients cancel.

    Args:
        coefficients: (N, L), signed dual coefficients (alpha * y).
        vectors: (N, D), the training vectors, see `mpp_jax.svm.blocks` for the accepted forms.

    Returns:
        (L, D) float32, on the host.

    Raises:
        ValueError: the number of rows differs.
    """
    return recover(coefficients, vectors).weights


class Recovered(NamedTuple):
    """Machines from dual coefficients, and what their certificate needs, float64."""

    weights: np.ndarray  # (L, D) float32
    squares: np.ndarray  # (L,) squared norms of the weights before the rounding to float32
    products: np.ndarray  # (N, L) vectors times rounded weights


def recover(coefficients: ArrayLike, vectors: Vectors) -> Recovered:
    """Return `dual_to_weights` with norms and scores, in one pass over the vectors.

    Those that are read by rows pass twice, for they give no weight before the last of them.
    """
    n, d = vectors_shape(vectors)
    if np.ndim(coefficients) != 2 or np.shape(coefficients)[0] != n:
        raise ValueError(
            f"coefficients must be (N, L) with one row per vector: got "
            f"{np.shape(coefficients)} for {n} vectors"
        )
    if is_reader(vectors):
        return _recover_by_rows(np.asarray(coefficients, np.float64), vectors)
    weights = np.empty((np.shape(coefficients)[1], d), np.float32)
    parts: list[tuple[int, jax.Array]] = []
    with jax.enable_x64(True):
        a = jnp.asarray(coefficients, dtype=jnp.float64)
        squares, products = jnp.zeros(a.shape[1]), jnp.zeros_like(a)
        for start, block in even_blocks(vectors):
            columns, squares, products = _recover_columns(a, block, squares, products)
            parts.append((start, columns))
        # Fetched last: the host need not wait for the device between two blocks.
        for start, columns in parts:
            weights[:, start : start + columns.shape[1]] = columns[:, : d - start]
        return Recovered(weights, np.asarray(squares), np.asarray(products))


def _recover_by_rows(coefficients: np.ndarray, vectors: RowReader) -> Recovered:
    n, d = vectors.shape
    products = np.empty((n, coefficients.shape[1]))
    with jax.enable_x64(True):
        exact = jnp.zeros((coefficients.shape[1], d))
        for start, block in row_blocks(vectors):
            part = coefficients[start : start + block.shape[0]]
            exact = _accumulate_weights(exact, part, block)
        weights = exact.astype(jnp.float32)
        squares = np.asarray(jnp.sum(jnp.square(exact), axis=1))
        del exact
        for start, block in row_blocks(vectors):
            products[start : start + block.shape[0]] = _wide_products(block, weights)
    return Recovered(np.asarray(weights), squares, products)


def row_products(vectors: Vectors, weights: ArrayLike) -> jax.Array:
    """Return ``X W^T``, (N, D) x (L, D) -> (N, L) float32, a block of rows at a time."""
    w = jnp.asarray(weights, dtype=jnp.float32)
    parts = [_rows_times(block, w) for _, block in row_blocks(vectors)]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def check_finite_rows(finite: np.ndarray, name: str, rows: np.ndarray | None = None) -> None:
    """Raise a ValueError naming the first rows that `finite` (N,) marks as unusable.

    `rows` (N,) are the rows' numbers if they are not 0..N-1.
    """
    bad = np.flatnonzero(~finite) if rows is None else np.unique(rows[~finite])
    if bad.size:
        shown = ", ".join(map(str, bad[:5])) + (", ..." if bad.size > 5 else "")
        raise ValueError(
            f"{name} must be finite, with squared norms that fit float32: {bad.size} of "
            f"{finite.size} rows are not: {shown}. Leave them out, or encode them again"
        )


@partial(jax.jit, donate_argnums=0, static_argnames="panels")
def _accumulate_triangle(gram: jax.Array, block: jax.Array, panels: int) -> jax.Array:
    return _add_triangle(gram, block, panels)


@partial(jax.jit, donate_argnums=0, static_argnames=("panels", "mesh"))
def _accumulate_triangles(parts: jax.Array, block: jax.Array, panels: int, mesh: Mesh) -> jax.Array:
    return jax.shard_map(
        lambda gram, columns: _add_triangle(gram[0], columns, panels)[None],
        mesh=mesh,
        in_specs=(PartitionSpec(DEVICES), PartitionSpec(None, DEVICES)),
        out_specs=PartitionSpec(DEVICES),
    )(parts, block)


def _add_triangle(gram: jax.Array, block: jax.Array, panels: int) -> jax.Array:
    """Add ``block @ block.T`` to `gram` on the block triangle; above it nothing changes."""
    block = block.astype(gram.dtype)
    n = gram.shape[0]
    edges = [round(i * n / panels) for i in range(panels + 1)]
    for low, high in pairwise(edges):
        product = jnp.matmul(block[low:high], block[:high].T, precision=PRECISION)
        gram = gram.at[low:high, :high].add(product)
    return gram


@jax.jit
def _mirror(lower: jax.Array) -> jax.Array:
    return jnp.tril(lower) + jnp.tril(lower, -1).T


@partial(jax.jit, static_argnames="dtype")
def _tile(rows: jax.Array, others: jax.Array, *, dtype: Any) -> jax.Array:
    return jnp.matmul(rows.astype(dtype), others.astype(dtype).T, precision=PRECISION)


@partial(jax.jit, donate_argnums=0)
def _accumulate_weights(weights: jax.Array, a: jax.Array, block: jax.Array) -> jax.Array:
    return weights + jnp.matmul(a.T, block.astype(weights.dtype), precision=PRECISION)


@jax.jit
def _wide_products(block: jax.Array, weights: jax.Array) -> jax.Array:
    wide = jnp.float64
    return jnp.matmul(block.astype(wide), weights.astype(wide).T, precision=PRECISION)


@jax.jit
def _mirror_sum(parts: jax.Array) -> jax.Array:
    return _mirror(jnp.sum(parts, axis=0))


@jax.jit
def _recover_columns(
    a: jax.Array, block: jax.Array, squares: jax.Array, products: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    wide = block.astype(a.dtype)
    exact = jnp.matmul(a.T, wide, precision=PRECISION)
    columns = exact.astype(jnp.float32)
    parts = jnp.matmul(wide, columns.astype(a.dtype).T, precision=PRECISION)
    return columns, squares + jnp.sum(jnp.square(exact), axis=1), products + parts


@jax.jit
def _rows_times(block: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.matmul(block, w.T, precision=PRECISION)
