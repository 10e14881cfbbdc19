"""One-vs-rest linear machines from one Gram matrix: all classes at once, with a duality gap.

With z_i = (x_i, B), the bias being the regularised weight of the constant feature B, every class
(one column of everything below) minimises over w

    P(w) = 1/2 |w|^2 + sum_i u_i loss(y_i w.z_i),      u_i = C x class weight x sample weight,
                                                       u_i = 0 where y_i = 0 (ignored)

and with w = sum_i a_i y_i z_i, K = Z Z^T = G + B^2, s = K (a o y), q = 1/2 |w|^2 = 1/2 (a o y).s,
it maximises the dual

    hinge           max(0, 1 - m)       D(a) = sum a - q                        0 <= a <= u
    squared_hinge   max(0, 1 - m)^2     D(a) = sum a - q - sum a^2 / (4 u)      0 <= a
    logistic        log(1 + exp(-m))    D(a) = sum H(a; u) - q                  0 <= a <= u
                                        H = u log u - a log a - (u - a) log(u - a)

The iteration is the accelerated projected gradient method (Beck & Teboulle 2009, "FISTA") with the
gradient-scheme restart of O'Donoghue & Candes (2015) and a step that adapts to the curvature met
(backtracking both ways, as Scheinberg, Goldfarb & Bai 2014), all per class.

Hinge and squared hinge descend -D over the box in the metric

    M = step^-1 diag(curvature along each alpha alone) + sigma v v^T,      v = y o w

with (sigma, w) the leading eigenpair of K: the bias and the mean vector, typically a thousand times
stiffer than all else, and the same for all classes. A projection onto a box in a metric of diagonal
plus rank one is still exact: alpha(nu) = clip(z - step (g + sigma v nu)) with nu the root of a
falling, piecewise linear function of one variable (Becker & Fadili 2012), found by Newton steps
within a bracket. It saves nine iterations of ten; the diagonal makes rows of very unequal norm
harmless.

The entropy of the logistic dual has no bounded gradient, so there the smooth primal is descended,
in the metric of K, where its gradient in the coordinates a is simply a - u sigmoid(-y s), and
u sigmoid(-y s) is its dual point.

Stopping: the *relative duality gap* (P - D) / D <= tolerance for every class. As D <= P* <= P, the
objective is then within a factor 1 + tolerance of the optimum: a certificate, not a heuristic.

Precision: near convergence s needs more than float32 (its terms cancel), but its *change* does
not: steps multiply the float32 K with float32 differences, accumulate in float64, and every
check recomputes s from K with float64 products.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from optax import projections

from mpp_jax.numerics import PRECISION
from mpp_jax.svm.losses import Loss, bounds, dual_sums, gradient, loss_sums, over_u

CHECK_EVERY = 10
"""Iterations between two evaluations of the duality gap."""

RELAX = 0.97
"""Factor on the inverse step after an accepted step: a longer one is tried until one is refused."""


class DualSolution(NamedTuple):
    """What the solver knows when it stops; per class (column) unless said otherwise.

    Attributes:
        alpha: (N, L) float64 multipliers of y_i z_i in w (zero where ignored).
        primal: (L,) float64 P(w(alpha)).
        dual: (L,) float64, a lower bound on the optimum.
        iterations: (L,) int32, iterations until the gap was seen below the tolerance.
        converged: (L,) bool.
    """

    alpha: jax.Array
    primal: jax.Array
    dual: jax.Array
    iterations: jax.Array
    converged: jax.Array


class Problem(NamedTuple):
    """L one-class problems over one kernel; `pose` makes it."""

    kernel: jax.Array  # (N, N) float32
    y: jax.Array  # (N, L) targets
    u: jax.Array  # (N, L) weights of the losses
    scale: jax.Array  # (N, L) curvature of the objective along each alpha alone
    stiff: jax.Array  # (N, L) sqrt(sigma) v, see the module's head; zero for the logistic loss
    ceiling: jax.Array  # (1, L) an inverse step that is always short enough


class Iterate(NamedTuple):
    """State of the accelerated iteration."""

    alpha: jax.Array  # (N, L) the feasible point x_k
    scores: jax.Array  # (N, L) K (alpha o y)
    ahead: jax.Array  # (N, L) the extrapolated point y_k
    scores_ahead: jax.Array  # (N, L)
    momentum: jax.Array  # (1, L) t_k
    lipschitz: jax.Array  # (1, L) inverse step


class _Loop(NamedTuple):
    iterate: Iterate
    result: DualSolution
    step: jax.Array  # () int32 iterations so far, -1 at the very start


def solve(
    kernel: jax.Array,
    targets: ArrayLike,
    upper: ArrayLike,
    initial: ArrayLike,
    *,
    loss: Loss,
    tolerance: float,
    max_iterations: int,
) -> DualSolution:
    """Minimise every class's objective; the caller has checked the arguments.

    Args:
        kernel: (N, N) float32, or float64 for vectors whose products float32 is too coarse for;
            K = G + B^2.
        targets: (N, L) in {-1, 0, +1}.
        upper: (N, L), u; zero where the target is.
        initial: (N, L) a warm start for alpha, or zeros.
        loss: one of `LOSSES`.
        tolerance: relative duality gap to stop at.
        max_iterations: stop here in any case.
    """
    # float64 for the accumulators only, and only within this call: see the module's head.
    with jax.enable_x64(True):
        y, u, a = (jnp.asarray(v, jnp.float64) for v in (targets, upper, initial))
        return _solve(kernel, y, u, a, tolerance, max_iterations, loss=loss)


@partial(jax.jit, static_argnames="loss")
def _solve(
    kernel: jax.Array,
    y: jax.Array,
    u: jax.Array,
    initial: jax.Array,
    tolerance: jax.Array,
    max_iterations: jax.Array,
    *,
    loss: Loss,
) -> DualSolution:
    problem = pose(kernel, y, u, loss)

    def stretch(loop: _Loop) -> _Loop:
        """Iterate, replace the scores by exact ones, and note the classes that have converged."""
        result, fresh = loop.result, loop.step < 0
        steps = jnp.where(fresh, 0, CHECK_EVERY)  # the start is looked at before the first step
        step = jnp.where(fresh, 0, loop.step + CHECK_EVERY)
        it = accelerate(problem, loop.iterate, steps, loss, result.converged[None, :])
        scores = exact_product(kernel, it.alpha * y)
        it = it._replace(scores=scores, scores_ahead=it.scores_ahead + (scores - it.scores))
        primal, dual = _certificate(problem, it.alpha, scores, loss)
        old = result.converged
        result = DualSolution(
            alpha=it.alpha,
            primal=jnp.where(old, result.primal, primal),
            dual=jnp.where(old, result.dual, dual),
            iterations=jnp.where(old, result.iterations, step),
            converged=old | (primal - dual <= tolerance * dual),
        )
        return _Loop(it, result, step)

    def unfinished(loop: _Loop) -> jax.Array:
        return ~jnp.all(loop.result.converged) & (loop.step < max_iterations)

    alpha = projections.projection_box(initial, *bounds(u, loss))
    start = begin(problem, alpha, jnp.zeros_like(alpha))  # the first look puts the scores right
    classes = y.shape[1]
    nothing = DualSolution(
        alpha,
        jnp.full(classes, jnp.inf),
        jnp.full(classes, -jnp.inf),
        jnp.zeros(classes, jnp.int32),
        jnp.zeros(classes, bool),
    )
    first = _Loop(start, nothing, jnp.asarray(-1, jnp.int32))
    return jax.lax.while_loop(unfinished, stretch, first).result


# ---------------------------------------------------------------------------------- the iteration


def pose(kernel: jax.Array, y: jax.Array, u: jax.Array, loss: Loss) -> Problem:
    """Return the problem with its metric.

    `ceiling`: the row sums of absolute values bound the eigenvalues of a symmetric matrix, here
    of what is left of K beside the leading eigenpair, in units of its diagonal.
    """
    if loss == "logistic":
        largest = jnp.max(jnp.sum(jnp.abs(kernel), axis=1)).astype(u.dtype)
        ceiling = 1 + 0.25 * jnp.max(u, axis=0, keepdims=True) * largest
        return Problem(kernel, y, u, jnp.ones_like(u), jnp.zeros_like(u), ceiling)
    diagonal = jnp.diagonal(kernel)
    floor = jnp.maximum(1e-12 * jnp.max(diagonal), jnp.finfo(kernel.dtype).tiny)
    root = jnp.sqrt(jnp.maximum(diagonal, floor))
    stiff = _leading(kernel)
    rest = kernel - stiff[:, None] * stiff[None, :]
    largest = jnp.max(jnp.sum(jnp.abs(rest) / root[None, :], axis=1) / root).astype(u.dtype)
    scale = jnp.broadcast_to((root.astype(u.dtype) ** 2)[:, None], u.shape)
    if loss == "squared_hinge":
        scale = scale + over_u(jnp.ones_like(u), 2 * u)
    ceiling = jnp.full((1, u.shape[1]), jnp.maximum(largest, 1.0))
    return Problem(kernel, y, u, scale, y * stiff[:, None].astype(u.dtype), ceiling)


def _leading(kernel: jax.Array) -> jax.Array:
    """Return the leading eigenvector (N,) times its eigenvalue's root, nearly: 8 power iterations.

    A poor one costs speed only. The start is the mean of all rows' images, with a ripple.
    """

    def once(_: int, v: jax.Array) -> jax.Array:
        v = jnp.matmul(kernel, v, precision=PRECISION)
        return v / jnp.maximum(jnp.linalg.norm(v), jnp.finfo(v.dtype).tiny)

    n = kernel.shape[0]
    start = 1 + 0.1 * jnp.sin(jnp.arange(1, n + 1, dtype=kernel.dtype))
    v = jax.lax.fori_loop(0, 8, once, start)
    eigenvalue = jnp.vdot(v, jnp.matmul(kernel, v, precision=PRECISION))
    return v * jnp.sqrt(jnp.maximum(eigenvalue, 0))


def begin(problem: Problem, alpha: jax.Array, scores: jax.Array) -> Iterate:
    """Return the state at a feasible `alpha` (N, L) with its `scores` (N, L)."""
    momentum = jnp.ones_like(problem.ceiling)
    return Iterate(alpha, scores, alpha, scores, momentum, problem.ceiling)


def accelerate(
    problem: Problem, iterate: Iterate, steps: ArrayLike, loss: Loss, done: jax.Array | bool = False
) -> Iterate:
    """Take accelerated projected gradient steps; classes that are `done` (1, L) stay put.

    Scores enter only as a start and through their changes, so they may hold a fixed part besides
    K (alpha o y): that of the rows that a mini-batch leaves out.
    """
    kernel, y, u, scale, stiff, ceiling = problem
    rule = optax.sgd(learning_rate=1.0)  # the steps of the classes differ: they scale the gradient
    rule_state = rule.init(iterate.alpha)

    def once(_: int, it: Iterate) -> Iterate:
        slope = gradient(it.ahead, it.scores_ahead, y, u, loss)
        inverse = it.lipschitz * scale
        updates, _ = rule.update(slope / inverse, rule_state)
        alpha = _project(problem, it.ahead, optax.apply_updates(it.ahead, updates), inverse, loss)
        alpha = jnp.where(done, it.alpha, alpha)
        change = alpha - it.alpha
        scores_change = _fast_product(kernel, change * y)
        scores = it.scores + scores_change

        # <bend, step>, <step, M step> and <change, M step> in the metric of the gradient.
        step = alpha - it.ahead
        bend = gradient(alpha, scores, y, u, loss) - slope
        if loss == "logistic":
            image = y * (scores - it.scores_ahead)
            curvature, length = _class_sum(bend * image), _class_sum(step * image)
            along = _class_sum(change * image)
        else:
            stiff_step = _class_sum(stiff * step)
            curvature = _class_sum(bend * step) - stiff_step**2
            length = _class_sum(scale * step**2)
            along = _class_sum(change * inverse * step) + stiff_step * _class_sum(stiff * change)
        short_enough = curvature <= it.lipschitz * length * (1 + 1e-6)
        accept = short_enough | done | (it.lipschitz >= ceiling)  # rounding cannot block it
        measured = curvature / jnp.where(length > 0, length, 1.0)
        raised = jnp.minimum(jnp.maximum(measured, 1.2 * it.lipschitz), ceiling)
        relaxed = jnp.where(length > 0, RELAX, 1.0) * it.lipschitz  # no step, nothing learnt
        lipschitz = jnp.where(accept, relaxed, raised)

        # Restart where the step opposes the momentum.
        restart = along < 0
        stiffer = lipschitz / it.lipschitz
        t = jnp.where(restart, 1.0, 0.5 * (1 + jnp.sqrt(1 + 4 * stiffer * it.momentum**2)))
        beta = jnp.where(restart, 0.0, (it.momentum - 1) / t)
        stayed = it._replace(lipschitz=lipschitz)
        moved = stayed._replace(
            alpha=alpha,
            scores=scores,
            ahead=alpha + beta * change,
            scores_ahead=scores + beta * scores_change,
            momentum=t,
        )
        return jax.tree.map(lambda new, old: jnp.where(accept, new, old), moved, stayed)

    return jax.lax.fori_loop(0, steps, once, iterate)


def _project(
    problem: Problem, ahead: jax.Array, target: jax.Array, inverse: jax.Array, loss: Loss
) -> jax.Array:
    """Return the point of the box nearest to the gradient step, in the metric of the step.

    `target` is the step of the diagonal part alone, diag(`inverse`) its metric. With r the
    stiff vector, alpha(nu) = clip(target - r nu / inverse), where nu = r.(alpha(nu) - ahead): the
    right side minus the left falls with slope -1 at most, so the root lies between 0 and its value
    at 0.
    """
    box = bounds(problem.u, loss)
    if loss == "logistic":
        return jnp.asarray(projections.projection_box(target, *box))
    stiff, slide = problem.stiff, problem.stiff / inverse

    def excess(nu: jax.Array) -> tuple[jax.Array, jax.Array]:
        moved = target - slide * nu
        free = (moved > box[0]) & (moved < box[1])
        alpha = projections.projection_box(moved, *box)
        slope = -1 - _class_sum(jnp.where(free, slide * stiff, 0.0))
        return _class_sum(stiff * (alpha - ahead)) - nu, slope

    class Search(NamedTuple):
        nu: jax.Array
        excess: jax.Array
        slope: jax.Array
        low: jax.Array
        high: jax.Array
        tries: jax.Array

    def newton(s: Search) -> Search:
        nu = s.nu - s.excess / s.slope
        inside = (nu > s.low) & (nu < s.high)
        nu = jnp.where(inside, nu, 0.5 * (s.low + s.high))
        value, slope = excess(nu)
        low, high = jnp.where(value > 0, nu, s.low), jnp.where(value < 0, nu, s.high)
        return Search(nu, value, slope, low, high, s.tries + 1)

    def unsolved(s: Search) -> jax.Array:
        return jnp.any(jnp.abs(s.excess) > accuracy) & (s.tries < 60)

    zero = jnp.zeros_like(problem.ceiling)
    at_zero, slope = excess(zero)
    accuracy = 1e-10 * jnp.abs(at_zero)
    low, high = jnp.minimum(at_zero, 0), jnp.maximum(at_zero, 0)
    start = Search(zero, at_zero, slope, low, high, jnp.asarray(0))
    nu = jax.lax.while_loop(unsolved, newton, start).nu
    return jnp.asarray(projections.projection_box(target - slide * nu, *box))


def _certificate(
    problem: Problem, alpha: jax.Array, scores: jax.Array, loss: Loss
) -> tuple[jax.Array, jax.Array]:
    """Return primal and dual objective (L,) at `alpha` with its exact `scores`."""
    kernel, y, u = problem.kernel, problem.y, problem.u
    q = 0.5 * jnp.sum(alpha * y * scores, axis=0)
    primal = q + loss_sums(y * scores, u, loss)
    if loss == "logistic":
        # Descent in K's metric leaves what K does not see of alpha to itself; this point is free
        # of it.
        alpha = u * jax.nn.sigmoid(-y * scores)
        q = 0.5 * jnp.sum(alpha * y * exact_product(kernel, alpha * y), axis=0)
    return primal, dual_sums(alpha, u, loss) - q


# ------------------------------------------------------------------------------ products with K


@partial(jax.jit, inline=True)  # an eager loop would compile anew at each call
def exact_product(kernel: jax.Array, columns: jax.Array) -> jax.Array:
    """Return K @ columns with float64 products and sums, without a float64 copy of K."""
    return jax.lax.map(
        lambda row: jnp.dot(row.astype(columns.dtype), columns, precision=PRECISION),
        kernel,
        batch_size=256,
    )


def _fast_product(kernel: jax.Array, columns: jax.Array) -> jax.Array:
    """Return K @ columns in float32, widened: right to 1e-7 of `columns`, a small difference."""
    product = jnp.matmul(kernel, columns.astype(kernel.dtype), precision=PRECISION)
    return product.astype(columns.dtype)


def _class_sum(values: jax.Array) -> jax.Array:
    return jnp.sum(values, axis=0, keepdims=True)
