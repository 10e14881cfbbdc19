"""Networks of users' files: what a description must be, and what it is good for."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from helpers.nets_files import caffemodel, dense_names, random_blobs, torch_arrays, torch_zip
from helpers.toy_cli import cli, ok, refused, tiny

import mpp_jax as mpp
from mpp_jax.nets import (
    LRN,
    NETWORKS,
    Conv,
    Fire,
    GlobalMean,
    NetSpec,
    Pool,
    Preprocessing,
    WeightFiles,
    WeightPlace,
    register_network,
)
from mpp_jax.nets.checks import check_spec
from mpp_jax.pooling import POOLINGS, load_plugin
from mpp_jax.pooling.notation import canonical
from mpp_jax.weights import PLACES, import_weights, list_weights
from mpp_jax.weights.fit import fit
from mpp_jax.weights.load import load_network
from mpp_jax.weights.safetensors import read_safetensors

COLOURS = Preprocessing("RGB", (120.0, 120.0, 120.0))
PLACE = WeightPlace("mine", "mine.pth", ("https://x.org/mine.pth",), "sha256", "0123abcd", "torch")
SPEC = NetSpec(
    name="mine",
    side=35,
    layers=(
        Conv("conv1", 8, 5, stride=2),
        Pool("pool1", 3, 2),
        Fire("fire2", 6, 8, 8),
        Conv("fc3", 16, 7, dense=True),
    ),
    default_layer="fc3",
    descriptor_layers=("conv1", "fire2", "fc3"),
    preprocessing=(("native", COLOURS),),
)


@pytest.fixture(autouse=True)
def _registries(monkeypatch, tmp_path):
    """Begin with the networks and variants of the package, and an empty cache."""
    monkeypatch.setenv("MPP_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("mpp_jax.memory.keep_freed_memory", lambda: False)
    before = dict(NETWORKS), dict(POOLINGS)
    yield
    for registry, content in zip((NETWORKS, POOLINGS), before, strict=True):
        registry.clear()
        registry.update(content)


@pytest.fixture
def example(tmp_path) -> Path:
    """Write the file of `register_network`'s documentation."""
    text = register_network.__doc__ or ""
    code = text[text.index("        import mpp_jax") :].split("\n\n    With these lines")[0]
    place = tmp_path / "tiny.py"
    place.write_text(re.sub("^ {8}", "", code, flags=re.MULTILINE) + "\n")
    return place


def test_the_documentations_function_is_a_plugin(tmp_path):
    text = register_network.__doc__ or ""
    code = text[text.index("        import flax.linen") :].split("\n\n    Args:")[0]
    place = tmp_path / "mine.py"
    place.write_text(re.sub("^ {8}", "", code, flags=re.MULTILINE) + "\n")
    assert load_plugin(place) == ("mine",)
    which = NETWORKS.pop("mine").layer()
    assert (which.name, which.channels, which.stride, which.window) == ("top", 32, 4, 8)


def read_example(example: Path) -> NetSpec:
    """Load the documentation's network and forget it again."""
    assert load_plugin(example) == ("tiny",)
    return NETWORKS.pop("tiny")


def native_arrays(blobs) -> dict[str, np.ndarray]:
    kernels = {f"{name}/kernel": w.transpose(2, 3, 1, 0).copy() for name, (w, _) in blobs.items()}
    return kernels | {f"{name}/bias": bias for name, (_, bias) in blobs.items()}


# --- registering --------------------------------------------------------------------------------


def test_a_function_or_a_description():
    @mpp.register_network
    def mine():
        return SPEC

    assert mine() is SPEC
    assert NETWORKS["mine"] is SPEC
    assert list(NETWORKS)[-1] == "mine"
    other = dataclasses.replace(SPEC, name="other")
    assert mpp.register_network(other) is other
    assert mpp.load_network.__module__ == "mpp_jax.weights.load"
    assert mpp.NetSpec is NetSpec


def test_built_in_networks_pass_the_checks():
    for spec in NETWORKS.values():
        check_spec(spec)


def change(**fields):
    return dataclasses.replace(SPEC, **fields)


def layers(*new):
    """Return the description with other layers below its first fully connected one."""
    return change(layers=(*new, Conv("fc3", 16, 1, dense=True)), descriptor_layers=("fc3",))


def files(**fields):
    return change(
        files=WeightFiles(**fields),
        preprocessing=tuple((name, COLOURS) for name in ("native", "caffe", "torchvision")),
    )


