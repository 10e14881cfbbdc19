"""Writers of foreign weight files, and narrow networks that make tests fast."""

import collections
import dataclasses
import io
import pickle
import sys
import types
import zipfile

import numpy as np
import scipy.io

from mpp_jax.nets.spec import Conv, Fire, map_size
from mpp_jax.weights.caffe_schema import NetParameter


def narrow(spec, divisor):
    """Return the same network with fewer channels: same name, same geometry, same rules."""

    def thin(layer):
        if isinstance(layer, Conv):
            groups = layer.groups // divisor if layer.groups == layer.features else layer.groups
            return dataclasses.replace(layer, features=layer.features // divisor, groups=groups)
        if isinstance(layer, Fire):
            sizes = (layer.squeeze, layer.expand1x1, layer.expand3x3)
            return Fire(layer.name, *(max(1, n // divisor) for n in sizes))
        return layer

    return dataclasses.replace(spec, layers=tuple(map(thin, spec.layers)))


def unpadded(spec):
    """Return the same network without zero padding, fully connected kernels shrunk to fit.

    Its dense activations equal those of every crop exactly; with padding they do only where no
    window touches the border.
    """
    layers = []
    for layer in spec.layers:
        assert not isinstance(layer, Fire), "fire modules pad inside"
        if isinstance(layer, Conv):
            kernel = layer.kernel
            if layer.dense and kernel > 1:
                below = dataclasses.replace(spec, layers=tuple(layers))
                kernel = map_size(below, spec.side, layers[-1].name)
            layer = dataclasses.replace(layer, pad=0, kernel=kernel)
        layers.append(layer)
    return dataclasses.replace(spec, name=f"{spec.name}-unpadded", layers=tuple(layers))


def random_blobs(spec, seed=0):
    """Return ``{layer: (weights (O, I, h, w), bias (O,))}`` float32 that keep activations sized."""
    rng, channels, blobs = np.random.default_rng(seed), 3, {}

    def add(name, outs, ins, k):
        weights = rng.standard_normal((outs, ins, k, k), np.float32) * np.sqrt(2 / (ins * k * k))
        blobs[name] = weights.astype(np.float32), rng.standard_normal(outs, np.float32)

    for layer in spec.layers:
        if isinstance(layer, Conv):
            add(layer.name, layer.features, channels // layer.groups, layer.kernel)
            channels = layer.features
        elif isinstance(layer, Fire):
            add(f"{layer.name}/squeeze1x1", layer.squeeze, channels, 1)
            add(f"{layer.name}/expand1x1", layer.expand1x1, layer.squeeze, 1)
            add(f"{layer.name}/expand3x3", layer.expand3x3, layer.squeeze, 3)
            channels = layer.features
    return blobs


def dense_names(spec):
    return {layer.name for layer in spec.layers if isinstance(layer, Conv) and layer.dense}


# ------------------------------------------------------------------ Caffe


def _fill_blob(blob, value, legacy):
    value = np.ascontiguousarray(value)
    if legacy:
        blob.num, blob.channels, blob.height, blob.width = (1,) * (4 - value.ndim) + value.shape
    else:
        blob.shape.dim.extend(value.shape)
    if value.dtype == np.float64:
        blob.double_data.append(value.tobytes())
    else:
        blob.data.append(value.astype("<f4").tobytes())


def caffemodel(blobs, *, dense=(), generation="current", legacy=False, layers=(), dtype=np.float32):
    """Return the bytes of a binary model.

    `generation`: current, v1 or v0; `legacy`: four numbers instead of a shape; `layers`:
    ``(type, name, {parameter: value})`` in order, for files that describe their structure (types in
    Caffe's current words); without it only the layers with weights are written.
    """
    net = NetParameter(name="net")
    numbers = {"Concat": 3, "Convolution": 4, "InnerProduct": 14, "LRN": 15, "Pooling": 17}
    numbers["ReLU"] = 18
    words = {
        "Convolution": "conv",
        "InnerProduct": "innerproduct",
        "LRN": "lrn",
        "Pooling": "pool",
        "ReLU": "relu",
    }
    plain = [("InnerProduct" if n in dense else "Convolution", n, None) for n in blobs]
    for kind, name, values in layers or plain:
        if generation == "current":
            layer = net.layer.add(name=name, type=kind)
        elif generation == "v1":
            layer = net.layers.add(name=name, type=numbers[kind])
        else:
            layer = net.layers.add().layer
            layer.name, layer.type = name, words[kind]
        _fill_parameters(layer, kind, values or {}, generation)
        for value in blobs.get(name, ()):
            if value.ndim == 4 and name in dense:
                value = value.reshape(len(value), -1)
            _fill_blob(layer.blobs.add(), value.astype(dtype), legacy)
    return net.SerializeToString()


def _fill_parameters(layer, kind, values, generation):
    if generation == "v0":
        for key, value in values.items():
            setattr(layer, {"kernel_size": "kernelsize"}.get(key, key), value)
        return
    field = {
        "Convolution": "convolution_param",
        "Pooling": "pooling_param",
        "LRN": "lrn_param",
        "InnerProduct": "inner_product_param",
    }.get(kind)
    for key, value in values.items():
        target = getattr(layer, field)
        if target.DESCRIPTOR.fields_by_name[key].is_repeated:
            getattr(target, key).append(value)
        else:
            setattr(target, key, value)


def alexnet_layers(pool_first):
    """Return the structure of the published CaffeNet and AlexNet models."""
    layers = []

    def stage(i):
        pool = ("Pooling", f"pool{i}", {"pool": 0, "kernel_size": 3, "stride": 2})
        norm = ("LRN", f"norm{i}", {"local_size": 5, "alpha": 1e-4, "beta": 0.75})
        layers.extend((pool, norm) if pool_first else (norm, pool))

    def conv(i, **values):
        layers.append(("Convolution", f"conv{i}", values))
        layers.append(("ReLU", f"relu{i}", None))

    conv(1, num_output=96, kernel_size=11, stride=4)
    stage(1)
    conv(2, num_output=256, kernel_size=5, pad=2, group=2)
    stage(2)
    conv(3, num_output=384, kernel_size=3, pad=1)
    conv(4, num_output=384, kernel_size=3, pad=1, group=2)
    conv(5, num_output=256, kernel_size=3, pad=1, group=2)
    layers.append(("Pooling", "pool5", {"pool": 0, "kernel_size": 3, "stride": 2}))
    for name, outputs in (("fc6", 4096), ("fc7", 4096), ("fc8", 1000)):
        layers.append(("InnerProduct", name, {"num_output": outputs}))
    return layers


# ------------------------------------------------------------------ MatConvNet


def _row(*values):
    return np.array([values], np.float64)


def _cell(values):
    cell = np.empty((1, len(values)), object)
    for i, value in enumerate(values):
        cell[0, i] = value
    return cell


def matconvnet_layers(spec, blobs, mean, *, old=False):
    """Return the structs of a SimpleNN; `old`: filters and biases as fields of their own."""
    structs = []
    for layer in spec.layers:
        kind = type(layer).__name__
        if kind == "Conv":
            weights, bias = blobs[layer.name]
            filters = weights.transpose(2, 3, 1, 0)
            struct = {"name": layer.name, "type": "conv", "pad": _row(*[layer.pad] * 4)}
            struct["stride"] = _row(layer.stride, layer.stride)
            if old:
                struct |= {"filters": filters, "biases": bias[None]}
            else:
                struct["weights"] = _cell([filters, bias[None]])
            structs.append(struct)
            if layer.activation == "relu":
                structs.append({"name": f"relu_{layer.name}", "type": "relu"})
        elif kind == "LRN":
            param = _row(layer.size, layer.k, layer.alpha / layer.size, layer.beta)
            structs.append({"name": layer.name, "type": "normalize", "param": param})
        elif kind == "Pool":
            window, stride = _row(*[layer.window] * 2), _row(*[layer.stride] * 2)
            pool = {"name": layer.name, "type": "pool", "method": "max", "pool": window}
            structs.append(pool | {"stride": stride, "pad": _row(0, 1, 0, 1)})
    return [*structs, {"name": "prob", "type": "softmax"}]


def simplenn(spec, blobs, mean, *, old=False, meta=True, inside_net=False, compress=True):
    """Return the bytes of a SimpleNN ``.mat``."""
    normalization = {"averageImage": mean, "imageSize": _row(spec.side, spec.side, 3)}
    net = {"layers": _cell(matconvnet_layers(spec, blobs, mean, old=old))}
    net |= {"meta": {"normalization": normalization}} if meta else {"normalization": normalization}
    return _mat({"net": net} if inside_net else net, compress)


def dagnn(spec, blobs, mean, *, inside_net=False, compress=True):
    """Return the bytes of a DagNN ``.mat``: struct arrays ``layers`` and ``params``."""
    layers, params = [], []
    for struct in matconvnet_layers(spec, blobs, mean):
        name, kind = struct["name"], struct["type"]
        block, keys = {"opts": _cell([])}, []
        if kind == "conv":
            kind, keys = "dagnn.Conv", [f"{name}f", f"{name}b"]
            filters, bias = struct["weights"][0]
            params += [(keys[0], filters), (keys[1], bias)]
            block |= {
                "size": _row(*filters.shape),
                "pad": struct["pad"],
                "stride": struct["stride"],
            }
        elif kind == "pool":
            kind = "dagnn.Pooling"
            block |= {"method": "max", "poolSize": struct["pool"], "stride": struct["stride"]}
        elif kind == "normalize":
            kind, block["param"] = "dagnn.LRN", struct["param"]
        else:
            kind = {"relu": "dagnn.ReLU", "softmax": "dagnn.SoftMax"}[kind]
        layers.append((name, kind, _cell(["x"]), _cell(["y"]), _cell(keys), block))
    fields = [(n, object) for n in ("name", "type", "inputs", "outputs", "params", "block")]
    param_fields = [("name", object), ("value", object)]
    net = {
        "layers": np.array(layers, fields)[None],
        "params": np.array(params, param_fields)[None],
        "vars": {"name": "x"},
        "meta": {"normalization": {"averageImage": mean}},
    }
    return _mat({"net": net} if inside_net else net, compress)


def _mat(variables, compress):
    file = io.BytesIO()
    scipy.io.savemat(file, variables, do_compression=compress, long_field_names=True)
    return file.getvalue()


# ------------------------------------------------------------------ torch


class _FakeTensor:
    def __init__(self, key, value):
        self.key, self.value = key, value


def _torch_modules():
    """Return stand-ins that pickle by the names of torch's own functions and classes."""

    def name(thing, module, word):
        thing.__module__, thing.__qualname__, thing.__name__ = module, word, word
        return thing

    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    utils._rebuild_tensor_v2 = name(lambda *_: None, "torch._utils", "_rebuild_tensor_v2")
    utils._rebuild_parameter = name(lambda *_: None, "torch._utils", "_rebuild_parameter")
    for word in ("FloatStorage", "DoubleStorage", "HalfStorage", "LongStorage"):
        setattr(torch, word, name(type(word, (), {}), "torch", word))
    torch._utils = utils
    return {"torch": torch, "torch._utils": utils}


STORAGE = {"f4": "FloatStorage", "f8": "DoubleStorage", "f2": "HalfStorage", "i8": "LongStorage"}


def torch_zip(arrays, *, parameters=False, wrap=None, compression=zipfile.ZIP_STORED):
    """Return the bytes of a zip-format state dict, written without torch."""
    fakes, file = _torch_modules(), io.BytesIO()
    saved = {name: sys.modules.get(name) for name in fakes}
    sys.modules.update(fakes)
    try:
        program = _pickle(arrays, fakes, parameters, wrap)
    finally:
        for name, module in saved.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", "little")
        for i, value in enumerate(arrays.values()):
            archive.writestr(f"archive/data/{i}", np.ascontiguousarray(value).tobytes())
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def _pickle(arrays, fakes, parameters, wrap):
    torch, utils = fakes["torch"], fakes["torch._utils"]
    file = io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, tuple) and obj[:1] == ("the storage of",):
                value, key = obj[1].value, obj[1].key
                kind = getattr(torch, STORAGE[value.dtype.str[1:]])
                return ("storage", kind, key, "cpu", value.size)
            return None

        def reducer_override(self, obj):
            if not isinstance(obj, _FakeTensor):
                return NotImplemented
            value = obj.value
            strides = tuple(n // value.itemsize for n in value.strides)
            storage = ("the storage of", obj)
            tensor = (storage, 0, value.shape, strides, False, collections.OrderedDict())
            return utils._rebuild_tensor_v2, tensor

    state = collections.OrderedDict(
        (name, _FakeTensor(str(i), np.ascontiguousarray(value)))
        for i, (name, value) in enumerate(arrays.items())
    )
    Pickler(file, protocol=2).dump({wrap: state} if wrap else state)
    return file.getvalue()


def torch_arrays(blobs, spec):
    """Return arrays under torchvision's names, in its layouts."""
    dense, keys, arrays = dense_names(spec), dict(spec.files.torchvision), {}
    for name, (weights, bias) in blobs.items():
        flat = weights.reshape(len(weights), -1) if name in dense else weights
        arrays |= {f"{keys[name]}.weight": flat, f"{keys[name]}.bias": bias}
    return arrays


# ------------------------------------------------------------------ NumPy


def npz(arrays, *, compress=False):
    """Return the bytes of a ``.npz`` archive."""
    file = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(file, **arrays)
    return file.getvalue()
