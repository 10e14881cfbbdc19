"""The largest eigenpairs of a large symmetric matrix, of which few are wanted.

Mathematics
-----------
Of C (D, D), symmetric and nearly positive semi-definite, the P << D largest eigenvalues are wanted.
Three ways:

* `top_by_eigh`: all of them, by LAPACK.
* `top_by_krylov`: block Krylov iteration with restarts (Musco and Musco, "Randomized Block Krylov
  Methods", 2015), for which C need only be an operator; the host drives it.
* `top_filtered`: one program on the device. A block X (D, L), L a little above P, is improved in
  rounds: with ``theta_1 >= ... >= theta_L`` its Ritz values, the polynomial

      X <- T_m((C - c) / e) X,        c +- e the ends of [-delta, theta_L],

  with Chebyshev's ``T_m`` is at most 1 in size on the unwanted part of the spectrum and grows like
  ``cosh(m arccosh((theta - c) / e))`` above it; then X is made orthonormal (QR), and Rayleigh-Ritz
  rotates it to the best vectors in its span. Zhou, Saad, Tiago and Chelikowsky, "Self-consistent-
  field calculations using Chebyshev-filtered subspace iteration" (2006), with their scaled
  recurrence, which does not overflow. A round is m products (D, D) x (D, L), one QR of (D, L) and
  one eigendecomposition of (L, L). The degree m is as large as keeps theta_1 and theta_P within the
  arithmetic's digits of each other: steep spectra get plain products, flat ones the highest degree.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from mpp_jax.numerics import PRECISION

RESIDUAL = 1e-4
"""An eigenpair has converged when ``|C v - lambda v| <= RESIDUAL lambda``; its eigenvalue is then
right to about the square of that."""

FILTERED_RESIDUAL = 1e-5
"""The same of `top_filtered`, to which it costs little: eigenvalues are right to this for sure."""

MOST_ROUNDS = 60
"""Rounds of `top_filtered`, which then gives up."""

HIGHEST_DEGREE = 24
"""Products of a round at most."""

PLAIN_ROUNDS = 3
"""Rounds of one product each at the beginning, until the Ritz values say something."""


Operator = Callable[[np.ndarray], np.ndarray]
"""``(Q (D, L)) -> C Q``, the covariance as an operator."""


def top_by_eigh(matrix: np.ndarray, n_components: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest eigenvalues (P,), descending, and their eigenvectors (P, D), by LAPACK."""
    values, vectors = np.linalg.eigh(matrix)
    return values[::-1][:n_components], vectors.T[::-1][:n_components]


def _orthonormal(block: np.ndarray, against: np.ndarray | None = None) -> np.ndarray:
    """Return an orthonormal basis of `block` (D, L), orthogonal to the orthonormal `against`."""
    for _ in range(2):
        size = np.max(np.abs(block))
        if against is not None:
            block = block - against @ (against.T @ block)
        block, triangle = np.linalg.qr(block)
        # What cancelled has lost its digits: once more ("twice is enough", Kahan).
        if np.min(np.abs(np.diag(triangle))) > 1e-4 * size:
            break
    return block


