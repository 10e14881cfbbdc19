"""Principal component analysis, streaming and for wide inputs.

Mathematics
-----------
For rows ``x_i`` (N, D) with mean ``m``, the components are the eigenvectors of the covariance
``C = sum_i (x_i - m)(x_i - m)^T / (N - 1)`` with the P largest eigenvalues, which are the explained
variances. The projection is ``y = (x - m) V^T``, divided by the roots of the eigenvalues where the
components are whitened. The sign of each is fixed: its entry of largest magnitude is positive.

Five solvers:

* "eigh": the whole spectrum of C in float64, by LAPACK on the host. Exact.
* "subspace": block Krylov iteration on C, on the host, to a stated residual. For D in the thousands
  and P << D.
* "filtered": the same on the device that holds C, with polynomials in place of Krylov spaces
  (`mpp_jax.stats.eigen`); products with x in float32, all after them in float64. For GPUs.
* "randomized": Halko, Martinsson and Tropp, "Finding Structure with Randomness" (2011), algorithms
  4.4 and 5.1: a few passes over the rows, no (D, D) matrix. For D in the ten thousands;
  approximate.
* "gram": by way of the rows' inner products (N, N), `mpp_jax.stats.gram_pca`. For D in the ten
  thousands and fewer rows; exact as "subspace" is.

"subspace" and "filtered" give way to "eigh" where P is a large share of D (their blocks would hold
half of all dimensions) and where they do not converge.

C is accumulated chunk by chunk (`mpp_jax.stats.covariance`).
"""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from mpp_jax.numerics import (
    PRECISION,
    check_positive_integer,
    mask_rows,
    real_dtype,
)
from mpp_jax.stats.chunks import (
    ArrayData,
    ChunkStream,
    DataStats,
    Layout,
    data_stats,
    open_data,
    sum_over_rows,
    sum_stream,
)
from mpp_jax.stats.covariance import array_moments, check_count, covariance, symmetric
from mpp_jax.stats.eigen import Operator, top_by_eigh, top_by_krylov, top_filtered
from mpp_jax.stats.gram_pca import centred_gram, components_of

SOLVERS = ("eigh", "subspace", "filtered", "randomized", "gram")
_REREAD = ("randomized", "gram")

EIGH_SIZE = 1024
"""Up to this many dimensions "auto" takes LAPACK's whole spectrum."""

COVARIANCE_SIZE = 16384
"""And up to this many a covariance."""

GRAM_ROWS = 12288
"""Of more dimensions, up to this many rows the matrix of their inner products."""

ROWS = 4096
"""Rows of a chunk, where they do not take more than `CHUNK_BYTES`."""

CHUNK_BYTES = 2**26


class PCA(NamedTuple):
    """A fitted projection from D to P dimensions."""

    mean: Array  # (D,)
    components: Array  # (P, D), orthonormal rows; divided by the root of the variance if whitened
    explained_variance: Array  # (P,), descending


def pca_transform(pca: PCA, x: ArrayLike) -> Array:
    """Project `x` (..., D) to (..., P), in float32 at least. Pure."""
    x = jnp.asarray(x)
    dtype = real_dtype(x, pca.components)
    row = (1,) * (x.ndim - 1) + pca.mean.shape
    centred = x.astype(dtype) - pca.mean.astype(dtype).reshape(row)
    return jnp.matmul(centred, pca.components.T.astype(dtype), precision=PRECISION)


def pca_inverse(pca: PCA, y: ArrayLike) -> Array:
    """Return the point (..., D) of the principal subspace that projects to `y` (..., P). Pure."""
    y = jnp.asarray(y)
    # Rows have norm 1, or 1 / sqrt(explained variance) where the components are whitened.
    square = jnp.sum(jnp.square(pca.components), axis=1)
    back = pca.components / square[:, None]
    row = (1,) * (y.ndim - 1) + pca.mean.shape
    return jnp.matmul(y, back, precision=PRECISION) + pca.mean.reshape(row)


def _implicit(data: ArrayData | ChunkStream, mean: np.ndarray, count: int) -> Operator:
    """Return the covariance as an operator that reads the data once per product."""
    dtype = jnp.float32 if isinstance(data, ChunkStream) else real_dtype(data.x)
    centre = jnp.asarray(mean, dtype)

    def apply(block: np.ndarray) -> np.ndarray:
        params = (centre, jnp.asarray(block, dtype))
        if isinstance(data, ArrayData):
            product = _array_product(params, data.x, data.mask, rows=data.rows, layout=data.layout)
        else:
            product = sum_stream(_covariance_product, params, data)
        return np.asarray(product, np.float64) / (count - 1)

    return apply


