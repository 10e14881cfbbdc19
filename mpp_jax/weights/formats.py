"""Recognising a weight file by its content and handing it to its reader.

Memory stays within a multiple of what the wanted network needs, whatever a file declares.
"""

import hashlib
from pathlib import Path

from mpp_jax.nets.registry import NETWORKS
from mpp_jax.nets.spec import NetSpec
from mpp_jax.weights.caffemodel import looks_like_caffemodel, read_caffemodel
from mpp_jax.weights.deep_compression import expected_size, read_deep_compression
from mpp_jax.weights.fit import parameter_count
from mpp_jax.weights.mat5 import looks_like_mat5
from mpp_jax.weights.matconvnet import read_matconvnet
from mpp_jax.weights.native import looks_native, read_native
from mpp_jax.weights.npz import looks_like_npz, read_npz
from mpp_jax.weights.safetensors import looks_like_safetensors, read_safetensors
from mpp_jax.weights.source import SourceWeights, WeightsError
from mpp_jax.weights.torch_file import looks_like_torch, read_torch

# Double precision, optimiser state (Caffe's `diff`) and a mean picture beside float32 parameters.
BYTES_PER_PARAMETER = 16
ROOM_BYTES = 64 << 20

KNOWN = "Caffe, MatConvNet, torch, safetensors, npz, Deep Compression and this package's own"


def budget(spec: NetSpec) -> int:
    """Return the bytes that a file for a network, or its unpacked contents, may have."""
    return BYTES_PER_PARAMETER * parameter_count(spec) + ROOM_BYTES


def read_weights(path: Path, spec: NetSpec) -> tuple[SourceWeights, str]:
    """Read a weight file or network folder.

    Args:
        path: the file.
        spec: the network that it is wanted for.

    Returns:
        Its arrays, and the SHA-256 of its bytes (of a folder: of the file it came from).

    Raises:
        WeightsError: damaged, too large, or of no known format.
        OSError: not there or not readable.
    """
    if path.is_dir():
        if not looks_native(path):
            raise WeightsError("the folder holds no network; give a weight file")
        return read_native(path, spec)
    size = path.stat().st_size
    if size > budget(spec):
        raise WeightsError(f"{size} bytes are too many for a file of network {spec.name!r}")
    if size == 0:
        raise WeightsError("the file is empty")
    data = path.read_bytes()
    return parse_weights(data, spec), hashlib.sha256(data).hexdigest()


def parse_weights(data: bytes, spec: NetSpec) -> SourceWeights:
    """Decode the bytes of a weight file of any known format; see `read_weights`."""
    if looks_like_mat5(data):
        return read_matconvnet(data, spec, budget(spec))
    if looks_like_npz(data):
        return read_npz(data, budget(spec))
    if looks_like_torch(data):
        return read_torch(data, budget(spec))
    if looks_like_safetensors(data):
        return read_safetensors(data)
    if spec.files.deep_compression and expected_size(data, spec) == len(data):
        return read_deep_compression(data, spec)
    if data[:8] == b"\x89HDF\r\n\x1a\n":
        raise WeightsError("HDF5 files are not read; save the model in Caffe's binary form")
    if looks_like_caffemodel(data):
        return read_caffemodel(data)
    for other in NETWORKS.values():
        if other.files.deep_compression and expected_size(data, other) == len(data):
            raise WeightsError(
                f"this is a Deep Compression file of network {other.name!r}, not {spec.name!r}"
            )
    if spec.files.deep_compression and expected_size(data, spec) is not None:
        return read_deep_compression(data, spec)  # says what is wrong with it
    raise WeightsError(f"not a weight file of a known format ({KNOWN})")
