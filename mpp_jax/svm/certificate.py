"""The certificate of the machines that are returned, on the vectors themselves.

The solver of `mpp_jax.svm.dual` certifies what it knows: dual variables over a Gram matrix, which
is rounded to float32. Of vectors of large and unequal entries the rounding is many times the
tolerance, and so may be that of the weights. Here the objective is taken of the returned float32
weights and bias, and the lower bound from the exact weights of the dual variables; products and
sums are float64. Vectors that are read from a disk are certified alike: `recover` passes over them
in blocks of rows, and what is summed here are chunks of examples.
"""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from mpp_jax.svm.blocks import Vectors
from mpp_jax.svm.gram import Recovered, recover
from mpp_jax.svm.losses import Loss, dual_sums, loss_sums

CHUNK = 2**23
"""Examples times classes that are summed at once."""


def certify(
    machines: Recovered,
    bias: np.ndarray,
    alpha: np.ndarray,
    vectors: Vectors,
    y: np.ndarray,
    u: np.ndarray,
    *,
    bias_multiplier: float,
    loss: Loss,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the primal objective of machines and a lower bound on the optimum, (L,) float64 both.

    Args:
        machines: those of `alpha`.
        bias: (L,), as returned.
        alpha: (N, L) float64 dual variables, in the box.
        vectors: (N, D), which the logistic loss reads once more.
        y: (N, L) targets.
        u: (N, L) weights of the losses.
        bias_multiplier: the constant feature B.
        loss: one of `LOSSES`.
    """
    with jax.enable_x64(True):
        b = jnp.asarray(bias, jnp.float64)
        # Without a bias feature there is no bias.
        square = _squares(machines.weights, b / (bias_multiplier or 1.0))
        losses = jnp.zeros_like(square)
        if loss == "logistic":
            alpha = np.empty_like(alpha)
        for rows in _chunks(*y.shape):
            part, dual = _losses(y[rows], machines.products[rows], b, u[rows], loss)
            losses += part
            if loss == "logistic":  # see `mpp_jax.svm.dual`
                alpha[rows] = dual
        squares = machines.squares
        if loss == "logistic":
            squares = recover(alpha * y, vectors).squares
        exact = squares + bias_multiplier**2 * np.square(np.sum(alpha * y, axis=0))
        sums = jnp.zeros_like(square)
        for rows in _chunks(*y.shape):
            sums += _dual_sums(alpha[rows], u[rows], loss)
        return np.asarray(0.5 * square + losses), np.asarray(sums - 0.5 * exact)


@jax.jit
def _squares(weights: jax.Array, bias: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(weights.astype(bias.dtype)), axis=1) + jnp.square(bias)


@partial(jax.jit, static_argnames="loss")
def _losses(
    y: jax.Array, products: jax.Array, bias: jax.Array, u: jax.Array, loss: Loss
) -> tuple[jax.Array, jax.Array | None]:
    """Return the losses (L,) of some examples, and for the logistic one its dual variables."""
    margins = y.astype(bias.dtype) * (products + bias[None, :])
    dual = u * jax.nn.sigmoid(-margins) if loss == "logistic" else None
    return loss_sums(margins, u, loss), dual


_dual_sums = jax.jit(dual_sums, static_argnames="loss")


def _chunks(n: int, classes: int) -> Iterator[slice]:
    step = max(1, CHUNK // classes)
    yield from (slice(start, start + step) for start in range(0, n, step))