def _covariance_product(params: tuple[Array, Array], x: Array, mask: Array) -> Array:
    mean, block = params
    z = (mask_rows(x.astype(mean.dtype), mask, mean) - mean[None, :]) * mask[:, None]
    return jnp.matmul(z.T, jnp.matmul(z, block, precision=PRECISION), precision=PRECISION)


@partial(jax.jit, static_argnames=("rows", "layout"))
def _array_product(params: Any, x: Array, mask: Array, rows: int, layout: Layout) -> Array:
    return sum_over_rows(_covariance_product, params, x, mask, rows, layout)


def fit_pca(
    x: Any,
    n_components: int,
    *,
    whiten: bool = False,
    solver: str = "auto",
    key: Array | None = None,
    mask: ArrayLike | None = None,
    passes: int = 4,
    rows: int | None = None,
) -> PCA:
    """Fit principal components to the rows of `x`.

    Args:
        x: (N, D) array of any real dtype, which may be sharded over devices by rows, data frame or
            list of rows; or an iterable of such arrays (or a callable that returns one). "eigh",
            "subspace" and "filtered" read a stream once, so there it may be a generator.
        n_components: P, at most min(N, D).
        whiten: scale the projections to variance 1.
        solver: "eigh", "subspace", "filtered", "randomized" or "gram" (see the module); "auto"
            takes "eigh" up to D = 1024 or where P is a fair share of D, else up to D = 16384
            "filtered" on a GPU and "subspace" elsewhere, else "gram" up to N = 12288 rows that are
            not spread over devices, else "randomized".
        key: PRNG key, for "randomized" only.
        mask: (N,), rows where it is 0 or False are left out; arrays only.
        passes: of "randomized" over the data, beside those for the mean: more is closer.
        rows: rows per chunk; None for 4,096, or fewer of more than 4,096 dimensions.

    Returns:
        `PCA` in float32 (float64 where that is enabled and given).

    Raises:
        ValueError: an argument out of range, NaN, infinity or values above 1e15, one row only.
        TypeError: a generator with "randomized" or "gram", or no key for the former.
    """
    n_components = check_positive_integer(n_components, "n_components")
    passes = check_positive_integer(passes, "passes")
    if solver not in ("auto", *SOLVERS):
        known = ", ".join(map(repr, SOLVERS))
        raise ValueError(f"solver must be 'auto' or one of {known}; got {solver!r}.")
    if solver == "randomized":
        _check_key(key)
    data = open_data(x, mask, rows or ROWS, several_passes=solver in _REREAD)
    data, d = _of_width(data)
    if rows is None:
        data = replace(data, rows=_rows(d)) if isinstance(data, ArrayData) else data.cut(_rows(d))
    chosen = solver == "auto"
    if chosen:
        solver = _suitable_solver(d, n_components)
    if solver in _REREAD:
        stats = _read_again(data, n_components)
        if chosen and _row_count(data, stats) <= GRAM_ROWS and data.layout is None:
            solver = "gram"
        elif solver == "randomized":
            _check_key(key)
    if solver == "gram":
        mean, values, vectors = _fit_by_gram(data, stats, n_components)
    elif solver == "randomized":
        assert key is not None
        mean, values, vectors = _fit_randomized(data, stats, n_components, key, passes)
    elif solver == "filtered":
        mean, values, vectors = _fit_filtered(data, n_components)
    else:
        count, mean, matrix = covariance(data)
        _check_rank(n_components, count, len(mean))
        values, vectors = _top_of_matrix(matrix, n_components, solver)
    dtype = real_dtype(data.x) if isinstance(data, ArrayData) else jnp.float32
    return _finish(mean, values, vectors, whiten, dtype)


def _check_key(key: Array | None) -> None:
    if key is None:
        raise TypeError("solver 'randomized' needs a PRNG key: give key=jax.random.key(seed).")


def _of_width(data: ArrayData | ChunkStream) -> tuple[ArrayData | ChunkStream, int]:
    """Return the data, none lost, and their D."""
    return (data, data.x.shape[1]) if isinstance(data, ArrayData) else data.peek()


