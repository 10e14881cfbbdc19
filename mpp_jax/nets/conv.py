r"""2-D convolution, in the formulation that a device runs fastest.

All formulations compute the same cross-correlation, NHWC pictures against HWIO kernels:

    y[b, i, j, o] = sum_{u, v, c} x[b, i s + u - p, j s + v - p, c] kernel[u, v, c, o]

``direct``    XLA's own convolution: the reference that the others are tested against.
``matmul``    a 1x1 kernel of stride 1 is a matrix product over positions.
``im2col``    every window written out as a row, one product with the flattened kernel.
``winograd``  minimal filtering F(m, r) for square kernels of stride 1 (`mpp_jax.nets.winograd`).

`choose` is the one place that says which is used where; its table was measured with
``experiments/bench_dense.py``.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from mpp_jax.nets.winograd import transform_kernel, winograd_apply

Padding = Sequence[tuple[int, int]]
Kind = Literal["direct", "matmul", "im2col", "winograd"]


class Formulation(NamedTuple):
    """A way to compute a convolution; `tile` is m of winograd's F(m, r)."""

    kind: Kind
    tile: int = 0

    def __str__(self) -> str:
        """Return for instance ``winograd-3``."""
        return f"{self.kind}-{self.tile}" if self.tile else self.kind


DIRECT = Formulation("direct")


def choose(
    kernel_shape: tuple[int, int, int, int],
    strides: tuple[int, int],
    positions: int,
    backend: str,
) -> Formulation:
    """Return the fastest measured formulation for a layer on a device.

    Accelerators get the direct form: their libraries already tile it for the matrix units.

    Args:
        kernel_shape: (kh, kw, C / groups, O).
        strides: of the window.
        positions: of the output, H' W'.
        backend: as `jax.default_backend` names it.
    """
    if backend != "cpu":
        return DIRECT
    height, width, c_in, _ = kernel_shape
    if strides == (1, 1) and height == width:
        if height == 1:
            return Formulation("matmul")
        if height >= 6:
            return Formulation("winograd", 3) if positions > 9 else Formulation("im2col")
        # Below these widths the transforms cost more than the products they save.
        if c_in >= (96 if height <= 3 else 32):
            return Formulation("winograd", 3)
    return DIRECT


def candidates(
    kernel_shape: tuple[int, int, int, int], strides: tuple[int, int]
) -> tuple[Formulation, ...]:
    """Return every formulation that can compute a layer, for measurements."""
    height, width, _, _ = kernel_shape
    found = [DIRECT, Formulation("im2col")]
    if strides == (1, 1) and height == width == 1:
        found.append(Formulation("matmul"))
    elif strides == (1, 1) and height == width:
        found += [Formulation("winograd", m) for m in range(2, 8 - height // 2)]
    return tuple(found)


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

    A grouped convolution is split into ordinary ones and concatenated on the CPU, where XLA's own
    grouped form is about three times slower.

    Args:
        x: (B, H, W, C) float.
        kernel: (kh, kw, C / groups, O) float.
        strides: step of the window, (vertical, horizontal).
        padding: zeros added ((top, bottom), (left, right)).
        groups: number of channel groups that do not see each other.
        formulation: how to compute it; None takes `choose`'s answer for the default backend.
        prepared: from `prepare_kernel` for that formulation, where it is at hand.
        precision: as in `jax.lax.conv_general_dilated`.

    Returns:
        (B, H', W', O) float.
    """
    backend = jax.default_backend()
    if groups > 1 and (formulation == DIRECT or backend != "cpu"):
        return _direct(x, kernel, strides, padding, groups, precision)
    if groups > 1:
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
    if formulation is None:
        formulation = choose(
            (kernel.shape[0], kernel.shape[1], kernel.shape[2], kernel.shape[3]),
            strides,
            output_positions(x.shape, kernel.shape, strides, padding),
            backend,
        )
    kind, tile = formulation
    if kind == "direct":
        return _direct(x, kernel, strides, padding, 1, precision)
    (top, bottom), (left, right) = padding
    if top or bottom or left or right:
        x = jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    if kind == "matmul":
        return _matmul(x, kernel, precision)
    if kind == "im2col":
        return _im2col(x, kernel, strides, precision)
    if prepared is None:
        prepared = transform_kernel(kernel, tile)
    return winograd_apply(x, prepared, kernel.shape[0], tile, precision)


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
