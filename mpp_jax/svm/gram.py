"""Gram matrices of wide vectors that need not fit on the device, and the two products beside them.

A linear machine over N vectors of D dimensions, N much smaller than D, sees its data only through

    G = X X^T                      (N, N)   once, before training
    W = A^T X                      (L, D)   once, after training: weights from dual coefficients A
    S = X W^T                      (N, L)   scores of new vectors

All three are sums over blocks of columns (G, W) or rows (S), so a memory map of encodings passes
through the device a block at a time. G is symmetric: a CPU multiplies only the block triangle on
and below the diagonal, 1/2 + 1/(2 panels) of the full work. An accelerator, for which each product
of another shape is compiled and tried out for seconds, has one panel, and blocks of one width.

`vectors` is everywhere one of

- an (N, D) array: NumPy, ``np.memmap`` or JAX, of any real dtype (computed in float32);
- a re-iterable of (N_i, D) row blocks, such as a list of ``np.load(path, mmap_mode="r")``; the
  blocks are the rows in order. It is passed over once per column block, so it must not be a
  one-pass iterator.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from mpp_jax.devices import current_mesh, spread
from mpp_jax.numerics import DEVICES, PRECISION

Vectors: TypeAlias = ArrayLike | Iterable[Any]
"""An (N, D) array or a re-iterable of (N_i, D) row blocks."""

CHUNK_BYTES = 64 * 2**20
"""Most bytes of float32 vectors sent to the device in one block."""

PANEL_ROWS = 512
"""Rows of a panel of the Gram matrix: fewer waste less above the diagonal, but multiply slower."""


def widest_block() -> int:
    """Return the most columns of a block: what stays in the cache of a CPU, what fills a GPU."""
    return 1024 if jax.default_backend() == "cpu" else 4096


def panel_count(rows: int) -> int:
    """Return the panels of a Gram matrix of so many rows."""
    if jax.default_backend() != "cpu":
        return 1
    return min(16, max(1, round(rows / PANEL_ROWS)))


def block_width(rows: int) -> int:
    """Return the columns of a block of so many rows."""
    return max(64, min(widest_block(), CHUNK_BYTES // (4 * rows)))


# ------------------------------------------------------------------------------ blocks of vectors


def vectors_shape(vectors: Vectors, name: str = "vectors") -> tuple[int, int]:
    """Return (rows, columns) of `vectors`, after checking that it is of an accepted form.

    Raises:
        TypeError: `vectors` is a one-pass iterator or not numeric.
        ValueError: it is not two-dimensional, is empty, or its row blocks differ in width.
    """
    if _is_array(vectors):
        shape = vectors.shape
        if len(shape) != 2:
            raise ValueError(f"{name} must be (rows, dimensions), got shape {tuple(shape)}")
        _check_real(vectors.dtype, name)
    else:
        rows, widths = 0, []
        for i, block in enumerate(_row_blocks(vectors, name)):
            if block.ndim != 2:
                raise ValueError(
                    f"{name} must be (rows, dimensions) or row blocks of that shape, "
                    f"block {i} has shape {tuple(block.shape)}"
                )
            _check_real(block.dtype, f"block {i} of {name}")
            rows += block.shape[0]
            widths.append(block.shape[1])
        if len(set(widths)) > 1:
            raise ValueError(
                f"the row blocks of {name} differ in dimension: {sorted(set(widths))}; "
                "encode all of them with one codebook"
            )
        shape = (rows, widths[0] if widths else 0)
    if 0 in shape:
        raise ValueError(f"{name} is empty: shape {tuple(shape)}")
    return int(shape[0]), int(shape[1])


def resident(vectors: Vectors, room: int | None = None) -> Vectors:
    """Return vectors that are read several times, on the device where they fit; else as given.

    A CPU reads them where they are. To an accelerator they go whole, once: blocks of columns are
    then cut there, and not out of rows on the host, in each pass.

    Args:
        vectors: (N, D), see the module's head for the accepted forms.
        room: bytes that they may take; None for a quarter of an accelerator's memory.
    """
    n, d = vectors_shape(vectors)
    if room is None:
        memory = {} if jax.default_backend() == "cpu" else jax.local_devices()[0].memory_stats()
        room = (memory or {}).get("bytes_limit", 0) // 4
    if isinstance(vectors, jax.Array) or 4 * n * d > room:
        return vectors
    given = [vectors] if _is_array(vectors) else _row_blocks(vectors, "vectors")
    parts = [jnp.asarray(block, jnp.float32) for block in given]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def column_blocks(
    vectors: Vectors, width: int | None = None, name: str = "vectors"
) -> Iterator[tuple[int, Any]]:
    """Yield ``(first column, block (N, <= width))`` over `vectors`, as a float32 array each."""
    n, d = vectors_shape(vectors, name)
    width = width or block_width(n)
    for start in range(0, d, width):
        block: Any
        if _is_array(vectors):
            block = _sliced(vectors, start, width, axis=1)
        else:
            block = np.concatenate(
                [
                    np.asarray(rows[:, start : start + width], dtype=np.float32)
                    for rows in _row_blocks(vectors, name)
                ]
            )
        yield start, jnp.asarray(block, dtype=jnp.float32)


def even_blocks(
    vectors: Vectors, width: int | None = None, even: bool | None = None
) -> Iterator[tuple[int, Any]]:
    """Yield as `column_blocks` does, the last one filled up with zeros to the width of the others.

    Zeros add nothing to a sum of products. `even` None: on accelerators alone.
    """
    n, d = vectors_shape(vectors)
    width = width or min(block_width(n), d)
    fill = jax.default_backend() != "cpu" if even is None else even
    for start, block in column_blocks(vectors, width):
        short = width - block.shape[1]
        yield start, jnp.pad(block, ((0, 0), (0, short))) if fill and short else block


def row_blocks(
    vectors: Vectors, height: int | None = None, name: str = "vectors"
) -> Iterator[tuple[int, Any]]:
    """Yield ``(first row, block (<= height, D))`` over `vectors`, as a float32 array each."""
    _, d = vectors_shape(vectors, name)
    if height is None:
        height = max(1, CHUNK_BYTES // (4 * d))
    first = 0
    for rows in (vectors,) if _is_array(vectors) else _row_blocks(vectors, name):
        for start in range(0, rows.shape[0], height):
            yield first + start, jnp.asarray(_sliced(rows, start, height, axis=0), jnp.float32)
        first += rows.shape[0]


def _is_array(vectors: Any) -> TypeGuard[np.ndarray | jax.Array]:
    return isinstance(vectors, np.ndarray | jax.Array)


def _sliced(array: Any, start: int, size: int, axis: int) -> Any:
    size = min(size, array.shape[axis] - start)
    if isinstance(array, jax.Array):  # one program for all starts, not one for each
        return jax.lax.dynamic_slice_in_dim(array, start, size, axis)
    return array[:, start : start + size] if axis else array[start : start + size]


def _row_blocks(vectors: Any, name: str) -> Iterator[Any]:
    if isinstance(vectors, Iterator):
        raise TypeError(
            f"{name} is a one-pass iterator, but every pair of rows must meet: pass an array, a "
            "memory map, or a list of row blocks (np.load(path, mmap_mode='r') reads lazily)"
        )
    if not isinstance(vectors, Iterable):
        raise TypeError(
            f"{name} must be an array or an iterable of row blocks, got {type(vectors)}"
        )
    for block in vectors:
        # a list of lists of numbers is one small array's rows, not row blocks: it ends up 1-D
        # here, and the caller says so
        yield block if _is_array(block) else np.asarray(block)


def _check_real(dtype: Any, name: str) -> None:
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise TypeError(f"{name} must hold real numbers, got dtype {dtype}")


# ------------------------------------------------------------------------------ the three products


def gram_matrix(vectors: Vectors, *, block_columns: int | None = None) -> jax.Array:
    """Return all inner products of the rows of `vectors`: ``G[i, j] = <x_i, x_j>``.

    The columns are shared out to the devices of `mpp_jax.devices`.

    Gram matrices of several representations of the same pictures add up to that of the stacked
    representation: ``gram_matrix(a) + gram_matrix(b)`` is `gram_matrix` of ``[a, b]``.

    Args:
        vectors: (N, D), see the module's head for the accepted forms.
        block_columns: columns sent to a device at a time; by default at most 1,024 on a CPU,
            4,096 elsewhere, and 64 MiB.

    Returns:
        (N, N) float32, exactly symmetric.

    Raises:
        TypeError: `vectors` is a one-pass iterator or not numeric.
        ValueError: `vectors` is not two-dimensional, is empty, or holds NaN, infinity, or rows
            whose squared norm exceeds float32 (the rows are named).
    """
    gram = _gram(vectors, jnp.float32, block_columns)
    # The diagonal holds the squared norms: it is finite exactly if every row is (and fits).
    check_finite_rows(np.isfinite(np.asarray(jnp.diagonal(gram))), "vectors")
    return gram


def exact_gram_matrix(vectors: Vectors) -> jax.Array:
    """Return `gram_matrix` with products and sums in float64, of the vectors in float32."""
    with jax.enable_x64(True):
        return _gram(vectors, jnp.float64, None)


def _gram(
    vectors: Vectors, dtype: Any, block_columns: int | None, even: bool | None = None
) -> jax.Array:
    n, _ = vectors_shape(vectors)
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


def dual_to_weights(coefficients: ArrayLike, vectors: Vectors) -> np.ndarray:
    """Return weight vectors ``W = A^T X`` from dual coefficients, a block of columns at a time.

    Products and sums are float64, for large coefficients cancel.

    Args:
        coefficients: (N, L), signed dual coefficients (alpha * y).
        vectors: (N, D), the training vectors, see the module's head for the accepted forms.

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
    products: jax.Array  # (N, L) vectors times rounded weights


def recover(coefficients: ArrayLike, vectors: Vectors) -> Recovered:
    """Return `dual_to_weights` with norms and scores, in one pass over the vectors."""
    n, d = vectors_shape(vectors)
    if np.ndim(coefficients) != 2 or np.shape(coefficients)[0] != n:
        raise ValueError(
            f"coefficients must be (N, L) with one row per vector: got "
            f"{np.shape(coefficients)} for {n} vectors"
        )
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
        return Recovered(weights, np.asarray(squares), products)


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
