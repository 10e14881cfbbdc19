"""Encodings beside Fisher vectors and VLAD, with one call shape, ``(x, parameters, mask) -> v``.

Mathematics
-----------
Of the N descriptors ``x_i`` in D dimensions, with assignments ``a_ik`` to centres ``c_k``, k =
1..K:

* `bag_of_words`: ``h_k = sum_i a_ik / N`` (Csurka et al. 2004; soft: van Gemert et al. 2010).
* `super_vector`: with ``p_k = sum_i a_ik / N``, the blocks
  ``[s sqrt(p_k), sum_i a_ik (x_i - c_k) / (N sqrt(p_k))]`` (Zhou et al., "Image Classification
  using Super-Vector Coding of Local Image Descriptors", 2010).
* `mean_pooling`, `max_pooling`; `gem_pooling`, ``(sum_i x_i^p / N)^(1/p)`` (Radenović et al.,
  "Fine-tuning CNN Image Retrieval with No Human Annotation", 2018).
* `second_order_pooling`: the square root of the covariance matrix, flattened (Carreira et al.,
  "Semantic Segmentation with Second-Order Pooling", 2012; Li et al., "Is Second-order Information
  Helpful for Large-scale Visual Recognition?", 2017).
* `generalized_max_pooling` of encodings ``phi_i``: the vector ``xi`` that is about equally similar
  to each, ``argmin |Phi xi - 1|^2 + lambda |xi|^2`` (Murray and Perronnin, "Generalized Max
  Pooling", 2014); `fisher_gmp` does so for one-descriptor Fisher vectors, of which none is ever
  stored.

All are pure; a batch of sets is ``vmap``; a set without descriptors gives 0.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from mpp_jax.encoders.fisher import SMALLEST_WEIGHT, weighted_sums
from mpp_jax.encoders.vlad import assignment_weights
from mpp_jax.numerics import PRECISION, check_set, l2_normalize, mask_rows, real_dtype
from mpp_jax.stats.mixture import (
    GMM,
    check_mixture,
    gmm_frame,
    living,
    responsibilities,
    widened,
)

__all__ = [
    "bag_of_words",
    "fisher_gmp",
    "gem_pooling",
    "generalized_max_pooling",
    "matrix_sqrt",
    "max_pooling",
    "mean_pooling",
    "second_order_pooling",
    "super_vector",
]


def _rows(x: ArrayLike, mask: ArrayLike | None) -> tuple[Array, Array]:
    """Return descriptors (N, D), 0 outside the mask, and the mask (N,), both floating."""
    x = jnp.asarray(x)
    dtype = real_dtype(x)
    weight = jnp.ones(x.shape[0], bool) if mask is None else jnp.asarray(mask) != 0
    return mask_rows(x.astype(dtype), weight, jnp.zeros(x.shape[1], dtype)), weight.astype(dtype)


def _assigned(
    x: ArrayLike,
    centres: ArrayLike,
    mask: ArrayLike | None,
    assignment: str | ArrayLike,
    neighbours: int,
    sharpness: float,
) -> tuple[Array, Array, Array, Array]:
    """Return descriptors and centres near the origin, weights (N, K), number of descriptors."""
    x, weight = _rows(x, mask)
    c = jnp.asarray(centres, real_dtype(x, centres))
    origin = lax.stop_gradient(jnp.mean(c, axis=0))
    z = mask_rows(x.astype(c.dtype), weight, origin) - origin[None, :]
    c = c - origin[None, :]
    a = assignment_weights(z, c, assignment, neighbours, sharpness) * weight[:, None]
    # The order of NaN among distances is anyone's: without this it would be counted as a word.
    a = jnp.where(jnp.any(jnp.isnan(z), axis=1)[:, None], jnp.nan, a)
    return z, c, a, jnp.maximum(jnp.sum(weight), 1)


def bag_of_words(
    x: ArrayLike,
    centres: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    assignment: str | ArrayLike = "hard",
    neighbours: int = 1,
    sharpness: float = 1.0,
) -> Array:
    """Return the histogram of assignments, ``(N, D) -> (K,)``; options as for `vlad`.

    It sums to 1 (times `neighbours`, where a descriptor has several with "hard").
    """
    _, _, a, count = _assigned(x, centres, mask, assignment, neighbours, sharpness)
    return jnp.sum(a, axis=0) / count


def super_vector(
    x: ArrayLike,
    centres: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    scale: float = 1.0,
    assignment: str | ArrayLike = "hard",
    neighbours: int = 1,
    sharpness: float = 1.0,
) -> Array:
    """Return the super-vector coding, ``(N, D) -> (K (D + 1),)``, cluster by cluster.

    The block of cluster k is its mass, then its residuals; that of an empty cluster is 0. `scale`
    is the paper's s, the weight of the masses against the residuals; the other options are those of
    `mpp_jax.encoders.vlad.vlad`.
    """
    z, c, a, count = _assigned(x, centres, mask, assignment, neighbours, sharpness)
    mass = jnp.sum(a, axis=0)
    some = mass > 0
    root = jnp.where(some, jnp.sqrt(jnp.where(some, mass / count, 1)), 0)
    sums = jnp.matmul(a.T, z, precision=PRECISION) - mass[:, None] * c
    blocks = sums / (count * jnp.where(some, root, 1))[:, None]
    return jnp.concatenate([scale * root[:, None], blocks], axis=1).ravel()


def mean_pooling(x: ArrayLike, params: None = None, mask: ArrayLike | None = None) -> Array:
    """Return the mean of the descriptors, ``(N, D) -> (D,)``; there are no parameters."""
    x, weight = _rows(x, mask)
    return jnp.sum(x, axis=0) / jnp.maximum(jnp.sum(weight), 1)


def max_pooling(x: ArrayLike, params: None = None, mask: ArrayLike | None = None) -> Array:
    """Return the largest value of each dimension, ``(N, D) -> (D,)``; there are no parameters."""
    x, weight = _rows(x, mask)
    largest = jnp.max(jnp.where(weight[:, None] > 0, x, -jnp.inf), axis=0, initial=-jnp.inf)
    # XLA's maximum on CPUs may drop NaN.
    largest = jnp.where(jnp.any(jnp.isnan(x), axis=0), jnp.nan, largest)
    return jnp.where(jnp.sum(weight) > 0, largest, 0)


def gem_pooling(
    x: ArrayLike, power: ArrayLike = 3.0, mask: ArrayLike | None = None, *, smallest: float = 1e-6
) -> Array:
    """Return the generalised mean of non-negative descriptors, ``(N, D) -> (D,)``.

    Args:
        x: (N, D); values below `smallest` count as it.
        power: p, () or (D,), not 0: 1 is the mean, infinity in the limit the maximum.
        mask: (N,), rows where it is 0 or False are left out.
        smallest: a positive bound that keeps powers and gradients finite.
    """
    x, weight = _rows(x, mask)
    p = jnp.broadcast_to(jnp.asarray(power, x.dtype), x.shape[1:])
    clipped = jnp.maximum(x, smallest)
    # Relative to the largest value, so that no power overflows.
    top = lax.stop_gradient(jnp.max(clipped, axis=0, initial=smallest))
    powers = jnp.power(clipped / top[None, :], p[None, :]) * weight[:, None]
    some = jnp.sum(weight) > 0
    mean = jnp.sum(powers, axis=0) / jnp.maximum(jnp.sum(weight), 1)
    return jnp.where(some, top * jnp.power(jnp.where(some, mean, 1), 1 / p), 0)


@jax.custom_jvp
def matrix_sqrt(matrix: ArrayLike) -> Array:
    """Return the positive semi-definite square root of a symmetric (D, D) matrix, by ``eigh``.

    Negative eigenvalues (rounding) count as 0. The derivative holds at equal eigenvalues too, where
    that of ``eigh`` does not; in the null space, where the root has none, it is 0.
    """
    values, vectors = jnp.linalg.eigh(jnp.asarray(matrix))
    return _recompose(vectors, jnp.diag(jnp.sqrt(jnp.maximum(values, 0))))


@matrix_sqrt.defjvp
def _matrix_sqrt_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (matrix,), (change,) = primals, tangents
    values, vectors = jnp.linalg.eigh(matrix)
    roots = jnp.sqrt(jnp.maximum(values, 0))
    # Daleckii and Krein: divided differences of the square root, 1 / (sqrt(a) + sqrt(b)).
    sums = roots[:, None] + roots[None, :]
    smallest = jnp.sqrt(jnp.finfo(matrix.dtype).eps) * jnp.max(roots)
    quotient = jnp.where(sums > smallest, 1 / jnp.where(sums > smallest, sums, 1), 0)
    inner = jnp.matmul(
        jnp.matmul(vectors.T, change, precision=PRECISION), vectors, precision=PRECISION
    )
    root = _recompose(vectors, jnp.diag(roots))
    return root, _recompose(vectors, quotient * (inner + inner.T) / 2)


def _recompose(vectors: Array, inner: Array) -> Array:
    left = jnp.matmul(vectors, inner, precision=PRECISION)
    return jnp.matmul(left, vectors.T, precision=PRECISION)


def second_order_pooling(
    x: ArrayLike,
    params: None = None,
    mask: ArrayLike | None = None,
    *,
    centred: bool = True,
    root: bool = True,
    ridge: float = 0.0,
) -> Array:
    """Return the root of the descriptors' covariance, ``(N, D) -> (D (D + 1) / 2,)``.

    The upper triangle row by row, off-diagonal entries times sqrt(2), so that inner products of two
    vectors are those of the matrices.

    Args:
        x: (N, D).
        params: there are none.
        mask: (N,), rows where it is 0 or False are left out.
        centred: the covariance about the mean; False, the second moments about 0.
        root: take the matrix square root.
        ridge: added to the diagonal first, in squared units of `x`.
    """
    x, weight = _rows(x, mask)
    count = jnp.maximum(jnp.sum(weight), 1)
    if centred:
        mean = jnp.sum(x, axis=0) / count
        x = (x - mean[None, :]) * weight[:, None]
    d = x.shape[1]
    matrix = jnp.matmul(x.T, x, precision=PRECISION) / count
    some = jnp.sum(weight) > 0
    matrix = matrix + jnp.where(some, ridge, 0).astype(x.dtype) * jnp.eye(d, dtype=x.dtype)
    if root:
        matrix = matrix_sqrt(matrix)
    row, column = jnp.triu_indices(d)
    factor = jnp.where(row == column, 1.0, jnp.sqrt(2.0)).astype(x.dtype)
    return matrix[row, column] * factor


def generalized_max_pooling(
    encodings: ArrayLike,
    strength: ArrayLike = 1.0,
    mask: ArrayLike | None = None,
    *,
    unit: bool = True,
) -> Array:
    """Pool the encodings of single descriptors by generalised max, ``(N, E) -> (E,)``.

    ``xi = Phi^T (Phi Phi^T + strength I)^-1 1``, with the encodings ``Phi`` in rows.

    Args:
        encodings: (N, E).
        strength: lambda > 0; a large one gives sum pooling, up to scale.
        mask: (N,), rows where it is 0 or False are left out.
        unit: L2-normalise each encoding first.
    """
    phi, weight = _rows(encodings, mask)
    if unit:
        phi = l2_normalize(phi)
    kernel = jnp.matmul(phi, phi.T, precision=PRECISION)
    system = kernel + jnp.asarray(strength, phi.dtype) * jnp.eye(phi.shape[0], dtype=phi.dtype)
    alpha = jax.scipy.linalg.solve(system, weight, assume_a="pos")
    return jnp.matmul(alpha, phi, precision=PRECISION)


def fisher_gmp(
    x: ArrayLike,
    gmm: GMM,
    mask: ArrayLike | None = None,
    *,
    strength: ArrayLike = 1.0,
    unit: bool = True,
    tolerance: float = 1e-5,
    max_iterations: int = 200,
) -> Array:
    """Pool one-descriptor Fisher vectors by generalised max, ``(N, D) -> (2 K D,)``.

    The same as `generalized_max_pooling` of ``fisher_vector(x[i:i+1], gmm, prune=0)``, by conjugate
    gradients: the product of ``Phi^T`` with a vector is a weighted Fisher encoding of the set, so
    no (N, 2 K D) array exists.

    Args:
        x: (N, D).
        gmm: the mixture.
        mask: (N,), rows where it is 0 or False are left out.
        strength: lambda > 0.
        unit: L2-normalise each one-descriptor Fisher vector first.
        tolerance: relative residual at which conjugate gradients stop.
        max_iterations: of conjugate gradients, at most.
    """
    x, weight = _rows(x, mask)
    check_mixture(gmm)
    check_set(x, gmm.means.shape[-1], "mixture")
    return _fisher_gmp(x, gmm, weight, strength, tolerance, max_iterations, unit=unit)


@partial(jax.jit, static_argnames="unit", inline=True)
def _fisher_gmp(
    x: Array,
    gmm: GMM,
    weight: Array,
    strength: Array,
    tolerance: Array,
    max_iterations: Array,
    *,
    unit: bool,
) -> Array:
    gmm = widened(gmm, x)
    frame = gmm_frame(gmm)
    inner, alive = living(frame.enter_gmm(gmm), SMALLEST_WEIGHT)
    z = frame.enter(x, weight)
    q = responsibilities(x, gmm._replace(weights=jnp.where(alive, gmm.weights, 0))).T
    scale = jnp.where(alive, 1 / jnp.sqrt(inner.weights), 0)
    q = q * weight[None, :] * scale[:, None]

    def square(total: Array, component: tuple[Array, Array, Array]) -> tuple[Array, None]:
        q, mean, sigma = component
        y = jnp.square((z - mean[None, :]) / sigma[None, :])
        return total + jnp.square(q) * jnp.sum(y + jnp.square(y - 1) / 2, axis=1), None

    components = (q, inner.means, jnp.sqrt(inner.variances))
    squares, _ = lax.scan(square, jnp.zeros_like(weight), components)
    some = squares > 0
    factor = jnp.where(some, 1 / jnp.sqrt(jnp.where(some, squares, 1)), 0)
    if not unit:
        factor = jnp.ones_like(factor)

    def pool(alpha: Array) -> Array:
        """Return ``Phi^T alpha`` (2 K D,)."""
        _, s1, s2 = weighted_sums(q * (factor * alpha)[None, :], z, inner)
        return jnp.concatenate([s1.ravel(), s2.ravel() / math.sqrt(2)])

    compare = jax.linear_transpose(pool, weight)  # xi -> (Phi xi,)
    alpha, _ = jax.scipy.sparse.linalg.cg(
        lambda a: compare(pool(a))[0] + strength * a, weight, tol=tolerance, maxiter=max_iterations
    )
    return pool(alpha)
