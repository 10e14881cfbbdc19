"""Reader of MatConvNet models: SimpleNN (old and new) and DagNN.

SimpleNN keeps a cell ``layers`` of structs; a convolution has ``weights = {filters, biases}``, or
in old files ``filters`` and ``biases``. DagNN keeps struct arrays ``layers`` and ``params``. Both
may stand at the top of the file or inside a variable ``net``. Filters are (h, w, in, out) and take
RGB. The mean picture or colour is ``averageImage`` in ``normalization`` or ``meta.normalization``.
Arrays are handed over as ``<layer>f`` and ``<layer>b``, DagNN's own names.
"""

from typing import Any

import numpy as np

from mpp_jax.nets.spec import LRN, NetSpec, Preprocessing, convolutions
from mpp_jax.weights.mat5 import read_mat5
from mpp_jax.weights.source import (
    FileLayer,
    SourceWeights,
    WeightsError,
    shortest,
)


def read_matconvnet(data: bytes, spec: NetSpec, budget: int) -> SourceWeights:
    """Decode a MatConvNet ``.mat`` file.

    Args:
        data: the file.
        spec: the wanted network; names the convolutions of files that leave them nameless.
        budget: bytes that the file's arrays may take.

    Raises:
        WeightsError: damaged, or no MatConvNet model.
    """
    variables = read_mat5(data, budget)
    net = _struct(variables["net"]) if isinstance(variables.get("net"), list) else variables
    layers = net.get("layers")
    if not isinstance(layers, list) or not layers:
        raise WeightsError(
            "the MATLAB file holds no MatConvNet model: it has no 'layers', but "
            f"{', '.join(sorted(map(repr, variables))) or 'nothing'}"
        )
    described = [_struct(layer) for layer in layers]
    borrowed = None
    if "params" in net:
        arrays, structure = _dagnn(described, net["params"])
    else:
        arrays, structure, nameless = _simplenn(described, spec)
        borrowed = spec.name if nameless else None
    if not arrays:
        raise WeightsError("the MatConvNet model holds no weights")
    preprocessing, mean_image = _preprocessing(net)
    return SourceWeights(
        "MatConvNet", "matconvnet", arrays, preprocessing, mean_image, tuple(structure), borrowed
    )


