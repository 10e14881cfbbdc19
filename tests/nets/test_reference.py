"""CNN-S and CNN-M against an independent float64 forward pass, and dense against cropped."""

import jax
import numpy as np
import pytest
from helpers import nets_reference as ref
from helpers.nets_files import caffemodel, dense_names, narrow, random_blobs, unpadded

from mpp_jax.describe.geometry import geometry_table
from mpp_jax.describe.pyramid import scale_side
from mpp_jax.nets import NETWORKS, random_network
from mpp_jax.weights.caffemodel import read_caffemodel
from mpp_jax.weights.convert import convert
from mpp_jax.weights.load import as_network

LRN_CONSTANTS = (5, 5e-4, 0.75, 2.0)
VGG_MEAN_BGR = np.array([103.939, 116.779, 123.68])
activations = jax.jit(lambda network, x: network.activations(x))


@pytest.mark.parametrize(
    ("name", "ceil", "height", "width"),
    [
        ("cnn_s", True, 224, 224),
        ("cnn_s", True, 262, 240),
        ("cnn_s", False, 262, 240),
        ("cnn_m", True, 224, 224),
        ("cnn_m", False, 262, 240),
    ],
)
def test_chatfield_networks(name, ceil, height, width):
    spec = narrow(NETWORKS[name].with_pooling("ceil" if ceil else "floor"), 8)
    blobs = random_blobs(spec, seed=width)
    source = read_caffemodel(caffemodel(blobs, dense=dense_names(spec)))
    network = as_network(convert(source, spec), "")
    x = np.random.default_rng(1).uniform(0, 255, (1, height, width, 3)).astype(np.float32)
    got = activations(network, x)
    centred = (x[0, :, :, ::-1].astype(float) - VGG_MEAN_BGR).transpose(2, 0, 1)
    want = ref.chatfield(
        centred, blobs, medium=name == "cnn_m", lrn_constants=LRN_CONSTANTS, ceil=ceil
    )
    assert set(got) == set(want)
    for layer, value in want.items():
        a, b = np.asarray(got[layer][0]), value.transpose(1, 2, 0)
        assert a.shape == b.shape, layer
        assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(b), layer


def crops_and_dense(network, side):
    """Return the top of every window of a square picture, cut out and in one dense pass."""
    spec = network.spec
    x = np.random.default_rng(side).uniform(0, 255, (1, side, side, 3)).astype(np.float32)
    which, positions = spec.layer("fc8"), spec.positions(side, "fc8")
    dense = np.asarray(activations(network, x)["fc8"])[0]
    assert dense.shape[:2] == (positions, positions)
    cut = np.empty_like(dense)
    for i in range(positions):
        for j in range(positions):
            top, left = which.stride * i, which.stride * j
            crop = x[:, top : top + which.window, left : left + which.window]
            cut[i, j] = activations(network, crop)["fc8"][0, 0, 0]
    return dense, cut


def relative(a, b):
    return np.linalg.norm(a - b, axis=-1).max() / np.linalg.norm(b, axis=-1).mean()


def check_unpadded(spec, tolerance):
    network = random_network(jax.random.key(2), spec)
    assert spec.side == spec.layer("fc8").window == 227
    for k, row in enumerate(geometry_table("caffenet", range(3))):
        dense, cut = crops_and_dense(network, scale_side(227, k))
        assert len(cut) ** 2 == row["positions"]
        error = relative(dense, cut)
        print(f"scale {k + 1}: {len(cut) ** 2} crops, {error:.1e}")
        assert error < tolerance


def test_without_padding_dense_equals_every_crop():
    check_unpadded(unpadded(narrow(NETWORKS["caffenet"], 8)), 1e-5)


@pytest.mark.slow
def test_without_padding_dense_equals_every_crop_at_real_width():
    check_unpadded(unpadded(NETWORKS["caffenet"]), 1e-4)


@pytest.fixture(scope="module")
def caffenet():
    spec = narrow(NETWORKS["caffenet"], 8)
    blobs = random_blobs(spec)
    source = read_caffemodel(caffemodel(blobs, dense=dense_names(spec)))
    return as_network(convert(source, spec), ""), blobs


def test_the_plain_network_is_a_matrix_product_at_the_base_scale(caffenet):
    network, blobs = caffenet
    x = np.random.default_rng(4).uniform(0, 255, (1, 227, 227, 3)).astype(np.float32)
    out = activations(network, x)
    h = np.asarray(out["pool5"])[0].transpose(2, 0, 1).reshape(-1).astype(float)
    for name in ("fc6", "fc7", "fc8"):
        weights, bias = blobs[name]
        h = weights.reshape(len(weights), -1).astype(float) @ h + bias
        h = h if name == "fc8" else np.maximum(h, 0)
        assert out[name].shape == (1, 1, 1, len(h))
        assert np.linalg.norm(out[name][0, 0, 0] - h) < 1e-5 * np.linalg.norm(h), name


def test_with_padding_crops_see_zeros_where_the_dense_map_sees_context(caffenet):
    dense, cut = crops_and_dense(caffenet[0], scale_side(227, 1))
    assert relative(dense, cut) > 1e-3
