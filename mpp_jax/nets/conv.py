r"""2-D convolution, in the formulation that a device runs fastest.

All formulations compute the same cross-correlation, NHWC pictures against HWIO kernels:

    y[b, i, j, o] = sum_{u, v, c} x[b, i s + u - p, j s + v - p, c] kernel[u, v, c, o]

``direct``    XLA's own convolution, also of groups: the reference that the others are tested
              against.
``split``     XLA's own convolution of each group, concatenated; so do all that follow.
``matmul``    a 1x1 kernel of stride 1 is a matrix product over positions.
``im2col``    every window written out as a row, one product with the flattened kernel.
``rows``      the rows of windows written out along one axis alone, one product with each row of the
              kernel: a kh-th of im2col's memory.
``space_to_depth``  a strided kernel is one of stride 1 on blocks of s x s pixels as channels:
              11x11/4 on 3 channels is 3x3 on 48, of which some weights are zero.
``shifts``    depthwise kernels (one channel a group): kh kw shifted multiply-adds, no product; the
              padded map is written out before.
``fused_shifts``  the same, and the padding is left to the compiler: a pass over memory less, a
              comparison for every term more.
``winograd``  minimal filtering F(m, r) for square kernels of stride 1 (`mpp_jax.nets.winograd`).

`mpp_jax.nets.forms.choose` says which is used where.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax

from mpp_jax.nets.forms import Formulation, choose
from mpp_jax.nets.forms_table import device_forms
from mpp_jax.nets.winograd import transform_kernel, winograd_apply

Padding = Sequence[tuple[int, int]]


def prepare_kernel(kernel: Array, formulation: Formulation) -> Array | None:
    """Return what a formulation can compute from the weights alone, once; None for nothing."""
    if formulation.kind != "winograd":
        return None
    return transform_kernel(kernel, formulation.tile)


def conv2d(
    x: Array,
    kernel: Array,
    *,
    strides: tuple[int, int] = (1, 1),
    padding: Padding = ((0, 0), (0, 0)),
    groups: int = 1,
    formulation: Formulation | None = None,
    prepared: Array | None = None,
    precision: lax.PrecisionLike = None,
) -> Array:
    """Cross-correlate pictures with a kernel.

    Args:
        x: (B, H, W, C) float.
        kernel: (kh, kw, C / groups, O) float.
        strides: step of the window, (vertical, horizontal).
        padding: zeros added ((top, bottom), (left, right)).
        groups: number of channel groups that do not see each other.
        formulation: how to compute it; None takes the choice of the device's own table.
        prepared: from `prepare_kernel` for that formulation, where it is at hand.
        precision: as in `jax.lax.conv_general_dilated`.

    Returns:
        (B, H', W', O) float, of x's dtype.
    """
    if formulation is None:
        formulation = choose(
            device_forms(x.dtype, precision),
            (kernel.shape[0], kernel.shape[1], kernel.shape[2], kernel.shape[3]),
            strides,
            output_positions(x.shape, kernel.shape, strides, padding),
            groups,
        )
    kind = formulation.kind
    if groups > 1 and kind not in ("direct", "shifts", "fused_shifts"):
        ready = [None] * groups if prepared is None else jnp.split(prepared, groups, axis=-1)
        parts = zip(
            jnp.split(x, groups, axis=-1), jnp.split(kernel, groups, axis=-1), ready, strict=True
        )
        each = [
            conv2d(
                x_part,
                kernel_part,
                strides=strides,
                padding=padding,
                formulation=formulation,
                prepared=ready_part,
                precision=precision,
            )
            for x_part, kernel_part, ready_part in parts
        ]
        return jnp.concatenate(each, axis=-1)
    args = (x, kernel, strides, padding, groups, precision)
    y = _one_group(formulation, prepared, *args)
    return _barrier(y) if formulation.barrier else y


def _one_group(
    formulation: Formulation,
    prepared: Array | None,
    x: Array,
    kernel: Array,
    strides: tuple[int, int],
    padding: Padding,
    groups: int,
    precision: lax.PrecisionLike,
) -> Array:
    """Return what `conv2d` does, of a single group; or of several, where the form takes them."""
    kind = formulation.kind
    if kind in ("direct", "split"):
        return _direct(x, kernel, strides, padding, groups, precision)
    if kind in ("shifts", "fused_shifts"):
        return _shifts(x, kernel, strides, padding, written=kind == "shifts")
    (top, bottom), (left, right) = padding
    if top or bottom or left or right:
        x = jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    match kind:
        case "matmul":
            return _matmul(x, kernel, precision)
        case "im2col":
            return _im2col(x, kernel, strides, precision)
        case "rows":
            return _rows(x, kernel, strides, precision)
        case "space_to_depth":
            return _space_to_depth(x, kernel, strides, precision)
        case _:
            tile = formulation.tile
            ready_kernel = transform_kernel(kernel, tile) if prepared is None else prepared
            return winograd_apply(x, ready_kernel, kernel.shape[0], tile, precision)


@jax.custom_jvp
def _barrier(x: Array) -> Array:
    """Return `x`, and keep the compiler from fusing what comes before with what comes after."""
    return lax.optimization_barrier(x)


_barrier.defjvps(lambda tangent, y, x: tangent)  # not every JAX has its derivative


def output_positions(
    x_shape: Sequence[int], kernel_shape: Sequence[int], strides: Sequence[int], padding: Padding
) -> int:
    """Return H' W' of a convolution's output."""
    rows, columns = (
        (x_shape[1 + axis] + sum(padding[axis]) - kernel_shape[axis]) // strides[axis] + 1
        for axis in (0, 1)
    )
    return rows * columns


