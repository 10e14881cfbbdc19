"""What modern trunks are made of: EfficientNet-Lite0 against float64, padding, sums, shortcuts."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import trunk_reference as ref
from helpers.nets_files import narrow, npz, torch_zip

from mpp_jax.nets import NETWORKS, Add, Conv, NetSpec, Pool, Preprocessing, random_network
from mpp_jax.nets.checks import check_spec
from mpp_jax.nets.layers import activate, max_pool
from mpp_jax.nets.spec import map_size, padding
from mpp_jax.weights.convert import convert
from mpp_jax.weights.fit import rules
from mpp_jax.weights.formats import parse_weights
from mpp_jax.weights.load import as_network
from mpp_jax.weights.source import WeightsError

activations = jax.jit(lambda network, x: network.activations(x))
THIN = narrow(NETWORKS["efficientnet_lite0"], 8)


def torch_shapes(spec):
    """Return ``{key: shape}`` of a torch file."""
    shapes = {}
    for rule in rules(spec, "torchvision"):
        shape = rule.shape
        if len(shape) == 4:
            shape = (shape[3], shape[2]) if rule.layer.dense else (shape[3], shape[2], *shape[:2])
        shapes[rule.keys[0]] = shape
    return shapes


def file_of(arrays):
    """Return arrays as torch saves them: the counters of batch normalisations come along."""
    counters = {
        key.replace("running_var", "num_batches_tracked"): np.array(7, np.int64)
        for key in arrays
        if key.endswith("running_var")
    }
    return arrays | counters


@pytest.fixture(scope="module")
def arrays():
    return ref.random_arrays(torch_shapes(THIN))


def test_every_activation_of_efficientnet_lite0(arrays):
    side = 64
    network = as_network(convert(parse_weights(npz(file_of(arrays)), THIN), THIN), "")
    x = np.random.default_rng(side).uniform(0, 255, (1, side, side, 3)).astype(np.float32)
    got, want = activations(network, x), ref.efficientnet_lite0(x[0], arrays)
    assert set(got) == set(want) == set(THIN.layer_names)
    for name, value in want.items():
        ours = np.asarray(got[name][0]).transpose(2, 0, 1)
        assert ours.shape == value.shape, name
        assert np.linalg.norm(ours - value) < 2e-5 * np.linalg.norm(value), name


def test_a_torch_file_is_read_like_the_archive(arrays):
    spec = THIN
    one = convert(parse_weights(npz(arrays), spec), spec)
    two = convert(parse_weights(torch_zip(file_of(arrays)), spec), spec)
    for a, b in zip(*map(jax.tree.leaves, (one.params, two.params)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert {row.parameter: row.source for row in two.audit.rows}["stem/kernel"] == (
        "_conv_stem.weight x _bn0"
    )
    assert len(two.audit.rows) == 2 * len(dict(spec.files.torchvision))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("_blocks.3._bn1.running_mean"), "block3_depthwise/mean is missing"),
        (lambda a: a.update({"_bn7.weight": np.ones(3, np.float32)}), "'_bn7.weight' belongs to"),
        (lambda a: a.update({"_bn0.running_var": -a["_bn0.running_var"]}), "variances below zero"),
        (lambda a: a.update({"_conv_stem.bias": np.ones(4, np.float32)}), "'_conv_stem.bias' bel"),
    ],
)
def test_the_audit_knows_batch_normalisation(arrays, change, message):
    broken = dict(arrays)
    change(broken)
    with pytest.raises(WeightsError, match=message):
        convert(parse_weights(npz(file_of(broken)), THIN), THIN)


def test_geometry_of_efficientnet_lite0():
    spec = NETWORKS["efficientnet_lite0"]
    head, block = spec.layer(), spec.layer("block10")
    assert (head.name, head.channels, head.window, head.stride) == ("head", 1280, 224, 32)
    assert (block.channels, block.window, block.stride, block.pool_window) == (112, 16, 16, 1)
    sides = [math.ceil(224 * 2 ** (k / 2)) for k in range(5)]
    assert [spec.positions(side) ** 2 for side in sides] == [1, 16, 64, 196, 484]
    network = random_network(jax.random.key(0), THIN)
    for side in (224, 317):
        shape = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        maps = jax.eval_shape(lambda n, x: n.activations(x), network, shape)
        for name, found in maps.items():
            assert found.shape[1] == map_size(THIN, side, name), name


# ------------------------------------------------------------------------------ padding "same"

COLOURS = Preprocessing("RGB", (120.0, 120.0, 120.0), std=(60.0, 60.0, 60.0))


def tensorflow(n, kernel, stride):
    """Return TensorFlow's zeros before and behind."""
    total = max((-(-n // stride) - 1) * stride + kernel - n, 0)
    return total // 2, total - total // 2


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_padding_is_tensorflows_at_the_base_side_and_aligned_elsewhere(kernel, stride):
    for side in (24, 25, 26):
        spec = one_layer(Conv("conv", 2, kernel, stride, "same"), side)
        layer = spec.layers[0]
        assert padding(spec, layer, side) == tensorflow(side, kernel, stride)
        for n in range(side, side + 7):
            before, behind = padding(spec, layer, n)
            assert before == tensorflow(side, kernel, stride)[0]
            assert (n + before + behind - kernel) // stride + 1 == -(-n // stride)


def one_layer(layer, side):
    return NetSpec("one", side, (layer,), layer.name, (layer.name,), (("native", COLOURS),))


def test_dense_maps_equal_those_of_crops_at_any_side():
    """A crop's map is its part of the whole picture's, wherever no window touches a border."""
    network = random_network(jax.random.key(3), RESIDUAL)
    stride = RESIDUAL.layer("sum2").stride
    x = np.random.default_rng(0).uniform(0, 255, (1, 75, 75, 3)).astype(np.float32)
    whole = np.asarray(activations(network, x)["sum2"])
    for at in (0, 1, 2):
        crop = x[:, stride * at : stride * at + 49, stride * at : stride * at + 49]
        part = np.asarray(activations(network, crop)["sum2"])
        inner = slice(4, part.shape[1] - 4)
        there = slice(4 + at, part.shape[1] - 4 + at)
        assert part.shape[1] > 10
        np.testing.assert_allclose(
            part[:, inner, inner], whole[:, there, there], rtol=1e-4, atol=1e-4
        )


# -------------------------------------------------------------------- sums, shortcuts, poolings

RESIDUAL = NetSpec(
    name="residual",
    side=32,
    layers=(
        Conv("stem", 8, 3, stride=2, pad="same", activation="silu"),
        Pool("pool", 3, 2, pad="same"),
        Conv("a", 12, 3, pad="same", groups=4, activation="gelu"),
        Conv("b", 12, 3, pad=1, groups=12, activation="linear"),
        Conv("short", 12, 1, activation="linear", source="pool"),
        Add("sum1", "b", activation="relu"),
        Conv("c", 12, 1, activation="hard_swish"),
        Add("sum2", "sum1"),
    ),
    default_layer="sum2",
    descriptor_layers=("pool", "short", "sum2"),
    preprocessing=(("native", COLOURS),),
)


def test_sums_and_shortcuts_take_the_layers_they_name():
    check_spec(RESIDUAL)
    network = random_network(jax.random.key(1), RESIDUAL)
    x = np.random.default_rng(1).uniform(0, 255, (2, 37, 32, 3)).astype(np.float32)
    maps = activations(network, x)
    kernel, bias = (network.params["short"][leaf] for leaf in ("kernel", "bias"))
    short = np.asarray(maps["pool"]) @ np.asarray(kernel)[0, 0] + np.asarray(bias)
    np.testing.assert_allclose(maps["short"], short, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(maps["sum1"], np.maximum(maps["b"] + short, 0), atol=1e-4)
    np.testing.assert_allclose(maps["sum2"], maps["sum1"] + maps["c"], atol=1e-5)
    for name, found in maps.items():
        for axis, side in ((1, 37), (2, 32)):
            assert found.shape[axis] == map_size(RESIDUAL, side, name), name
    assert network.spec.layer("short").channels == 12
    assert network.spec.layer("sum2").stride == 4


@pytest.mark.parametrize("mode", ["floor", "ceil"])
@pytest.mark.parametrize("pad", [1, "same"])
def test_padded_pooling_never_takes_the_padding(mode, pad):
    spec = dataclasses.replace(one_layer(Pool("pool", 3, 2, pad), 16), pooling=mode)
    for n in (8, 9, 16):
        x = -np.random.default_rng(n).uniform(1, 2, (1, n, n, 2)).astype(np.float32)
        before, behind = padding(spec, spec.layers[0], n)
        around = ((0, 0), (before, behind), (before, behind), (0, 0))
        wide = np.pad(x, around, constant_values=-np.inf)
        size = map_size(spec, n, "pool")
        starts = range(0, 2 * size, 2)
        want = [[wide[0, i : i + 3, j : j + 3].max((0, 1)) for j in starts] for i in starts]
        got = max_pool(jnp.asarray(x), spec.layers[0], mode, before=(before, before))
        np.testing.assert_array_equal(got[0], np.array(want))
        assert np.isfinite(want).all()


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("linear", lambda x: x),
        ("relu", lambda x: max(x, 0)),
        ("relu6", lambda x: min(max(x, 0), 6)),
        ("leaky_relu", lambda x: x if x > 0 else 0.01 * x),
        ("elu", lambda x: x if x > 0 else math.expm1(x)),
        ("gelu", lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2),
        ("silu", lambda x: x / (1 + math.exp(-x))),
        ("hard_swish", lambda x: x * min(max(x + 3, 0), 6) / 6),
        ("hard_sigmoid", lambda x: min(max(x + 3, 0), 6) / 6),
    ],
)
def test_nonlinearities(name, want):
    x = np.linspace(-8, 8, 33).astype(np.float32)
    values = [want(float(v)) for v in x]
    np.testing.assert_allclose(activate(jnp.asarray(x), name), values, rtol=1e-5, atol=1e-6)


def with_layers(*layers):
    return dataclasses.replace(
        RESIDUAL, layers=layers, default_layer="stem", descriptor_layers=("stem",)
    )


STEM = Conv("stem", 8, 3, stride=2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (with_layers(STEM, Add("sum", "later")), "takes the activation of 'later', which is none"),
        (with_layers(STEM, Conv("b", 8, 1, source="c")), "'b' takes the activation of 'c'"),
        (with_layers(Add("stem", "stem")), "there are none"),
        (
            with_layers(STEM, Conv("b", 9, 1), Add("sum", "stem")),
            "'sum' adds 'b' and 'stem', whose",
        ),
        (with_layers(STEM, Pool("b", 1, 2), Add("sum", "stem")), "maps differ"),
        (with_layers(Conv("stem", 8, 3, activation="tanh")), "activation of 'stem' must be one of"),
        (with_layers(Conv("stem", 8, 3, pad="valid")), "must be from 0 or 'same', got 'valid'"),
    ],
)
def test_unsound_lists_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        check_spec(spec)
