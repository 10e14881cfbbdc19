"""Principal components of few rows in very many dimensions, by way of their Gram matrix.

Mathematics
-----------
With ``Z`` (N, D) the centred rows, ``Z Z^T`` (N, N) and the scatter ``Z^T Z`` (D, D) have the same
eigenvalues but zeros, and ``v = Z^T u / sqrt(lambda)`` is the scatter's unit eigenvector to the
Gram matrix's ``u``. (Turk and Pentland, "Eigenfaces for Recognition", 1991.) So for N << D nothing
of (D, D) is made and nothing is approximate: N^2 D operations, as those of N rows' inner products.

Rows pass by in chunks. Some are resident and meet all that come after them, then the next ones are:
with R resident rows the data are read N / R times, and once more for the vectors.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mpp_jax.numerics import PRECISION, mask_rows
from mpp_jax.stats.chunks import ArrayData, ChunkStream

RESIDENT_BYTES = 2**28
"""Most bytes of rows that are held while others pass by."""


def centred_gram(data: ArrayData | ChunkStream, mean: np.ndarray, rows: int) -> np.ndarray:
    """Return ``Z Z^T`` (N, N), ``Z`` the rows less their mean; zeros for those that are masked.

    Args:
        data: N rows, chunk by chunk; read several times.
        mean: (D,).
        rows: N.
    """
    height = data.rows * max(1, RESIDENT_BYTES // (4 * len(mean) * data.rows))
    gram = np.empty((rows, rows), mean.dtype)
    for low in range(0, rows, height):
        high, start = min(low + height, rows), 0
        held: list[Array] = []
        for z in _centred(data, mean):
            stop = start + len(z)
            if low <= start < high:
                held.append(z)
                if stop == high:
                    own = jnp.concatenate(held)
                    held.clear()
                    gram[low:high, low:high] = _products(own, own)
            elif high <= start:
                tile = np.asarray(_products(own, z))
                gram[low:high, start:stop] = tile
                gram[start:stop, low:high] = tile.T
            start = stop
    return gram


def components_of(
    data: ArrayData | ChunkStream, mean: np.ndarray, vectors: np.ndarray
) -> np.ndarray:
    """Return orthonormal eigenvectors (P, D) of the scatter.

    Args:
        data: the rows.
        mean: (D,).
        vectors: (P, N), those of the Gram matrix, the largest eigenvalue's first.
    """
    found, start = jnp.zeros((len(mean), len(vectors)), mean.dtype), 0
    for z in _centred(data, mean):
        share = jnp.asarray(vectors[:, start : start + len(z)], z.dtype)
        found, start = _added(found, z, share), start + len(z)
    return np.asarray(_orthonormal(found)).T


def _centred(data: ArrayData | ChunkStream, mean: np.ndarray) -> Iterator[Array]:
    """Yield the rows less the mean, chunk by chunk, float32 at least."""
    centre = jnp.asarray(mean)
    if isinstance(data, ArrayData):
        for low in range(0, data.x.shape[0], data.rows):
            yield _less(data.x[low : low + data.rows], data.mask[low : low + data.rows], centre)
        return
    for block, mask in data:
        yield _less(jnp.asarray(block), jnp.asarray(mask), centre)[: int(mask.sum())]


@jax.jit
def _less(x: Array, mask: Array, mean: Array) -> Array:
    return mask_rows(x.astype(mean.dtype), mask, mean) - mean[None, :]


@jax.jit
def _products(own: Array, z: Array) -> Array:
    return jnp.matmul(own, z.T, precision=PRECISION)


@jax.jit
def _added(found: Array, z: Array, vectors: Array) -> Array:
    return found + jnp.matmul(z.T, vectors.T, precision=PRECISION)


@jax.jit
def _orthonormal(x: Array) -> Array:
    """Return an orthonormal basis of nearly orthogonal columns (D, P), each close to its own."""
    size = jnp.linalg.norm(x, axis=0)
    return jnp.linalg.qr(x / jnp.where(size > 0, size, 1)[None, :])[0]
