"""Prefixes and wrappers of training loops, and files that end below the network's last layer."""

import dataclasses
import math

import jax
import numpy as np
import pytest
import safetensors.numpy
from helpers.nets_files import (
    alexnet_layers,
    caffemodel,
    dense_names,
    narrow,
    npz,
    random_blobs,
    simplenn,
    torch_arrays,
    torch_zip,
)

import mpp_jax as mpp
from mpp_jax.config import Run
from mpp_jax.nets import NETWORKS
from mpp_jax.nets.spec import Conv
from mpp_jax.runs.vectors import code_of
from mpp_jax.weights import import_weights, load_audited, save_network, verify_weights
from mpp_jax.weights.convert import convert
from mpp_jax.weights.fit import bare, fit
from mpp_jax.weights.formats import parse_weights
from mpp_jax.weights.load import as_network, load_network
from mpp_jax.weights.source import SourceWeights, WeightsError

TORCH = narrow(NETWORKS["alexnet_torchvision"], 16)
CAFFENET = narrow(NETWORKS["caffenet"], 16)
VGG = narrow(NETWORKS["vgg16"], 32)
SQUEEZENET = narrow(NETWORKS["squeezenet"], 16)


@pytest.fixture(scope="module")
def arrays():
    return torch_arrays(random_blobs(TORCH), TORCH)


def native(spec, blobs):
    found = {}
    for name, (weights, bias) in blobs.items():
        found |= {f"{name}/kernel": weights.transpose(2, 3, 1, 0), f"{name}/bias": bias}
    return found


def loaded(data, spec, layer=None):
    return convert(parse_weights(data, spec), spec, layer)


def without(arrays, *parts):
    return {key: value for key, value in arrays.items() if not key.startswith(parts)}


# ------------------------------------------------------------------ prefixes and wrappers


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "net.model.", "a/b."]
)
@pytest.mark.parametrize("write", [torch_zip, safetensors.numpy.save, npz])
def test_what_stands_before_all_keys_is_taken_off(arrays, write, prefix):
    plain = loaded(write(arrays), TORCH)
    found = loaded(write({prefix + key: value for key, value in arrays.items()}), TORCH)
    jax.tree.map(np.testing.assert_array_equal, found.params, plain.params)
    assert found.audit.rows[0].source == f"{prefix}features.0.weight"
    assert not found.audit.notes


@pytest.mark.parametrize("wrap", ["state_dict", "model_state_dict", "model"])
def test_a_wrapped_state_dict_is_unwrapped(arrays, wrap):
    prefixed = {f"module.{key}": value for key, value in arrays.items()}
    assert loaded(torch_zip(prefixed, wrap=wrap), TORCH).spec == TORCH


def test_a_prefix_of_some_keys_hides_none(arrays):
    some = {f"module.{key}" if "0" in key else key: value for key, value in arrays.items()}
    with pytest.raises(WeightsError) as caught:
        loaded(torch_zip(some), TORCH)
    assert "'module.features.0.weight' belongs to no parameter" in caught.value.findings


def test_a_network_whose_own_names_have_the_word_keeps_it():
    assert bare(["model.0.w", "model.2.w"], {"model.0.w"}) == {
        "model.0.w": "model.0.w",
        "model.2.w": "model.2.w",
    }
    deep = [f"{'a.' * 100_000}{name}" for name in "xy"]
    assert bare(deep, {"x"}) == {key: key for key in deep}


def test_a_file_of_other_names_is_told_so(arrays):
    with pytest.raises(WeightsError, match=r"known for this network; they are 'x.features.0.wei"):
        loaded(torch_zip({f"x.{k}.y": v for k, v in arrays.items()}), TORCH)


def test_verify_lists_all_findings(tmp_path, arrays):
    arrays = without(arrays, "features.0.weight")
    file = tmp_path / "x.pth"
    file.write_bytes(torch_zip(arrays))
    found = verify_weights(file, "alexnet_torchvision")
    assert len(found.findings) > 5
    assert found.problem.endswith(
        f"; and {len(found.findings) - 5} more (weights verify lists all)"
    )


# ------------------------------------------------------------------ files that end below


def test_weights_of_another_number_of_classes(arrays):
    blobs = random_blobs(TORCH)
    tuned = {**arrays, "classifier.6.weight": np.ones((7, 256), np.float32)}
    tuned["classifier.6.bias"] = np.ones(7, np.float32)
    found = loaded(torch_zip(tuned), TORCH)
    assert found.spec.layer_names == TORCH.layer_names[:-1]
    assert found.spec.default_layer == "fc7"
    assert found.spec.lacking == ("fc8",)
    np.testing.assert_array_equal(found.params["fc7"]["bias"], blobs["fc7"][1])
    assert "fc8" not in found.params
    assert "'classifier.6.weight' has shape (7, 256), fc8/kernel needs (1, 1, 256, 62)" in (
        found.audit.notes
    )
    assert "note: the file serves up to layer 'fc7'" in str(found.audit)