KEYS = (
    ("conv1", "a"),
    ("fire2/squeeze1x1", "b"),
    ("fire2/expand1x1", "c"),
    ("fire2/expand3x3", "d"),
    ("fc3", "e"),
)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (change(name="caffenet"), "name: there is a network 'caffenet' already"),
        (change(name="sift"), "name: there is a network 'sift' already"),
        (change(name="My-Net"), "name: must be lower-case letters, digits and _ .*got 'My-Net'"),
        (change(name="cnn"), "not 'cnn', which means any network"),
        (change(aliases=("Mine",)), "aliases: must be lower-case letters"),
        (change(aliases=("alex")), "aliases: network 'mine': must be a tuple, got 'alex'"),
        (change(descriptor_layers=("fc3")), "descriptor_layers: .* must be a tuple, got 'fc3'"),
        (change(layers=list(SPEC.layers)), r"layers: .* must be a tuple, got \[Conv"),
        (change(layers=()), "layers: .* there is no convolution"),
        (layers("conv1"), "layers: .* 'conv1' is no layer; take Conv"),
        (layers(Conv("conv-1", 8, 5)), "names are letters, digits and _, .* got 'conv-1'"),
        (layers(Pool("Sift", 2, 2)), "none of default, sift; got 'Sift'"),
        (layers(Pool("FC3", 2, 2)), "two are named 'fc3'"),
        (layers(Conv("conv1", 8, 0)), "kernel of 'conv1' must be from 1, got 0"),
        (layers(Conv("conv1", 8, 3, pad=-1)), "pad of 'conv1' must be from 0 or 'same', got -1"),
        (layers(Pool("pool1", 3, 0.5)), "stride of 'pool1' must be from 1, got 0.5"),
        (layers(Conv("conv1", 8, 3, groups=2)), "'conv1' takes 3 channels and gives 8; both must"),
        (layers(Conv("conv1", 8, 99)), "side: .* 35 pixels leaves layer 'conv1' no position"),
        (layers(Conv("conv1", 8, 1, pad=90)), "layers: .* 'fc3' has more padding than picture"),
        (change(side=0), "side and averaged_stride are whole numbers of pixels from 1"),
        (change(averaged_stride=0), "side and averaged_stride are whole"),
        (change(side=20), "side: network 'mine': a picture of 20 pixels leaves layer 'fc3' no pos"),
        (change(pooling="round"), "pooling: .* must be 'floor' or 'ceil', not 'round'"),
        (change(default_layer="pool1"), "default_layer: .* 'pool1' is none of the descriptor_l"),
        (change(descriptor_layers=()), "descriptor_layers: network 'mine': name a layer"),
        (change(descriptor_layers=("fc3", "fc4")), "name some of the layers, .* got 'fc4'"),
        (change(descriptor_layers=("fc3", "fc3")), "each once; got 'fc3'"),
        (change(averaged=("pool1",)), "averaged: .* 'pool1' is none of the descriptor_layers"),
        (change(preprocessing=()), r"not say what files in .* own names .* add \('native', Pre"),
        (change(preprocessing=("native", COLOURS)), "wants pairs, got 'native'"),
        (change(preprocessing=(("native", 3),)), "wants a Preprocessing .* got 3"),
        (change(preprocessing=(("native", Preprocessing("RGB", (1.0,))),)), "of three colours"),
        (
            change(preprocessing=(("native", dataclasses.replace(COLOURS, divisor=0)),)),
            "divides by no 0",
        ),
        (
            change(preprocessing=(("native", dataclasses.replace(COLOURS, mean=[1, 2, 3])),)),
            "give tuples, not lists",
        ),
        (change(preprocessing=(("keras", COLOURS),)), "conventions are caffe, matconvnet, torchv"),
        (change(files=WeightFiles(caffe=True)), "does not say what caffe files expect; add 'caf"),
        (change(files=WeightFiles(torchvision=KEYS)), "does not say what torchvision files"),
        (change(files=None), "files: .* must be a WeightFiles, got None"),
        (files(torchvision=dict(KEYS)), "torchvision must be a tuple"),
        (files(torchvision=KEYS[1:]), "torchvision must name each of conv1, fire2/squeeze1x1"),
        (files(torchvision=(*KEYS[1:], ("conv1", "e"))), "gives two layers the module 'e'"),
        (files(batch_norms=(("conv1", "n"),)), "batch_norms need torchvision"),
        (files(torchvision=KEYS, batch_norms=(("conv1", "e"),)), "two layers the module 'e'"),
        (files(torchvision=KEYS, batch_norms=(("pool1", "n"),)), "batch_norms: 'pool1' is none"),
        (
            files(torchvision=KEYS, batch_norms=(("conv1", "n"), ("conv1", "m"))),
            "batch_norms gives layer 'conv1' two",
        ),
        (files(batch_norm_epsilon=0.0), "batch_norm_epsilon must be above 0"),
        (files(caffe_names=(("conv9", "x"),)), "caffe_names: 'conv9' is none of conv1"),
        (files(places=("mine",)), "places must be WeightPlace, got 'mine'"),
        (
            files(places=(dataclasses.replace(PLACE, name="vgg16"),)),
            "there are weights 'vgg16' already",
        ),
        (files(places=(PLACE, PLACE)), "there are weights 'mine' already"),
        (
            files(places=(dataclasses.replace(PLACE, algorithm="crc"),)),
            "must be md5, sha1, sha256 in lower-case hexadecimal digits; got crc",
        ),
        (files(places=(dataclasses.replace(PLACE, digest="0" * 65),)), "the digest of 'mine' must"),
        (files(places=(dataclasses.replace(PLACE, filename="../x"),)), "needs a plain file name"),
        (files(places=(dataclasses.replace(PLACE, urls=()),)), "at least one address"),
        (3, "register_network wants a NetSpec or FunctionNet, or a .* got 3"),
        (lambda side: SPEC, "wants a NetSpec .* this one has arguments"),
        (lambda: 3, "wants a NetSpec .* this one returned 3"),
    ],
)
def test_unsound_descriptions_are_refused(spec, message):
    before = dict(NETWORKS)
    with pytest.raises(ValueError, match=message) as caught:
        register_network(spec)
    assert "\n" not in str(caught.value)
    assert before == NETWORKS