def _struct(value: Any) -> dict[str, Any]:
    """Return the only element of a struct array, or a struct found in a cell."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        return value[0]
    raise WeightsError("the MATLAB file holds no MatConvNet model: a layer is no struct")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _numbers(value: Any, default: tuple[float, ...]) -> list[float]:
    if isinstance(value, np.ndarray) and 0 < value.size <= 16:
        return [float(x) for x in value.reshape(-1)]
    return list(default)


def _same(values: list[float]) -> int:
    """Return a size that is equal for all sides; -1 where it is not."""
    return _whole(values[0]) if len(set(values)) == 1 else -1


def _whole(value: float) -> int:
    """Return a size as an integer; -1 where it is none."""
    return int(value) if value.is_integer() else -1


def _simplenn(
    layers: list[dict[str, Any]], spec: NetSpec
) -> tuple[dict[str, np.ndarray], list[FileLayer], bool]:
    """Return arrays, structure, and whether a convolution took its name from `spec`."""
    arrays: dict[str, np.ndarray] = {}
    structure: list[FileLayer] = []
    nameless = False
    own = ["/".join(path) for path, _, _ in convolutions(spec)]
    seen = 0
    for i, layer in enumerate(layers):
        kind, name = _text(layer.get("type")), _text(layer.get("name"))
        if kind == "conv":
            nameless = nameless or not name
            name = name or (own[seen] if seen < len(own) else f"layer{i + 1}")
            seen += 1
            pair = layer.get("weights")
            if not isinstance(pair, list) or not pair:
                pair = [layer.get("filters"), layer.get("biases")]
            _add(arrays, name, pair)
        described = _describe(kind, name or f"layer{i + 1}", layer, arrays)
        if described is not None:
            structure.append(described)
    return arrays, structure, nameless


def _dagnn(
    layers: list[dict[str, Any]], params: Any
) -> tuple[dict[str, np.ndarray], list[FileLayer]]:
    if not isinstance(params, list) or not all(isinstance(p, dict) for p in params):
        raise WeightsError("the MatConvNet model is damaged: 'params' is no struct array")
    values = {_text(p.get("name")): p.get("value") for p in params}
    arrays: dict[str, np.ndarray] = {}
    structure: list[FileLayer] = []
    for layer in layers:
        kind, name = _text(layer.get("type")).rpartition(".")[2].lower(), _text(layer.get("name"))
        block = layer.get("block")
        if kind == "conv":
            wanted = layer.get("params")
            keys = [wanted] if isinstance(wanted, str) else wanted
            if not isinstance(keys, list) or not all(_text(k) in values for k in keys):
                raise WeightsError(f"layer {name!r} of the MatConvNet model lacks its parameters")
            _add(arrays, name, [values.pop(_text(k)) for k in keys])
        fields = _struct(block) if isinstance(block, list) and block else {}
        described = _describe(kind, name, fields, arrays)
        if described is not None:
            structure.append(described)
    for key, value in values.items():  # left over: the audit refuses them by name
        if isinstance(value, np.ndarray):
            arrays[key] = value
    return arrays, structure


def _add(arrays: dict[str, np.ndarray], name: str, pair: Any) -> None:
    ok = isinstance(pair, list) and len(pair) == 2
    if not ok or not all(isinstance(value, np.ndarray) for value in pair):
        raise WeightsError(f"layer {name!r} of the MatConvNet model lacks filters or biases")
    if f"{name}f" in arrays:
        raise WeightsError(f"two layers of the MatConvNet model are named {name!r}")
    filters, biases = pair
    # MATLAB drops trailing axes of length one.
    arrays[f"{name}f"] = filters.reshape(filters.shape + (1,) * max(0, 4 - filters.ndim))
    arrays[f"{name}b"] = biases


def _describe(
    kind: str, name: str, fields: dict[str, Any], arrays: dict[str, np.ndarray]
) -> FileLayer | None:
    stride = _same(_numbers(fields.get("stride"), (1.0,)))
    if kind == "conv":
        if any(d != 1 for d in _numbers(fields.get("dilate"), (1.0,))):
            raise WeightsError(f"layer {name!r} of the MatConvNet model is a dilated convolution")
        filters = arrays[f"{name}f"]
        kernel = filters.shape[0] if filters.shape[0] == filters.shape[1] else -1
        pad = _same(_numbers(fields.get("pad"), (0.0,)))
        return FileLayer("conv", name, kernel=kernel, stride=stride, pad=pad)
    if kind in ("pool", "pooling"):
        if (_text(fields.get("method")) or "max") != "max":
            return None
        window = _same(_numbers(fields.get("pool", fields.get("poolSize")), (1.0,)))
        return FileLayer("pool", name, kernel=window, stride=stride)
    if kind in ("normalize", "lrn"):
        values = _numbers(fields.get("param"), (5.0, 1.0, 1e-4 / 5, 0.75))
        if len(values) != 4:
            raise WeightsError(f"layer {name!r} of the MatConvNet model has no four constants")
        size, k, alpha, beta = values
        constants = LRN(name, _whole(size), shortest(alpha * size), beta, k)
        return FileLayer("lrn", name, lrn=constants)
    return None


def _preprocessing(net: dict[str, Any]) -> tuple[Preprocessing | None, np.ndarray | None]:
    """Return RGB and the mean, and the mean picture; None where the file has none."""
    holder = net
    if isinstance(net.get("meta"), list) and net["meta"]:
        meta = _struct(net["meta"])
        holder = meta if "normalization" in meta else net
    if not isinstance(holder.get("normalization"), list) or not holder["normalization"]:
        return None, None
    mean = _struct(holder["normalization"]).get("averageImage")
    if not isinstance(mean, np.ndarray) or mean.dtype.kind not in "fiu":
        return None, None
    mean = mean.astype(np.float32)
    if mean.size == 3:
        colour, image = mean.reshape(3), None
    elif mean.ndim == 3 and mean.shape[2] == 3:
        colour, image = mean.mean(axis=(0, 1), dtype=np.float64), mean
        if (mean == mean[:1, :1]).all():
            colour, image = mean[0, 0], None
    else:
        return None, None
    if not np.isfinite(mean).all():
        raise WeightsError("the mean picture of the MatConvNet model is not finite")
    red, green, blue = (float(v) for v in colour)
    return Preprocessing("RGB", (red, green, blue)), image
