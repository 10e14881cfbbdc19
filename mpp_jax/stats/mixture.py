"""The density of a mixture of Gaussians with diagonal covariances, safe in float32.

Mathematics
-----------
``p(x) = sum_k w_k N(x; mu_k, diag(v_k))`` with weights ``w`` (K,), means ``mu`` (K, D), variances
``v`` (K, D). Two formulations of the exponent ``-|x - mu|^2 / 2v``:

* expanded, ``-x^2/2v + x mu/v - mu^2/2v``: one matrix product for all components. It loses digits
  with the square of the distance of x and mu from the origin in units of sigma, so it is evaluated
  in the mixture's own frame (`gmm_frame`), in which the mixture has mean 0 and variances near 1.
* direct, component by component, some ten times slower: where even in that frame a component is far
  from the origin and narrow (`WORST_CONDITION`), the expansion would leave too few digits.

Arrays of components by descriptors are (K, N): XLA multiplies them a fifth faster on CPUs than (N,
K).

What holds a branch or a loop is jitted (inlined where the caller is): eager calls would compile it
anew each time.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from mpp_jax.numerics import PRECISION, mask_rows, real_dtype
from mpp_jax.stats.chunks import ArrayData, Layout, open_data, sum_over_rows, sum_stream

LOG_TWO_PI = math.log(2 * math.pi)

FARTHEST = 1e14
"""Coordinates in a frame are clipped here, beyond which float32 squares could overflow."""

WORST_CONDITION = 1e4
"""Largest ``sum_d mu_kd^2 / v_kd`` for which the exponent is expanded. Times the rounding unit of
float32, 6e-8, it bounds the error of a log-density: about 1e-3 in the worst case, 1e-4 as a rule.
"""

Result = TypeVar("Result")


class GMM(NamedTuple):
    """A mixture of K Gaussians with diagonal covariances in D dimensions."""

    weights: Array  # (K,) non-negative, sum 1
    means: Array  # (K, D)
    variances: Array  # (K, D) positive


class WellConditioned(GMM):
    """A mixture of which `settled` found that its exponent can be expanded.

    The type is part of a program, which then need not ask: a GPU's host waits for every branch that
    is chosen on the device.
    """


class Frame(NamedTuple):
    """An affine change of coordinates ``z = (x - centre) / scale``."""

    centre: Array  # (D,)
    scale: Array  # (D,)

    def enter(self, x: Array, mask: Array | None = None) -> Array:
        """Return rows of `x` (N, D) in this frame, clipped; those outside `mask` (N,) become 0."""
        x = mask_rows(x.astype(self.centre.dtype), mask, self.centre)
        z = (x - self.centre[None, :]) * (1 / self.scale)[None, :]
        return jnp.clip(z, -FARTHEST, FARTHEST)

    def enter_gmm(self, gmm: GMM) -> GMM:
        """Return `gmm` in this frame."""
        means = (gmm.means - self.centre[None, :]) / self.scale[None, :]
        return gmm._replace(means=means, variances=gmm.variances / jnp.square(self.scale)[None, :])

    def leave_gmm(self, gmm: GMM) -> GMM:
        """Return `gmm` out of this frame."""
        means = gmm.means * self.scale[None, :] + self.centre[None, :]
        return gmm._replace(means=means, variances=gmm.variances * jnp.square(self.scale)[None, :])


def gmm_frame(gmm: GMM) -> Frame:
    """Return the frame of a mixture: its mean, and the root of its mean variance per dimension.

    Components of weight 0 do not count, whatever they hold.
    """
    alive = (gmm.weights > 0)[:, None]
    share = (gmm.weights / jnp.sum(gmm.weights))[:, None]
    centre = jnp.sum(jnp.where(alive, share * gmm.means, 0), axis=0)
    scale = jnp.sqrt(jnp.sum(jnp.where(alive, share * gmm.variances, 0), axis=0))
    # No result depends on the frame, so no gradient need flow through it.
    return lax.stop_gradient(Frame(centre, scale))


def living(gmm: GMM, smallest_weight: float = 0.0) -> tuple[GMM, Array]:
    """Put harmless stand-ins for components that do not count, and tell which ones do (K,).

    Those of weight 0, or lighter than `smallest_weight`, do not; they may hold anything.
    """
    alive = (gmm.weights > 0) & (gmm.weights >= smallest_weight)
    column = alive[:, None]
    return gmm._replace(
        weights=jnp.where(alive, gmm.weights, 1),
        means=jnp.where(column, gmm.means, 0),
        variances=jnp.where(column, gmm.variances, 1),
    ), alive


def expanded_log_joint(z: Array, gmm: GMM, alive: Array) -> Array:
    """Return ``log w_k + log N(z_i; mu_k, v_k)`` (K, N) by one product; -inf if not `alive`."""
    precisions = 1 / gmm.variances
    linear = jnp.concatenate([gmm.means * precisions, -0.5 * precisions], axis=1)
    exponent = jnp.matmul(linear, with_squares(z).T, precision=PRECISION)
    square = 0.5 * jnp.sum(jnp.square(gmm.means) * precisions, axis=1)
    return exponent + (_log_peak(gmm, alive) - square)[:, None]


def direct_log_joint(z: Array, gmm: GMM, alive: Array) -> Array:
    """Return what `expanded_log_joint` does without the expansion, component by component."""

    def exponent(component: tuple[Array, Array]) -> Array:
        mean, precision = component
        return -0.5 * jnp.sum(jnp.square(z - mean[None, :]) * precision[None, :], axis=1)

    exponents = lax.map(exponent, (gmm.means, 1 / gmm.variances))
    return exponents + _log_peak(gmm, alive)[:, None]


def _log_peak(gmm: GMM, alive: Array) -> Array:
    """Return the weighted log-density (K,) of each component at its mean."""
    volume = jnp.sum(LOG_TWO_PI + jnp.log(gmm.variances), axis=1)
    return jnp.where(alive, jnp.log(gmm.weights) - 0.5 * volume, -jnp.inf)


def with_squares(z: Array) -> Array:
    """Return ``[z, z^2]`` (N, 2 D)."""
    return jnp.concatenate([z, jnp.square(z)], axis=1)


def well_conditioned(gmm: GMM) -> Array:
    """Return whether (), in this frame, float32 can afford the expanded square everywhere."""
    condition = jnp.max(jnp.sum(jnp.square(gmm.means) / gmm.variances, axis=1))
    spare = jnp.finfo(jnp.float32).eps / jnp.finfo(gmm.means.dtype).eps
    return condition <= WORST_CONDITION * spare


@jax.jit
def _bears_expansion(gmm: GMM) -> Array:
    return well_conditioned(living(gmm_frame(gmm).enter_gmm(gmm))[0])


def settled(gmm: GMM) -> GMM:
    """Return a concrete mixture, as `WellConditioned` where it is; waits for its arrays."""
    return WellConditioned(*gmm) if bool(_bears_expansion(gmm)) else gmm


def choose(gmm: GMM, expanded: Callable[[], Result], direct: Callable[[], Result]) -> Result:
    """Choose the formulation for `gmm`, on the device where it is not known, and return its result.

    A `WellConditioned` one stays so when components are left out or numbers are widened.
    """
    if isinstance(gmm, WellConditioned):
        return expanded()
    return lax.cond(well_conditioned(gmm), expanded, direct)


@partial(jax.jit, inline=True)
def log_joint(z: Array, gmm: GMM, alive: Array) -> Array:
    """Return ``log w_k + log N(z_i; mu_k, v_k)`` (K, N), by the formulation that suits `gmm`."""
    return choose(
        gmm,
        lambda: expanded_log_joint(z, gmm, alive),
        lambda: direct_log_joint(z, gmm, alive),
    )


def posteriors(joint: Array) -> tuple[Array, Array]:
    """Return responsibilities (K, N) and ``log p`` (N,) of joint log-densities, by log-sum-exp."""
    largest = lax.stop_gradient(jnp.max(joint, axis=0))
    scaled = jnp.exp(joint - largest[None, :])
    total = jnp.sum(scaled, axis=0)
    return scaled * (1 / total)[None, :], largest + jnp.log(total)


def log_prob(x: ArrayLike, gmm: GMM) -> Array:
    """Return ``log p(x_i)`` (..., N) of descriptors (..., N, D). Pure; finite for finite ones.

    Raises:
        ValueError: a mixture whose arrays are concrete and cannot be one.
    """
    check_mixture(gmm)
    x = jnp.asarray(x)
    return _evaluate(x, gmm)[1].reshape(x.shape[:-1])


def responsibilities(x: ArrayLike, gmm: GMM) -> Array:
    """Return ``q_ik = p(k | x_i)`` (..., N, K) of descriptors (..., N, D). Pure; rows sum to 1.

    Raises:
        ValueError: a mixture whose arrays are concrete and cannot be one.
    """
    check_mixture(gmm)
    x = jnp.asarray(x)
    return _evaluate(x, gmm)[0].T.reshape(*x.shape[:-1], -1)


def _evaluate(x: Array, gmm: GMM) -> tuple[Array, Array]:
    gmm = widened(gmm, x)
    return evaluate(x.reshape(-1, x.shape[-1]), gmm)


def evaluate(x: Array, gmm: GMM, mask: Array | None = None) -> tuple[Array, Array]:
    """Return responsibilities (K, N) and ``log p`` (N,) of `x`; meaningless outside `mask`."""
    frame = gmm_frame(gmm)
    inner, alive = living(frame.enter_gmm(gmm))
    q, log_p = posteriors(log_joint(frame.enter(x, mask), inner, alive))
    return q, log_p - jnp.sum(jnp.log(frame.scale))


def widened(gmm: GMM, x: Array) -> GMM:
    """Return `gmm` in the dtype in which it meets `x`: float32 at least."""
    dtype = real_dtype(x, *gmm)
    return type(gmm)(*(jnp.asarray(leaf, dtype) for leaf in gmm))


def sample(key: Array, gmm: GMM, n: int) -> tuple[Array, Array]:
    """Draw `n` descriptors (n, D), and the components (n,) that they come from. Pure."""
    pick, noise = jax.random.split(key)
    index = jax.random.categorical(pick, jnp.log(gmm.weights), shape=(n,))
    shape = (n, gmm.means.shape[1])
    normal = jax.random.normal(noise, shape, gmm.means.dtype)
    return gmm.means[index] + jnp.sqrt(gmm.variances[index]) * normal, index


def check_mixture(gmm: GMM, name: str = "gmm") -> None:
    """Raise where the arrays of `gmm` are concrete and cannot be a mixture's; else do nothing.

    Components of weight 0 may hold anything. Under a trace nothing is known, and nothing checked.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in gmm):
        return
    if not all(getattr(leaf, "is_fully_addressable", True) for leaf in gmm):
        return  # a part of it is on other hosts
    check_gmm(gmm, name, int(np.shape(gmm.means)[-1]), dead_count=False)


