"""The trainable layer: equal to `pool` at first, exact gradients, nothing that is not finite."""

from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

import mpp_jax as mpp
from mpp_jax.pooling.checks import COMPONENTS, REDUCED, make_codebook, make_scales
from mpp_jax.pooling.layer import (
    SMALLEST_POWER,
    LayerParams,
    init_layer,
    layer_codebook,
    layer_loss,
    mpp_layer,
    power,
)

SCALES = make_scales(3)[:3:2]  # of 1 and 9 positions
WIDTH = 2 * COMPONENTS * REDUCED
TARGETS = np.array([[1, -1], [-1, 1], [1, 0]])


def book(before: bool = False, after: bool = False) -> mpp.Codebook:
    return replace(make_codebook(), l2_before=before, l2_after=after)


def start(before: bool = True, after: bool = False) -> LayerParams:
    return init_layer(book(before, after), len(SCALES))


def machine(seed: int = 0) -> mpp.LinearSVM:
    weights, bias = jax.random.split(jax.random.key(seed))
    return mpp.LinearSVM(jax.random.normal(weights, (2, WIDTH)), jax.random.normal(bias, (2,)))


def finite(tree: object) -> bool:
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree))


def spoilt(what: float) -> list[mpp.Descriptors]:
    """Return the scales with something else where the masks leave out."""
    return [d._replace(x=jnp.where(d.mask[..., None], d.x, what)) for d in SCALES]


@pytest.mark.parametrize(("before", "after"), [(False, False), (True, False), (True, True)])
def test_equals_pool_at_first(before: bool, after: bool) -> None:
    want = mpp.pool("mpp", SCALES, book(before, after))
    got = mpp_layer(start(before, after), SCALES)
    np.testing.assert_allclose(got, want, atol=2e-6)
    # And the codebook that parameters stand for is the fitted one.
    back = layer_codebook(start(before, after))
    assert (back.l2_before, back.l2_after) == (before, after)
    for name in ("weights", "means", "variances"):
        np.testing.assert_allclose(getattr(back.gmm, name), getattr(book().gmm, name), rtol=1e-6)
    np.testing.assert_allclose(mpp.pool("mpp", SCALES, back), want, atol=2e-6)


def test_constraints_hold_for_any_parameters() -> None:
    params = jax.tree.map(lambda leaf: leaf + 3 * jnp.sin(1e3 * leaf), start())
    gmm = layer_codebook(params).gmm
    assert float(gmm.weights.sum()) == pytest.approx(1)
    assert bool((gmm.weights > 0).all())
    assert bool((gmm.variances > 0).all())
    norms = jnp.linalg.norm(mpp_layer(params, SCALES), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-5)


def test_scales_that_weigh_nothing_are_as_if_absent() -> None:
    params = replace(start(), scales=jnp.array([-80.0, 0.0]))
    want = mpp.pool("mpp", SCALES[1:], book(True))
    np.testing.assert_allclose(mpp_layer(params, SCALES), want, atol=2e-6)


@pytest.mark.parametrize(("loss", "after"), [("hinge", False), ("softmax", True)])
def test_gradients_are_those_of_differences(loss: str, after: bool) -> None:
    """Of every parameter, of the classifiers and of the activations, in float64."""
    few = [d._replace(x=d.x[:2], mask=d.mask[:2]) for d in SCALES]
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float64),
            (replace(start(True, after), scales=jnp.array([0.3, -0.2])), machine()),
        )
        x = tuple(jnp.asarray(d.x, jnp.float64) for d in few)

        def loss_of(given, x):
            parts = [d._replace(x=new) for d, new in zip(few, x, strict=True)]
            return layer_loss(*given, parts, TARGETS[:2], loss)

        near = {"eps": 1e-6, "atol": 1e-5, "rtol": 1e-4}
        check_grads(jax.jit(loss_of), (wide, x), order=1, modes=("rev",), **near)


def test_what_is_masked_out_does_nothing() -> None:
    both = jax.jit(jax.value_and_grad(layer_loss))
    want, wanted = both(start(), machine(), SCALES, TARGETS)
    value, gradient = both(start(), machine(), spoilt(np.nan), TARGETS)
    assert float(value) == float(want)
    jax.tree.map(np.testing.assert_array_equal, gradient, wanted)


