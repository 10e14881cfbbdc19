"""Number formats: what a request comes to on which device, and what a network computes in."""

from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import mpp_jax as mpp
from mpp_jax.nets import dtypes
from mpp_jax.nets.dtypes import AUTO, NAMES, arithmetic, dtype_name, has_tf32, resolve_dtype

CPU = SimpleNamespace(platform="cpu")
TPU = SimpleNamespace(platform="tpu", compute_capability=None)
H100 = SimpleNamespace(platform="gpu", compute_capability="9.0")
B200 = SimpleNamespace(platform="gpu", compute_capability="10.0")
V100 = SimpleNamespace(platform="gpu", compute_capability="7.0")
AMD = SimpleNamespace(platform="gpu", compute_capability="gfx942")
OTHER = SimpleNamespace(platform="metal")
BF16 = jnp.dtype("bfloat16")


def test_tf32_is_of_some_devices_only() -> None:
    for device in (H100, B200):
        assert has_tf32(device)
        assert resolve_dtype("tf32", device) == "tf32"
    for device in (CPU, V100, AMD, OTHER):
        assert not has_tf32(device)
        assert resolve_dtype("tf32", device) == "float32"
    for device in (CPU, H100, AMD):
        assert [resolve_dtype(n, device) for n in ("float32", "bfloat16")] == list(NAMES[::2])


def test_auto_is_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_dtype("auto") == "float32"  # of the device here, a CPU
    assert resolve_dtype("auto", OTHER) == "float32"
    monkeypatch.setattr(dtypes, "AUTO", AUTO)  # the package's own, on an accelerator too
    wanted = {"tf32": [H100, B200], "bfloat16": [TPU], "float32": [CPU, V100, AMD, OTHER]}
    for name, devices in wanted.items():
        assert {resolve_dtype("auto", device) for device in devices} == {name}


def test_a_request_becomes_parameters_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = (jnp.float32, "highest")
    for request in ("float32", jnp.float32, np.float32, "auto", "tf32"):  # on a CPU
        assert arithmetic(request) == exact
    assert arithmetic("bfloat16") == arithmetic(jnp.bfloat16) == (BF16, "highest")
    assert arithmetic("float32", "default") == (jnp.float32, "default")
    monkeypatch.setattr(dtypes, "has_tf32", lambda device: True)
    assert arithmetic("tf32") == (jnp.float32, "default")
    for request in (*NAMES, jnp.bfloat16):
        wanted = request if isinstance(request, str) else "bfloat16"
        assert dtype_name(*arithmetic(request)) == wanted
    monkeypatch.setattr(dtypes, "AUTO", {"cpu": "bfloat16"})
    assert arithmetic("auto") == (BF16, "highest")


def test_names_of_what_is_computed_in() -> None:
    assert dtype_name(jnp.float32, "highest") == dtype_name(jnp.float32, "high") == "float32"
    assert dtype_name(jnp.float32, "default") == "float32"  # a CPU's own choice
    assert dtype_name(jnp.float32, "default", H100) == "tf32"
    assert dtype_name(jnp.bfloat16, "default", H100) == "bfloat16"
    assert dtype_name(jnp.float16, "highest") == "float16"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float8"}, "must be a floating-point dtype, 'tf32' or 'auto', not 'float8'"),
        ({"dtype": "int32"}, "must be a floating-point dtype"),
        ({"dtype": "auto", "precision": "highest"}, "precision: dtype 'auto' decides it"),
        ({"dtype": "tf32", "precision": "default"}, "precision: dtype 'tf32' decides it"),
        ({"dtype": "float32", "precision": "tf32"}, "precision: must be 'highest', 'high' or"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        arithmetic(**options)
    with pytest.raises(ValueError, match=message):
        mpp.load_network("caffenet_mini", **options)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="must be auto, float32, tf32, bfloat16, not 'half'"):
        resolve_dtype("half", CPU)


def test_networks_are_loaded_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = mpp.load_network("caffenet_mini")
    for request in ("auto", "tf32", "float32"):
        network = mpp.load_network("caffenet_mini", dtype=request)
        assert (network.dtype, network.precision) == (usual.dtype, "highest")
    assert mpp.load_network("caffenet_mini", dtype="bfloat16").dtype == jnp.bfloat16
    assert mpp.load_network("sift", dtype="auto").dtype == jnp.float32
    monkeypatch.setattr(dtypes, "has_tf32", lambda device: True)
    network = mpp.load_network("caffenet_mini", dtype="tf32")
    assert (network.dtype, network.precision) == (jnp.float32, "default")
    for name in ("tf32", "bfloat16"):
        with pytest.raises(ValueError, match=f"dense SIFT computes in float32, not '{name}'"):
            mpp.load_network("sift", dtype=name)