def test_the_network_below_computes_what_the_whole_one_does(arrays):
    whole, trunk = (
        as_network(loaded(safetensors.numpy.save(a), TORCH), "x")
        for a in (arrays, without(arrays, "classifier"))
    )
    assert trunk.spec.layer_names[-1] == trunk.spec.default_layer == "pool5"
    assert "fc6" not in trunk.spec.descriptor_layers
    x = np.random.default_rng(0).uniform(0, 255, (1, 224, 224, 3)).astype(np.float32)
    np.testing.assert_array_equal(trunk.descriptors(x), whole.descriptors(x, "pool5"))
    assert trunk.spec.layer() == whole.spec.layer("pool5")
    with pytest.raises(ValueError, match="weights of network 'alexnet_torchvision' end at 'pool5'"):
        trunk.descriptors(x, "fc7")
    with pytest.raises(ValueError, match="has no layer 'fc9'"):
        trunk.descriptors(x, "fc9")


@pytest.mark.parametrize("head", ["fc8_voc", "head"])
@pytest.mark.parametrize("structure", [False, True])
def test_a_last_layer_of_another_name(head, structure):
    blobs = random_blobs(CAFFENET)
    blobs[head] = blobs.pop("fc8")
    layers = [(kind, head if n == "fc8" else n, values) for kind, n, values in alexnet_layers(True)]
    for _, name, values in layers:
        if values and "num_output" in values:
            values["num_output"] = len(blobs[name][1])
    data = caffemodel(
        blobs, dense=dense_names(CAFFENET) | {head}, layers=layers if structure else ()
    )
    found = loaded(data, CAFFENET)
    assert found.spec.layer_names[-1] == "fc7"
    assert f"'{head}/0' is not used" in found.audit.notes
    with pytest.raises(WeightsError, match="Caffe file has no layer 'fc8'"):
        loaded(data, CAFFENET, "fc8")
    if structure:
        with pytest.raises(WeightsError, match="the file has pool 'pool1' where"):
            loaded(data, narrow(NETWORKS["alexnet"], 16))


def test_a_model_that_describes_fewer_layers():
    trunk = dataclasses.replace(CAFFENET, layers=CAFFENET.layers[:-3])
    blobs = random_blobs(trunk)
    mean = np.full((1, 1, 3), 110.0)
    assert loaded(simplenn(trunk, blobs, mean), CAFFENET).spec.default_layer == "pool5"
    shorter = dataclasses.replace(trunk, layers=trunk.layers[:-1])
    assert loaded(simplenn(shorter, blobs, mean), CAFFENET).spec.default_layer == "conv5"


def test_fire_modules_are_there_or_not():
    blobs = random_blobs(SQUEEZENET)
    caffe = {f"{name}/{i}": value for name, blob in blobs.items() for i, value in enumerate(blob)}
    source = SourceWeights("test", "caffe", without(caffe, "conv_final", "fire9/expand3x3"))
    assert fit(source, SQUEEZENET).spec.default_layer == "fire8"
    source = SourceWeights("test", "caffe", without(caffe, "fire9/expand1x1"))
    assert "fire9/expand1x1/kernel is missing" in fit(source, SQUEEZENET).errors[0]


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda a: a.pop("classifier.1.weight"), "fc6/kernel is missing"),
        (lambda a: a.pop("classifier.6.bias"), "fc8/bias is missing"),
        (lambda a: [a.pop(f"features.6.{x}") for x in ("weight", "bias")], "conv3/kernel is miss"),
        (lambda a: [a.pop(f"features.0.{x}") for x in ("weight", "bias")], "conv1/kernel is miss"),
        (lambda a: a.update({"classifier.6.weight": np.ones((62, 256), int)}), "dtype int64"),
        (lambda a: a.update({"classifier.6.bias": np.ones(3, "f4")}), r"has shape \(3,\)"),
        (lambda a: a.update({"classifier.7.weight": np.ones(3, "f4")}), "'classifier.7.weight' b"),
    ],
    ids=["half a layer", "half the last", "a middle one", "the first", "integers", "bias", "more"],
)
def test_a_damaged_file_is_no_shorter_one(arrays, change, finding):
    changed = dict(arrays)
    change(changed)
    with pytest.raises(WeightsError, match=finding):
        loaded(torch_zip(changed), TORCH)


def test_what_belongs_nowhere_may_only_come_after_all_that_is_used(arrays):
    """Batch normalisation, or a deeper network's convolution, changes what is above it."""
    trunk = without(arrays, "classifier")
    after = {**trunk, "head.weight": np.ones(3, np.float32)}
    assert "'head.weight' is not used" in loaded(torch_zip(after), TORCH).audit.notes
    between = {}
    for key, value in trunk.items():
        between[key] = value
        if key == "features.3.bias":
            between["features.4.weight"] = np.ones(12, np.float32)
    with pytest.raises(WeightsError) as caught:
        loaded(torch_zip(between), TORCH)
    assert "'features.4.weight' belongs to no parameter" in caught.value.findings


