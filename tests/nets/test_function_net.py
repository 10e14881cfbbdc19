"""Functions as networks: what a probe measures, what it refuses, and the worked examples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import REPOSITORY
from helpers.nets_files import npz, torch_zip
from helpers.toy import TOY, toy_network
from jax import lax
from safetensors.numpy import save_file

import mpp_jax as mpp
from mpp_jax.nets import NETWORKS, FunctionNet, Map, Preprocessing
from mpp_jax.nets.function_network import FunctionNetwork
from mpp_jax.nets.function_spec import function_spec, nested
from mpp_jax.nets.probe import Probe, probe
from mpp_jax.pooling import load_plugin
from mpp_jax.weights.fit import rules
from mpp_jax.weights.load import load_network
from mpp_jax.weights.native import save_network
from mpp_jax.weights.source import WeightsError

EXAMPLES = REPOSITORY / "experiments" / "networks"
INPUT = TOY.preprocessing_for("native")


@pytest.fixture(autouse=True)
def _registry():
    before = dict(NETWORKS)
    yield
    NETWORKS.clear()
    NETWORKS.update(before)


def convolve(kernel, x, stride=1, padding="VALID"):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=numbers)


def kernels(*shapes):
    rng = np.random.default_rng(0)
    return {f"k{i}": jnp.asarray(rng.normal(size=s), jnp.float32) for i, s in enumerate(shapes)}


# ------------------------------------------------------------------------------------ the probe


def two_layers(params, x):
    """5x5/2 with two zeros around, pooled 2x2/2, then 3x3 with one zero."""
    x = jax.nn.relu(convolve(params["k0"], x / 255, 2, [(2, 2), (2, 2)]))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return {"first": x, "second": jnp.tanh(convolve(params["k1"], x, 1, "SAME"))}


def test_a_probe_finds_what_arithmetic_says():
    params = kernels((5, 5, 3, 6), (3, 3, 6, 8))
    # first: 5 + 2 pixels, two zeros before. second: two more strides of four, six zeros before.
    assert probe(two_layers, params, "first", 32) == Probe(4, 4, 7, 2, 1)
    assert probe(two_layers, params, "second", 32) == Probe(4, 4, 15, 6, 5)


def test_a_function_describes_as_its_layer_list_does():
    """The toy network, once as a list of layers and once as a function that is probed."""
    network = toy_network()
    zero, one = jnp.zeros(3), jnp.ones(3)

    def function(params, x):
        inner = type(network)(params, zero, one, None, TOY, forms=network.how)
        return inner.activations(x)

    params = jax.tree.map(lambda x: x, network.params)
    spec = function_spec(
        FunctionNet(
            "copied",
            TOY.side,
            function,
            params,
            maps=(Map("conv1"), Map("fire2")),
            preprocessing=INPUT,
            averaged=TOY.averaged,
            averaged_stride=TOY.averaged_stride,
        )
    )
    NETWORKS["copied"] = spec
    other = load_network("copied")
    x = np.random.default_rng(0).integers(0, 256, (2, 50, 50, 3)).astype(np.uint8)
    for layer in ("conv1", "fire2"):
        ours, wanted = spec.layer(layer), TOY.layer(layer)
        assert (ours.stride, ours.channels) == (wanted.stride, wanted.channels)
        assert ours.window == wanted.window
        assert [spec.positions(n, layer) for n in (35, 50, 70)] == [
            TOY.positions(n, layer) for n in (35, 50, 70)
        ]
        one_way = mpp.dense_descriptors(network, x, scales=(1,), layer=layer)
        another = mpp.dense_descriptors(other, x, scales=(1,), layer=layer)
        for a, b in zip(one_way, another, strict=True):
            np.testing.assert_allclose(a.x, b.x, rtol=1e-5, atol=1e-5)
            np.testing.assert_array_equal(a.window, b.window)


def whole_mean(params, x):
    y = convolve(params["k0"], x / 255, 4)
    return {"map": y - y.mean(axis=(1, 2), keepdims=True)}


def positioned(params, x):
    y = convolve(params["k0"], x / 255, 4)
    return {"map": y + jnp.arange(y.shape[1])[None, :, None, None]}


def turned(params, x):
    return {"map": convolve(params["k0"], x / 255, 4).transpose(0, 2, 1, 3)}


def fixed_grid(params, x):
    return {"map": jax.image.resize(x, (x.shape[0], 6, 6, 3), "linear")}


def constant(params, x):
    return {"map": jnp.ones((x.shape[0], x.shape[1] // 4, x.shape[2] // 4, 2))}


def every_third(params, x):
    y = convolve(params["k0"], x / 255, 4)
    return {"map": y[:, [i for i in range(y.shape[1]) if i % 3]][:, :, 1:]}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (whole_mean, "depends on .* pixels of a picture of 128, .*state stride and window"),
        (positioned, "not translation-covariant: .* along its rows .* maps=.Map"),
        (turned, "not translation-covariant"),
        (fixed_grid, "has 6 positions along 32 pixels and along .*: it is no map of the picture"),
        (constant, "no finite gradient"),
        (every_third, "no even stride"),
    ],
)
def test_what_does_not_move_with_the_picture_is_refused(function, message):
    net = FunctionNet("mine", 32, function, kernels((5, 5, 3, 6)))
    with pytest.raises(ValueError, match=message):
        function_spec(net)


def test_stated_geometry_is_taken_where_the_sizes_agree():
    net = functools.partial(FunctionNet, "mine", 32, positioned, kernels((5, 5, 3, 6)))
    spec = function_spec(net(maps=(Map("map", 4, 8),)))
    assert (spec.layer().stride, spec.layer().window, spec.layer().channels) == (4, 8, 6)
    with pytest.raises(ValueError, match="'map' has 7 positions along 32 pixels and 15 along 64"):
        function_spec(net(maps=(Map("map", 8, 8),)))


K = kernels((5, 5, 3, 6))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (FunctionNet("mine", 32, lambda p, x: x, K), "fails on pictures of 32 pixels"),
        (FunctionNet("mine", 32, lambda p, x: {"a": x[0]}, K), "must return maps .* got 'a'"),
        (FunctionNet("mine", 32, lambda p, x: {}, K), "returns no map"),
        (FunctionNet("mine", 32, lambda p, x: 1 / 0, K), "ZeroDivisionError"),
        (FunctionNet("mine", 32, turned, K, lambda: K), "not both"),
        (FunctionNet("mine", 32, turned, {"k0": 3}), "k0 must be a floating-point array, got int"),
        (FunctionNet("mine", 32, turned, [K]), "must be a nested dict of arrays"),
        (FunctionNet("mine", 32, 3, K), "must be a function"),
        (FunctionNet("mine", 0, turned, K), "whole number of pixels"),
        (FunctionNet("mine", 32, turned, K, maps=(Map("b", 4, 8),)), "returns map, and no 'b'"),
        (FunctionNet("mine", 32, turned, K, maps=(Map("map", 4),)), "stride and window in pixels"),
        (FunctionNet("mine", 32, turned, K, maps=("map",)), "must be a tuple of Map"),
        (
            FunctionNet("mine", 32, turned, K, preprocessing=Preprocessing("BGR", (1.0, 2.0, 3.0))),
            "must be in RGB",
        ),
        (
            FunctionNet("mine", 32, turned, K, maps=(Map("map", 4, 8),), default_layer="b"),
            "'b' is none of the descriptor_layers",
        ),
        (FunctionNet("Mine", 32, turned, K), "lower-case"),
    ],
)
def test_unsound_statements_are_refused(net, message):
    with pytest.raises(ValueError, match=message):
        mpp.register_network(net)
    assert "mine" not in NETWORKS


# ---------------------------------------------------------------------------------- parameters


def stated(name="mine", **options):
    maps = (Map("first", 4, 4), Map("second", 4, 4))
    return FunctionNet(name, 32, two_layers, maps=maps, **options)


def test_a_file_is_audited_from_both_sides(tmp_path):
    params = {name: np.asarray(x) for name, x in kernels((5, 5, 3, 6), (3, 3, 6, 8)).items()}
    mpp.register_network(stated(like=lambda: params))
    file = tmp_path / "mine.npz"
    file.write_bytes(npz(params))
    network = load_network("mine", file)
    assert isinstance(network, FunctionNetwork)
    np.testing.assert_array_equal(network.params["k1"], params["k1"])
    for change, message in (
        ({"k1": params["k1"][:2]}, r"'k1' has shape \(2, 3, 6, 8\), k1 needs \(3, 3, 6, 8\)"),
        ({"k2": params["k1"]}, "'k2' belongs to no parameter"),
        ({"k1": params["k1"] * np.nan}, "not finite"),
    ):
        file.write_bytes(npz(params | change))
        with pytest.raises(WeightsError, match=message):
            load_network("mine", file)
    file.write_bytes(npz({"k0": params["k0"]}))
    with pytest.raises(WeightsError, match="k1 is missing: no 'k1'"):
        load_network("mine", file)
    # This package's own form, as `weights import` writes it.
    again = load_network("mine", save_network(network, tmp_path / "own"))
    np.testing.assert_array_equal(again.params["k0"], params["k0"])
    with pytest.raises(ValueError, match="pooling: network 'mine' is a function"):
        load_network("mine", tmp_path / "own", pooling="ceil")
    with pytest.raises(WeightsError, match="no public file; give a path"):
        load_network("mine")


def test_parameters_that_come_with_the_function():
    params = kernels((5, 5, 3, 6), (3, 3, 6, 8))
    mpp.register_network(stated(params=params))
    mpp.register_network(stated("other", params=jax.tree.map(lambda x: 2 * x, params)))
    one, two = load_network("mine"), load_network("other", dtype=jnp.bfloat16)
    assert one.weights_sha256 != two.weights_sha256
    assert two.dtype == jnp.bfloat16
    assert two.descriptors(jnp.zeros((1, 32, 32, 3)), "first").shape == (1, 8, 8, 6)
    net = FunctionNet("bare", 8, lambda _, x: {"grey": x[:, ::2, ::2].mean(-1, keepdims=True)})
    mpp.register_network(net)
    bare = load_network("bare")
    assert (bare.spec.layer().stride, bare.dtype, bare.params) == (2, jnp.float32, {})
    with pytest.raises(WeightsError, match="computes without weights; leave them out"):
        load_network("bare", "weights.npz")


# ------------------------------------------------------------------------------ worked examples


def example(name):
    (network,) = load_plugin(EXAMPLES / f"{name}.py")
    return NETWORKS[network]


def keyed(spec, mark):
    """Return random arrays under the keys of a file: shape by shape."""
    rng = np.random.default_rng(0)
    return {
        mark.join(map(str, path)): rng.uniform(0.1, 0.3, shape).astype(np.float32)
        for path, shape in spec.shapes
    }


@pytest.mark.parametrize("name", ["linen_trunk", "nnx_trunk"])
def test_flax_modules(name, tmp_path):
    spec = example(name)
    which = spec.layer()
    assert (which.name, which.channels, which.stride, which.window) == ("conv2", 32, 4, 8)
    file = tmp_path / "weights.safetensors"
    save_file(keyed(spec, "/"), file)
    network = load_network(name, file)
    x = np.random.default_rng(1).uniform(0, 255, (1, 64, 64, 3)).astype(np.float32)
    got = np.asarray(network.descriptors(x))
    # Slow, in NumPy: the value in the middle of the map.
    leaves = {rule.path[-2:]: np.asarray(a, np.float64) for rule, a in _leaves(spec, network)}
    region = x[0, 24:41, 24:41].astype(np.float64) / 255
    first = np.empty((3, 3, 16))
    for i, j in np.ndindex(3, 3):
        window = region[4 * i : 4 * i + 5, 4 * j : 4 * j + 5]
        y = np.tensordot(window, leaves["conv1", "kernel"], 3) + leaves["conv1", "bias"]
        y = (y - leaves["norm", "mean"]) / np.sqrt(leaves["norm", "var"] + 1e-5)
        first[i, j] = np.maximum(y * leaves["norm", "scale"] + leaves["norm", "bias"], 0)
    want = np.tensordot(first, leaves["conv2", "kernel"], 3) + leaves["conv2", "bias"]
    np.testing.assert_allclose(got[0, 7, 7], np.maximum(want, 0), rtol=1e-4)


def _leaves(spec, network):
    for rule in rules(spec, "native"):
        node = network.params
        for key in rule.path:
            node = node[key]
        yield rule, node


def test_tokens_of_a_vision_transformer(tmp_path):
    """At the side it was made for against NumPy; elsewhere the embedding is resized."""
    with jax.numpy_rank_promotion("allow"):  # users' code need not be as strict as ours
        check_transformer(tmp_path)


def check_transformer(tmp_path):
    example("vit")
    module = __import__("sys").modules["mpp_jax_plugin_vit"]
    net = module.vit("vit_small", 8, 2, 2, patch=8, side=32, classes=3)
    mpp.register_network(net)
    spec = NETWORKS["vit_small"]
    arrays = keyed(spec, ".")
    file = tmp_path / "vit.pth"
    file.write_bytes(torch_zip(arrays))
    network = load_network("vit_small", file)
    assert [spec.positions(n) for n in (32, 46, 64)] == [4, 5, 8]
    assert (spec.layer().stride, spec.layer("block0").window) == (8, 8)
    x = np.random.default_rng(1).uniform(0, 255, (1, 32, 32, 3)).astype(np.float32)
    want = vit_reference(arrays, (x[0].astype(np.float64) / 255 - 0.5) / 0.5, 8, 2)
    got = network.layer_descriptors(x, ("block0", "tokens"))
    for ours, name in zip(got, ("block0", "tokens"), strict=True):
        np.testing.assert_allclose(ours[0].reshape(16, 8), want[name], rtol=1e-4, atol=1e-4)
    # A constant embedding stays what it is at any size; another one is interpolated.
    flat = nested(spec.shapes, lambda shape: jnp.full(shape, 0.5))
    there = module.position_embedding(flat, 4, 5, 7)
    np.testing.assert_allclose(there, np.full((1, 36, 8), 0.5), rtol=1e-5)
    # It is not covariant: unstated, it is refused.
    with pytest.raises(ValueError, match="state stride and window"):
        mpp.register_network(FunctionNet("vit_probed", 32, net.function, like=net.like))


def vit_reference(arrays, picture, patch, heads):
    """Return the tokens (T, D) of "block0" and "tokens", in float64, one attention a head."""
    a = {key: value.astype(np.float64) for key, value in arrays.items()}
    erf = np.vectorize(__import__("math").erf)

    def linear(name, x):
        return x @ a[f"{name}.weight"].T + a[f"{name}.bias"]

    def norm(name, x):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
        return x * a[f"{name}.weight"] + a[f"{name}.bias"]

    grid = len(picture) // patch
    tokens = [a["cls_token"][0, 0]]
    for i, j in np.ndindex(grid, grid):
        part = picture[patch * i : patch * (i + 1), patch * j : patch * (j + 1)]
        kernel = a["patch_embed.proj.weight"].transpose(2, 3, 1, 0)
        tokens.append(np.tensordot(part, kernel, 3) + a["patch_embed.proj.bias"])
    x, found = np.stack(tokens) + a["pos_embed"][0], {}
    for i in range(2):
        block = f"blocks.{i}"
        qkv = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x))
        q, k, v = np.split(qkv, 3, axis=-1)
        size, mixed = q.shape[-1] // heads, []
        for h in range(heads):
            part = slice(size * h, size * (h + 1))
            weights = np.exp(q[:, part] @ k[:, part].T / np.sqrt(size))
            mixed.append(weights / weights.sum(-1, keepdims=True) @ v[:, part])
        x = x + linear(f"{block}.attn.proj", np.concatenate(mixed, -1))
        y = linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x))
        x = x + linear(f"{block}.mlp.fc2", y * (1 + erf(y / np.sqrt(2))) / 2)
        found[f"block{i}"] = x[1:]
    return found | {"tokens": norm("norm", x)[1:]}
