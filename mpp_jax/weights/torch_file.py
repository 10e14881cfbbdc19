"""Reader of torch state dicts (``.pth``, ``.pt``) in either of the two containers that exist.

Since torch 1.6 a file is a zip with ``<any>/data.pkl`` and one entry ``<any>/data/<key>`` per
storage. Before, it was five pickles in a row (magic number, protocol, system, object, storage keys)
and then, per key, an int64 count and the numbers. `mpp_jax.weights.torch_pickle` reads the pickles.
"""

import functools
import io
import math
from collections.abc import Callable

import numpy as np

from mpp_jax.weights.archive import open_archive
from mpp_jax.weights.source import SourceWeights, WeightsError
from mpp_jax.weights.torch_pickle import Storage, Tensor, interpret, state_dict

MAX_PICKLE_BYTES = 8 << 20
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

Fetch = Callable[[Storage], bytes]


def looks_like_torch(data: bytes) -> bool:
    """Return whether the bytes begin like a zip archive or like a legacy torch file."""
    return data[:4] == b"PK\x03\x04" or _is_legacy(data)


def _is_legacy(data: bytes) -> bool:
    return data[:1] == b"\x80" and LEGACY_MAGIC.to_bytes(10, "little") in data[:32]


def read_torch(data: bytes, budget: int) -> SourceWeights:
    """Decode a torch state dict.

    Args:
        data: the file.
        budget: bytes that the tensors may take.

    Raises:
        WeightsError: damaged, not a state dict, or a pickle with anything but tensors in it.
    """
    read = _read_legacy if _is_legacy(data) else _read_zip
    tensors, fetch = read(data, budget)
    arrays, spent = {}, 0
    for key, tensor in tensors.items():
        spent += 8 * math.prod(tensor.shape)
        if spent > budget:
            raise WeightsError("the torch file declares more data than any network needs")
        arrays[key] = _array(key, tensor, fetch(tensor.storage))
    return SourceWeights("torch", "torchvision", arrays)


def _read_zip(data: bytes, budget: int) -> tuple[dict[str, Tensor], Fetch]:
    entries, read = open_archive(data, budget, "torch")
    programs = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
    if len(programs) != 1:
        raise WeightsError("the zip archive is no torch file: it has no 'data.pkl'")
    folder = programs[0].removesuffix("data.pkl")
    if entries[programs[0]] > MAX_PICKLE_BYTES:
        raise WeightsError("the torch file's pickle is too long for a state dict")
    if f"{folder}byteorder" in entries and read(f"{folder}byteorder") != b"little":
        raise WeightsError("the torch file is big-endian")
    tensors = state_dict(interpret(io.BytesIO(read(programs[0])))[0])
    # Tensors may share a storage; each is unpacked once, whatever the file says.
    return tensors, functools.cache(lambda storage: read(f"{folder}data/{storage.key}"))


def _read_legacy(data: bytes, budget: int) -> tuple[dict[str, Tensor], Fetch]:
    file = io.BytesIO(data)
    magic, protocol, _ = (interpret(file)[0] for _ in range(3))
    value, sizes = interpret(file)
    keys, _ = interpret(file)
    if magic != LEGACY_MAGIC or protocol != 1001 or not isinstance(keys, list):
        raise WeightsError("the torch file is damaged: unknown legacy header")
    tensors = state_dict(value)
    # The numbers of everything in the file follow, also of what stands beside the state dict.
    found: dict[str, bytes] = {}
    for key in keys:
        if not isinstance(key, str) or key not in sizes:
            raise WeightsError("the torch file is damaged: a storage belongs to no tensor")
        count = int.from_bytes(file.read(8), "little", signed=True)
        size = count * _itemsize(sizes[key].dtype)
        if count != sizes[key].numel or not 0 <= size <= len(data) - file.tell():
            raise WeightsError(f"the torch file is truncated or damaged at storage {key!r}")
        found[key] = file.read(size)

    def fetch(storage: Storage) -> bytes:
        if storage.key not in found:
            raise WeightsError(f"the torch file is damaged: it has no storage {storage.key!r}")
        return found[storage.key]

    return tensors, fetch


def _itemsize(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _array(key: str, tensor: Tensor, raw: bytes) -> np.ndarray:
    size, half = _itemsize(tensor.storage.dtype), tensor.storage.dtype == "bfloat16"
    flat = np.frombuffer(raw[: len(raw) // size * size], "<u2" if half else tensor.storage.dtype)
    steps = zip(tensor.shape, tensor.strides, strict=True)
    last = tensor.offset + sum((n - 1) * stride for n, stride in steps)
    # Expanded tensors (stride 0) are larger than their storage; the caller bounds their size.
    inside = 0 in tensor.shape or last < flat.size
    if flat.size != tensor.storage.numel or not inside:
        raise WeightsError(
            f"the torch file is damaged: tensor {key!r} of shape {tensor.shape} does not fit its "
            f"storage of {flat.size} numbers"
        )
    strides = tuple(s * flat.itemsize for s in tensor.strides)
    view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides)
    # Only the tensor is widened: thousands of them may share one large storage.
    return np.asarray(view.astype("<u4") << 16).view("<f4") if half else np.array(view)
