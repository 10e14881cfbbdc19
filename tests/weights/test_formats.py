"""Every format carries the same parameters into the same network, and the audit is two-sided."""

import dataclasses

import jax
import numpy as np
import pytest
import safetensors.numpy
from helpers import nets_files
from helpers.nets_files import (
    alexnet_layers,
    caffemodel,
    dagnn,
    dense_names,
    narrow,
    random_blobs,
    simplenn,
    torch_arrays,
    torch_zip,
)

from mpp_jax.nets import NETWORKS
from mpp_jax.nets.spec import LRN, Conv
from mpp_jax.weights.convert import Audit, convert
from mpp_jax.weights.formats import parse_weights, read_weights
from mpp_jax.weights.load import as_network
from mpp_jax.weights.native import save_network
from mpp_jax.weights.source import SourceWeights, WeightsError

CAFFENET = narrow(NETWORKS["caffenet"], 8)
ALEXNET = narrow(NETWORKS["alexnet"], 8)
TORCH = narrow(NETWORKS["alexnet_torchvision"], 8)
DENSE = dense_names(CAFFENET)
STRUCTURE = alexnet_layers(pool_first=True)


@pytest.fixture(scope="module")
def blobs():
    return random_blobs(CAFFENET)


def load(data, spec):
    return convert(parse_weights(data, spec), spec)


def check(params, blobs, *, bgr):
    """Check that the parameters are the blobs: HWIO, and in RGB whatever the file's order was."""
    assert set(params) == set(blobs)
    for name, (weights, bias) in blobs.items():
        want = weights.transpose(2, 3, 1, 0)
        if bgr and name == "conv1":
            want = want[:, :, ::-1]
        np.testing.assert_array_equal(params[name]["kernel"], want, err_msg=name)
        np.testing.assert_array_equal(params[name]["bias"], bias, err_msg=name)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("generation", ["current", "v1", "v0"])
def test_caffe_generations(blobs, generation, legacy):
    layers = [
        (kind, name, {k: v // 8 if k == "num_output" else v for k, v in (values or {}).items()})
        for kind, name, values in STRUCTURE
    ]
    data = caffemodel(blobs, dense=DENSE, generation=generation, legacy=legacy, layers=layers)
    found = load(data, CAFFENET)
    check(found.params, blobs, bgr=True)
    np.testing.assert_allclose(found.mean, [122.67891434, 116.66876762, 104.00698793])
    np.testing.assert_array_equal(found.scale, [1, 1, 1])
    with pytest.raises(WeightsError, match="the file has pool 'pool1' where the network has lrn"):
        load(data, ALEXNET)


def test_caffe_double_precision_and_stripped_structure(blobs):
    found = load(caffemodel(blobs, dense=DENSE, dtype=np.float64), CAFFENET)
    check(found.params, blobs, bgr=True)


def test_caffe_states_its_normalisation_constants(blobs):
    layers = [
        (
            kind,
            name,
            {"local_size": 7, "alpha": 3e-4, "beta": 0.5, "k": 2.0} if kind == "LRN" else v,
        )
        for kind, name, v in STRUCTURE
    ]
    found = load(caffemodel(blobs, dense=DENSE, layers=layers), CAFFENET)
    constants = [layer for layer in found.spec.layers if isinstance(layer, LRN)]
    assert constants == [LRN(f"norm{i}", 7, 3e-4, 0.5, 2.0) for i in (1, 2)]


@pytest.mark.parametrize(
    ("at", "change", "message"),
    [
        ("conv1", {"stride": 2}, "'conv1' has stride 2, 'conv1' has 4"),
        ("conv2", {"pad": 1}, "'conv2' has pad 1"),
        ("conv4", {"group": 1}, "'conv4' has groups 1"),
        ("pool5", {"kernel_size": 2}, "'pool5' has kernel 2"),
    ],
)
def test_caffe_layers_that_contradict_the_network(blobs, at, change, message):
    layers = [
        (kind, name, {**(values or {}), **change} if name == at else values)
        for kind, name, values in STRUCTURE
    ]
    with pytest.raises(WeightsError, match=message):
        load(caffemodel(blobs, dense=DENSE, layers=layers), CAFFENET)


@pytest.mark.parametrize("inside_net", [False, True])
@pytest.mark.parametrize("style", ["old", "new", "dag"])
def test_matconvnet(blobs, style, inside_net):
    mean = np.random.default_rng(1).uniform(90, 130, (5, 4, 3)).astype(np.float32)
    if style == "dag":
        data = dagnn(CAFFENET, blobs, mean, inside_net=inside_net)
    else:
        old = style == "old"
        data = simplenn(CAFFENET, blobs, mean, old=old, meta=not old, inside_net=inside_net)
    found = load(data, CAFFENET)
    check(found.params, blobs, bgr=False)
    np.testing.assert_array_equal(found.mean_image, mean)
    assert found.spec == CAFFENET  # alpha comes back multiplied by the window
    with pytest.raises(WeightsError, match="the file has pool 'pool1' where the network has lrn"):
        load(data, ALEXNET)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 1), (6, 5, 3)])
