"""Sums over the rows of a data matrix, in bounded memory, on one device or many.

Every fit in this package needs only *additive* statistics of its data: ``S = sum_i f(params,
x_i)``. `sum_over_rows` takes such a sum over an array chunk by chunk (so that an (N, K) matrix
never exists whole), and over a sharded array shard by shard; `ChunkStream` gives an iterable of
arrays of any lengths the same fixed shapes. The three agree up to rounding.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from mpp_jax.numerics import (
    as_numbers,
    check_matrix,
    check_values,
    compensated_add,
    mask_rows,
    real_dtype,
)

Layout = tuple[Mesh, tuple[str, ...]] | None
"""``(mesh, axes)`` of an array whose rows are spread over devices; None for an ordinary array."""

CACHED = 2**18
"""Numbers in a chunk of an elementwise pass on a CPU: its intermediates then stay in the cache."""

Summand = Callable[[Any, Array, Array], Any]
"""A pure function ``(params, x (n, D), mask (n,)) -> pytree of sums over the unmasked rows``."""


def default_rows() -> int:
    """Return the rows of a chunk: what stays in the cache of a CPU, what fills a GPU."""
    return 2048 if jax.default_backend() == "cpu" else 65536


def row_layout(x: ArrayLike) -> Layout:
    """Return how the rows of `x` are spread over devices, from its sharding; None: not at all."""
    sharding = getattr(x, "sharding", None)
    if not isinstance(sharding, NamedSharding) or len(sharding.spec) == 0:
        return None
    first = sharding.spec[0]
    if first is None or first is PartitionSpec.UNCONSTRAINED:
        return None
    axes = (first,) if isinstance(first, str) else tuple(first)
    mesh = sharding.mesh
    if not isinstance(mesh, Mesh) or all(mesh.shape[axis] == 1 for axis in axes):
        return None
    return mesh, axes


def sum_over_rows(
    function: Summand, params: Any, x: Array, mask: Array, rows: int, layout: Layout = None
) -> Any:
    """Sum `function` over row chunks of `x` (N, D) with `mask` (N,), compensated.

    `layout` (static, from `row_layout`) sums each device's rows where they lie and adds the
    results. Pure: traces under ``jit``, and under ``vmap`` over `params`.
    """
    if layout is None:
        return _sum_over_chunks(function, params, x, mask, rows)
    mesh, axes = layout

    def local(params: Any, x: Array, mask: Array) -> Any:
        return lax.psum(_sum_over_chunks(function, params, x, mask, rows), axes)

    rows_spec = PartitionSpec(axes)
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(PartitionSpec(), rows_spec, rows_spec),
        out_specs=PartitionSpec(),
        check_vma=False,  # the accumulators start unvarying and become varying in the loop
    )(params, x, mask)


def _sum_over_chunks(function: Summand, params: Any, x: Array, mask: Array, rows: int) -> Any:
    n = x.shape[0]
    if n <= rows:
        return function(params, x, mask)
    shapes = jax.eval_shape(function, params, x[:rows], mask[:rows])
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def body(i: Array, state: tuple[Any, Any]) -> tuple[Any, Any]:
        # The last chunk overlaps the one before it and masks what that has counted: no padded copy.
        start = jnp.minimum(i * rows, n - rows)
        fresh = start + jnp.arange(rows) >= i * rows
        part = lax.dynamic_slice_in_dim(mask, start, rows) * fresh
        value = function(params, lax.dynamic_slice_in_dim(x, start, rows), part)
        return compensated_add(*state, value)

    total, carry = lax.fori_loop(0, -(-n // rows), body, (zeros, zeros))
    return jax.tree.map(jnp.add, total, carry)


def sum_stream(function: Summand, params: Any, data: "ChunkStream") -> Any:
    """Sum `function` over the blocks of a stream, compensated; the host drives the loop."""
    total = carry = None
    for block, mask in data:
        value = _block_value(function, params, block, mask)
        if total is None:
            total, carry = value, jax.tree.map(jnp.zeros_like, value)
        else:
            total, carry = _add_block(total, carry, value)
    return jax.tree.map(jnp.add, total, carry)


@partial(jax.jit, static_argnames="function")
def _block_value(function: Summand, params: Any, x: Array, mask: Array) -> Any:
    return function(params, x, mask)


_add_block = jax.jit(compensated_add)


class ChunkStream:
    """Arrays of any lengths, re-cut to blocks of `rows` rows and a mask (the last one padded).

    Args:
        source: an iterable of arrays (n_i, D), such as a list of memory maps; or a callable that
            returns a fresh iterator at each call. A fit that reads the data several times needs one
            of these two; a bare generator gives up after its first pass.
        rows: rows per block.
        name: the argument's name, for messages.
    """

    layout: Layout = None

    def __init__(self, source: Any, rows: int, name: str = "x") -> None:
        if not callable(source) and not isinstance(source, Iterable):
            raise TypeError(
                f"{name} must be an array (N, D), an iterable of such arrays, or a callable that "
                f"returns an iterator over them; got {type(source).__name__}."
            )
        self._source = source
        self.rows = rows
        self.name = name
        self.single_pass = not callable(source) and isinstance(source, Iterator)

    def require_several_passes(self) -> None:
        """Raise if the source is an iterator, which can be read only once."""
        if self.single_pass:
            raise TypeError(
                f"{self.name} is read several times, so it cannot be a generator or iterator; give "
                "an array, a list of arrays, or a callable that returns a fresh iterator."
            )

    def cut(self, rows: int) -> "ChunkStream":
        """Return a stream over the same rows in blocks of another length."""
        return ChunkStream(self._source, rows, self.name)

    def peek(self) -> tuple["ChunkStream", int]:
        """Return a stream over the same rows, none lost, and the number of columns."""
        chunks = iter(self._source() if callable(self._source) else self._source)
        first = next(chunks, None)
        if first is None:
            raise ValueError(f"{self.name} holds no row.")
        check_matrix(np.asarray(first), f"each chunk of {self.name}")
        if not self.single_pass:
            return self, np.shape(first)[1]
        whole = ChunkStream(itertools.chain([first], chunks), self.rows, self.name)
        return whole, np.shape(first)[1]

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield blocks ``(x (rows, D), mask (rows,) float32)``."""
        held: list[np.ndarray] = []
        count, columns = 0, None
        for chunk in self._source() if callable(self._source) else self._source:
            chunk = np.asarray(chunk)
            if chunk.ndim == 2 and chunk.shape[0] == 0:
                continue
            check_matrix(chunk, f"each chunk of {self.name}", columns)
            columns = chunk.shape[1]
            begin = 0
            while begin < len(chunk):
                piece = chunk[begin : begin + self.rows - count]
                held.append(piece)
                count += len(piece)
                begin += len(piece)
                if count == self.rows:
                    yield _block(held, self.rows)
                    held, count = [], 0
        if count:
            yield _block(held, self.rows)