def test_a_network_that_shares_its_first_layers_is_another():
    """VGG-19 in torchvision's numbering fits VGG-16 up to conv3_3."""
    blobs, numbers = random_blobs(VGG), [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]
    names = [n for n in blobs if n.startswith("conv")]
    deeper = [n for n in names for _ in range(2 if n in ("conv3_3", "conv4_3", "conv5_3") else 1)]
    arrays = {}
    for number, name in zip(numbers, deeper, strict=True):
        arrays[f"features.{number}.weight"], arrays[f"features.{number}.bias"] = blobs[name]
    with pytest.raises(WeightsError, match="does not fit network 'vgg16'"):
        loaded(torch_zip(arrays), VGG)


@pytest.fixture
def trunk_file(tmp_path, monkeypatch):
    monkeypatch.setenv("MPP_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(NETWORKS, "alexnet_torchvision", TORCH)
    file = tmp_path / "trunk.npz"
    file.write_bytes(npz(without(torch_arrays(random_blobs(TORCH), TORCH), "classifier")))
    return file


def test_the_wanted_layer_must_be_there(trunk_file):
    network = load_network("alexnet_torchvision", trunk_file, "pool5")
    assert network.spec == load_network("alexnet_torchvision", trunk_file).spec
    with pytest.raises(WeightsError, match="the npz file has no layer 'fc7': the file s"):
        load_network("alexnet_torchvision", trunk_file, "fc7")
    with pytest.raises(ValueError, match="network 'alexnet_torchvision' has no layer 'fc9'"):
        load_network("alexnet_torchvision", trunk_file, "fc9")
    with pytest.raises(ValueError, match="layer"):
        mpp.load_network("sift", layer="fc7")


def test_a_shorter_network_in_our_own_form(tmp_path, trunk_file):
    network, audit = load_audited("alexnet_torchvision", trunk_file)
    folder = save_network(network, tmp_path / "own")
    again, noted = load_audited("alexnet_torchvision", folder)
    assert again.spec == network.spec
    assert again.spec.lacking == network.spec.lacking
    assert again.weights_sha256 == network.weights_sha256
    jax.tree.map(np.testing.assert_array_equal, again, network)
    assert noted.notes[0] == audit.notes[0]
    imported, _ = import_weights(trunk_file, "alexnet_torchvision")
    for place in (trunk_file, folder, imported):
        found = verify_weights(place)
        assert found.networks == ("alexnet_torchvision",)
        assert found.problem is None
    assert load_network("alexnet_torchvision").spec == network.spec


def test_where_a_file_ends_is_no_other_code_of_a_users_network(monkeypatch):
    spec = dataclasses.replace(
        TORCH, name="mine", files=dataclasses.replace(TORCH.files, places=())
    )
    monkeypatch.setitem(NETWORKS, "mine", spec)
    config = Run(pooling=("mpp",))
    assert code_of(config, spec.up_to("pool5")) == code_of(config, spec) != {}


# ------------------------------------------------------------------ .npz


def test_npz_in_flax_names(arrays):
    blobs = native(TORCH, random_blobs(TORCH))
    names = dict(TORCH.files.flax)
    named = {}
    for key, value in blobs.items():
        layer, leaf = key.split("/")
        if layer in names:
            named[f"params/{names[layer]}/{leaf}"] = np.asfortranarray(value)
    found = loaded(npz(named), TORCH)
    whole = loaded(npz(blobs), TORCH)
    assert found.spec.default_layer == "pool5"
    assert whole.spec == TORCH
    np.testing.assert_array_equal(found.mean, loaded(torch_zip(arrays), TORCH).mean)
    for name, leaves in found.params.items():
        jax.tree.map(np.testing.assert_array_equal, leaves, whole.params[name])
    with pytest.raises(WeightsError, match="conv1/kernel is stored twice, as 'conv1/kernel' a"):
        loaded(npz({**blobs, "AlexNet_0/Conv_0/kernel": blobs["conv1/kernel"]}), TORCH)


def test_npz_archives_that_lie_or_hold_objects(tmp_path):
    for held, message in (
        ({"a": np.array([{}], object)}, "'a.npy' is of object"),
        ({"a": np.array(["x"])}, "'a.npy' is of <U1"),
    ):
        with pytest.raises(WeightsError, match=message):
            parse_weights(npz(held), TORCH)
    sound = npz({"conv1/kernel": np.zeros((4, 4), np.float32)})
    for shape in (b"(4, 5)", b"(9, 9)", b"(-4,4)"[:6]):
        with pytest.raises(WeightsError, match="damaged"):
            parse_weights(sound.replace(b"(4, 4)", shape), TORCH)


def test_the_real_convolutions_of_alexnet(shared_dir):
    file = shared_dir / "data" / "weights" / "alexnet_torchvision_conv.npz"
    network, audit = load_audited("alexnet_torchvision", file, "pool5")
    assert network.spec.layer() == NETWORKS["alexnet_torchvision"].layer("pool5")
    assert "'NetLinLayer_0/Conv_0/kernel' is not used" in audit.notes
    kernels = [layer for layer in network.spec.layers if isinstance(layer, Conv)]
    assert sum(math.prod(row.shape) for row in audit.rows) == 2_469_696
    assert [layer.features for layer in kernels] == [64, 192, 384, 256, 256]