def top_by_krylov(
    apply: Operator,
    start: np.ndarray,
    n_components: int,
    steps: int,
    cycles: int,
    resolution: float = 1e-10,
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return the largest eigenvalues and their eigenvectors, and whether they have converged.

    Block Krylov iteration (Musco and Musco, "Randomized Block Krylov Methods", 2015) with restarts:
    Rayleigh-Ritz in the span of ``Q, C Q, ..., C^steps Q``, then again from its best vectors.
    ``resolution``, of the arithmetic of C, is the share of the largest eigenvalue below which a
    residual says nothing: eigenvalues of zero would never converge.
    """
    block = start.shape[1]
    basis = _orthonormal(start)
    image = apply(basis)
    for _ in range(cycles):
        last = image
        for _ in range(steps):
            room = basis.shape[0] - basis.shape[1]
            if room == 0:
                break
            fresh = _orthonormal(last[:, :room], basis)
            last = apply(fresh)
            basis = np.concatenate([basis, fresh], axis=1)
            image = np.concatenate([image, last], axis=1)
        inner = basis.T @ image
        values, vectors = np.linalg.eigh((inner + inner.T) / 2)
        best = np.argsort(values)[::-1][:block]
        values, basis, image = values[best], basis @ vectors[:, best], image @ vectors[:, best]
        residual = np.linalg.norm(image - basis * values[None, :], axis=0)[:n_components]
        allowed = RESIDUAL * np.abs(values[:n_components]) + resolution * abs(values[0])
        if np.all(residual <= allowed):
            return values[:n_components], basis.T[:n_components], True
    return values[:n_components], basis.T[:n_components], False


class Eigenpairs(NamedTuple):
    """The largest eigenpairs, and how well they are known."""

    values: Array  # (P,), descending
    vectors: Array  # (P, D), orthonormal rows
    residuals: Array  # (P,) norms of C v - lambda v
    rounds: Array  # () int32
    converged: Array  # () bool


class _Block(NamedTuple):
    basis: Array  # (D, L), orthonormal Ritz vectors
    image: Array  # (D, L), the matrix times them
    values: Array  # (L,), descending
    round: Array  # () int32


@partial(jax.jit, static_argnames="n_components")
def top_filtered(
    matrix: Array,
    start: Array,
    n_components: int,
    resolution: Array | float,
    max_rounds: Array | int = MOST_ROUNDS,
) -> Eigenpairs:
    """Return the largest eigenpairs of a symmetric matrix. Pure.

    A pair has converged when its residual is at most `FILTERED_RESIDUAL` times its eigenvalue. One
    that is below ``resolution lambda_1`` with its residual is rounding of the matrix itself, and is
    accepted.

    Args:
        matrix: (D, D) float64. In float32 the small ones beside large ones are wrong.
        start: (D, L) of full rank, P < L < D; any that is random will do.
        n_components: P.
        resolution: what the matrix was rounded to, relative to its largest eigenvalue.
        max_rounds: rounds at most.
    """

    def residuals(block: _Block) -> Array:
        wanted = block.image - block.basis * block.values[None, :]
        return jnp.linalg.norm(wanted[:, :n_components], axis=0)

    def converged(block: _Block) -> Array:
        size, largest = jnp.abs(block.values[:n_components]), jnp.abs(block.values[0])
        left = residuals(block)
        nothing = left + size <= resolution * largest
        return jnp.all((left <= FILTERED_RESIDUAL * size) | nothing)

    def unfinished(block: _Block) -> Array:
        return ~converged(block) & (block.round < max_rounds)

    def improve(block: _Block) -> _Block:
        filtered = _filter(matrix, block, n_components)
        return _rayleigh_ritz(matrix, filtered, block.round + 1)

    first = _rayleigh_ritz(matrix, start.astype(matrix.dtype), jnp.zeros((), jnp.int32))
    last = lax.while_loop(unfinished, improve, first)
    return Eigenpairs(
        values=last.values[:n_components],
        vectors=last.basis.T[:n_components],
        residuals=residuals(last),
        rounds=last.round,
        converged=converged(last),
    )


def _times(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=PRECISION)


def _rayleigh_ritz(matrix: Array, block: Array, number: Array) -> _Block:
    basis, _ = jnp.linalg.qr(block)
    image = _times(matrix, basis)
    inner = _times(basis.T, image)
    values, vectors = jnp.linalg.eigh((inner + inner.T) / 2)
    values, vectors = values[::-1], vectors[:, ::-1]
    return _Block(_times(basis, vectors), _times(image, vectors), values, number)


def _filter(matrix: Array, block: _Block, n_components: int) -> Array:
    """Return the block after one round's polynomial."""
    basis, image, values, number = block
    eps = jnp.finfo(matrix.dtype).eps
    largest = jnp.maximum(values[0], jnp.finfo(matrix.dtype).tiny)
    # Rounding of a matrix of float32 sums leaves eigenvalues of about this size on both sides of 0.
    delta = jnp.finfo(jnp.float32).eps * largest
    # A little below theta_L: an eigenvalue that is there more than L times over would not grow.
    top = jnp.maximum((1 - 1 / HIGHEST_DEGREE**2) * values[-1], delta)
    centre, half = (top - delta) / 2, (top + delta) / 2

    def growth(value: Array) -> Array:
        return jnp.arccosh(jnp.maximum((value - centre) / half, 1))

    spread = growth(largest) - growth(values[n_components - 1])
    allowed = -0.45 * jnp.log(eps)
    degree = jnp.clip(allowed / jnp.maximum(spread, eps), 1, HIGHEST_DEGREE).astype(jnp.int32)
    degree = jnp.where(number < PLAIN_ROUNDS, 1, degree)

    # Zhou and Saad's recurrence, with ratio = sigma / half, so that half may be tiny.
    ratio = 1 / (largest - centre)

    def once(_: Array, state: Any) -> Any:
        before, now, ratio = state
        square = jnp.square(half * ratio)
        after = ratio / (2 - square)
        new = 2 * after * (_times(matrix, now) - centre * now) - square / (2 - square) * before
        return now, new, after

    now = (image - centre * basis) * ratio
    return lax.fori_loop(1, degree, once, (basis, now, ratio))[1]