def _block(pieces: list[np.ndarray], rows: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.concatenate(pieces) if len(pieces) > 1 else np.asarray(pieces[0])
    mask = np.zeros(rows, np.float32)
    mask[: len(x)] = 1
    if len(x) < rows:
        x = np.concatenate([x, np.repeat(x[-1:], rows - len(x), axis=0)])
    return x, mask


@dataclass(frozen=True, eq=False)
class ArrayData:
    """A data matrix that is at hand as one array."""

    x: Array  # (N, D)
    mask: Array  # (N,) floating, 1 for rows that count
    rows: int
    layout: Layout
    name: str


class DataStats(NamedTuple):
    """Count, mean, variance and dtype of a data set."""

    count: int  # type: ignore[assignment]  # hides tuple.count
    mean: np.ndarray  # (D,)
    variance: np.ndarray  # (D,), divided by count
    dtype: np.dtype  # of the arithmetic: float32, or float64 where that is enabled


def open_data(
    x: Any,
    mask: ArrayLike | None = None,
    rows: int | None = None,
    name: str = "x",
    *,
    several_passes: bool = True,
) -> ArrayData | ChunkStream:
    """Check and open an array (N, D) with an optional row `mask` (N,), or an iterable of chunks.

    Data frames and lists of rows are arrays too, see `mpp_jax.numerics.as_numbers`.
    """
    rows = rows or default_rows()
    x = as_numbers(x, name)
    if not (hasattr(x, "shape") and hasattr(x, "dtype")):
        if mask is not None:
            raise ValueError(f"mask goes with an array; leave masked rows out of chunks of {name}.")
        stream = ChunkStream(x, rows, name)
        if several_passes:
            stream.require_several_passes()
        return stream
    check_matrix(x, name)
    layout = row_layout(x)
    x = jnp.asarray(x)
    dtype = real_dtype(x)
    if mask is not None and np.shape(mask) != x.shape[:1]:
        raise ValueError(f"mask must have shape ({x.shape[0]},), as {name}; got {np.shape(mask)}.")
    return ArrayData(x, _counted(mask, x.shape[0], dtype, layout), rows, layout, name)


def _counted(mask: ArrayLike | None, rows: int, dtype: jnp.dtype, layout: Layout) -> Array:
    """Return 1 for rows that count and 0 for others (N,), of the dtype of the arithmetic."""
    if mask is None and layout is not None:
        place = NamedSharding(layout[0], PartitionSpec(layout[1]))
        return jnp.ones(rows, dtype, device=place)
    if isinstance(mask, Array):
        return (mask != 0).astype(dtype)
    # Made on the host: on the device each operation would be a program of its own to compile.
    return jnp.asarray(
        np.ones(rows, dtype) if mask is None else (np.asarray(mask) != 0).astype(dtype)
    )


def data_stats(data: ArrayData | ChunkStream) -> DataStats:
    """Return statistics of the unmasked rows, or raise on NaN, infinity and huge values."""
    if isinstance(data, ChunkStream):
        return _stream_stats(data)
    dtype = real_dtype(data.x)
    rows = data.rows
    if jax.default_backend() == "cpu":
        rows = min(rows, max(1, CACHED // data.x.shape[1]))
    count, mean, variance, finite, largest = jax.device_get(
        _array_stats(data.x, data.mask, rows=rows, layout=data.layout)
    )
    if count == 0:
        raise ValueError(f"mask leaves no row of {data.name}.")
    check_values(float(largest), data.name)
    if not finite:
        check_values(np.nan, data.name)
    return DataStats(int(count), mean, variance, np.dtype(dtype))


@partial(jax.jit, static_argnames=("rows", "layout"))
def _array_stats(x: Array, mask: Array, rows: int, layout: Layout) -> tuple[Array, ...]:
    dtype = real_dtype(x)
    # Moved by one of the rows first: equal rows then have a variance of 0, whatever their size.
    first = x[jnp.argmax(mask)].astype(dtype)
    # By rows first: XLA would store the whole of a mask spread over x.
    largest = jnp.max(jnp.where(mask != 0, jnp.max(jnp.abs(x), axis=1), 0)).astype(dtype)

    def total(shift: Array, x: Array, mask: Array) -> tuple[Array, ...]:
        moved = (mask_rows(x.astype(dtype), mask, shift) - shift[None, :]) * mask[:, None]
        return jnp.sum(mask), jnp.sum(moved, axis=0), jnp.sum(jnp.square(moved), axis=0)

    count, sums, _ = sum_over_rows(total, first, x, mask, rows, layout)
    # The maximum does not tell: over long arrays that of XLA on CPUs drops NaN. A sum keeps it.
    finite = jnp.all(jnp.isfinite(sums))
    mean = first + sums / count
    _, rest, squares = sum_over_rows(total, mean, x, mask, rows, layout)
    variance = jnp.maximum(squares / count - jnp.square(rest / count), 0)
    return count, mean + rest / count, variance, finite, largest


def _stream_stats(data: ChunkStream) -> DataStats:
    count, dtype = 0, np.dtype(np.float32)
    mean = square = np.zeros(())
    for block, mask in data:
        dtype = np.promote_types(dtype, np.dtype(real_dtype(block)))
        x = np.array(block[: int(mask.sum())], np.float64)  # a copy, which is overwritten
        check_values(max(np.max(x), -np.min(x)), data.name)  # NumPy's maximum keeps NaN
        # Chan, Golub and LeVeque's pairwise update: no pass needs the mean beforehand.
        centre = x.mean(axis=0)
        change = centre - mean
        total = count + len(x)
        x -= centre  # in place, as below: wide rows leave no room for copies
        within = np.square(x, out=x).sum(0)
        square = square + within + np.square(change) * (count * len(x) / total)
        mean = mean + change * (len(x) / total)
        count = total
    if count == 0:
        raise ValueError(f"{data.name} holds no row.")
    return DataStats(count, mean.astype(dtype), (square / count).astype(dtype), dtype)


def sample_rows(data: ArrayData | ChunkStream, seed: Array, count: int) -> Array | np.ndarray:
    """Draw `count` unmasked rows (all, if there are fewer) without replacement, in their order.

    Array or stream, the same rows of the same data are drawn for the same key. Rows of an array
    stay on its device.
    """
    rng = np.random.default_rng(np.asarray(jax.random.key_data(seed)).ravel().astype(np.uint32))
    if isinstance(data, ArrayData):
        places = np.flatnonzero(np.asarray(data.mask))
        draw = rng.random(len(places))
        if len(places) > count:
            places = np.sort(places[np.argpartition(draw, count - 1)[:count]])
        if data.layout is not None:
            return np.asarray(data.x[places])  # of many devices to one
        return data.x if len(places) == data.x.shape[0] else _take_rows(data.x, places)
    best, rows = np.empty(0), np.empty(0)
    for block, mask in data:
        x = block[: int(mask.sum())]
        best = np.concatenate([best, rng.random(len(x))])
        rows = np.concatenate([rows, x]) if rows.size else x.copy()
        if len(best) > count:
            keep = np.sort(np.argpartition(best, count - 1)[:count])
            best, rows = best[keep], rows[keep]
    return rows


@jax.jit
def _take_rows(x: Array, places: Array) -> Array:
    return x.at[places].get(mode="promise_in_bounds")


@partial(jax.jit, static_argnames="dtype")
def move_rows(x: Array, origin: Array, dtype: Any) -> Array:
    """Return rows (N, D) relative to an origin (D,), in the dtype of the arithmetic."""
    return x.astype(dtype) - origin.astype(dtype)[None, :]
