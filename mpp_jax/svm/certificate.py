"""The certificate of the machines that are returned, on the vectors themselves.

The solver of `mpp_jax.svm.dual` certifies what it knows: dual variables over a Gram matrix, which
is rounded to float32. Of vectors of large and unequal entries the rounding is many times the
tolerance, and so may be that of the weights. Here the objective is taken of the returned float32
weights and bias, and the lower bound from the exact weights of the dual variables; products and
sums are float64. Vectors that are read from a disk are certified alike: `recover` passes over them
in blocks of rows, and what is summed here are chunks of examples.
"""

from collections.abc import Iterator

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
        w, b = (jnp.asarray(part, jnp.float64) for part in (machines.weights, bias))
        # Without a bias feature there is no bias.
        square = jnp.sum(jnp.square(w), axis=1) + jnp.square(b / (bias_multiplier or 1.0))
        losses = jnp.zeros_like(square)
        if loss == "logistic":
            alpha = np.empty_like(alpha)
        for rows in _chunks(*y.shape):
            margins = jnp.asarray(y[rows], b.dtype) * (machines.products[rows] + b[None, :])
            losses += loss_sums(margins, jnp.asarray(u[rows]), loss)
            if loss == "logistic":  # see `mpp_jax.svm.dual`
                alpha[rows] = np.asarray(u[rows] * jax.nn.sigmoid(-margins))
        squares = machines.squares
        if loss == "logistic":
            squares = recover(alpha * y, vectors).squares
        exact = squares + bias_multiplier**2 * np.square(np.sum(alpha * y, axis=0))
        sums = jnp.zeros_like(square)
        for rows in _chunks(*y.shape):
            sums += dual_sums(jnp.asarray(alpha[rows]), jnp.asarray(u[rows]), loss)
        return np.asarray(0.5 * square + losses), np.asarray(sums - 0.5 * exact)


def _chunks(n: int, classes: int) -> Iterator[slice]:
    step = max(1, CHUNK // classes)
    yield from (slice(start, start + step) for start in range(0, n, step))
