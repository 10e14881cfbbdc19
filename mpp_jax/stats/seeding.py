"""Starts for k-means and mixtures: seeds drawn from the rows of the data.

Mathematics
-----------
k-means++ (Arthur and Vassilvitskii, "k-means++: The Advantages of Careful Seeding", 2007) draws the
next seed with probability proportional to the squared distance to the nearest seed so far. The
greedy variant, section 6 of the paper, draws ``2 + log K`` candidates and keeps the one that lowers
the sum of these distances most. Restarts are a ``vmap`` over keys.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from mpp_jax.numerics import PRECISION, check_matrix
from mpp_jax.stats.chunks import ArrayData, ChunkStream, DataStats, move_rows, sample_rows


@partial(jax.jit, static_argnames=("n_clusters", "candidates"), inline=True)
def kmeans_plus_plus(key: Array, x: ArrayLike, n_clusters: int, *, candidates: int = 0) -> Array:
    """Draw seeds (K, D) for k-means from the rows of `x` (N, D). Pure.

    Args:
        key: PRNG key.
        x: (N, D), near the origin.
        n_clusters: K.
        candidates: rows drawn for each seed, of which the one that lowers the inertia most is kept;
            1 is the plain algorithm, 0 takes ``2 + log K``.
    """
    x = jnp.asarray(x)
    n, _ = x.shape
    trials = candidates or 2 + int(math.log(n_clusters))
    square = jnp.sum(jnp.square(x), axis=1)

    def distances(rows: Array) -> Array:
        chosen = x[rows]
        product = jnp.matmul(x, chosen.T, precision=PRECISION)
        distance = square[:, None] - 2 * product + square[rows][None, :]
        return jnp.where(rows[None, :] == jnp.arange(n)[:, None], 0, jnp.maximum(distance, 0))

    key, first_key = jax.random.split(key)
    first = jax.random.randint(first_key, (), 0, n)
    seeds = jnp.zeros((n_clusters, x.shape[1]), x.dtype).at[0].set(x[first])
    best = distances(first[None])[:, 0]

    def step(k: Array, state: Any) -> Any:
        seeds, best = state
        cumulative = jnp.cumsum(best)
        draw = jax.random.uniform(jax.random.fold_in(key, k), (trials,), dtype=x.dtype)
        rows = jnp.searchsorted(cumulative, draw * cumulative[-1], side="right")
        # All rows are seeds already (duplicates): any row is as good as any other.
        spread = cumulative[-1] > 0
        rows = jnp.where(spread, jnp.minimum(rows, n - 1), (draw * n).astype(rows.dtype))
        lowered = jnp.minimum(best[:, None], distances(rows))
        chosen = jnp.argmin(jnp.sum(lowered, axis=0))
        return seeds.at[k].set(x[rows[chosen]]), lowered[:, chosen]

    seeds, _ = lax.fori_loop(1, n_clusters, step, (seeds, best))
    return seeds


def starting_centres(
    key: Array,
    data: ArrayData | ChunkStream,
    stats: DataStats,
    n_clusters: int,
    init: str | ArrayLike,
    init_rows: int | None,
    restarts: int,
) -> Array:
    """Return starts (R, K, D), relative to the mean of the data, for Lloyd's iteration."""
    origin = stats.mean
    if not isinstance(init, str):
        check_matrix(init, "init", columns=len(origin))
        if np.shape(init)[0] != n_clusters:
            raise ValueError(f"init must have {n_clusters} rows; got {np.shape(init)[0]}.")
        if not np.isfinite(np.asarray(init, np.float64)).all():
            raise ValueError("init holds NaN or infinity.")
        if restarts != 1:
            raise ValueError("restarts need random starts: give restarts=1 with an array as init.")
        return jnp.asarray((np.asarray(init, stats.dtype) - origin[None, :])[None])
    sample_key, seed_key = jax.random.split(key)
    rows = init_rows or 256 * n_clusters
    if rows < n_clusters:
        raise ValueError(f"init_rows must be at least n_clusters={n_clusters}; got {init_rows}.")
    sample = move_rows(sample_rows(data, sample_key, rows), origin, stats.dtype)
    keys = jax.random.split(seed_key, restarts)
    if init == "k-means++":
        return _seed_all(keys, sample, n_clusters)
    if init == "random":
        return _pick_all(keys, sample, n_clusters)
    raise ValueError(f"init must be 'k-means++', 'random' or an array (K, D); got {init!r}.")


@partial(jax.jit, static_argnames="n_clusters")
def _seed_all(keys: Array, sample: Array, n_clusters: int) -> Array:
    return jax.vmap(lambda key: kmeans_plus_plus(key, sample, n_clusters))(keys)


@partial(jax.jit, static_argnames="n_clusters")
def _pick_all(keys: Array, sample: Array, n_clusters: int) -> Array:
    def pick(key: Array) -> Array:
        return sample[jax.random.permutation(key, len(sample))[:n_clusters]]

    return jax.vmap(pick)(keys)
