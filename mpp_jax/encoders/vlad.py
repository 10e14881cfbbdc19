"""VLAD: vectors of locally aggregated descriptors.

Mathematics
-----------
With assignment weights ``a_ik`` of descriptors ``x_i`` (N, D) to centres ``c_k`` (K, D),

    E_k = sum_i a_ik (x_i - c_k),

flattened to ``K D`` numbers, ``E[k D + d]`` (Jégou et al., "Aggregating local descriptors into a
compact image representation", 2010). Options act in the order of VLFeat's ``vlad.c``: mass
normalisation divides E_k by ``sum_i a_ik``; the signed square root; intra-normalisation
(Arandjelović and Zisserman, "All about VLAD", 2013) divides each E_k by its L2 norm; the global L2
norm comes last and is on by default. Residual normalisation (Delhumeau et al., "Revisiting the VLAD
image representation", 2013) divides each ``x_i - c_k`` by its norm before the sum.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from mpp_jax.numerics import PRECISION, check_set, l2_normalize, mask_rows, real_dtype, signed_sqrt
from mpp_jax.stats.kmeans import nearest


def vlad(
    x: ArrayLike,
    centres: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    assignment: str | ArrayLike = "hard",
    neighbours: int = 1,
    sharpness: float = 1.0,
    residual: bool = False,
    mass: bool = False,
    power: bool = False,
    intra: bool = False,
    l2: bool = True,
) -> Array:
    """Return the VLAD of descriptors `x`, ``(N, D) -> (K D,)``. Pure; a batch of sets is ``vmap``.

    Args:
        x: (N, D), any real dtype; the arithmetic is float32 at least.
        centres: (K, D).
        mask: (N,), rows where it is 0 or False are left out, whatever they hold.
        assignment: "hard" (nearest centre), "soft" (``softmax_k(-sharpness |x - c_k|^2)``), or the
            weights themselves, (N, K).
        neighbours: how many of the nearest centres a descriptor is assigned to; "hard" gives each
            of them weight 1, "soft" renormalises among them. 0 with "soft" is all of them.
        sharpness: of the soft assignment, in inverse squared units of `x`.
        residual: normalise each residual.
        mass: divide by the assigned mass; an empty cluster stays 0.
        power: signed square root.
        intra: L2-normalise each cluster's block.
        l2: L2-normalise the whole.

    Raises:
        ValueError: `x` that is no set of the centres' dimension, or a mask of other rows.
    """
    x, centres = jnp.asarray(x), jnp.asarray(centres)
    valid = None if mask is None else jnp.asarray(mask) != 0
    check_set(x, centres.shape[-1], "centres", valid)
    dtype = real_dtype(x, centres)
    x, centres = x.astype(dtype), centres.astype(dtype)
    origin = jax.lax.stop_gradient(jnp.mean(centres, axis=0))
    z = mask_rows(x, valid, origin) - origin[None, :]
    c = centres - origin[None, :]
    k = c.shape[0]
    weight = jnp.ones(z.shape[0], dtype) if valid is None else valid.astype(dtype)
    if isinstance(assignment, str) and assignment == "hard" and neighbours == 1:
        index, _ = nearest(jax.lax.stop_gradient(z), jax.lax.stop_gradient(c))
        difference = z - c[index]
        if residual:
            difference = l2_normalize(difference)
        difference = difference * weight[:, None]
        sums = jax.ops.segment_sum(difference, index, num_segments=k)
        masses = jax.ops.segment_sum(weight, index, num_segments=k)
    else:
        a = assignment_weights(z, c, assignment, neighbours, sharpness) * weight[:, None]
        masses = jnp.sum(a, axis=0)
        sums = (
            _residual_sums(z, c, a)
            if residual
            else (jnp.matmul(a.T, z, precision=PRECISION) - masses[:, None] * c)
        )
    return finish_blocks(sums, masses, mass=mass, power=power, intra=intra, l2=l2)


def assignment_weights(
    z: Array, c: Array, assignment: str | ArrayLike, neighbours: int, sharpness: float
) -> Array:
    """Return weights (N, K) of descriptors (N, D) on centres (K, D); see `vlad`."""
    k = c.shape[0]
    if not isinstance(assignment, str):
        given = jnp.asarray(assignment, z.dtype)
        if given.shape != (z.shape[0], k):
            raise ValueError(f"assignment must have shape {(z.shape[0], k)}; got {given.shape}.")
        return given
    if assignment not in ("hard", "soft"):
        raise ValueError(
            f"assignment must be 'hard', 'soft' or an array (N, K); got {assignment!r}."
        )
    if not 0 <= neighbours <= k or (assignment == "hard" and neighbours == 0):
        raise ValueError(f"neighbours must be between 1 and {k} centres; got {neighbours}.")
    product = jnp.matmul(z, c.T, precision=PRECISION)
    # |x|^2 is the same for every centre, so neither the softmax nor the order needs it.
    score = 2 * product - jnp.sum(jnp.square(c), axis=1)[None, :]
    logits = sharpness * score
    if neighbours:
        _, places = jax.lax.top_k(jax.lax.stop_gradient(score), neighbours)
        chosen = jnp.sum(jax.nn.one_hot(places, k, dtype=z.dtype), axis=-2)
        if assignment == "hard":
            return chosen
        logits = jnp.where(chosen > 0, logits, -jnp.inf)
    return jax.nn.softmax(logits, axis=-1)


@partial(jax.jit, inline=True)
def _residual_sums(z: Array, c: Array, a: Array) -> Array:
    """Return ``sum_i a_ik (z_i - c_k) / |z_i - c_k|`` (K, D); (N, K, D) never exists."""

    def one(centre: Array, weight: Array) -> Array:
        return jnp.matmul(weight, l2_normalize(z - centre[None, :]), precision=PRECISION)

    return jax.lax.map(lambda args: one(*args), (c, a.T))


def finish_blocks(
    sums: Array, masses: Array, *, mass: bool, power: bool, intra: bool, l2: bool
) -> Array:
    """Normalise blocks (K, D) as `vlad` does, in VLFeat's order, and flatten them."""
    if mass:
        some = masses > 0
        sums = jnp.where(some[:, None], sums / jnp.where(some, masses, 1)[:, None], 0)
    if power:
        sums = signed_sqrt(sums)
    if intra:
        sums = l2_normalize(sums)
    flat = sums.ravel()
    return l2_normalize(flat) if l2 else flat
