"""Vectors in the forms that the fits take, and how they pass through the device block by block.

`Vectors` are everywhere one of

- an (N, D) array: NumPy, ``np.memmap`` or JAX, of any real dtype (computed in float32);
- a re-iterable of (N_i, D) row blocks, such as a list of ``np.load(path, mmap_mode="r")``; the
  blocks are the rows in order. It is passed over once per column block, so it must not be a
  one-pass iterator;
- a `RowReader`, whose rows are read from a disk each time they are needed. It is never held whole,
  and read in long runs of rows.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeAlias, TypeGuard, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


@runtime_checkable
class RowReader(Protocol):
    """Rows that are read when they are asked for: ``reader[start:stop]`` is (stop - start, D).

    An h5py data set or a zarr array is one, and so are the encodings of a store
    (`mpp_jax.runs.training`).
    """

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dimensions (N, D)."""
        ...

    def __getitem__(self, rows: slice, /) -> Any:
        """Return some consecutive rows."""
        ...


Vectors: TypeAlias = ArrayLike | Iterable[Any] | RowReader
"""An (N, D) array, a re-iterable of (N_i, D) row blocks, or a `RowReader`."""

CHUNK_BYTES = 64 * 2**20
"""Most bytes of float32 vectors sent to the device in one block."""


def widest_block() -> int:
    """Return the most columns of a block: what stays in the cache of a CPU, what fills a GPU."""
    return 1024 if jax.default_backend() == "cpu" else 4096


# ------------------------------------------------------------------------------ blocks of vectors


def block_width(rows: int) -> int:
    """Return the columns of a block of so many rows."""
    return max(64, min(widest_block(), CHUNK_BYTES // (4 * rows)))


def vectors_shape(vectors: Vectors, name: str = "vectors") -> tuple[int, int]:
    """Return (rows, columns) of `vectors`, after checking that it is of an accepted form.

    Raises:
        TypeError: `vectors` is a one-pass iterator or not numeric.
        ValueError: it is not two-dimensional, is empty, or its row blocks differ in width.
    """
    if is_array(vectors) or is_reader(vectors):
        shape = vectors.shape
        if len(shape) != 2:
            raise ValueError(f"{name} must be (rows, dimensions), got shape {tuple(shape)}")
        _check_real(getattr(vectors, "dtype", np.float32), name)
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
    if isinstance(vectors, jax.Array) or is_reader(vectors) or 4 * n * d > room:
        return vectors
    given = [vectors] if is_array(vectors) else _row_blocks(vectors, "vectors")
    parts = [jnp.asarray(block, jnp.float32) for block in given]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def column_blocks(
    vectors: Vectors, width: int | None = None, name: str = "vectors"
) -> Iterator[tuple[int, Any]]:
    """Yield ``(first column, block (N, <= width))`` over `vectors`, as a float32 array each.

    Not of a `RowReader`, which would be read as a whole for each block.
    """
    n, d = vectors_shape(vectors, name)
    width = width or block_width(n)
    for start in range(0, d, width):
        block: Any
        if is_array(vectors):
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
    vectors: Vectors, height: int | None = None, name: str = "vectors", stop: int | None = None
) -> Iterator[tuple[int, Any]]:
    """Yield ``(first row, block (<= height, D))`` over `vectors`, as a float32 array each.

    `stop` is the row of an array or `RowReader` before which to stop; None for all.
    """
    _, d = vectors_shape(vectors, name)
    if height is None:
        height = block_height(d)
    first = 0
    if is_array(vectors) or is_reader(vectors):
        parts: Iterable[Any] = (vectors,)
    else:
        parts = _row_blocks(vectors, name)
    for rows in parts:
        for start in range(0, rows.shape[0] if stop is None else stop, height):
            yield first + start, jnp.asarray(_sliced(rows, start, height, axis=0), jnp.float32)
        first += rows.shape[0]


def block_height(dimension: int) -> int:
    """Return how many rows of a dimension are a block."""
    return max(1, CHUNK_BYTES // (4 * dimension))


def is_array(vectors: Any) -> TypeGuard[np.ndarray | jax.Array]:
    """Return whether vectors are one array."""
    return isinstance(vectors, np.ndarray | jax.Array)


def is_reader(vectors: Any) -> TypeGuard[RowReader]:
    """Return whether vectors are read by rows, and so are never held whole."""
    return not is_array(vectors) and isinstance(vectors, RowReader)


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
        yield block if is_array(block) else np.asarray(block)


def _check_real(dtype: Any, name: str) -> None:
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise TypeError(f"{name} must hold real numbers, got dtype {dtype}")