def test_sound_variety():
    """What is unusual but right: no pooling, averages, global means, groups, public files."""
    register_network(
        NetSpec(
            name="odd",
            side=16,
            layers=(
                Conv("a", 6, 3, pad=1, groups=3),
                LRN("norm"),
                Conv("b", 4, 3, groups=2),
                GlobalMean("mean"),
            ),
            default_layer="b",
            descriptor_layers=("a", "b", "mean"),
            preprocessing=(("native", COLOURS), ("caffe", COLOURS)),
            averaged=("b",),
            averaged_stride=4,
            aliases=("strange",),
            files=WeightFiles(caffe=True, places=(PLACE,)),
        )
    )
    assert mpp.load_network("caffenet_mini").spec.name == "caffenet_mini"
    assert NETWORKS["odd"].positions(24) == 3


# --- what the description is good for -----------------------------------------------------------


def test_descriptions_are_cheap_static_arguments():
    """What files look like is neither hashed nor compared."""
    public = files(torchvision=KEYS, places=(PLACE,), caffe=True)
    assert hash(public) == hash(dataclasses.replace(public, files=WeightFiles(), aliases=("x",)))
    assert public == dataclasses.replace(public, files=WeightFiles())
    assert "mine.pth" not in repr(public)


def test_places_and_aliases_follow_the_registry():
    names = list(PLACES)
    register_network(dataclasses.replace(files(places=(PLACE,)), aliases=("ours",)))
    assert list(PLACES) == [*names, "mine"]
    assert PLACES["mine"] is PLACE
    row = next(row for row in list_weights() if row["name"] == "mine")
    assert (row["network"], row["state"], row["url"]) == ("mine", "absent", PLACE.urls[0])
    assert canonical("MPP(Ours-Fire2)", NETWORKS["mine"], "fc3") == "mpp(fire2)"
    with pytest.raises(ValueError, match="'alex-fire2' is no layer of this run's network 'mine'"):
        canonical("MPP(Alex-Fire2)", NETWORKS["mine"], "fc3")


