"""Reader of ``.safetensors`` files.

Eight bytes give the length of a JSON header, ``{name: {"dtype", "shape", "data_offsets"}}``; the
numbers follow, row-major and little endian, without gaps.
"""

import json
import math
from typing import Any

import numpy as np

from mpp_jax.weights.names import convention_of
from mpp_jax.weights.quantised import dequantise
from mpp_jax.weights.source import SourceWeights, WeightsError

MAX_HEADER_BYTES = 4 << 20
MAX_AXES = 32
DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "u1",
}


def looks_like_safetensors(data: bytes) -> bool:
    """Return whether the bytes begin with a header length and an opening brace."""
    size = int.from_bytes(data[:8], "little")
    return data[8:9] == b"{" and 2 <= size <= MAX_HEADER_BYTES


def read_safetensors(data: bytes) -> SourceWeights:
    """Decode a ``.safetensors`` file; its names may be torchvision's, Caffe's or this package's.

    Kernels in eight bits (`mpp_jax.weights.quantised`) come out as float32.

    Raises:
        WeightsError: damaged, or tensors that do not fill the file exactly.
    """
    size = int.from_bytes(data[:8], "little")
    if size > min(MAX_HEADER_BYTES, len(data) - 8):
        raise WeightsError("the safetensors file is truncated or no safetensors file")
    try:
        header = json.loads(data[8 : 8 + size], object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise WeightsError("the safetensors file is damaged: its header is no JSON") from error
    if not isinstance(header, dict):
        raise WeightsError("the safetensors file is damaged: its header is no JSON object")
    header.pop("__metadata__", None)
    body = memoryview(data)[8 + size :]
    arrays, spans = {}, []
    for name, entry in header.items():
        arrays[name], span = _tensor(name, entry, body)
        spans.append(span)
    spans.sort()
    edges = [0, *(end for _, end in spans)]
    if [start for start, _ in spans] != edges[:-1] or edges[-1] != len(body):
        raise WeightsError(
            "the safetensors file is truncated or damaged: its tensors do not fill "
            f"{len(body)} bytes without gaps"
        )
    arrays = dequantise(arrays)
    return SourceWeights("safetensors", convention_of(arrays), arrays)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a name occurs twice")
    return dict(pairs)


def _sizes(value: Any, length: int | None = None) -> bool:
    if not isinstance(value, list) or (length is not None and len(value) != length):
        return False
    return all(type(n) is int and 0 <= n < 1 << 40 for n in value)


def _tensor(name: str, entry: Any, body: memoryview) -> tuple[np.ndarray, tuple[int, int]]:
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = (fields.get(k, 0) for k in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or not _sizes(shape) or not _sizes(offsets, 2):
        raise WeightsError(f"the safetensors file is damaged at {name[:80]!r}")
    if dtype not in DTYPES:
        raise WeightsError(f"tensor {name[:80]!r} has dtype {dtype!r}, wanted floating point")
    start, end = offsets
    kind = np.dtype(DTYPES[dtype])
    if len(shape) > MAX_AXES or not start <= end <= len(body):
        raise WeightsError(f"the safetensors file is truncated or damaged at {name[:80]!r}")
    if math.prod(shape) * kind.itemsize != end - start:
        raise WeightsError(
            f"the safetensors file is damaged: {name[:80]!r} of shape {shape} has "
            f"{end - start} bytes"
        )
    flat = np.frombuffer(body[start:end], kind)
    if dtype == "BF16":
        flat = (flat.astype("<u4") << 16).view("<f4")
    return flat.reshape(shape), (start, end)