def check_gmm(
    gmm: GMM,
    name: str,
    dimensions: int,
    components: int | None = None,
    *,
    dead_count: bool = True,
) -> GMM:
    """Return `gmm` if shapes and values make it a mixture in `dimensions`; else raise.

    `dead_count`: whether components of weight 0 are looked at too.
    """
    weights, means, variances = (np.asarray(leaf) for leaf in gmm)
    k = len(weights) if components is None else components
    if weights.shape != (k,) or means.shape != (k, dimensions) or variances.shape != means.shape:
        raise ValueError(
            f"{name} must have weights ({k},), means and variances ({k}, {dimensions}); "
            f"got {weights.shape}, {means.shape} and {variances.shape}."
        )
    if not dead_count:
        means, variances = means[weights != 0], variances[weights != 0]
    if not all(np.isfinite(leaf).all() for leaf in (weights, means, variances)):
        raise ValueError(f"{name} holds NaN or infinity.")
    total = weights.sum(dtype=np.float64)
    narrow = weights.dtype == jnp.bfloat16  # which rounds by more than is allowed otherwise
    if (weights < 0).any() or abs(total - 1) > (1e-2 if narrow else 1e-3):
        raise ValueError(f"{name}.weights must be at least 0 and sum to 1; got {total:g}.")
    if (variances <= 0).any():
        raise ValueError(f"{name}.variances must be positive; got {float(variances.min()):g}.")
    return gmm