def test_every_format_that_is_stated_is_read(tmp_path, example):
    """The same weights in native, torch and Caffe names, and in this package's folder."""
    spec = dataclasses.replace(
        read_example(example),
        preprocessing=tuple((name, COLOURS) for name in ("native", "torchvision", "caffe")),
        files=WeightFiles(
            caffe=True,
            caffe_names=(("fc3", "ip1"),),
            torchvision=(("conv1", "a.0"), ("conv2", "a.1"), ("fc3", "b")),
        ),
    )
    register_network(spec)
    blobs = random_blobs(spec)
    torch = torch_arrays(blobs, spec)
    renamed = {"ip1" if name == "fc3" else name: blob for name, blob in blobs.items()}
    contents = {
        "native.safetensors": safetensors.numpy.save(native_arrays(blobs)),
        "torch.safetensors": safetensors.numpy.save(torch),
        "torch.pth": torch_zip(torch),
        "model.caffemodel": caffemodel(renamed, dense=dense_names(spec) | {"ip1"}),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    networks = [load_network("tiny", tmp_path / name) for name in contents]
    folder, _ = import_weights(tmp_path / "native.safetensors", "tiny")
    assert folder == tmp_path / "cache" / "networks" / "tiny"
    for network in (*networks, load_network("tiny", folder), load_network("tiny")):
        assert set(network.params) == set(blobs)
        for name, (weights, bias) in blobs.items():
            want = weights.transpose(2, 3, 1, 0)
            np.testing.assert_array_equal(network.params[name]["kernel"], want)
            np.testing.assert_array_equal(network.params[name]["bias"], bias)
        np.testing.assert_array_equal(network.mean, COLOURS.mean)


def test_a_files_audit_names_the_users_network(tmp_path, example):
    spec = read_example(example)
    register_network(spec)
    file = tmp_path / "w.safetensors"
    file.write_bytes(safetensors.numpy.save(torch_arrays(random_blobs(spec), spec)))
    with pytest.raises(ValueError, match=r"does not fit network 'vgg16' \(it fits 'tiny'\)"):
        load_network("vgg16", file)
    other = dataclasses.replace(spec, files=WeightFiles())
    errors = fit(read_safetensors(file.read_bytes()), other).errors
    assert errors == ("files of this network in torchvision names are not known",)


# --- the command line ---------------------------------------------------------------------------


def test_the_documentations_network_goes_through_everything(tmp_path, example):
    """From a plug-in and a file of native names to a report, and back by every command."""
    spec = read_example(example)
    file = tmp_path / "tiny.safetensors"
    file.write_bytes(safetensors.numpy.save(native_arrays(random_blobs(spec))))
    data, out = tiny(tmp_path / "data", train=3), tmp_path / "out"
    plugin = ("--plugin", example)
    run = ("run", data, "--network", "tiny", "--scales", "1", "--pca", "4", "--components", "2")

    def forget():
        NETWORKS.pop("tiny", None)

    line = refused(*run, "--out", out, "--weights", file)
    assert "network: 'tiny' is unknown" in line
    assert "needs --plugin FILE" in line
    pooling = ("--samples", "100", "--pooling", "avg,mpp(Tiny-Conv2)")
    ok(*run, *plugin, "--out", out, "--weights", file, *pooling)
    results = json.loads((out / "metrics.json").read_text())["results"]
    assert set(results) == {"avg", "mpp(conv2)"}
    forget()
    picture = next((data / "test").rglob("*.png"))
    assert "network: 'tiny' is unknown" in refused("predict", out / "model", picture)
    ok("predict", out / "model", picture, *plugin)
    forget()
    assert "fits: tiny" in ok("weights", "verify", file, *plugin).stdout
    forget()
    assert "fits: no network" in cli("weights", "verify", file).stdout
    assert "conv1/kernel" in ok("weights", "import", file, "--network", "tiny", *plugin).stdout
    forget()
    listed = ok("weights", "list", *plugin).stdout
    assert "tiny (imported)" in listed
    forget()
    table = json.loads(ok("geometry", "tiny", "--scales", "1-3", *plugin, "--json").stdout)
    assert [row["positions"] for row in table] == [1, 25, 100]


def test_a_plugin_may_register_variants_and_networks(tmp_path, example):
    code = "\nimport jax.numpy as jnp\n\n@mpp.register_pooling('nothing', codebook=None)\n"
    example.write_text(example.read_text() + code + "def nothing(evidence, codebook):\n    pass\n")
    assert load_plugin(example) == ("nothing", "tiny")
    assert load_plugin(example) == ("nothing", "tiny")  # once more, unchanged
    example.write_text(example.read_text().replace("side=35", "side=43"))
    with pytest.raises(ValueError, match="fails: ValueError: name: there is a network 'tiny' al"):
        load_plugin(example)
    (tmp_path / "empty.py").write_text("")
    wanted = "no variant and no network; it must call register_pooling or register_network"
    with pytest.raises(ValueError, match=wanted):
        load_plugin(tmp_path / "empty.py")
