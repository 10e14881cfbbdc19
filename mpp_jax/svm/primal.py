"""Linear machines for more vectors than a Gram matrix can hold: primal weights, mini-batches.

The objective P(w) is that of `mpp_jax.svm.dual`. The state is the primal weights W (L, D) and,
for each example and class, one remembered loss derivative a (N, L): W = sum_i a_i y_i z_i at all
times. A mini-batch b of rows takes its scores from W, improves its own a_b by accelerated
projected gradient steps (optax: update rule and box projection) on the small problem whose kernel
is the batch's own Gram matrix, the rest of W held fixed, and adds the change to W:

    W <- W + ((a_b' - a_b) o y_b)^T Z_b

Plain stochastic subgradients (optax's adam or sgd with any schedule we tried) forget what an
example pushed before, and so need their step to fade: after 100 epochs at n C = 10,000 they were
still 2-50% above the optimum. Remembering it (block dual ascent: Shalev-Shwartz & Zhang 2013) makes
every batch a descent that needs no learning rate, converges linearly, and certifies itself: after
each epoch one more pass gives the primal objective, and D(a) <= P* is at hand; the last word has
`mpp_jax.svm.certificate`.

Memory: W, a with its weight and target, and one batch. Vectors are read by rows from an array, a
memory map, or a list of row blocks; per epoch they are read twice. Of a `RowReader`, on whose disk
single rows are slow, the rows of an epoch come in pieces of consecutive ones: pieces drawn at
random fill a buffer, and the batches are drawn from it. Blocks may be improved in any order, so
only speed can differ; each piece is read once (Xu et al. 2022, "CorgiPile", has the same order for
stochastic gradients).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mpp_jax.numerics import PRECISION
from mpp_jax.svm.blocks import RowReader, Vectors, is_array, is_reader, row_blocks, vectors_shape
from mpp_jax.svm.certificate import certify
from mpp_jax.svm.dual import accelerate, begin, pose
from mpp_jax.svm.gram import check_finite_rows, recover
from mpp_jax.svm.losses import Loss, dual_sums, loss_sums
from mpp_jax.svm.machines import LinearSVM, SVMInfo, relative_gap
from mpp_jax.svm.options import ObjectiveOptions, loss_weights, resolve
from mpp_jax.svm.targets import check_targets

INNER_STEPS = 10
"""Accelerated steps on each mini-batch: cheap beside its Gram matrix, and enough to profit."""

PIECE_BYTES = 4 * 2**20
"""Consecutive rows that are read at once of a `RowReader`."""

BUFFER_BYTES = 128 * 2**20
"""Pieces among which its rows are shuffled."""


class PrimalInfo(NamedTuple):
    """How the mini-batched training went.

    Attributes:
        certificate: objectives and gap of each class, as of `fit_svm`; `iterations` counts
            epochs.
        history: (epochs, L) primal objective after each epoch.
    """

    certificate: SVMInfo
    history: np.ndarray


def fit_svm_primal(
    vectors: Vectors,
    targets: ArrayLike,
    c: float | ArrayLike = 10.0,
    *,
    key: jax.Array,
    tolerance: float = 1e-2,
    max_epochs: int = 100,
    batch_size: int = 256,
    on_epoch: Callable[[int, np.ndarray], None] | None = None,
    **options: Unpack[ObjectiveOptions],
) -> tuple[LinearSVM, PrimalInfo]:
    """Train one linear machine per class by mini-batches, without an N x N matrix.

    Same objective as `fit_svm`, which is faster where its Gram matrix fits. Deterministic for
    a given key.

    Args:
        vectors: (N, D) array, memory map, list of row blocks, or a `RowReader` (see
            `mpp_jax.svm.blocks`); computed in float32.
        targets: (N, L) or (N,) in {-1, 0, +1}; 0 ignores the vector for that class.
        c: weight C of the losses, a scalar or one per class.
        key: key for the order of the examples.
        tolerance: relative duality gap at which all classes are done. float32 sums let it go down
            to about 1e-4.
        max_epochs: stop here in any case; `certificate.converged` tells.
        batch_size: rows per mini-batch. Larger ones need fewer epochs and cost more each.
        on_epoch: called after each epoch with its number (from 1) and the relative gaps (L,).
        options: `bias_multiplier`, `loss`, `class_weight` and `sample_weight`, see `SVMOptions`.

    Returns:
        the machines (weights (L, D), bias (L,)), and how the training went.

    Raises:
        TypeError: `vectors` is not an array, a sequence of row blocks or a `RowReader`.
        ValueError: as for `fit_svm`; or a count is not positive.
    """
    n, d = vectors_shape(vectors)
    batches = _batch_source(vectors)
    y = check_targets(targets, n)
    chosen = resolve(options, tolerance=tolerance, max_iterations=max_epochs)
    bias, loss = chosen["bias_multiplier"], chosen["loss"]
    u = loss_weights(y, c, chosen["class_weight"], chosen["sample_weight"])
    y = y.astype(np.int8)  # an eighth, where there are many rows
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    classes, size = y.shape[1], min(batch_size, n)

    weights = jnp.zeros((classes, d + 1), jnp.float32)  # the last column is the bias feature's
    alpha = np.zeros((n, classes))
    history = []
    for epoch in range(1, max_epochs + 1):
        for rows, real, block in batches(jax.random.fold_in(key, epoch), size):
            check_finite_rows(np.all(np.isfinite(block), axis=1), "vectors", rows)
            # Rows that pad the last batch count for nothing.
            problem = (np.where(real[:, None], v[rows], 0.0) for v in (y, u))
            with jax.enable_x64(True):  # for the dual variables, see `dual`
                weights, improved = _improve_batch(
                    weights, block, alpha[rows], *problem, bias, loss=loss
                )
            alpha[rows[real]] = np.asarray(improved)[real]
        primal, dual = _objectives(vectors, weights, alpha, y, u, bias, loss)
        gap = relative_gap(primal, dual)
        if (gap <= tolerance).all() or epoch == max_epochs:
            # float32 sums have drifted: the certificate is that of weights made of alpha anew.
            signed = alpha * y
            machines = recover(signed, vectors)
            last = bias * np.sum(signed, axis=0)
            offset = (bias * last).astype(np.float32)
            primal, dual = certify(
                machines, offset, alpha, vectors, y, u, bias_multiplier=bias, loss=loss
            )
            weights = jnp.asarray(
                np.concatenate([machines.weights, last[:, None]], axis=1), jnp.float32
            )
            gap = relative_gap(primal, dual)
        history.append(primal)
        if on_epoch is not None:
            on_epoch(epoch, gap)
        if (gap <= tolerance).all():
            break
    epochs = np.full(classes, epoch, np.int32)
    certificate = SVMInfo(primal, dual, gap, epochs, gap <= tolerance)
    svm = LinearSVM(jnp.asarray(machines.weights), jnp.asarray(offset))
    return svm, PrimalInfo(certificate, np.stack(history))


@partial(jax.jit, static_argnames="loss", donate_argnums=0)
def _improve_batch(
    weights: jax.Array,
    block: jax.Array,
    alpha: jax.Array,
    y: jax.Array,
    u: jax.Array,
    bias: jax.Array,
    *,
    loss: Loss,
) -> tuple[jax.Array, jax.Array]:
    """Return new weights (L, D + 1) and dual variables (b, L) of the batch `block` (b, D)."""
    z = _with_bias(block, bias)
    kernel = jnp.matmul(z, z.T, precision=PRECISION)
    scores = jnp.matmul(z, weights.T, precision=PRECISION).astype(alpha.dtype)
    problem = pose(kernel, y, u, loss)
    it = accelerate(problem, begin(problem, alpha, scores), INNER_STEPS, loss)
    change = ((it.alpha - alpha) * y).astype(z.dtype)
    return weights + jnp.matmul(change.T, z, precision=PRECISION), it.alpha


@partial(jax.jit, static_argnames="loss")
def _block_losses(
    weights: jax.Array, block: jax.Array, y: jax.Array, u: jax.Array, bias: jax.Array, *, loss: Loss
) -> jax.Array:
    scores = jnp.matmul(_with_bias(block, bias), weights.T, precision=PRECISION)
    return loss_sums(y * scores, u, loss)


def _objectives(
    vectors: Vectors,
    weights: jax.Array,
    alpha: np.ndarray,
    y: np.ndarray,
    u: np.ndarray,
    bias: float,
    loss: Loss,
) -> tuple[np.ndarray, np.ndarray]:
    """Return primal and dual objective (L,): one pass over the vectors."""
    with jax.enable_x64(True):  # sums over all examples
        q = 0.5 * jnp.sum(weights.astype(jnp.float64) ** 2, axis=1)
        losses, sums = jnp.zeros_like(q), jnp.zeros_like(q)
        for start, block in row_blocks(vectors):
            rows = slice(start, start + block.shape[0])
            margin_signs = y[rows].astype(np.float64)
            losses += _block_losses(weights, block, margin_signs, u[rows], bias, loss=loss)
            sums += dual_sums(jnp.asarray(alpha[rows]), jnp.asarray(u[rows]), loss)
        return np.asarray(q + losses), np.asarray(sums - q)


def _with_bias(block: jax.Array, bias: jax.Array) -> jax.Array:
    feature = jnp.full((block.shape[0], 1), bias, dtype=block.dtype)
    return jnp.concatenate([block, feature], axis=1)


def _batches(order: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield ``(rows (size,), real (size,) bool)``: the last batch repeats rows to be full."""
    for start in range(0, len(order), size):
        rows = np.resize(order[start : start + size], size)
        yield rows, np.arange(size) < len(order) - start