def test_matconvnet_mean_colour(blobs, shape, compress):
    colour = np.array([121.5, 117.25, 103.0])
    mean = np.broadcast_to(colour.reshape((3, 1) if len(shape) == 2 else (1, 1, 3)), shape)
    found = load(simplenn(CAFFENET, blobs, mean, compress=compress), CAFFENET)
    assert found.mean_image is None
    np.testing.assert_array_equal(found.mean, colour)


def test_matconvnet_without_layer_names_or_mean(blobs, monkeypatch):
    named = nets_files.matconvnet_layers
    nameless = [{k: v for k, v in s.items() if k != "name"} for s in named(CAFFENET, blobs, None)]
    monkeypatch.setattr(nets_files, "matconvnet_layers", lambda *_, **__: nameless)
    found = load(simplenn(CAFFENET, blobs, np.full((1, 1, 3), 100.0)), CAFFENET)
    check(found.params, blobs, bgr=False)
    with pytest.raises(WeightsError, match="does not say how pictures are prepared"):
        load(simplenn(CAFFENET, blobs, np.zeros((1, 2))), CAFFENET)


@pytest.mark.parametrize("wrap", [None, "state_dict"])
def test_torch_zip(wrap):
    blobs = random_blobs(TORCH)
    found = load(torch_zip(torch_arrays(blobs, TORCH), wrap=wrap), TORCH)
    check(found.params, blobs, bgr=False)
    np.testing.assert_allclose(found.mean, 255 * np.array([0.485, 0.456, 0.406]))
    np.testing.assert_allclose(1 / found.scale, 255 * np.array([0.229, 0.224, 0.225]), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_torch_other_precisions(dtype):
    blobs = {n: tuple(v.astype(np.float16) for v in b) for n, b in random_blobs(TORCH).items()}
    arrays = {k: v.astype(dtype) for k, v in torch_arrays(blobs, TORCH).items()}
    check(load(torch_zip(arrays), TORCH).params, blobs, bgr=False)


def test_safetensors_in_torchvision_and_native_names():
    blobs = random_blobs(TORCH)
    found = load(safetensors.numpy.save(torch_arrays(blobs, TORCH)), TORCH)
    check(found.params, blobs, bgr=False)
    half = {k: v.astype(np.float16) for k, v in torch_arrays(blobs, TORCH).items()}
    rounded = {n: tuple(v.astype(np.float16) for v in b) for n, b in blobs.items()}
    check(load(safetensors.numpy.save(half), TORCH).params, rounded, bgr=False)


def test_safetensors_bfloat16():
    import ml_dtypes

    blobs = random_blobs(TORCH)
    brief = {k: v.astype(ml_dtypes.bfloat16) for k, v in torch_arrays(blobs, TORCH).items()}
    rounded = {
        n: tuple(v.astype(ml_dtypes.bfloat16).astype(np.float32) for v in b)
        for n, b in blobs.items()
    }
    check(load(safetensors.numpy.save(brief), TORCH).params, rounded, bgr=False)


def test_own_form_keeps_everything(blobs, tmp_path):
    mean = np.random.default_rng(1).uniform(90, 130, (5, 4, 3)).astype(np.float32)
    spec = CAFFENET.with_lrn({"norm1": LRN("norm1", 5, 2e-4, 0.7, 1.5)})
    converted = load(simplenn(spec, blobs, mean), CAFFENET)
    network = as_network(converted, "ab" * 32)
    folder = save_network(network, tmp_path / "own")
    source, sha256 = read_weights(folder, CAFFENET)
    again = as_network(convert(source, CAFFENET), sha256)
    assert again.spec == network.spec
    assert again.spec.layers[2].beta == 0.7
    assert again.weights_sha256 == "ab" * 32
    jax.tree.map(np.testing.assert_array_equal, again, network)
    save_network(network, folder)  # replaces
    assert [p.name for p in tmp_path.iterdir()] == ["own"]
    with pytest.raises(WeightsError, match="the folder holds network 'caffenet', not 'alexnet'"):
        read_weights(folder, ALEXNET)
    (tmp_path / "other").mkdir()
    with pytest.raises(WeightsError, match="exists and is no network"):
        save_network(network, tmp_path / "other")


def test_audit_lists_every_parameter(blobs):
    audit = load(caffemodel(blobs, dense=DENSE), CAFFENET).audit
    assert isinstance(audit, Audit)
    lines = str(audit).splitlines()
    assert lines[0].startswith("caffenet from Caffe: ")
    assert lines[1].split() == ["parameter", "shape", "from", "min", "max", "mean", "crc32"]
    assert len(lines) == 2 + 16
    fc6 = next(line.split() for line in lines if line.startswith("fc6/kernel"))
    weights = blobs["fc6"][0]
    assert fc6[:3] == ["fc6/kernel", "6x6x32x512", "fc6/0"]
    assert float(fc6[3]) == pytest.approx(weights.min(), rel=1e-3)
    assert float(fc6[5]) == pytest.approx(weights.mean(), rel=1e-3)


def test_audit_reports_all_errors_at_once(blobs):
    bad = dict(blobs)
    bad["conv2"] = (blobs["conv2"][0].transpose(1, 0, 2, 3), blobs["conv2"][1])
    bad["conv3"] = (np.full_like(blobs["conv3"][0], np.nan), blobs["conv3"][1])
    bad["fc9"] = bad.pop("fc7")
    with pytest.raises(WeightsError) as caught:
        load(caffemodel(bad, dense=DENSE | {"fc9"}), CAFFENET)
    message = str(caught.value)
    assert "does not fit network 'caffenet'" in message
    for part in (
        "'conv2/0' has shape (6, 32, 5, 5), conv2/kernel needs (5, 5, 6, 32)",
        "'conv3/0' holds values that are not finite",
        "fc7/kernel is missing: no 'fc7/0'",
        "fc7/bias is missing: no 'fc7/1'",
        "'fc9/0' belongs to no parameter",
        "'fc9/1' belongs to no parameter",
    ):
        assert part in caught.value.findings, part
    assert "\n" not in message


def test_a_square_kernel_with_swapped_axes_is_not_confused(blobs):
    # fc7 is 512 x 512 here: its shape does not tell inputs from outputs.
    found = load(caffemodel(blobs, dense=DENSE), CAFFENET).params
    np.testing.assert_array_equal(found["fc7"]["kernel"][0, 0], blobs["fc7"][0][:, :, 0, 0].T)
    np.testing.assert_array_equal(found["conv3"]["kernel"][0, 2, 5], blobs["conv3"][0][:, 5, 0, 2])


def test_integers_are_no_weights(blobs):
    arrays = torch_arrays(random_blobs(TORCH), TORCH)
    key = "features.3.weight"
    arrays[key] = arrays[key].astype(np.int64)
    for data in (torch_zip(arrays), safetensors.numpy.save(arrays)):
        with pytest.raises(
            WeightsError, match=r"'features.3.weight' has dtype int64, wanted float"
        ):
            load(data, TORCH)


def test_a_file_for_another_network_says_which():
    net = NETWORKS["alexnet_torchvision"]
    source = SourceWeights("torch", "torchvision", torch_arrays(_zeros(net), net))
    with pytest.raises(WeightsError, match=r"network 'vgg16' \(it fits 'alexnet_torchvision'\)"):
        convert(source, NETWORKS["vgg16"])
    with pytest.raises(WeightsError, match=r"does not fit network 'cnn_s' \(it fits 'alexnet_tor"):
        convert(source, NETWORKS["cnn_s"])


def _zeros(spec):
    channels, blobs = 3, {}
    for layer in spec.layers:
        if isinstance(layer, Conv):
            shape = (layer.features, channels // layer.groups, layer.kernel, layer.kernel)
            blobs[layer.name] = np.zeros(shape, np.float32), np.zeros(layer.features, np.float32)
            channels = layer.features
    return blobs


def test_preprocessing_travels_with_the_file(blobs):
    """One picture through a BGR file and an RGB file of the same network gives one input."""
    bgr = as_network(load(caffemodel(blobs, dense=DENSE), CAFFENET), "")
    flipped = dict(blobs)
    flipped["conv1"] = (blobs["conv1"][0][:, ::-1], blobs["conv1"][1])
    mean = np.array([122.67891434, 116.66876762, 104.00698793]).reshape(1, 1, 3)
    rgb = as_network(load(simplenn(CAFFENET, flipped, mean), CAFFENET), "")
    x = np.random.default_rng(0).uniform(0, 255, (1, 67, 67, 3)).astype(np.float32)
    a, b = (np.asarray(n.activations(x, "conv1")["conv1"]) for n in (bgr, rgb))
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


def test_specs_are_static(blobs):
    network = as_network(load(caffemodel(blobs, dense=DENSE), CAFFENET), "x")
    assert hash(network.spec) == hash(dataclasses.replace(network.spec))
    leaves, treedef = jax.tree.flatten(network)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert jax.tree.unflatten(treedef, leaves).weights_sha256 == "x"
