"""Reader of the Deep Compression format (Han et al. 2016, arXiv:1510.00149).

Little endian. First one uint32 per layer: its number ``nnz`` of stored weights, in order of the
network (within a fire module: squeeze 1x1, expand 1x1, expand 3x3). Then for each layer

    256 float32            codebook
    C_out float32          biases
    nnz uint8              codes
    ceil(nnz / 2) bytes    4-bit gaps, low nibble first

Stored weight ``j`` has the flat (out, in, h, w) index ``cumsum(gap + 1)[j] - 1`` and the value
``codebook[codes[j]]``; every other weight is ``codebook[0]``. The file ends with the last layer.
"""

import math
from collections.abc import Iterator

import numpy as np

from mpp_jax.nets.spec import NetSpec, convolutions, kernel_shape
from mpp_jax.weights.source import SourceWeights, WeightsError

CODEBOOK = 256


def _layer_shapes(spec: NetSpec) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """Yield name and (out, in, h, w) of every convolution."""
    for path, layer, channels in convolutions(spec):
        height, width, inputs, outputs = kernel_shape(layer, channels)
        yield "/".join(path), (outputs, inputs, height, width)


def _layer_bytes(nnz: int, outputs: int) -> int:
    return 4 * CODEBOOK + 4 * outputs + nnz + (nnz + 1) // 2


def expected_size(data: bytes, spec: NetSpec) -> int | None:
    """Return the bytes that the header announces; None where there is no plausible header."""
    shapes = list(_layer_shapes(spec))
    if len(data) < 4 * len(shapes):
        return None
    counts = np.frombuffer(data, "<u4", len(shapes)).astype(int)
    if any(n > math.prod(shape) for n, (_, shape) in zip(counts, shapes, strict=True)):
        return None
    total = sum(_layer_bytes(int(n), s[0]) for n, (_, s) in zip(counts, shapes, strict=True))
    return 4 * len(shapes) + total


def read_deep_compression(data: bytes, spec: NetSpec) -> SourceWeights:
    """Decode a Deep Compression file for the network `spec`.

    Raises:
        WeightsError: the counts do not fit the network, the size does not fit the counts, an
            index lies outside its layer, or a value is not finite.
    """
    shapes = list(_layer_shapes(spec))
    size = expected_size(data, spec)
    if size is None:
        raise WeightsError(
            f"not a Deep Compression file of {spec.name!r}: its header does not hold "
            f"{len(shapes)} plausible weight counts"
        )
    if size != len(data):
        how = "is truncated" if len(data) < size else "is too long or its header is damaged"
        raise WeightsError(
            f"Deep Compression file {how}: {len(data)} bytes, the header announces {size}"
        )
    counts = np.frombuffer(data, "<u4", len(shapes)).astype(int)
    arrays: dict[str, np.ndarray] = {}
    offset = 4 * len(shapes)
    for (name, shape), nnz in zip(shapes, counts, strict=True):
        codebook = np.frombuffer(data, "<f4", CODEBOOK, offset)
        bias = np.frombuffer(data, "<f4", shape[0], offset + 4 * CODEBOOK)
        codes_at = offset + 4 * (CODEBOOK + shape[0])
        codes = np.frombuffer(data, np.uint8, nnz, codes_at)
        packed = np.frombuffer(data, np.uint8, (nnz + 1) // 2, codes_at + nnz)
        gaps = np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1)[:nnz]
        index = np.cumsum(gaps.astype(np.int64) + 1) - 1
        if nnz and index[-1] >= math.prod(shape):
            raise WeightsError(
                f"Deep Compression file is damaged: layer {name!r} stores a weight at index "
                f"{index[-1]}, it has {math.prod(shape)}"
            )
        kernel = np.full(math.prod(shape), codebook[0], np.float32)
        kernel[index] = codebook[codes]
        arrays[f"{name}/0"] = kernel.reshape(shape)
        arrays[f"{name}/1"] = bias.astype(np.float32)
        offset += _layer_bytes(int(nnz), shape[0])
    return SourceWeights("Deep Compression", "caffe", arrays, network=spec.name)
