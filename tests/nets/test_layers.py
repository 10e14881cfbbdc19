"""Building blocks, and how a network behaves as a function: what it computes and compiles."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import nets_reference as ref

from mpp_jax.nets import random_network
from mpp_jax.nets.layers import lrn, max_pool, window_mean
from mpp_jax.nets.network import plain, prepare
from mpp_jax.nets.spec import LRN, Conv, Fire, NetSpec, Pool, Preprocessing, pooled_size
from mpp_jax.weights.load import load_network

TINY = NetSpec(
    name="tiny",
    side=35,
    layers=(
        Conv("conv1", 8, 7, stride=2),
        LRN("norm1"),
        Pool("pool1", 3, 2),
        Fire("fire2", 2, 4, 4),
        Conv("fc6", 16, 7, dense=True),
        Conv("fc8", 5, 1, activation="linear", dense=True),
    ),
    default_layer="fire2",
    descriptor_layers=("conv1", "fire2", "fc6", "fc8"),
    preprocessing=(("caffe", Preprocessing("BGR", (10.0, 20.0, 30.0))),),
    averaged=("fire2",),
    averaged_stride=8,
)


@pytest.fixture(scope="module")
def network():
    return random_network(jax.random.key(0), TINY)


@pytest.mark.parametrize("mode", ["floor", "ceil"])
@pytest.mark.parametrize(("window", "stride"), [(3, 2), (3, 3), (2, 2), (2, 3), (1, 2)])
def test_max_pooling_against_explicit_windows(mode, window, stride):
    layer = Pool("pool", window, stride)
    for n in (7, 8):
        x = -np.random.default_rng(n).uniform(1, 2, (1, n, n + 2, 2)).astype(np.float32)
        want = ref.max_pool(x[0].transpose(2, 0, 1), window, stride, mode == "ceil")
        got = np.asarray(max_pool(jnp.asarray(x), layer, mode))[0].transpose(2, 0, 1)
        np.testing.assert_array_equal(got, want.astype(np.float32))
        assert got.shape[1] == pooled_size(n, window, stride, mode)


def test_pooling_too_few_positions_is_an_error():
    with pytest.raises(ValueError, match="2 positions are fewer than pooling 'pool' needs"):
        max_pool(jnp.zeros((1, 2, 5, 1)), Pool("pool", 3, 2), "floor")


@pytest.mark.parametrize(
    "layer", [LRN("n"), LRN("n", 5, 5e-4, 0.75, 2.0), LRN("n", 3, 0.02, 0.6, 1.5)]
)
def test_lrn_against_the_sum_over_neighbouring_channels(layer):
    x = np.random.default_rng(1).normal(0, 60, (2, 3, 4, 11)).astype(np.float32)
    got = lrn(jnp.asarray(x), layer)
    for picture, y in zip(x, got, strict=True):
        want = ref.lrn(
            picture.transpose(2, 0, 1).astype(float), layer.size, layer.alpha, layer.beta, layer.k
        )
        np.testing.assert_allclose(y, want.transpose(1, 2, 0), rtol=2e-6, atol=1e-5)


def test_window_mean_against_explicit_windows():
    x = np.random.default_rng(2).normal(3, 1, (2, 17, 20, 3)).astype(np.float32)
    got = np.asarray(window_mean(jnp.asarray(x), 13, 2))
    assert got.shape == (2, 3, 4, 3)
    for i in range(3):
        for j in range(4):
            want = x[:, 2 * i : 2 * i + 13, 2 * j : 2 * j + 13].astype(float).mean(axis=(1, 2))
            np.testing.assert_allclose(got[:, i, j], want, rtol=1e-6)


def test_window_mean_sums_bfloat16_in_float32():
    x = jnp.full((1, 13, 13, 4), 1.0078125, jnp.bfloat16)
    mean = window_mean(x, 13, 2)
    assert mean.dtype == jnp.bfloat16
    assert (mean == x[:, :1, :1]).all()


def test_nothing_above_the_wanted_layer_is_computed(network):
    x = jnp.zeros((1, 51, 47, 3))
    below = jax.eval_shape(lambda n, v: n.activations(v, "pool1"), network, x)
    assert sorted(below) == ["conv1", "norm1", "pool1"]
    fc6 = jax.eval_shape(lambda n, v: n.activations(v), network, x)["fc6"].shape
    marker = f"f32[{','.join(map(str, fc6))}]"
    whole = str(jax.make_jaxpr(lambda n, v: n.activations(v))(network, x))
    part = str(jax.make_jaxpr(lambda n, v: n.descriptors(v))(network, x))
    assert marker in whole
    assert marker not in part


def test_a_jitted_function_takes_the_network_as_an_argument(network):
    traces = []

    @jax.jit
    def run(net, x):
        traces.append(x.shape)
        return net.descriptors(x)

    x = jnp.ones((1, 35, 35, 3))
    first = run(network, x)
    second = run(
        dataclasses.replace(network, params=jax.tree.map(lambda v: 2 * v, network.params)), x
    )
    assert len(traces) == 1
    assert not np.allclose(first, second)


def test_the_formulations_agree_and_the_prepared_kernel_is_used(network):
    x = np.random.default_rng(4).uniform(0, 255, (2, 59, 51, 3)).astype(np.float32)
    reference = plain(network)
    assert "prepared" not in reference.params["fc6"]
    top = jax.jit(lambda n, v: n.activations(v, "fc6")["fc6"])
    a, b = (top(n, x) for n in (network, reference))
    assert np.linalg.norm(a - b) < 1e-4 * np.linalg.norm(b)
    if "prepared" in network.params["fc6"]:  # where the device takes minimal filtering
        zeroed = {"prepared": jnp.zeros_like(network.params["fc6"]["prepared"])}
        layers = network.params | {"fc6": network.params["fc6"] | zeroed}
        bias = np.maximum(network.params["fc6"]["bias"], 0)
        got = top(dataclasses.replace(network, params=layers), x)
        np.testing.assert_allclose(got, np.broadcast_to(bias, got.shape), atol=1e-6)
    assert jax.default_backend() != "cpu" or "prepared" in network.params["fc6"]


def test_bfloat16_stays_near_float32(network):
    params = jax.tree.map(lambda v: v.astype(jnp.bfloat16), plain(network).params)
    half = prepare(dataclasses.replace(network, params=params))
    assert "prepared" not in half.params["fc6"]
    x = np.random.default_rng(6).uniform(0, 255, (1, 43, 35, 3)).astype(np.float32)
    a, b = (jax.jit(lambda n, v: n.descriptors(v))(n, x) for n in (half, network))
    assert a.dtype == jnp.bfloat16
    error = np.linalg.norm(np.asarray(a, np.float32) - b) / np.linalg.norm(b)
    assert 0 < error < 0.03


def test_uint8_pictures_are_taken_as_they_are(network):
    x = np.random.default_rng(8).integers(0, 256, (1, 35, 35, 3), np.uint8)
    a, b = network.preprocess(x), network.preprocess(x.astype(np.float32))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a, x.astype(np.float32) - np.float32([30, 20, 10]))


def test_a_mean_picture_is_resized_to_the_scale(network):
    image = np.random.default_rng(9).uniform(90, 130, (6, 6, 3)).astype(np.float32)
    net = dataclasses.replace(network, mean_image=jnp.asarray(image))
    x = np.full((1, 6, 6, 3), 100, np.float32)
    np.testing.assert_allclose(net.preprocess(x)[0], 100 - image, rtol=1e-6)
    twice = np.asarray(net.preprocess(np.full((1, 12, 12, 3), 100, np.float32)))[0]
    # Bilinear, pixel centres aligned: rows 1 and 2 lie at 1/4 and 3/4 between rows 0 and 1.
    middle = 0.75 * image[0] + 0.25 * image[1]
    np.testing.assert_allclose(twice[1, 0], 100 - middle[0], rtol=1e-5)


def test_gradients_flow_to_the_picture(network):
    x = jnp.asarray(np.random.default_rng(3).uniform(0, 255, (1, 35, 35, 3)).astype(np.float32))
    gradient = jax.jit(jax.grad(lambda v: network.descriptors(v).sum()))(x)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def test_errors_are_plain(network):
    with pytest.raises(ValueError, match="no layer 'fc7'; it has conv1, norm1"):
        TINY.layer("fc7")
    with pytest.raises(ValueError, match="'pool1' of network 'tiny' has no descriptors"):
        network.descriptors(jnp.zeros((1, 35, 35, 3)), "pool1")
    with pytest.raises(ValueError, match="H = 20 pixels are too few for layer 'fire2'"):
        network.descriptors(jnp.zeros((1, 20, 35, 3)))
    with pytest.raises(ValueError, match=r"must be \(B, H, W, 3\)"):
        network.descriptors(jnp.zeros((35, 35, 3)))
    with pytest.raises(ValueError, match="'lenet' is unknown; take one of alexnet"):
        load_network("lenet")
    with pytest.raises(ValueError, match="pooling: must be 'floor' or 'ceil', not 'round'"):
        load_network("caffenet", "x", pooling="round")
    with pytest.raises(ValueError, match="dtype: must be a floating-point dtype"):
        load_network("caffenet", "x", dtype=jnp.int32)
    with pytest.raises(ValueError, match="precision: must be"):
        load_network("caffenet", "x", precision="exact")


def test_geometry_is_worked_out_once(monkeypatch):
    """It is asked for with every batch, layer and scale, and takes a walk through the layers."""
    spec = dataclasses.replace(TINY)
    calls = []
    geometry = NetSpec._geometry
    monkeypatch.setattr(
        NetSpec, "_geometry", lambda self, name: calls.append(name) or geometry(self, name)
    )
    names = spec.descriptor_layers
    first = [spec.layer(name) for name in names]
    assert [spec.layer(name) for name in names] == first
    assert calls == list(names)
    other = dataclasses.replace(spec, side=51)  # has its own
    assert other.layer("fire2") != spec.layer("fire2")
    assert spec == TINY
    assert hash(spec) == hash(TINY)
