"""Reader of NumPy's ``.npz`` archives; pickled objects are refused, as by ``allow_pickle=False``.

An archive is a zip with one entry ``<name>.npy`` per array: a magic string, a version, a header
``{"descr", "fortran_order", "shape"}`` as a Python literal, and the numbers.
"""

import io
import math
import tokenize
import warnings

import numpy as np

from mpp_jax.weights.archive import open_archive
from mpp_jax.weights.names import convention_of
from mpp_jax.weights.source import SourceWeights, WeightsError

SUFFIX = ".npy"
ZIP_MAGIC = b"PK\x03\x04"
MAX_AXES = 32
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def looks_like_npz(data: bytes) -> bool:
    """Return whether the bytes begin like a zip archive whose first entry is an array."""
    length = int.from_bytes(data[26:28], "little")
    return data[:4] == ZIP_MAGIC and data[30 : 30 + length].endswith(SUFFIX.encode())


def read_npz(data: bytes, budget: int) -> SourceWeights:
    """Decode a ``.npz`` file; its names may be torchvision's, Caffe's, Flax's or this package's.

    Args:
        data: the file.
        budget: bytes that the arrays may take.

    Raises:
        WeightsError: damaged, or an entry is no plain array.
    """
    sizes, read = open_archive(data, budget, "npz")
    strange = [name for name in sizes if not name.endswith(SUFFIX)]
    if strange or not sizes:
        held = f"{strange[0][:80]!r}" if strange else "nothing"
        raise WeightsError(f"the npz file holds {held}, wanted arrays")
    arrays = {name.removesuffix(SUFFIX): _array(name, read(name)) for name in sizes}
    convention = convention_of(arrays)
    return SourceWeights("npz", convention, _oihw(arrays) if convention == "caffe" else arrays)


def _oihw(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return arrays in Caffe's names with kernels in Caffe's layout.

    NumPy copies of Caffe models often have kernels as TensorFlow does, (h, w, in, out): there the
    last axis of every kernel, and not the first of every one, is as long as the bias beside it.
    """
    kernels = {key: x for key, x in arrays.items() if key.endswith("/0") and x.ndim == 4}
    outputs = {key: arrays.get(f"{key[:-1]}1", np.zeros(0)).size for key in kernels}
    last = all(x.shape[-1] == outputs[key] for key, x in kernels.items())
    first = all(x.shape[0] == outputs[key] for key, x in kernels.items())
    if not last or first:
        return arrays
    return arrays | {key: x.transpose(3, 2, 0, 1) for key, x in kernels.items()}


def _array(name: str, raw: bytes) -> np.ndarray:
    file = io.BytesIO(raw)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that Python 2 wrote
            shape, fortran, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
    except (
        ValueError,
        TypeError,
        KeyError,
        SyntaxError,
        RecursionError,
        MemoryError,
        tokenize.TokenError,
    ) as error:
        raise WeightsError(f"the npz file is damaged: {name[:80]!r} has no header") from error
    if dtype.hasobject or dtype.kind not in "fiub":
        raise WeightsError(f"{name[:80]!r} is of {str(dtype)[:80]}, wanted floating point")
    rest = len(raw) - file.tell()
    sound = len(shape) <= MAX_AXES and all(0 <= n < 1 << 40 for n in shape)
    if not sound or math.prod(shape) * dtype.itemsize != rest:
        raise WeightsError(
            f"the npz file is damaged: {name[:80]!r} of shape {str(shape)[:80]} has {rest} bytes"
        )
    flat = np.frombuffer(raw, dtype, offset=file.tell())
    return flat.reshape(shape, order="F" if fortran else "C")
