"""The extras that bring JAX's devices and fsspec's file systems along are their own."""

import re
import tomllib
from importlib.metadata import metadata

from helpers import REPOSITORY

from mpp_jax.remote.addresses import _EXTRAS


def test_devices_extras_are_those_of_jax() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = metadata("jax").get_all("Provides-Extra") or []
    for name in ("cuda12", "cuda13", "tpu"):
        [requirement] = project["optional-dependencies"][name]
        found = re.match(r"jax\[(\w+)\]>=", requirement)
        assert found is not None, requirement
        assert found[1] == name
        assert name in known


def test_extras_for_addresses_are_those_of_fsspec() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = metadata("fsspec").get_all("Provides-Extra") or []
    assert set(_EXTRAS.values()) == {"s3", "gcs", "http"}
    for name in _EXTRAS.values():
        [requirement] = project["optional-dependencies"][name]
        assert re.match(rf"fsspec\[{name}\]>=", requirement)
        assert name in known