def _direct(
    x: Array,
    kernel: Array,
    strides: tuple[int, int],
    padding: Padding,
    groups: int,
    precision: lax.PrecisionLike,
) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=precision,
    )


def _matmul(x: Array, kernel: Array, precision: lax.PrecisionLike) -> Array:
    # One tall matrix: XLA's batched form of the same product runs at half the speed.
    flat = x.reshape(-1, x.shape[-1])
    return jnp.dot(flat, kernel[0, 0], precision=precision).reshape(*x.shape[:-1], -1)


def _shifts(
    x: Array, kernel: Array, strides: tuple[int, int], padding: Padding, *, written: bool
) -> Array:
    kh, kw, _, c_out = kernel.shape
    sh, sw = strides
    if any(sum(pair) for pair in padding):
        x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
        x = _barrier(x) if written else x
    if c_out > x.shape[-1]:
        x = jnp.repeat(x, c_out // x.shape[-1], axis=-1)
    height = _output_size(x.shape[1], kh, sh)
    width = _output_size(x.shape[2], kw, sw)
    wide = jnp.promote_types(x.dtype, jnp.float32)  # sums of kh kw products keep their digits
    terms = [
        x[:, u : u + sh * (height - 1) + 1 : sh, v : v + sw * (width - 1) + 1 : sw].astype(wide)
        * kernel[u, v, 0][None, None, None].astype(wide)
        for u in range(kh)
        for v in range(kw)
    ]
    return sum(terms[1:], terms[0]).astype(x.dtype)


def _output_size(size: int, kernel: int, stride: int) -> int:
    return (size - kernel) // stride + 1


def _im2col(
    x: Array, kernel: Array, strides: tuple[int, int], precision: lax.PrecisionLike
) -> Array:
    kh, kw, _, c_out = kernel.shape
    sh, sw = strides
    height = _output_size(x.shape[1], kh, sh)
    width = _output_size(x.shape[2], kw, sw)
    taps = [
        x[:, u : u + sh * (height - 1) + 1 : sh, v : v + sw * (width - 1) + 1 : sw]
        for u in range(kh)
        for v in range(kw)
    ]
    patches = jnp.concatenate(taps, axis=-1).reshape(x.shape[0] * height * width, -1)
    y = jnp.dot(patches, kernel.reshape(-1, c_out), precision=precision)
    return y.reshape(x.shape[0], height, width, c_out)


def _rows(x: Array, kernel: Array, strides: tuple[int, int], precision: lax.PrecisionLike) -> Array:
    kh, kw, _, c_out = kernel.shape
    sh, sw = strides
    batch, height = x.shape[0], _output_size(x.shape[1], kh, sh)
    width = _output_size(x.shape[2], kw, sw)
    taps = [x[:, :, v : v + sw * (width - 1) + 1 : sw] for v in range(kw)]
    windows = jnp.concatenate(taps, axis=-1)
    wide = jnp.promote_types(x.dtype, jnp.float32)  # sums of kh products keep their digits
    products = [
        jnp.dot(
            windows[:, u : u + sh * (height - 1) + 1 : sh].reshape(batch * height * width, -1),
            kernel[u].reshape(-1, c_out),
            precision=precision,
            preferred_element_type=wide,
        )
        for u in range(kh)
    ]
    y = sum(products[1:], products[0])
    return y.reshape(batch, height, width, c_out).astype(x.dtype)


def _space_to_depth(
    x: Array, kernel: Array, strides: tuple[int, int], precision: lax.PrecisionLike
) -> Array:
    kh, kw, c_in, c_out = kernel.shape
    # Tap u = s a + r of the kernel becomes tap a of channel block r.
    taps = [-(-k // s) for k, s in zip((kh, kw), strides, strict=True)]
    blocks = [
        _output_size(n, k, s) + t - 1
        for n, k, s, t in zip(x.shape[1:3], (kh, kw), strides, taps, strict=True)
    ]
    rows, columns = (b * s for b, s in zip(blocks, strides, strict=True))
    x = x[:, :rows, :columns]
    x = jnp.pad(x, ((0, 0), (0, rows - x.shape[1]), (0, columns - x.shape[2]), (0, 0)))
    grow = [t * s - k for t, s, k in zip(taps, strides, (kh, kw), strict=True)]
    kernel = jnp.pad(kernel, ((0, grow[0]), (0, grow[1]), (0, 0), (0, 0)))
    deep = _to_depth(x.reshape(-1, blocks[0], strides[0], blocks[1], strides[1], c_in))
    weights = kernel.reshape(taps[0], strides[0], taps[1], strides[1], c_in, c_out)
    weights = weights.transpose(0, 2, 1, 3, 4, 5).reshape(*taps, -1, c_out)
    return _direct(deep, weights, (1, 1), ((0, 0), (0, 0)), 1, precision)


def _to_depth(blocks: Array) -> Array:
    """Return (B, H, W, s t C) of blocks (B, H, s, W, t, C)."""
    batch, height, _, width, _, _ = blocks.shape
    return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height, width, -1)
