"""The losses of `mpp_jax.svm.dual`: their weighted sums, conjugates and gradients.

Arrays are (N, L), examples by classes; ``u`` are the weights of the losses, 0 where an example is
ignored.
"""

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp

Loss: TypeAlias = Literal["hinge", "squared_hinge", "logistic"]
LOSSES: tuple[Loss, ...] = ("hinge", "squared_hinge", "logistic")


def bounds(u: jax.Array, loss: Loss) -> tuple[jax.Array, jax.Array]:
    """Return the box of alpha; for the logistic loss its open interior holds the optimum."""
    upper = jnp.where(u > 0, jnp.inf, 0.0) if loss == "squared_hinge" else u
    return jnp.zeros_like(u), upper


def loss_sums(margins: jax.Array, u: jax.Array, loss: Loss) -> jax.Array:
    """Return the sums (L,) of the weighted losses at `margins` (N, L)."""
    if loss == "logistic":
        return jnp.sum(u * jax.nn.softplus(-margins), axis=0)
    hinge = jax.nn.relu(1 - margins)
    return jnp.sum(u * (hinge**2 if loss == "squared_hinge" else hinge), axis=0)


def dual_sums(alpha: jax.Array, u: jax.Array, loss: Loss) -> jax.Array:
    """Return the dual objective (L,) without its quadratic term: minus the conjugate losses."""
    if loss == "logistic":
        return jnp.sum(_xlogx(u) - _xlogx(alpha) - _xlogx(u - alpha), axis=0)
    if loss == "squared_hinge":
        return jnp.sum(alpha - over_u(alpha**2, 4 * u), axis=0)
    return jnp.sum(alpha, axis=0)


def gradient(
    alpha: jax.Array, scores: jax.Array, y: jax.Array, u: jax.Array, loss: Loss
) -> jax.Array:
    """Return the gradient (N, L) at `alpha`: of -D, or, logistic, of P in K's metric."""
    margins = y * scores
    if loss == "logistic":
        return alpha - u * jax.nn.sigmoid(-margins)
    if loss == "squared_hinge":
        return margins - 1 + over_u(alpha, 2 * u)
    return margins - 1


def over_u(v: jax.Array, u: jax.Array) -> jax.Array:
    """Return ``v / u``, and 0 where u is 0: there alpha is held at 0."""
    return jnp.where(u > 0, v / jnp.where(u > 0, u, 1.0), 0.0)


def _xlogx(v: jax.Array) -> jax.Array:
    return jnp.where(v > 0, v * jnp.log(jnp.where(v > 0, v, 1.0)), 0.0)
