"""Small sound files of every format, to be damaged."""

import dataclasses
import zipfile

import numpy as np
import safetensors.numpy

from helpers.nets_files import (
    caffemodel,
    dagnn,
    dense_names,
    narrow,
    npz,
    random_blobs,
    simplenn,
    torch_arrays,
    torch_zip,
)
from mpp_jax.nets import NETWORKS
from mpp_jax.weights.caffemodel import read_caffemodel
from mpp_jax.weights.deep_compression import _layer_shapes, read_deep_compression
from mpp_jax.weights.matconvnet import read_matconvnet
from mpp_jax.weights.npz import read_npz
from mpp_jax.weights.safetensors import read_safetensors
from mpp_jax.weights.torch_file import read_torch

BUDGET = 16 << 20
CAFFENET = narrow(NETWORKS["caffenet"], 16)
TORCH = narrow(NETWORKS["alexnet_torchvision"], 32)
SQUEEZENET = narrow(NETWORKS["squeezenet"], 16)
# fc6 and fc8 cut to keep the fuzzed files small: most damage must hit structure, not numbers.
MEAN = np.full((2, 2, 3), 110, np.float32) + np.arange(2, dtype=np.float32)[:, None, None]


def deep_compression(spec, seed=0):
    """Return a small file in the Deep Compression format."""
    rng, counts, body = np.random.default_rng(seed), [], b""
    for _, shape in _layer_shapes(spec):
        size = int(np.prod(shape))
        nnz = size // 9
        counts.append(nnz)
        body += rng.normal(size=256).astype("<f4").tobytes()
        body += rng.normal(size=shape[0]).astype("<f4").tobytes()
        body += rng.integers(0, 256, nnz, np.uint8).tobytes()
        body += (rng.integers(0, 256, (nnz + 1) // 2, np.uint8) & 0x77).tobytes()
    return np.array(counts, "<u4").tobytes() + body


def tiny(spec):
    """Return a narrow network less its large layers."""
    keep = tuple(layer for layer in spec.layers if layer.name not in ("fc6", "fc7"))
    return dataclasses.replace(
        spec, layers=keep, default_layer="conv1", descriptor_layers=("conv1",)
    )


CAFFE_TINY, TORCH_TINY = tiny(CAFFENET), tiny(TORCH)
CAFFE_BLOBS, TORCH_BLOBS = random_blobs(CAFFE_TINY), random_blobs(TORCH_TINY)
TORCH_ARRAYS = torch_arrays(TORCH_BLOBS, TORCH_TINY)

# name -> (a sound file, its reader)
FILES = {
    "caffe": (
        caffemodel(CAFFE_BLOBS, dense=dense_names(CAFFE_TINY)),
        lambda d: read_caffemodel(d),
    ),
    "caffe-v0": (
        caffemodel(CAFFE_BLOBS, dense=dense_names(CAFFE_TINY), generation="v0", legacy=True),
        lambda d: read_caffemodel(d),
    ),
    "simplenn": (
        simplenn(CAFFE_TINY, CAFFE_BLOBS, MEAN, compress=False),
        lambda d: read_matconvnet(d, CAFFE_TINY, BUDGET),
    ),
    "dagnn": (
        dagnn(CAFFE_TINY, CAFFE_BLOBS, MEAN, compress=False),
        lambda d: read_matconvnet(d, CAFFE_TINY, BUDGET),
    ),
    "compressed-mat": (
        simplenn(CAFFE_TINY, CAFFE_BLOBS, MEAN),
        lambda d: read_matconvnet(d, CAFFE_TINY, BUDGET),
    ),
    "torch": (torch_zip(TORCH_ARRAYS), lambda d: read_torch(d, BUDGET)),
    "torch-deflated": (
        torch_zip(TORCH_ARRAYS, compression=zipfile.ZIP_DEFLATED),
        lambda d: read_torch(d, BUDGET),
    ),
    "npz": (npz(TORCH_ARRAYS), lambda d: read_npz(d, BUDGET)),
    "npz-deflated": (npz(TORCH_ARRAYS, compress=True), lambda d: read_npz(d, BUDGET)),
    "safetensors": (safetensors.numpy.save(TORCH_ARRAYS), lambda d: read_safetensors(d)),
    "deep-compression": (
        deep_compression(SQUEEZENET),
        lambda d: read_deep_compression(d, SQUEEZENET),
    ),
}