def _rows(d: int) -> int:
    return max(1, min(ROWS, CHUNK_BYTES // (4 * d)))


def _suitable_solver(d: int, n_components: int) -> str:
    if d <= EIGH_SIZE or 5 * n_components > d:
        return "eigh"
    if d > COVARIANCE_SIZE:
        return "randomized"
    # Of accelerators only GPUs are sure to factorise in float64; float32 loses steep spectra.
    return "filtered" if jax.default_backend() == "gpu" else "subspace"


def _check_rank(n_components: int, count: int, d: int) -> None:
    if n_components > min(count, d):
        raise ValueError(
            f"n_components must be at most min(rows, dimensions) = {min(count, d)}; "
            f"got {n_components}."
        )


def _top_of_matrix(
    matrix: np.ndarray, n_components: int, solver: str
) -> tuple[np.ndarray, np.ndarray]:
    d = len(matrix)
    block = _block_size(n_components, d)
    if solver == "eigh" or 2 * block > d:
        return top_by_eigh(matrix, n_components)
    start = _start(d, block)
    values, vectors, converged = top_by_krylov(
        lambda q: matrix @ q.astype(matrix.dtype),
        start,
        n_components,
        steps=6,
        cycles=4,
        resolution=max(1e-10, 8 * float(np.finfo(matrix.dtype).eps)),
    )
    # A nearly flat spectrum converges slowly; LAPACK does not mind.
    return (values, vectors) if converged else top_by_eigh(matrix, n_components)


def _start(d: int, block: int) -> np.ndarray:
    """Return the start of a block iteration, a constant: the result converges, no key is due."""
    return np.random.default_rng(0).standard_normal((d, block))


def _fit_filtered(
    data: ArrayData | ChunkStream, n_components: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    parts: Any
    change: Any
    if isinstance(data, ArrayData):
        count, mean, change, parts = array_moments(data)
        check_count(count, data)
        dtype = real_dtype(data.x)
    else:
        count, mean, parts = covariance(data)
        change, dtype = None, jnp.dtype(jnp.float32)
    d = len(mean)
    _check_rank(n_components, count, d)
    block = _block_size(n_components, d)
    with jax.enable_x64(True):
        matrix = jnp.asarray(parts) if change is None else symmetric(parts, change, count)
        if 2 * block <= d:
            resolution = 8 * float(jnp.finfo(dtype).eps)
            found = top_filtered(matrix, _start(d, block), n_components, resolution)
            found = jax.device_get(found)
            if found.converged:
                return mean, found.values, found.vectors
    return mean, *top_by_eigh(np.asarray(matrix), n_components)


def _block_size(n_components: int, d: int) -> int:
    return min(d, n_components + max(16, n_components // 4))


def _row_count(data: ArrayData | ChunkStream, stats: DataStats) -> int:
    """Return the number of rows, those of an array that are masked included."""
    return data.x.shape[0] if isinstance(data, ArrayData) else stats.count


def _read_again(data: ArrayData | ChunkStream, n_components: int) -> DataStats:
    """Return the statistics of data that will be read several times."""
    if isinstance(data, ChunkStream):
        data.require_several_passes()
    stats = data_stats(data)
    _check_rank(n_components, stats.count, len(stats.mean))
    check_count(stats.count, data)
    return stats


def _fit_randomized(
    data: ArrayData | ChunkStream, stats: DataStats, n_components: int, key: Array, passes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count, d = stats.count, len(stats.mean)
    block = min(_block_size(n_components, d), count)
    start = np.asarray(jax.random.normal(key, (d, block)), np.float64)
    apply = _implicit(data, stats.mean, count)
    values, vectors, _ = top_by_krylov(apply, start, n_components, steps=passes - 1, cycles=1)
    return np.asarray(stats.mean, np.float64), values, vectors


def _fit_by_gram(
    data: ArrayData | ChunkStream, stats: DataStats, n_components: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = _row_count(data, stats)
    gram = centred_gram(data, stats.mean, rows)
    values, vectors = _top_of_matrix(gram, n_components, "eigh" if rows <= EIGH_SIZE else "gram")
    found = components_of(data, stats.mean, vectors)
    return np.asarray(stats.mean, np.float64), values / (stats.count - 1), found


def _finish(
    mean: np.ndarray, values: np.ndarray, vectors: np.ndarray, whiten: bool, dtype: Any
) -> PCA:
    largest = np.argmax(np.abs(vectors), axis=1)
    vectors = vectors * np.sign(vectors[np.arange(len(vectors)), largest])[:, None]
    values = np.maximum(values, 0)
    if whiten:
        # Dimensions without variance would be divided by zero: rounding is all that they hold.
        smallest = max(np.finfo(np.float32).eps * values[0], np.finfo(np.float32).tiny)
        vectors = vectors / np.sqrt(np.maximum(values, smallest))[:, None]
    return PCA(*(jnp.asarray(leaf, dtype) for leaf in (mean, vectors, values)))
