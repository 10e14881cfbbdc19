"""Tables of formulations in a file: what is written is read, and what is wrong is said."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from mpp_jax.nets.forms import DIRECT, Forms, Formulation, Row
from mpp_jax.nets.forms_table import TABLES, device_forms
from mpp_jax.weights.forms_file import FORMS_VARIABLE, forms_record, read_forms, tuned_forms
from mpp_jax.weights.load import load_network

HERE = jax.devices()[0].device_kind
SLOW = Forms((Row(DIRECT._replace(barrier=True), "mine", kernel=(1, None)),), "window", "shifts", 3)


def written(path: Path, devices: Any) -> Path:
    path.write_text(json.dumps({"made": {"date": "today"}, "devices": devices}))
    return path


def test_every_table_survives_a_file(tmp_path: Path) -> None:
    devices = {kind: modes for kinds in TABLES.values() for kind, modes in kinds.items()}
    devices["mine"] = {"tf32": SLOW, "float32": Forms((Row(Formulation("winograd", 2)),))}
    records = {k: {m: forms_record(f) for m, f in modes.items()} for k, modes in devices.items()}
    assert read_forms(written(tmp_path / "forms.json", records)) == devices


def test_a_file_counts_where_it_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FORMS_VARIABLE, raising=False)
    assert tuned_forms(jnp.float32, "highest") is None
    assert load_network("caffenet_mini").how == device_forms(jnp.float32, "highest")
    record = {"bfloat16": forms_record(SLOW)}
    path = written(tmp_path / "forms.json", {HERE: record, "NVIDIA Z1": {}})
    monkeypatch.setenv(FORMS_VARIABLE, str(path))
    assert tuned_forms(jnp.bfloat16, "highest") == SLOW
    assert tuned_forms(jnp.float32, "highest") is None  # a mode that was not measured
    assert load_network("caffenet_mini", dtype=jnp.bfloat16).how == SLOW
    assert load_network("caffenet_mini").forms is None
    monkeypatch.setenv(FORMS_VARIABLE, str(written(tmp_path / "b.json", {"NVIDIA Z1": record})))
    assert tuned_forms(jnp.bfloat16, "highest") is None  # another device


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (None, "devices: must be an object"),
        ({"a": []}, "devices/a: must be an object"),
        ({"a": {"float8": {}}}, "devices/a: must be one of float32, tf32, bfloat16, got 'float8'"),
        ({"a": {"tf32": 3}}, "devices/a/tf32: must be an object"),
        ({"a": {"tf32": {"convolutions": 3}}}, "convolutions: must be a list, got 3"),
        ({"a": {"tf32": {"pool": "max"}}}, "tf32/pool: must be one of axes, window, got 'max'"),
        ({"a": {"tf32": {"taps": -1}}}, "tf32/taps: must be a whole number from 0, got -1"),
        ({"a": {"tf32": {"taps": True}}}, "tf32/taps: must be a whole number from 0, got True"),
        ({"a": {"tf32": {"lines": 1}}}, "tf32/lines: is unknown"),
        ({"a": {"tf32": {"note": 1}}}, "tf32/note: is unknown, or no text: 1"),
    ],
)
def test_what_is_wrong_is_said(devices: Any, message: str, tmp_path: Path) -> None:
    path = written(tmp_path / "forms.json", devices)
    with pytest.raises(ValueError, match=message) as error:
        read_forms(path)
    assert str(error.value).startswith(f"forms: {path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "0/formulation: must be one of direct, split"),
        ({"formulation": "winograd"}, "with winograd-3 for a tile of 3.*got 'winograd'"),
        ({"formulation": "rows-2"}, "got 'rows-2'"),
        ({"formulation": "rows", "side": [1, 2]}, "0/side: is unknown; lines have kernel, stride"),
        ({"formulation": "rows", "kernel": 3}, r"0/kernel: must be \[least, most\], got 3"),
        ({"formulation": "rows", "kernel": [3, 2]}, "0/kernel: must be a whole number from 3"),
        ({"formulation": "rows", "note": 7}, "0/note: must be text, got 7"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(row: Any, message: str, tmp_path: Path) -> None:
    path = written(tmp_path / "forms.json", {"a": {"tf32": {"convolutions": [row]}}})
    with pytest.raises(ValueError, match=message):
        read_forms(path)


def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORMS_VARIABLE, str(tmp_path / "none.json"))
    with pytest.raises(ValueError, match=f"No such file.*; mend or unset {FORMS_VARIABLE}"):
        load_network("caffenet_mini")
    for content in (b"", b"{", b"[]", b"\xff", b"[" * 100_000):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"^forms: .*bad\.json: "):
            read_forms(tmp_path / "bad.json")
