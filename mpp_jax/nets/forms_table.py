"""The tables: how each kind of device computes a network, one line a choice.

Measured are the lines of the CPU (two cores with AVX-512, float32: ``experiments/bench_dense.py``)
and those of bfloat16 on an NVIDIA H200, by layers alone, without bias, at 1,816 pixels and eight
pictures at once. All other lines are *reasoned* from these and say so: no accelerator was at hand
when they were written, nor has any of these tables been timed in a whole program on one.
``experiments/bench_device.py --tune`` measures every choice on the device that it finds and writes
a file that takes this table's place there (`mpp_jax.weights.forms_file`).
"""

from dataclasses import replace
from typing import Any

import jax
from jax import lax

from mpp_jax.nets.forms import DIRECT, SPLIT, Forms, Formulation, Mode, Row, mode_of

_MATMUL, _IM2COL = Formulation("matmul"), Formulation("im2col")
_DEPTH, _WINOGRAD = Formulation("space_to_depth"), Formulation("winograd", 3)
_SHIFTS, _FUSED_SHIFTS = Formulation("shifts"), Formulation("fused_shifts")

# XLA's grouped form of a depthwise kernel takes 17 to 160 times as long; a padding that is fused
# into the sums is worked out for every term.
_CPU_DEPTHWISE = Row(_SHIFTS, "measured", inputs=(1, 1), groups=(2, None))
# Below these widths the transforms of minimal filtering cost more than the products they save.
_CPU = Forms(
    convolutions=(
        _CPU_DEPTHWISE,
        Row(_MATMUL, "measured", kernel=(1, 1)),
        Row(_WINOGRAD, "measured", kernel=(6, None), positions=(10, None)),
        Row(_IM2COL, "measured", kernel=(6, None), stride=(1, 1), positions=(1, 9)),
        Row(_WINOGRAD, "measured", kernel=(2, 3), inputs=(96, None)),
        Row(_WINOGRAD, "measured", kernel=(4, 5), inputs=(32, None)),
        Row(SPLIT, "measured: XLA's grouped form takes three times as long", groups=(2, None)),
    ),
    pool="axes",
    lrn="band",
    taps=0,
    batch="map",
    note="measured",
)
_CPU_OTHER = replace(
    _CPU,
    convolutions=(_CPU_DEPTHWISE,),
    note="as in float32, but XLA's own convolutions where they see more than one channel",
)


def _with_barriers(forms: Forms) -> Forms:
    """Return a table whose convolutions, the products apart, end in a barrier."""
    rows = [
        replace(row, formulation=row.formulation._replace(barrier=True))
        if row.formulation.kind in ("direct", "split", "space_to_depth")
        else row
        for row in forms.convolutions
    ]
    return replace(forms, convolutions=tuple(rows))


_H200_BFLOAT16 = Forms(
    convolutions=(
        Row(
            _FUSED_SHIFTS,
            "reasoned: one pass over memory, where there are no products for matrix units; as"
            " compiled, EfficientNet-Lite0 moves a third less than with padding written out",
            inputs=(1, 1),
            groups=(2, None),
        ),
        Row(
            _DEPTH,
            "measured: 0.094 ms, direct 0.533",
            stride=(2, None),
            inputs=(1, 4),
            groups=(1, 1),
        ),
        Row(_MATMUL, "measured: 0.168 ms, direct 0.175", kernel=(1, 1)),
        Row(
            _IM2COL,
            "measured: 0.390 ms, rows 0.385, direct 0.431; as compiled, rows move 1 GB more for a"
            " picture at seven scales, in float32",
            kernel=(6, None),
            stride=(1, 1),
            inputs=(64, None),
        ),
        Row(SPLIT, "measured: 0.113 and 0.076 ms, grouped 0.168 and 0.105", groups=(2, 8)),
        Row(DIRECT, "measured: 0.070 ms, there was no other"),
    ),
    pool="axes",  # 0.030 ms, one window 0.050
    lrn="shifts",  # 0.029 ms, banded matrix 0.050
    taps=8,
    batch="whole",
    note="pool and lrn measured; taps and batch reasoned: fewer operations, no vmap",
)


def _reasoned(forms: Forms, why: str) -> Forms:
    """Return a table with no measurement of its own."""
    rows = tuple(replace(row, note=f"reasoned: {why}") for row in forms.convolutions)
    return replace(forms, convolutions=rows, note=f"reasoned: {why}")


_PRODUCTS = tuple(row for row in _H200_BFLOAT16.convolutions if row.formulation != _DEPTH)
_H200: dict[Mode, Forms] = {
    # The layers were measured without bias, and the whole program with it took six times their sum:
    # the barriers leave to cuDNN what was measured.
    "bfloat16": _with_barriers(_H200_BFLOAT16),
    "tf32": _reasoned(_H200_BFLOAT16, "as in bfloat16, which the same units compute"),
    "float32": _reasoned(
        replace(_H200_BFLOAT16, convolutions=_PRODUCTS),
        "as in bfloat16; without matrix units more products for the first layer do not pay",
    ),
}

_TPU_FORMS = Forms(
    convolutions=(
        Row(
            _DEPTH,
            "reasoned: three channels leave a matrix unit idle",
            stride=(2, None),
            inputs=(1, 4),
            groups=(1, 1),
        ),
        Row(DIRECT, "reasoned: the compiler tiles convolutions for the matrix unit"),
    ),
    pool="window",
    lrn="band",
    taps=0,
    batch="whole",
    note="reasoned: products are cheap on a TPU, gathering is not",
)

TABLES: dict[str, dict[str, dict[Mode, Forms]]] = {
    "cpu": {"cpu": {"float32": _CPU, "tf32": _CPU, "bfloat16": _CPU_OTHER}},
    "gpu": {"NVIDIA H200": _H200, "NVIDIA H100": _H200},
    "tpu": {"TPU": {"float32": _TPU_FORMS, "tf32": _TPU_FORMS, "bfloat16": _TPU_FORMS}},
}
"""By platform, kind of device (as JAX names them) and mode."""

OTHER = Forms(note="reasoned: nothing is known of the platform, so everything is XLA's own")


def nearest_kind(platform: str, kind: str) -> str | None:
    """Return the kind of the tables that stands for a device; None for an unknown platform.

    It is the kind of the same platform that begins most like the given one; the first of several.

    Args:
        platform: as `jax.Device.platform` has it.
        kind: as `jax.Device.device_kind` has it.
    """
    known = TABLES.get(platform)
    if known is None:
        return None
    return max(known, key=lambda name: _common(name.lower(), kind.lower()))


def forms_of(platform: str, kind: str, mode: Mode) -> Forms:
    """Return the table of a device; arguments as for `nearest_kind`."""
    known = nearest_kind(platform, kind)
    return OTHER if known is None else TABLES[platform][known][mode]


def device_forms(dtype: Any, precision: lax.PrecisionLike) -> Forms:
    """Return the table of the device at hand, for parameters of a dtype and a precision."""
    device = jax.local_devices()[0]
    return forms_of(device.platform, device.device_kind, mode_of(dtype, precision))


def _common(a: str, b: str) -> int:
    """Return the length of the beginning that two texts share."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))
