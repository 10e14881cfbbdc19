"""Which formulation of each computation a device takes: the choices as data, and their lookup.

`Forms` holds the choices of one device in one mode. There are three modes, by the parameters' dtype
and the network's precision: "float32" (precision "highest"), "tf32" (float32 with any other
precision) and "bfloat16" (every other dtype). The tables are in `mpp_jax.nets.forms_table`; what
each choice computes is said in `mpp_jax.nets.conv`, `mpp_jax.nets.layers`,
`mpp_jax.describe.pyramid` and `mpp_jax.describe.dense`. All choices give the same numbers within
rounding.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
from jax import lax

from mpp_jax.nets.winograd import LARGEST_TILE_AND_KERNEL

Kind = Literal[
    "direct",
    "split",
    "matmul",
    "im2col",
    "rows",
    "space_to_depth",
    "shifts",
    "fused_shifts",
    "winograd",
]
Mode = Literal["float32", "tf32", "bfloat16"]
PoolForm = Literal["axes", "window"]
LrnForm = Literal["band", "shifts"]
BatchForm = Literal["map", "whole"]

MODES: tuple[Mode, ...] = get_args(Mode)


class Formulation(NamedTuple):
    """A way to compute a convolution.

    Attributes:
        kind: see `mpp_jax.nets.conv`.
        tile: m of winograd's F(m, r); 0 for the other kinds.
        barrier: keep XLA from fusing the bias and rectification that follow into it; of groups
            taken apart, into each: what puts them together is fused with what follows.
    """

    kind: Kind
    tile: int = 0
    barrier: bool = False

    def __str__(self) -> str:
        """Return for instance ``winograd-3`` or ``direct+barrier``."""
        tile = f"-{self.tile}" if self.tile else ""
        return f"{self.kind}{tile}{'+barrier' if self.barrier else ''}"


DIRECT = Formulation("direct")
SPLIT = Formulation("split")

Span = tuple[int, int | None]
"""Least and most, both included; None for no most."""


@dataclass(frozen=True)
class Row:
    """One line of a table: the convolutions it is for, and how they are computed.

    Attributes:
        formulation: how.
        note: where the line comes from: "measured ..." or "reasoned: ...".
        kernel: sides of square kernels; None: any kernel, square or not.
        stride: of the window along both axes.
        inputs: channels of one group.
        outputs: channels of all groups.
        groups: how many.
        positions: H' W' of the output.
    """

    formulation: Formulation
    note: str = ""
    kernel: Span | None = None
    stride: Span | None = None
    inputs: Span | None = None
    outputs: Span | None = None
    groups: Span | None = None
    positions: Span | None = None

    def fits(
        self,
        kernel_shape: tuple[int, int, int, int],
        strides: tuple[int, int],
        positions: int,
        groups: int,
    ) -> bool:
        """Return whether the line is for a layer, and can compute it; arguments as `choose`."""
        height, width, inputs, outputs = kernel_shape
        return (
            (self.kernel is None or (height == width and _within(height, self.kernel)))
            and all(_within(stride, self.stride) for stride in strides)
            and _within(inputs, self.inputs)
            and _within(outputs, self.outputs)
            and _within(groups, self.groups)
            and _within(positions, self.positions)
            and possible(self.formulation, kernel_shape, strides)
        )


@dataclass(frozen=True)
class Forms:
    """How one device computes in one mode.

    Attributes:
        convolutions: lines, of which the first that fits a layer says how it is computed; XLA's own
            form where none does.
        pool: max pooling by two 1-D windows ("axes") or one 2-D window ("window").
        lrn: sums over neighbouring channels by a banded matrix ("band") or by additions ("shifts").
        taps: an axis of a picture is resized by gathering where no pixel of the result has more
            terms than this, else by a matrix product; 0: always by a matrix product.
        batch: the network sees a batch at once ("whole"), or is a function of one picture ("map":
            in a loop on a CPU, by `vmap` on accelerators).
        note: where the choices other than convolutions come from.
    """

    convolutions: tuple[Row, ...] = ()
    pool: PoolForm = "axes"
    lrn: LrnForm = "band"
    taps: int = 0
    batch: BatchForm = "whole"
    note: str = ""


def mode_of(dtype: Any, precision: lax.PrecisionLike) -> Mode:
    """Return the mode of a network with parameters of this dtype and this precision."""
    if jnp.dtype(dtype) != jnp.float32:
        return "bfloat16"
    return "float32" if precision in ("highest", lax.Precision.HIGHEST) else "tf32"


def choose(
    forms: Forms,
    kernel_shape: tuple[int, int, int, int],
    strides: tuple[int, int],
    positions: int,
    groups: int = 1,
) -> Formulation:
    """Return how a table computes a convolution.

    Args:
        forms: the table of a device and mode.
        kernel_shape: (kh, kw, C / groups, O).
        strides: of the window.
        positions: of the output, H' W'.
        groups: number of channel groups.
    """
    for row in forms.convolutions:
        if row.fits(kernel_shape, strides, positions, groups):
            return row.formulation
    return DIRECT


def possible(
    formulation: Formulation, kernel_shape: tuple[int, int, int, int], strides: tuple[int, int]
) -> bool:
    """Return whether a formulation can compute a layer; arguments as `choose`."""
    height, width, inputs, _ = kernel_shape
    match formulation.kind:
        case "matmul":
            return strides == (1, 1) and height == width == 1
        case "space_to_depth":
            return strides != (1, 1)
        case "shifts" | "fused_shifts":
            return inputs == 1
        case "winograd":
            small = formulation.tile + height <= LARGEST_TILE_AND_KERNEL
            return strides == (1, 1) and height == width and small
    return True


def candidates(
    kernel_shape: tuple[int, int, int, int],
    strides: tuple[int, int],
    groups: int = 1,
    mode: Mode = "float32",
) -> tuple[Formulation, ...]:
    """Return every formulation that can compute a layer, for measurements.

    Minimal filtering costs digits that only float32 has to spare. What takes groups apart is no
    way to compute a depthwise layer, which has hundreds.
    """
    height, _, inputs, _ = kernel_shape
    if inputs == 1 and groups > 1:
        return DIRECT, Formulation("shifts"), Formulation("fused_shifts")
    found = [DIRECT, *([SPLIT] if groups > 1 else []), Formulation("im2col")]
    found += [Formulation("matmul"), Formulation("space_to_depth")]
    if height > 1:
        found.append(Formulation("rows"))
        if mode == "float32":
            found += [Formulation("winograd", m) for m in range(2, 8 - height // 2)]
    return tuple(f for f in found if possible(f, kernel_shape, strides))


def _within(value: int, span: Span | None) -> bool:
    if span is None:
        return True
    least, most = span
    return value >= least and (most is None or value <= most)
