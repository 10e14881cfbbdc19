"""The building blocks of the networks; NHWC activations, HWIO kernels.

Shapes: ``B`` pictures, ``H x W`` positions, ``C`` channels. Plain functions carry the
mathematics; the Linen modules only own the parameters. Which form of a computation a device takes
is said by `mpp_jax.nets.forms`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from mpp_jax.nets import spec as s
from mpp_jax.nets.conv import conv2d, output_positions
from mpp_jax.nets.forms import Forms, LrnForm, PoolForm, choose

# Parity with the networks' original implementations (1e-4) rules out TF32 and bfloat16 passes.
PRECISION = "highest"


def product_precision(dtype: Any, precision: str) -> str:
    """Return the precision that products of a dtype need to be as exact as is asked for.

    Those of shorter floats than float32 are exact in the sums' float32 as they are.
    """
    return precision if jnp.dtype(dtype) == jnp.float32 else "default"


def lrn(x: Array, layer: s.LRN, form: LrnForm = "band") -> Array:
    """Return activations normalised across channels by their local response.

    ``y_c = x_c / (k + alpha/size * sum_{|j - c| <= size/2} x_j^2)^beta``
    (Krizhevsky et al. 2012, section 3.3, with Caffe's scaling of alpha).

    Args:
        x: (B, H, W, C).
        layer: its constants.
        form: how the sums are taken: by a product with a 0/1 band matrix ("band"), one pass over
            memory where products are cheap, or by `size` shifted additions ("shifts").

    Returns:
        (B, H, W, C), same dtype.
    """
    reach = layer.size // 2
    if form == "band":
        channels = np.arange(x.shape[-1])
        band = np.abs(channels[:, None] - channels[None, :]) <= reach
        total = jnp.dot(
            jnp.square(x),
            jnp.asarray(band, x.dtype),
            precision=product_precision(x.dtype, PRECISION),
            preferred_element_type=jnp.float32,
        )
    else:
        square = jnp.square(x.astype(jnp.float32))
        square = jnp.pad(square, ((0, 0), (0, 0), (0, 0), (reach, reach)))
        shifted = [square[..., i : i + x.shape[-1]] for i in range(2 * reach + 1)]
        total = sum(shifted[1:], shifted[0])
    denominator = layer.k + (layer.alpha / layer.size) * total
    if layer.beta == 0.75:  # two square roots are several times faster than a power
        root = lax.rsqrt(denominator)
        factor = root * lax.sqrt(root)
    else:
        factor = lax.pow(denominator, jnp.float32(-layer.beta))
    return (x * factor).astype(x.dtype)


def max_pool(
    x: Array,
    layer: s.Pool,
    mode: s.PoolingMode,
    form: PoolForm = "axes",
    before: Sequence[int] | None = None,
) -> Array:
    """Return the maxima of windows; in ceil mode the last ones hang over the edge.

    What lies beyond the edge does not count.

    Args:
        x: (B, H, W, C).
        layer: window, stride and padding.
        mode: ``"floor"`` or ``"ceil"``.
        form: one 1-D window after the other ("axes") or one 2-D window ("window").
        before: how far the first window begins before the map, (vertical, horizontal), where the
            record says ``"same"``.

    Returns:
        (B, H', W', C) with the sizes of `mpp_jax.nets.spec.pooled_size`.
    """
    first = before if before is not None else (layer.pad, layer.pad)
    for axes in ((1,), (2,)) if form == "axes" else ((1, 2),):
        x = _max_along(x, axes, layer, mode, first)
    return x


def _max_along(
    x: Array, axes: tuple[int, ...], layer: s.Pool, mode: s.PoolingMode, first: Sequence[Any]
) -> Array:
    window, stride, padding = [1] * 4, [1] * 4, [(0, 0)] * 4
    for axis in axes:
        n, before = x.shape[axis], first[axis - 1]
        size = s.pooled_size(n, layer.window, layer.stride, mode, layer.pad)
        if size == 0:
            raise ValueError(f"x: {n} positions are fewer than pooling {layer.name!r} needs")
        over = (size - 1) * layer.stride + layer.window - n - before
        window[axis], stride[axis] = layer.window, layer.stride
        padding[axis] = (before, max(0, over))
    return lax.reduce_window(x, -jnp.inf, lax.max, window, stride, padding)


def window_mean(x: Array, window: int, stride: int) -> Array:
    """Return the means over all ``window x window`` neighbourhoods, `stride` apart.

    Args:
        x: (B, H, W, C).
        window: positions averaged along each axis.
        stride: positions between neighbouring means.

    Returns:
        (B, (H - window) // stride + 1, (W - window) // stride + 1, C).
    """
    if window == 1 and stride == 1:
        return x
    rows, columns = (_averaging_matrix(n, window, stride) for n in x.shape[1:3])
    # Two small matrix products; cumulative sums would cancel, a pooling window sums 169 terms.
    x32 = jnp.einsum(
        "ph,bhwc->bpwc", rows, x, precision=PRECISION, preferred_element_type=jnp.float32
    )
    mean = jnp.einsum("qw,bpwc->bpqc", columns, x32, precision=PRECISION)
    return mean.astype(x.dtype)


def _averaging_matrix(n: int, window: int, stride: int) -> np.ndarray:
    """Return (P, n), row p averaging positions ``p * stride .. p * stride + window``."""
    start = stride * np.arange((n - window) // stride + 1)[:, None]
    at = np.arange(n)[None, :]
    return ((at >= start) & (at < start + window)).astype(np.float32) / np.float32(window)


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "hard_swish": jax.nn.hard_swish,
    "hard_sigmoid": jax.nn.hard_sigmoid,
}


def activate(x: Array, activation: s.Activation) -> Array:
    """Return the non-linearity of every entry; same shape and dtype."""
    return _ACTIVATIONS[activation](x)


class Convolution(nn.Module):
    """Convolution, bias and the layer's non-linearity.

    Parameters: `kernel` (k, k, C_in / groups, C_out) and `bias` (C_out,); beside them, where the
    network was prepared, `prepared`, the transformed kernel of the layer's formulation. A
    fully connected layer is one whose kernel covers the whole map of a base picture.
    """

    layer: s.Conv
    forms: Forms
    precision: str = PRECISION

    @nn.compact
    def __call__(self, x: Array, padding: Sequence[tuple[int, int]]) -> Array:
        """Return (B, H', W', C_out) of (B, H, W, C_in) and the zeros around its two axes."""
        c = self.layer
        shape = (c.kernel, c.kernel, x.shape[-1] // c.groups, c.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        bias = self.param("bias", nn.initializers.normal(0.01), (c.features,))
        strides = (c.stride, c.stride)
        positions = output_positions(x.shape, shape, strides, padding)
        how = choose(self.forms, shape, strides, positions, c.groups)
        y = conv2d(
            x,
            kernel,
            strides=strides,
            padding=padding,
            groups=c.groups,
            formulation=how,
            prepared=self.get_variable("params", "prepared", None),
            precision=product_precision(x.dtype, self.precision),
        )
        return activate(y + bias[None, None, None, :], c.activation)


class FireModule(nn.Module):
    """SqueezeNet's fire module (Iandola et al. 2016, section 3.2)."""

    layer: s.Fire
    forms: Forms
    precision: str = PRECISION

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return (B, H, W, expand1x1 + expand3x3) of (B, H, W, C)."""
        squeeze, narrow, wide = s.fire_convolutions(self.layer)
        how = (self.forms, self.precision)
        none, ring = ((0, 0),) * 2, ((1, 1),) * 2
        x = Convolution(squeeze, *how, name=squeeze.name)(x, none)
        branches = (
            Convolution(narrow, *how, name=narrow.name)(x, none),
            Convolution(wide, *how, name=wide.name)(x, ring),
        )
        return jnp.concatenate(branches, axis=-1)