@pytest.mark.parametrize("loss", ["hinge", "softmax"])
def test_nothing_is_infinite_at_zero(loss: str) -> None:
    """Activations that are all 0, pictures without descriptors, components of weight 0."""
    black = [d._replace(x=jnp.zeros_like(d.x)) for d in SCALES]
    empty = [d._replace(mask=jnp.zeros_like(d.mask)) for d in SCALES]
    odd = book(True, True)
    weights = jnp.array([0.4, 0.6, 0.0])
    means = odd.gmm.means.at[2].set(jnp.nan)
    dead = init_layer(replace(odd, gmm=odd.gmm._replace(weights=weights, means=means)), len(SCALES))

    def loss_of(params, svm, x, pictures):
        parts = [d._replace(x=v) for d, v in zip(pictures, x, strict=True)]
        return layer_loss(params, svm, parts, TARGETS, loss)

    gradient = jax.jit(jax.value_and_grad(loss_of, argnums=(0, 1, 2)))
    for params in (start(True, True), dead):
        for pictures in (black, empty, SCALES):
            x = tuple(d.x for d in pictures)
            assert finite(gradient(params, machine(), x, tuple(pictures)))
    assert not np.asarray(mpp_layer(start(), empty)).any()


def test_derivative_of_the_power() -> None:
    v = jnp.array([-0.25, -1e-9, 0.0, 1e-9, 0.04])
    np.testing.assert_allclose(power(v), mpp.signed_sqrt(v))
    steepest = 0.5 / np.sqrt(SMALLEST_POWER)
    np.testing.assert_allclose(
        jax.vmap(jax.grad(power))(v), [1.0, steepest, steepest, steepest, 2.5], rtol=1e-6
    )


def test_losses_are_what_they_say() -> None:
    svm, vectors = machine(), np.asarray(mpp_layer(start(), SCALES))
    scores = vectors @ np.asarray(svm.weights).T + np.asarray(svm.bias)
    hinge = np.where(TARGETS == 0, 0, np.maximum(0, 1 - TARGETS * scores)).sum(axis=1).mean()
    assert float(layer_loss(start(), svm, SCALES, TARGETS)) == pytest.approx(hinge, rel=1e-5)
    # The third picture's second class is not counted: it has one class alone, and no loss.
    log_odds = [scores[0, 0] - scores[0, 1], scores[1, 1] - scores[1, 0], np.inf]
    softmax = np.mean(np.log1p(np.exp(-np.array(log_odds))))
    got = layer_loss(start(), svm, SCALES, TARGETS, "softmax")
    assert float(got) == pytest.approx(softmax, rel=1e-5)


def test_training_end_to_end_lowers_the_loss() -> None:
    optimizer = optax.adam(1e-2)
    given = (start(), machine())
    state = optimizer.init(given)

    @jax.jit
    def step(given, state):
        value, gradient = jax.value_and_grad(lambda g: layer_loss(*g, SCALES, TARGETS))(given)
        change, state = optimizer.update(gradient, state)
        return optax.apply_updates(given, change), state, value

    first = last = None
    for _ in range(30):
        given, state, last = step(given, state)
        first = last if first is None else first
    assert float(last) < 0.5 * float(first)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), given[0], start())
    assert all(getattr(moved, f.name) > 0 for f in fields(moved) if f.name[:2] != "l2")


def test_the_linen_module_is_the_same_layer() -> None:
    layer = mpp.MPPLayer(book(True))
    variables = layer.init(jax.random.key(0), SCALES)
    shapes = {name: leaf.shape for name, leaf in variables["params"].items()}
    assert shapes["projection"] == book().pca.components.shape
    assert shapes["scales"] == (2,)
    want = mpp_layer(start(), SCALES)
    np.testing.assert_array_equal(layer.apply(variables, SCALES), want)
    gradient = jax.jit(jax.grad(lambda v: layer.apply(v, SCALES)[:, 0].sum()))(variables)
    assert finite(gradient)
    assert jax.tree.structure(gradient) == jax.tree.structure(variables)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="has weights of 2 scales, got 1 sets"):
        mpp_layer(start(), SCALES[:1])
    with pytest.raises(ValueError, match="scales must be at least 1"):
        init_layer(book(), 0)
    gmm = book().gmm
    broken = replace(book(), gmm=gmm._replace(means=gmm.means * jnp.nan))
    with pytest.raises(ValueError, match="gmm holds NaN"):
        init_layer(broken, 2)
    with pytest.raises(ValueError, match="loss must be 'hinge' or 'softmax', got 'log'"):
        layer_loss(start(), machine(), SCALES, TARGETS, "log")
