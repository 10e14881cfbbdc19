"""Reader of Caffe's binary models: current, V1 and V0 layers, current and legacy blob shapes.

A model is one ``NetParameter``. Current files keep ``LayerParameter`` messages in ``layer``, older
ones ``V1LayerParameter`` in ``layers``, and the oldest wrap a ``V0LayerParameter`` in those. A
blob's shape is a ``BlobShape``, or four legacy numbers (num, channels, height, width).
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from mpp_jax.nets.spec import LRN
from mpp_jax.weights.caffe_schema import SCHEMA, V0_TYPES, V1_TYPES, NetParameter
from mpp_jax.weights.source import FileLayer, SourceWeights, WeightsError, shortest

MAX_FIELDS = 100_000
MAX_BLOBS = 64
MAX_AXES = 32  # Caffe's own limit


def looks_like_caffemodel(data: bytes) -> bool:
    """Return whether the bytes begin like a ``NetParameter``: its name, or its first layer."""
    return data[:1] == b"\x0a" or data[:1] == b"\x12" or data[:2] == b"\xa2\x06"


def read_caffemodel(data: bytes) -> SourceWeights:
    """Decode a ``.caffemodel``.

    Raises:
        WeightsError: no protobuf message, no layers with weights, or a blob whose declared shape
            is not what it holds.
    """
    _check_wire(data)
    net = NetParameter()
    try:
        net.ParseFromString(data)
    except (DecodeError, ValueError) as error:
        raise WeightsError("not a Caffe model: the protobuf message is damaged") from error
    arrays: dict[str, np.ndarray] = {}
    structure: list[FileLayer] = []
    for layer in _layers(net):
        if len(layer.blobs) > MAX_BLOBS:
            raise WeightsError(f"layer {layer.name!r} has {len(layer.blobs)} blobs")
        for i, blob in enumerate(layer.blobs):
            key = f"{layer.name}/{i}"
            if key in arrays:
                raise WeightsError(f"two layers of the Caffe model are named {layer.name!r}")
            arrays[key] = _array(blob, key)
        if (described := _describe(layer)) is not None:
            structure.append(described)
    if not arrays:
        raise WeightsError("the Caffe model holds no weights (a prototxt is not a caffemodel)")
    # Stripped models keep the blobs and drop every parameter: they describe no structure.
    stated = any(layer.kind == "conv" and layer.kernel for layer in structure)
    return SourceWeights("Caffe", "caffe", arrays, structure=tuple(structure) if stated else ())


class _Layer:
    """A layer of any generation, brought to current terms."""

    def __init__(self, message: Any, generation: str) -> None:
        self.message, self.generation = message, generation
        self.name: str = message.name
        self.blobs = message.blobs
        if generation == "V1LayerParameter":
            self.type = V1_TYPES.get(message.type, "")
        elif generation == "V0LayerParameter":
            self.type = V0_TYPES.get(message.type, "")
        else:
            self.type = message.type


def _layers(net: Any) -> list[_Layer]:
    layers = [_Layer(message, "LayerParameter") for message in net.layer]
    for message in net.layers:
        if message.HasField("layer"):
            layers.append(_Layer(message.layer, "V0LayerParameter"))
        else:
            layers.append(_Layer(message, "V1LayerParameter"))
    return layers


def _array(blob: Any, key: str) -> np.ndarray:
    if blob.data and blob.double_data:
        raise WeightsError(f"blob {key!r} holds float and double data at once")
    pieces, dtype = (blob.double_data, "<f8") if blob.double_data else (blob.data, "<f4")
    raw = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if blob.HasField("shape"):
        shape = tuple(blob.shape.dim)
    else:
        shape = (blob.num, blob.channels, blob.height, blob.width)
    size = np.dtype(dtype).itemsize
    if len(shape) > MAX_AXES or any(n < 0 for n in shape) or size * math.prod(shape) != len(raw):
        raise WeightsError(
            f"blob {key!r} of the Caffe model declares shape {list(shape)[:MAX_AXES]} "
            f"and holds {len(raw) / size:g} numbers"
        )
    return np.frombuffer(raw, dtype).reshape(shape)


def _one(values: Any, default: int | None) -> int | None:
    """Return the value of a repeated field, given once for both axes or twice the same."""
    found = set(values)
    if len(found) > 1:
        return -1
    return int(found.pop()) if found else default


def _sided(p: Any, name: str, repeated: Any, default: int | None) -> int | None:
    """Return a size given as ``name_h`` and ``name_w``, or as a repeated field."""
    if p.HasField(f"{name}_h") or p.HasField(f"{name}_w"):
        return _one((getattr(p, f"{name}_h"), getattr(p, f"{name}_w")), default)
    return _one(repeated, default)


def _describe(layer: _Layer) -> FileLayer | None:
    message, name = layer.message, layer.name
    old = layer.generation == "V0LayerParameter"
    if layer.type == "Convolution":
        if old:
            return FileLayer(
                "conv",
                name,
                kernel=message.kernelsize,
                stride=message.stride if message.HasField("stride") else 1,
                pad=message.pad,
                groups=message.group if message.HasField("group") else 1,
            )
        p = message.convolution_param
        if any(d != 1 for d in p.dilation):
            raise WeightsError(f"layer {name!r} of the Caffe model is a dilated convolution")
        return FileLayer(
            "conv",
            name,
            kernel=_sided(p, "kernel", p.kernel_size, None),
            stride=_sided(p, "stride", p.stride, 1),
            pad=_sided(p, "pad", p.pad, 0),
            groups=p.group if p.HasField("group") else 1,
        )
    if layer.type == "InnerProduct":
        if not old and message.inner_product_param.transpose:
            raise WeightsError(f"layer {name!r} of the Caffe model stores a transposed matrix")
        return FileLayer("dense", name)
    if layer.type == "Pooling":
        if old:
            if message.pool != 0:
                return None
            stride = message.stride if message.HasField("stride") else 1
            return FileLayer("pool", name, message.kernelsize, stride)
        p = message.pooling_param
        if p.pool != 0 or p.global_pooling:
            return None  # average pooling has no place in the networks but at their end
        return FileLayer("pool", name, _one(p.kernel_size, None), _one(p.stride, 1))
    if layer.type == "LRN":
        p = message if old else message.lrn_param
        if not old and p.norm_region != 0:
            raise WeightsError(f"layer {name!r} of the Caffe model normalises within channels")
        constants = LRN(
            name,
            size=int(p.local_size) if p.HasField("local_size") else 5,
            alpha=shortest(p.alpha) if p.HasField("alpha") else 1.0,
            beta=shortest(p.beta) if p.HasField("beta") else 0.75,
            k=shortest(p.k) if p.HasField("k") else 1.0,
        )
        return FileLayer("lrn", name, lrn=constants)
    return None


def _check_wire(data: bytes) -> None:
    """Refuse messages built to blow up when parsed: very many tiny layers, blobs or fields.

    Parsed messages cost far more than their bytes. Everything that becomes an object is counted
    on the wire first, skipping over contents, so that this costs next to nothing.
    """
    view, objects = memoryview(data), 0
    for count in _objects(view, 0, len(view), "NetParameter"):
        objects += count
        if objects > MAX_FIELDS:
            raise WeightsError("not a Caffe model: it has too many layers or fields")


def _objects(view: memoryview, at: int, end: int, message: str) -> Iterator[int]:
    """Yield the objects that parsing makes of each field of a message, and inside it."""
    known = {number: (kind, repeated) for _, number, kind, repeated in SCHEMA[message]}
    for number, start, stop in _fields(view, at, end):
        kind, repeated = known.get(number, ("bytes", False))
        if stop is None:
            yield 1
        elif repeated and kind in ("int64", "uint64"):
            yield stop - start  # packed: a number takes at least a byte
        else:
            yield 1
            if kind in SCHEMA:
                yield from _objects(view, start, stop, kind)


def _fields(view: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int | None]]:
    """Yield (number, start, end of contents or None) of each field of a message."""
    while at < end:
        key, at = _varint(view, at, end)
        number, wire = key >> 3, key & 7
        if wire == 2:
            length, at = _varint(view, at, end)
            if at + length > end:
                raise WeightsError(
                    "the Caffe model is truncated or damaged: a field announces "
                    f"{length} bytes, {end - at} are left"
                )
            yield number, at, at + length
            at += length
            continue
        if wire == 0:
            _, at = _varint(view, at, end)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise WeightsError("not a Caffe model: no protobuf message")
        if at > end:
            raise WeightsError("the Caffe model is truncated")
        yield number, at, None


def _varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise WeightsError("the Caffe model is truncated")
        byte = view[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise WeightsError("not a Caffe model: no protobuf message")
