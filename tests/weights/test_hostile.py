"""Malicious files, one trick each: a clear error, in bounded memory and time, nothing executed."""

import io
import json
import os
import pickle
import pickletools
import struct
import zipfile
import zlib

import numpy as np
import pytest
from helpers.mat_files import mat_array, mat_element, mat_file
from helpers.nets_files import narrow, torch_zip
from helpers.weights_samples import BUDGET, FILES, SQUEEZENET, deep_compression

from mpp_jax.files import seal
from mpp_jax.nets import NETWORKS
from mpp_jax.weights.caffe_schema import NetParameter
from mpp_jax.weights.caffemodel import read_caffemodel
from mpp_jax.weights.convert import convert
from mpp_jax.weights.deep_compression import read_deep_compression
from mpp_jax.weights.load import as_network, load_network, read_converted
from mpp_jax.weights.mat5 import read_mat5
from mpp_jax.weights.native import save_network
from mpp_jax.weights.safetensors import read_safetensors
from mpp_jax.weights.source import WeightsError
from mpp_jax.weights.torch_file import LEGACY_MAGIC, read_torch


class Evil:
    def __reduce__(self):
        return os.system, ("echo executed > executed.txt",)


def zip_with(program, extra=()):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", program)
        for name, data in extra:
            archive.writestr(name, data)
    return file.getvalue()


