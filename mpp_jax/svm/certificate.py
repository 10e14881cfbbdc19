"""The certificate of the machines that are returned, on the vectors themselves.

The solver of `mpp_jax.svm.dual` certifies what it knows: dual variables over a Gram matrix, which
is rounded to float32. Of vectors of large and unequal entries the rounding is many times the
tolerance, and so may be that of the weights. Here the objective is taken of the returned float32
weights and bias, and the lower bound from the exact weights of the dual variables; products and
sums are float64.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mpp_jax.svm.gram import Recovered, Vectors, recover
from mpp_jax.svm.losses import Loss, dual_sums, loss_sums


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
        margins = jnp.asarray(y) * (machines.products + b[None, :])
        primal = 0.5 * square + loss_sums(margins, jnp.asarray(u), loss)
        squares = machines.squares
        if loss == "logistic":  # see `mpp_jax.svm.dual`
            alpha = np.asarray(u * jax.nn.sigmoid(-margins))
            squares = recover(alpha * y, vectors).squares
        exact = squares + bias_multiplier**2 * np.square(np.sum(alpha * y, axis=0))
        dual = dual_sums(jnp.asarray(alpha), jnp.asarray(u), loss) - 0.5 * exact
        return np.asarray(primal), np.asarray(dual)
