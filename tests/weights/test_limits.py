"""Files of few bytes that ask for much work, and sound ones at the edge of a format."""

import collections
import dataclasses
import io
import math
import pickle
import struct
import tracemalloc
import types
import zipfile
import zlib

import jax
import numpy as np
import pytest
from helpers.mat_files import mat_array, mat_element, mat_file
from helpers.nets_files import (
    caffemodel,
    dense_names,
    matconvnet_layers,
    narrow,
    random_blobs,
    simplenn,
    torch_zip,
)
from helpers.weights_samples import BUDGET, CAFFE_BLOBS, CAFFE_TINY

from mpp_jax.nets import NETWORKS, random_network
from mpp_jax.weights import manage
from mpp_jax.weights.caffe_schema import NetParameter
from mpp_jax.weights.caffemodel import read_caffemodel
from mpp_jax.weights.convert import convert
from mpp_jax.weights.mat5 import read_mat5
from mpp_jax.weights.matconvnet import read_matconvnet
from mpp_jax.weights.native import read_native, save_network
from mpp_jax.weights.source import WeightsError
from mpp_jax.weights.torch_file import LEGACY_MAGIC, read_torch


def field(number, data):
    """Return a length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(n):
    low, n = n & 127, n >> 7
    return bytes([low | 128]) + varint(n) if n else bytes([low])


MANY = 300_000
CONV = field(1, b"conv1") + field(2, b"Convolution")


@pytest.mark.parametrize(
    "model",
    [
        field(100, CONV + field(7, field(7, field(1, b"\x01" * MANY)))),
        field(100, CONV + field(7, field(7, b"\x08\x01" * MANY))),
        field(100, CONV + field(7, b"\x2a\x00" * MANY)),
        field(100, CONV + field(106, field(4, b"\x01" * MANY))),
        field(2, field(1, b"\x92\x03\x00" * MANY)),
    ],
    ids=["packed dims", "dims", "empty data", "kernel sizes", "V0 blobs"],
)
def test_caffe_objects_below_the_layers_are_counted_before_parsing(model):
    with pytest.raises(WeightsError, match="too many layers or fields"):
        read_caffemodel(field(1, b"net") + model)


@pytest.mark.parametrize("count", [0, 1])
def test_a_struct_of_millions_of_fields_costs_no_more_than_its_bytes(count):
    names, size = mat_element(1, bytes(2_000_000)), mat_element(5, struct.pack("<i", 1))
    packed = zlib.compress(mat_array(2, (count, count), size + names, b"net"))
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError):  # refused, or no variable that is a network
            read_matconvnet(mat_file(mat_element(15, packed)), CAFFE_TINY, BUDGET)
        assert tracemalloc.get_traced_memory()[1] < 6 * 2_000_000
    finally:
        tracemalloc.stop()


def test_more_cells_than_any_model_has_are_refused_at_once():
    cells = mat_array(1, (1, MANY), mat_element(14, b"") * MANY)
    with pytest.raises(WeightsError, match="too many arrays"):
        read_mat5(mat_file(cells), BUDGET)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_compressions_that_torch_never_uses_are_refused_unread(method):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}." * 1000)
    data = bytearray(file.getvalue())
    at = data.index(b"data.pkl") + len("data.pkl")
    data[at + 12 : at + 40 : 3] = b"\x55" * len(data[at + 12 : at + 40 : 3])
    with pytest.raises(WeightsError, match="compressed in a way that torch never uses"):
        read_torch(bytes(data), BUDGET)


# ------------------------------------------------------------------ sound, and unusual


def legacy_checkpoint(state, beside, monkeypatch):
    """Return a file in torch's legacy container: float32 arrays in a state dict and beside it."""
    fakes = {"torch": types.ModuleType("torch"), "torch._utils": types.ModuleType("torch._utils")}
    storage = type("FloatStorage", (), {"__module__": "torch", "__qualname__": "FloatStorage"})

    def rebuild(*_):
        raise AssertionError("never called")

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    fakes["torch"].FloatStorage, fakes["torch._utils"]._rebuild_tensor_v2 = storage, rebuild
    numbers = {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if not isinstance(obj, memoryview):
                return None
            value = np.asarray(obj)
            numbers[str(id(obj.obj))] = value
            return ("storage", storage, str(id(obj.obj)), "cpu", value.size, None)

        def reducer_override(self, obj):
            if not isinstance(obj, np.ndarray):
                return NotImplemented
            strides = tuple(n // 4 for n in obj.strides)
            hooks = collections.OrderedDict()
            return rebuild, (memoryview(obj.reshape(-1)), 0, obj.shape, strides, False, hooks)

    file = io.BytesIO()
    with monkeypatch.context() as patch:
        for name, module in fakes.items():
            patch.setitem(__import__("sys").modules, name, module)
        for header in (LEGACY_MAGIC, 1001, {"little_endian": True}):
            pickle.dump(header, file, 2)
        Pickler(file, 2).dump({"state_dict": state, **beside})
        pickle.dump(sorted(numbers), file, 2)
    body = [struct.pack("<q", v.size) + v.tobytes() for _, v in sorted(numbers.items())]
    return file.getvalue() + b"".join(body)


def test_tensors_beside_a_legacy_state_dict(monkeypatch):
    weight, momentum = np.arange(6, dtype=np.float32), np.full(4, 7, np.float32)
    beside = {"epoch": 3, "optimizer": {"state": {0: {"momentum_buffer": momentum}}}}
    data = legacy_checkpoint({"module.a": weight}, beside, monkeypatch)
    arrays = read_torch(data, BUDGET).arrays
    assert list(arrays) == ["module.a"]
    np.testing.assert_array_equal(arrays["module.a"], weight)


def test_normalisation_constants_that_divide_by_zero_are_refused():
    sound = caffe_with_lrn()
    assert convert(read_caffemodel(sound), CAFFE_TINY).spec.layers[2].alpha == 1e-4
    for bad in ({"local_size": 0}, {"local_size": 4}, {"k": 0.0}, {"alpha": math.nan}):
        with pytest.raises(WeightsError, match="'norm1' has impossible normalisation constants: s"):
            convert(read_caffemodel(caffe_with_lrn(**bad)), CAFFE_TINY)


def caffe_with_lrn(**constants):
    net = NetParameter()
    net.ParseFromString(caffemodel(CAFFE_BLOBS, dense=dense_names(CAFFE_TINY), layers=LAYERS))
    norm = next(layer for layer in net.layer if layer.name == "norm1")
    for key, value in constants.items():
        setattr(norm.lrn_param, key, value)
    return net.SerializeToString()


def tiny_layers():
    kinds = {"Conv": "Convolution", "Pool": "Pooling", "LRN": "LRN"}
    for layer in CAFFE_TINY.layers:
        kind = "InnerProduct" if getattr(layer, "dense", False) else kinds[type(layer).__name__]
        values = {
            "Convolution": lambda c: {
                "kernel_size": c.kernel,
                "stride": c.stride,
                "pad": c.pad,
                "group": c.groups,
            },
            "InnerProduct": lambda c: {"num_output": c.features},
            "Pooling": lambda p: {"pool": 0, "kernel_size": p.window, "stride": p.stride},
            "LRN": lambda n: {"local_size": n.size, "alpha": n.alpha, "beta": n.beta},
        }[kind](layer)
        yield kind, layer.name, values


LAYERS = list(tiny_layers())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stride": np.array([[np.inf, np.inf]])}, "'conv1' has stride -1, 'conv1' has 4"),
        ({"stride": np.array([[4.5, 4.5]])}, "'conv1' has stride -1, 'conv1' has 4"),
        ({"pad": np.array([[np.nan] * 4])}, "'conv1' has pad -1, 'conv1' has 0"),
        ({"weights": np.ones((2, 2))}, "layer 'conv1' of the MatConvNet model lacks filters"),
    ],
    ids=["infinite", "fraction", "nan", "numbers for a cell"],
)
def test_matconvnet_fields_that_are_no_sizes(change, message, monkeypatch):
    def changed(*arguments, **options):
        first, *rest = matconvnet_layers(*arguments, **options)
        return [first | change, *rest]

    monkeypatch.setattr("helpers.nets_files.matconvnet_layers", changed)
    data = simplenn(CAFFE_TINY, CAFFE_BLOBS, np.full((1, 1, 3), 110.0))
    with pytest.raises(WeightsError, match=message):
        convert(read_matconvnet(data, CAFFE_TINY, BUDGET), CAFFE_TINY)