Batch = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rows (b,), which of them are real (b,), and their vectors (b, D) float32."""


def _batch_source(vectors: Vectors) -> Callable[[jax.Array, int], Iterator[Batch]]:
    """Return what yields the batches of an epoch, from its key and the size of a batch."""
    if is_reader(vectors):
        return partial(_buffered, vectors)
    read, (n, _) = _row_reader(vectors), vectors_shape(vectors)

    def shuffled(key: jax.Array, size: int) -> Iterator[Batch]:
        for rows, real in _batches(np.asarray(jax.random.permutation(key, n)), size):
            yield rows, real, read(rows)

    return shuffled


def _buffered(vectors: RowReader, key: jax.Array, size: int) -> Iterator[Batch]:
    n, d = vectors.shape
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    piece = min(n, max(1, PIECE_BYTES // (4 * d)))
    many = -(-max(size, BUFFER_BYTES // (4 * d)) // piece)
    starts = piece * rng.permutation(-(-n // piece))
    for first in range(0, len(starts), many):
        runs = [slice(start, min(start + piece, n)) for start in starts[first : first + many]]
        rows = np.concatenate([np.arange(run.start, run.stop) for run in runs])
        held, low = np.empty((len(rows), d), np.float32), 0
        for run in runs:
            held[low : low + run.stop - run.start] = vectors[run]
            low += run.stop - run.start
        for local, real in _batches(rng.permutation(len(rows)), size):
            yield rows[local], real, held[local]
        del held  # before the next one


def _row_reader(vectors: Vectors) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from row numbers (b,) to those rows (b, D), float32, on the host."""
    if is_array(vectors):
        blocks: Sequence[Any] = (vectors,)
    elif isinstance(vectors, Sequence):
        blocks = vectors
    else:
        raise TypeError(
            "vectors must be an array or a list of row blocks, whose rows can be read in any "
            f"order, got {type(vectors).__name__}"
        )
    ends = np.cumsum([len(block) for block in blocks])

    def read(rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), blocks[0].shape[1]), np.float32)
        owner = np.searchsorted(ends, rows, side="right")
        for i in np.unique(owner):
            mine = owner == i
            local = rows[mine] - (ends[i] - len(blocks[i]))
            out[mine] = np.asarray(blocks[i][local], dtype=np.float32)
        return out

    return read
