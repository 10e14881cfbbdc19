"""Tables of formulations in a file: what ``experiments/bench_device.py --tune`` measured.

The file that the variable ``MPP_JAX_FORMS`` names takes the place of the package's own tables
(`mpp_jax.nets.forms_table`) for every network that is loaded, on the kinds of device and in the
modes that it holds, and for no others. JSON, in which a span is ``[least, most]`` and null is no
bound, and everything else beside ``devices`` is ignored::

    {"devices": {"NVIDIA H200": {"bfloat16": {
        "convolutions": [{"formulation": "space_to_depth+barrier", "kernel": [11, 11],
                          "stride": [4, 4], "positions": [1, null], "note": "measured ..."}],
        "pool": "axes", "lrn": "shifts", "taps": 8, "batch": "whole", "note": "measured ..."}}}}

To make a file's choices the package's own, copy its lines into `mpp_jax.nets.forms_table`.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import jax
from jax import lax

from mpp_jax.files import expanded
from mpp_jax.nets.forms import (
    MODES,
    BatchForm,
    Forms,
    Formulation,
    Kind,
    LrnForm,
    Mode,
    PoolForm,
    Row,
    mode_of,
)

FORMS_VARIABLE = "MPP_JAX_FORMS"
MAX_BYTES = 1 << 24

SPANS = ("kernel", "stride", "inputs", "outputs", "groups", "positions")
CHOICES: dict[str, tuple[str, ...]] = {
    "pool": get_args(PoolForm),
    "lrn": get_args(LrnForm),
    "batch": get_args(BatchForm),
}
_FORMULATION = re.compile(rf"({'|'.join(get_args(Kind))})(?:-([1-9]))?(\+barrier)?")

Tables = dict[str, dict[Mode, Forms]]
"""By kind of device and mode."""


def tuned_forms(dtype: Any, precision: lax.PrecisionLike) -> Forms | None:
    """Return the table of the device at hand in the user's file; None where there is none.

    Args:
        dtype: of a network's parameters.
        precision: of its products.

    Raises:
        ValueError: a file that is missing or not of the form above.
    """
    chosen = os.environ.get(FORMS_VARIABLE)
    if not chosen:
        return None
    kind = jax.local_devices()[0].device_kind
    return read_forms(expanded(chosen)).get(kind, {}).get(mode_of(dtype, precision))


def read_forms(path: Path) -> Tables:
    """Return the tables of a file.

    Raises:
        ValueError: it is missing or not of the form above; one line says where.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"is larger than {MAX_BYTES} bytes")
        record = json.loads(content)
        devices = _mapping(_mapping(record, "the file").get("devices"), "devices")
        return {
            kind: {
                _one_of(mode, MODES, f"devices/{kind}"): _forms(entry, f"devices/{kind}/{mode}")
                for mode, entry in _mapping(modes, f"devices/{kind}").items()
            }
            for kind, modes in devices.items()
        }
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"forms: {path}: {reason}; mend or unset {FORMS_VARIABLE}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"forms: {path}: {error}") from error


def forms_record(forms: Forms) -> dict[str, Any]:
    """Return a table as JSON values, as `read_forms` takes them."""
    rows = []
    for row in forms.convolutions:
        spans = {name: getattr(row, name) for name in SPANS}
        stated = {name: list(span) for name, span in spans.items() if span is not None}
        rows.append({"formulation": str(row.formulation), **stated, "note": row.note})
    others = {name: getattr(forms, name) for name in ("pool", "lrn", "taps", "batch", "note")}
    return {"convolutions": rows, **others}


def _forms(entry: Any, where: str) -> Forms:
    values = dict(_mapping(entry, where))
    rows = values.pop("convolutions", [])
    if not isinstance(rows, list):
        raise ValueError(f"{where}/convolutions: must be a list, got {_shown(rows)}")
    lines = tuple(_row(row, f"{where}/convolutions/{i}") for i, row in enumerate(rows))
    for name, value in values.items():
        if name in CHOICES:
            _one_of(value, CHOICES[name], f"{where}/{name}")
        elif name == "taps":
            _whole(value, 0, f"{where}/{name}")
        elif name != "note" or not isinstance(value, str):
            raise ValueError(f"{where}/{name}: is unknown, or no text: {_shown(value)}")
    return Forms(lines, **values)


def _row(entry: Any, where: str) -> Row:
    values = dict(_mapping(entry, where))
    text = values.pop("formulation", None)
    match = _FORMULATION.fullmatch(text) if isinstance(text, str) else None
    if match is None or (match[1] == "winograd") != bool(match[2]):
        known = ", ".join(get_args(Kind))
        raise ValueError(
            f"{where}/formulation: must be one of {known}, with winograd-3 for a tile of 3 and "
            f"+barrier for a barrier after it, got {_shown(text)}"
        )
    note = values.pop("note", "")
    if not isinstance(note, str):
        raise ValueError(f"{where}/note: must be text, got {_shown(note)}")
    spans: dict[str, Any] = {}
    for name, span in values.items():
        if name not in SPANS:
            raise ValueError(f"{where}/{name}: is unknown; lines have {', '.join(SPANS)}")
        if not isinstance(span, list) or len(span) != 2:
            raise ValueError(f"{where}/{name}: must be [least, most], got {_shown(span)}")
        least = _whole(span[0], 0, f"{where}/{name}")
        most = None if span[1] is None else _whole(span[1], least, f"{where}/{name}")
        spans[name] = (least, most)
    how = Formulation(match[1], int(match[2] or 0), bool(match[3]))  # type: ignore[arg-type]
    return Row(how, note, **spans)


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: must be an object of names and values, got {_shown(value)}")
    return value


def _one_of(value: Any, choices: tuple[Any, ...], where: str) -> Any:
    if value not in choices:
        raise ValueError(f"{where}: must be one of {', '.join(choices)}, got {_shown(value)}")
    return value


def _whole(value: Any, least: int, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{where}: must be a whole number from {least}, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