def test_the_message_holds_five_findings_and_the_error_all():
    net = NETWORKS["vgg16"]
    blobs = random_blobs(narrow(net, 64))
    with pytest.raises(WeightsError) as caught:
        convert(read_caffemodel(caffemodel(blobs, dense=dense_names(net))), net)
    for name in blobs:
        for part in (0, 1):
            assert any(f"'{name}/{part}' has shape" in text for text in caught.value.findings)
    assert len(caught.value.findings) == 32
    message = str(caught.value)
    assert message.count("has shape") == 5
    assert message.endswith("; and 27 more (weights verify lists all)")


def test_a_mean_picture_that_is_not_finite_is_refused_in_our_own_form(tmp_path):
    image = np.full((2, 2, 3), np.nan, np.float32)
    network = dataclasses.replace(random_network(jax.random.key(0), CAFFE_TINY), mean_image=image)
    folder = save_network(network, tmp_path / "own")
    with pytest.raises(WeightsError, match="the mean picture is not finite"):
        read_native(folder, CAFFE_TINY)


# ------------------------------------------------------------------ verify


@pytest.fixture
def parsed(monkeypatch):
    """Collect the names of the networks that `verify_weights` parses a file for."""
    calls, parse = [], manage.parse_weights

    def counted(data, spec):
        calls.append(spec.name)
        return parse(data, spec)

    monkeypatch.setattr(manage, "parse_weights", counted)
    return calls


def test_verify_reads_a_large_file_once(tmp_path, parsed):
    path = tmp_path / "x.pth"
    path.write_bytes(torch_zip({"layer.weight": np.zeros((3, 3), np.float32)}))
    assert "fits no network" in manage.verify_weights(path).problem
    assert len(parsed) == 1


def test_verify_tries_every_network_on_a_file_without_names(tmp_path, parsed, monkeypatch):
    few = {name: narrow(NETWORKS[name], 16) for name in ("cnn_s", "caffenet")}
    monkeypatch.setattr(manage, "NETWORKS", few)

    def nameless(*arguments, **options):
        return [layer | {"name": ""} for layer in matconvnet_layers(*arguments, **options)]

    monkeypatch.setattr("helpers.nets_files.matconvnet_layers", nameless)
    path = tmp_path / "x.mat"
    mean = np.full((1, 1, 3), 110.0)
    path.write_bytes(simplenn(few["caffenet"], random_blobs(few["caffenet"]), mean))
    found = manage.verify_weights(path)
    assert found.networks == ("caffenet",)
    assert found.problem is None
    assert sorted(parsed) == ["caffenet", "cnn_s"]


def test_verify_of_something_that_is_no_file():
    with pytest.raises(WeightsError, match="neither a file nor a folder"):
        manage.verify_weights("/dev/null")
