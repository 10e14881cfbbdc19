r"""Kernels in eight bits: whole numbers -127..127 and one factor for each output channel.

    kernel[h, w, i, o] = q[h, w, i, o] * scale[o],    scale[o] = max |kernel[..., o]| / 127

so that no weight is off by more than half a scale. In a file, ``conv1/kernel`` is then int8 and
``conv1/kernel_scale`` float32; biases stay as they are. Readers give back float32 kernels, and the
rest of the package knows nothing of it.
"""

from collections.abc import Mapping

import numpy as np

from mpp_jax.weights.source import WeightsError

SUFFIX = "_scale"
LARGEST = 127


def quantise(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round a kernel to eight bits.

    Args:
        kernel: (..., O) float.

    Returns:
        (..., O) int8 and the (O,) float32 scale; a channel of zeros has scale 1.
    """
    largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)))
    scale = np.where(largest > 0, largest / LARGEST, 1.0).astype(np.float32)
    return np.rint(kernel / scale).astype(np.int8), scale


def dequantise(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Multiply int8 arrays by their scales, which then leave the collection.

    Args:
        arrays: a file's arrays by name.

    Returns:
        The same, with float32 in place of every int8 array that has a scale beside it.

    Raises:
        WeightsError: a scale that does not fit its array, or is not finite and positive.
    """
    result = dict(arrays)
    for name, stored in arrays.items():
        scale = arrays.get(name + SUFFIX)
        if stored.dtype != np.int8 or scale is None:
            continue
        if scale.dtype != np.float32 or scale.shape != stored.shape[-1:]:
            raise WeightsError(
                f"{name + SUFFIX!r} is {scale.dtype} of shape {scale.shape}, wanted float32 of "
                f"{stored.shape[-1:]}, one factor for each output channel of {name!r}"
            )
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise WeightsError(f"{name + SUFFIX!r} is not finite and positive")
        result[name] = stored * scale
        del result[name + SUFFIX]
    return result