def n_parameters(gmm: GMM) -> int:
    """Return the free parameters of a mixture: K - 1 weights, K D means and K D variances."""
    k, d = gmm.means.shape
    return k - 1 + 2 * k * d


def mean_log_likelihood(
    x: Any, gmm: GMM, *, mask: ArrayLike | None = None, rows: int | None = None
) -> tuple[float, int]:
    """Return the mean of ``log p(x_i)`` and how many descriptors; `x` and `mask` as for a fit."""
    check_mixture(gmm)
    data = open_data(x, mask, rows)
    if isinstance(data, ArrayData):
        args = (data.x, data.mask)
        count, total = _total_log_prob(gmm, *args, rows=data.rows, layout=data.layout)
    else:
        count, total = sum_stream(_summed_log_prob, gmm, data)
    return float(total / count), int(count)


def _summed_log_prob(gmm: GMM, x: Array, mask: Array) -> tuple[Array, Array]:
    _, log_p = evaluate(x, widened(gmm, x), mask)
    return jnp.sum(mask), jnp.sum(log_p * mask)


@partial(jax.jit, static_argnames=("rows", "layout"))
def _total_log_prob(
    gmm: GMM, x: Array, mask: Array, rows: int, layout: Layout
) -> tuple[Array, Array]:
    return sum_over_rows(_summed_log_prob, gmm, x, mask, rows, layout)


def bic(x: Any, gmm: GMM, *, mask: ArrayLike | None = None) -> float:
    """Return the Bayesian information criterion on `x`, ``p log N - 2 log L``: lower is better."""
    mean, count = mean_log_likelihood(x, gmm, mask=mask)
    return n_parameters(gmm) * float(np.log(count)) - 2 * mean * count


def aic(x: Any, gmm: GMM, *, mask: ArrayLike | None = None) -> float:
    """Return the Akaike information criterion on `x`, ``2 p - 2 log L``: lower is better."""
    mean, count = mean_log_likelihood(x, gmm, mask=mask)
    return 2 * n_parameters(gmm) - 2 * mean * count