@pytest.mark.parametrize(
    "obj",
    [Evil(), {"features.0.weight": Evil()}, [Evil()], os.getcwd, eval],
    ids=["bare", "inside", "list", "function", "builtin"],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_runs_code_is_refused_by_name(tmp_path, monkeypatch, obj, protocol):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    path.write_bytes(zip_with(pickle.dumps(obj, protocol=protocol)))
    with pytest.raises(
        WeightsError, match=r"wants to use '(posix|builtins|nt|__builtin__)\.\w+'.*nothing was"
    ):
        load_network("alexnet_torchvision", path)
    legacy = pickle.dumps(LEGACY_MAGIC, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    path.write_bytes(legacy + pickle.dumps(obj, protocol=protocol))
    with pytest.raises(WeightsError, match="wants to use"):
        load_network("alexnet_torchvision", path)
    assert [p.name for p in tmp_path.iterdir()] == ["evil.pth"]


def test_allow_listed_names_cannot_be_called_with_anything_else():
    for program in (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x02K\x03K\x04tR.",
        b"\x80\x02ccollections\nOrderedDict\n(]K\x01atR.",
        b"\x80\x02ctorch\nFloatStorage\n)R.",
        b"\x80\x02ctorch\nFloatStorage\n)\x81.",  # NEWOBJ
        b"\x80\x02(K\x01ios\nsystem\n.",  # INST
        b"\x80\x02}(X\x01\x00\x00\x00aK\x01u.",
    ):
        with pytest.raises(WeightsError):
            read_torch(zip_with(program), BUDGET)


def test_pickles_that_would_exhaust_an_interpreter():
    deep = b"\x80\x02}" + b"(" * 50_000 + b"K\x01" + b"t" * 50_000 + b"K\x01s."
    memo = b"\x80\x02}r\xff\xff\xff\xffs."
    long_integer = b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\x01" * 100 + b"."
    marks = b"\x80\x02" + b"(" * 300_000 + b"."
    endless = b"\x80\x02" + b"]0" * 400_000 + b"}."
    for program in (deep, memo, long_integer, marks, endless, b"", b"\x80", b"."):
        with pytest.raises(WeightsError):
            read_torch(zip_with(program), BUDGET)


def test_zip_bombs():
    zeros = bytes(BUDGET + 1)
    for file in (
        zip_with(b"\x80\x02}.", [("archive/data/0", zeros)]),
        zip_with(zeros),
        zip_with(b"\x80\x02}.", [(f"archive/data/{i}", b"") for i in range(20_001)]),
    ):
        assert len(file) < BUDGET // 4
        with pytest.raises(WeightsError, match="declares more data than any network needs"):
            read_torch(file, BUDGET)


def test_a_zip_that_lies_about_its_sizes():
    data = bytearray(FILES["torch-deflated"][0])
    directory = data.find(b"PK\x01\x02", data.find(b"archive/data/0"))
    for size in (0, 5, 1 << 20):
        lying = bytearray(data)
        struct.pack_into("<I", lying, directory + 24, size)
        with pytest.raises(WeightsError):
            read_torch(bytes(lying), BUDGET)


def test_tensors_larger_than_their_storage():
    program = torch_zip({"features.0.weight": np.zeros(4, np.float32)})
    with zipfile.ZipFile(io.BytesIO(program)) as archive:
        text = archive.read("archive/data.pkl")
        extra = [("archive/data/0", archive.read("archive/data/0"))]
    assert pickletools.dis(text, io.StringIO()) is None
    at = text.index(b"K\x04\x85")  # the shape (4,)
    for shape in (
        b"K\x05\x85",
        b"M\xff\xff\x85",
        b"J\xff\xff\xff\x7f\x85",
        b"J\xff\xff\xff\xff\x85",
    ):
        with pytest.raises(WeightsError):
            read_torch(zip_with(text[:at] + shape + text[at + 3 :], extra), BUDGET)


def test_caffe_shapes_that_do_not_fit_their_data():
    for dims in ([1 << 40, 1 << 40], [-1, 4], [4], [0], [2] * 40):
        net = NetParameter()
        blob = net.layer.add(name="conv1", type="Convolution").blobs.add()
        blob.shape.dim.extend(dims)
        blob.data.append(bytes(64))
        with pytest.raises(WeightsError, match="blob 'conv1/0' of the Caffe model declares shape"):
            read_caffemodel(net.SerializeToString())


def test_caffe_files_of_nothing_but_layers():
    with pytest.raises(WeightsError, match="too many layers or fields"):
        read_caffemodel(b"\x12\x00" * 2_000_000)
    inner = b"\x12\x00" * 200_000
    with pytest.raises(WeightsError, match="too many layers or fields"):
        read_caffemodel(b"\xa2\x06" + b"\xc0\x9a\x18" + inner[:0x060D40])
    with pytest.raises(WeightsError, match="a prototxt is not a caffemodel"):
        read_caffemodel(b"\x0a\x03net")
    with pytest.raises(WeightsError):
        read_caffemodel(b'name: "CaffeNet"\nlayer { name: "data" }\n')


def test_matlab_sizes_that_lie():
    numbers = mat_element(9, bytes(16))
    with pytest.raises(WeightsError, match="an array of 1000000 numbers holds 2"):
        read_mat5(mat_file(mat_array(6, (1000, 1000), numbers)), BUDGET)
    with pytest.raises(WeightsError, match="impossible dimensions"):
        read_mat5(mat_file(mat_array(6, (-1, 2), numbers)), BUDGET)
    with pytest.raises(WeightsError, match="a cell holds fewer than it declares"):
        read_mat5(mat_file(mat_array(1, (2**30, 2**30), b"")), BUDGET)
    bytes_as_doubles = mat_element(2, bytes(BUDGET // 4))
    with pytest.raises(WeightsError, match="declares more data"):
        read_mat5(mat_file(mat_array(6, (1, BUDGET // 4), bytes_as_doubles)), BUDGET)


def test_matlab_zip_bomb_nesting_and_hdf5():
    bomb = zlib.compress(bytes(100 << 20), 9)
    with pytest.raises(WeightsError, match="declares more data"):
        read_mat5(mat_file(mat_element(15, bomb)), BUDGET)
    nested = mat_array(6, (1, 1), mat_element(9, bytes(8)))
    for _ in range(60):
        nested = mat_array(1, (1, 1), nested)
    with pytest.raises(WeightsError, match="nested too deeply"):
        read_mat5(mat_file(nested), BUDGET)
    with pytest.raises(WeightsError, match="save it with '-v7'"):
        read_mat5(b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n", BUDGET)


def safetensors_file(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


@pytest.mark.parametrize(
    "file",
    [
        safetensors_file({"a": {"dtype": "F32", "shape": [2**39, 2**39], "data_offsets": [0, 8]}}),
        safetensors_file({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
        safetensors_file({"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}, bytes(8)),
        safetensors_file({"a": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}}, bytes(8)),
        safetensors_file(
            {"a": {"dtype": "F32", "shape": [1] * 40, "data_offsets": [0, 4]}}, bytes(4)
        ),
        safetensors_file({"a": {"dtype": "X9", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
        safetensors_file({"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12)),
        safetensors_file({"a": [1], "b": None}),
        safetensors_file(b'{"a": 1, "a": 2}'),
        safetensors_file(b"[" * 100_000),
        safetensors_file(b'{"a": ' + b"9" * 10_000 + b"}"),
        b"\xff" * 8 + b"{}",
    ],
    ids=range(12),
)
def test_safetensors_headers_that_lie(file):
    with pytest.raises(WeightsError):
        read_safetensors(file)


def test_overlapping_safetensors():
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    with pytest.raises(WeightsError, match="without gaps"):
        read_safetensors(safetensors_file({"a": entry, "b": entry}, bytes(8)))


def test_deep_compression_header(shared_dir, tmp_path):
    data = (shared_dir / "data" / "squeezenet" / "compressed_SqueezeNet.net").read_bytes()
    spec = NETWORKS["squeezenet"]
    for bit in range(0, 26 * 32, 5):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WeightsError):
            read_deep_compression(bytes(flipped), spec)
    path = tmp_path / "cut.net"
    path.write_bytes(data[:-1])
    message = rf"weights: {path}: Deep Compression file is truncated: 675762 bytes.*675763"
    with pytest.raises(WeightsError, match=message):
        load_network("squeezenet", path)
    with pytest.raises(WeightsError, match="is too long or its header is damaged"):
        read_deep_compression(data + b"\0", spec)
    codes = bytearray(data)
    codes[104 + 1024 + 4 * 96 + 20_000] = 0xFF  # gaps of conv1: the last index runs over
    source = read_deep_compression(bytes(data), spec)
    assert source.arrays["conv1/0"].shape == (96, 3, 7, 7)


def test_deep_compression_index_beyond_its_layer():
    data = bytearray(deep_compression(SQUEEZENET))
    outs = 6  # conv1 of the narrow network: 6 x 3 x 7 x 7, a ninth of it stored
    nnz = outs * 3 * 49 // 9
    start = 4 * 26 + 1024 + 4 * outs + nnz
    data[start : start + (nnz + 1) // 2] = b"\xff" * ((nnz + 1) // 2)
    with pytest.raises(
        WeightsError, match="layer 'conv1' stores a weight at index 1567, it has 882"
    ):
        read_deep_compression(bytes(data), SQUEEZENET)


# ------------------------------------------------------------------ own form, and paths


@pytest.fixture
def own(tmp_path):
    source = FILES["deep-compression"][1](FILES["deep-compression"][0])
    return save_network(as_network(convert(source, SQUEEZENET), "a" * 64), tmp_path / "own")


def write_sealed(folder, header):
    """Write lies that are no accident: the seal is right."""
    (folder / "network.json").write_text(json.dumps(header | {"seal": seal(header)}))


def test_damaged_own_form(own):
    header = json.loads((own / "network.json").read_text())
    for change in (
        {"format": "x"},
        {"version": 3},
        {"network": 7},
        {"structure": "x"},
        {"structure": [{"kind": "conv"}]},
        {"structure": [{"kind": "lrn", "name": "n", "lrn": {"name": "n", "alpha": "x"}}]},
        {"files": {}},
        {"files": header["files"] | {"more": "0" * 64}},
        {"files": header["files"] | dict.fromkeys(header["files"], "0" * 64)},
        {"network": "vgg16"},
    ):
        write_sealed(own, header | change)
        with pytest.raises(WeightsError):
            read_converted(own, SQUEEZENET)
    for text in ("", "[" * 100_000, "{", "7"):
        (own / "network.json").write_text(text)
        with pytest.raises(WeightsError):
            read_converted(own, SQUEEZENET)
    (own / "network.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WeightsError):
        read_converted(own, SQUEEZENET)


def test_flipped_bytes_in_own_form(own):
    files = sorted(p for p in own.rglob("*") if p.is_file() and p.stat().st_size)
    assert len(files) > 4
    rng = np.random.default_rng(0)
    for path in files:
        data = path.read_bytes()
        for at in rng.integers(len(data), size=4):
            path.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
            with pytest.raises(WeightsError):
                read_converted(own, SQUEEZENET)
        path.write_bytes(data[:-2])
        with pytest.raises(WeightsError):
            read_converted(own, SQUEEZENET)
        path.write_bytes(data)
    header = own / "network.json"
    data = header.read_bytes()
    for at in range(0, len(data), 3):  # hexadecimal digits that become others, too
        header.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        with pytest.raises(WeightsError):
            read_converted(own, SQUEEZENET)
    header.write_bytes(data)
    read_converted(own, SQUEEZENET)


def test_own_form_with_consistent_lies(own):
    """Digests are right, the arrays are another network's or too large."""
    header = json.loads((own / "network.json").read_text())
    wide = narrow(NETWORKS["squeezenet"], 8)
    with pytest.raises(
        WeightsError, match=r"'conv1/kernel' is float32 of shape \(7, 7, 3, 6\), want"
    ):
        read_converted(own, wide)
    del header["structure"][0]
    write_sealed(own, header)
    with pytest.raises(WeightsError, match="the file has pool 'pool1' where the network has conv"):
        read_converted(own, SQUEEZENET)


def test_paths_that_hold_no_weights(tmp_path):
    empty = tmp_path / "empty.net"
    empty.touch()
    for path, message in (
        (tmp_path / "nothing.net", "No such file or directory; give the path of a weight file"),
        (empty, "the file is empty"),
        (tmp_path, "the folder holds no network"),
    ):
        with pytest.raises(WeightsError, match=message):
            load_network("squeezenet", path)
    huge = tmp_path / "huge.net"
    with huge.open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(WeightsError, match="bytes are too many for a file of network 'squeezenet'"):
        load_network("squeezenet", huge)
