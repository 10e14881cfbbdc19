"""Positions, strides and windows: the paper's Table 1, and what the networks really compute."""

import jax
import jax.numpy as jnp
import pytest

from mpp_jax.describe.geometry import format_geometry, geometry_table
from mpp_jax.nets import NETWORKS
from mpp_jax.nets.forms import Forms
from mpp_jax.nets.network import LayerStack, Network, param_shapes
from mpp_jax.nets.spec import map_size
from mpp_jax.weights.fit import parameter_count

COUNTS = {
    "caffenet": [1, 9, 64, 196, 484, 1156, 2500],
    "alexnet": [1, 9, 64, 196, 484, 1156, 2500],
    "squeezenet": [1, 16, 64, 196, 484],
}


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_positions_per_scale(name):
    rows = geometry_table(name, range(len(COUNTS[name])))
    assert [row["positions"] for row in rows] == COUNTS[name]


def test_cumulative_counts_are_those_of_table_1():
    rows = geometry_table("caffenet")
    assert [row["scale"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["side"] for row in rows] == [227, 322, 454, 643, 908, 1285, 1816]
    assert [row["cumulative"] for row in rows][3:] == [270, 754, 1910, 4410]
    ceil = geometry_table(NETWORKS["caffenet"].with_pooling("ceil"))
    assert ceil[-1]["cumulative"] == 4563  # what Caffe's own rounding would give


def test_geometry_of_other_layers_and_errors():
    assert geometry_table("caffenet", [0, 2], "pool5")[0]["positions"] == 36
    with pytest.raises(ValueError, match="'resnet' is unknown"):
        geometry_table("resnet")
    with pytest.raises(ValueError, match="levels count from 0"):
        geometry_table("caffenet", [-1])


def test_geometry_as_text():
    text = format_geometry("caffenet", range(2)).splitlines()
    assert text[0] == "caffenet fc7: 4096 channels, floor-mode pooling"
    assert text[1].split() == ["scale", "side", "positions", "cumulative", "stride", "window"]
    assert text[3].split() == ["2", "322", "9", "10", "32", "227"]


@pytest.mark.parametrize("mode", ["floor", "ceil"])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_the_arithmetic_is_what_the_network_does(name, mode):
    spec = NETWORKS[name].with_pooling(mode)
    params = param_shapes(spec)
    height, width = spec.side + 31, 2 * spec.side + (5 if mode == "floor" else 86)
    x = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    out = jax.eval_shape(LayerStack(spec, Forms()).apply, {"params": params}, x)
    assert set(out) == set(spec.layer_names)
    for layer, value in out.items():
        want = (map_size(spec, height, layer), map_size(spec, width, layer))
        assert value.shape[1:3] == want, layer
    for layer in spec.descriptor_layers:
        which, shape = spec.layer(layer), out[layer].shape
        assert which.channels == shape[3]
        for side, n in ((height, shape[1]), (width, shape[2])):
            windows = len(range(0, n - which.pool_window + 1, which.pool_stride))
            assert spec.positions(side, layer) == windows


@pytest.mark.parametrize("name", ["squeezenet", "caffenet"])
def test_the_descriptor_map_has_a_place_for_every_position(name):
    spec = NETWORKS[name]
    vector = jax.ShapeDtypeStruct((3,), jnp.float32)
    network = Network(param_shapes(spec), vector, vector, None, spec, forms=Forms())
    x = jax.ShapeDtypeStruct((2, 322, 500, 3), jnp.float32)
    for layer in (spec.default_layer, spec.descriptor_layers[0]):
        got = jax.eval_shape(lambda n, v, which=layer: n.descriptors(v, which), network, x)
        sizes = (spec.positions(322, layer), spec.positions(500, layer))
        assert got.shape == (2, *sizes, spec.layer(layer).channels)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_the_parameters_are_those_that_linen_would_make(name):
    spec = NETWORKS[name]
    x = jax.ShapeDtypeStruct((1, spec.side, spec.side, 3), jnp.float32)
    made = jax.eval_shape(LayerStack(spec, Forms()).init, jax.random.key(0), x)["params"]
    assert jax.tree.map(lambda v: v.shape, made) == jax.tree.map(
        lambda v: v.shape, param_shapes(spec)
    )


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_windows_tile_the_base_picture(name):
    spec = NETWORKS[name]
    for layer in map(spec.layer, spec.descriptor_layers):
        positions = spec.positions(spec.side, layer.name)
        assert positions >= 1
        assert (positions - 1) * layer.stride + layer.window == spec.side
    assert spec.positions(spec.side) == 1


def test_windows_and_strides_in_pixels():
    def of(name, layer):
        which = NETWORKS[name].layer(layer)
        return which.window, which.stride, which.channels

    assert of("caffenet", "fc7") == (227, 32, 4096)
    assert of("caffenet", "pool5") == (67, 32, 256)
    assert of("caffenet", "conv1") == (11, 4, 96)
    assert of("cnn_s", "fc6") == (224, 36, 4096)
    assert of("vgg16", "conv5_3") == (16, 16, 512)
    assert of("squeezenet", "fire9") == (227, 32, 512)
    assert of("squeezenet", "fire8") == (19, 8, 512)
    fire9 = NETWORKS["squeezenet"].layer()
    assert (fire9.pool_window, fire9.pool_stride) == (13, 2)


def test_too_small_pictures_have_no_positions():
    assert NETWORKS["caffenet"].positions(226) == 0
    assert NETWORKS["caffenet"].positions(3) == 0
    assert NETWORKS["squeezenet"].positions(200) == 0


def test_floor_pooling_starves_cnn_s_at_its_own_side():
    spec = NETWORKS["cnn_s"].with_pooling("floor")
    assert spec.positions(224) == 0
    assert spec.positions(spec.layer().window) == 1
    assert spec.positions(spec.layer().window - 1) == 0


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("caffenet", 60_965_224),
        ("alexnet", 60_965_224),
        ("alexnet_torchvision", 61_100_840),
        ("vgg16", 138_357_544),
        ("squeezenet", 1_248_424),
    ],
)
def test_parameter_counts_are_the_published_ones(name, count):
    assert parameter_count(NETWORKS[name]) == count
