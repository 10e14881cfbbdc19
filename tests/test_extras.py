"""The extras that bring JAX's devices along are JAX's own."""

import re
import tomllib
from importlib.metadata import metadata

from helpers import REPOSITORY


def test_devices_extras_are_those_of_jax() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = metadata("jax").get_all("Provides-Extra") or []
    for name in ("cuda12", "cuda13", "tpu"):
        [requirement] = project["optional-dependencies"][name]
        found = re.match(r"jax\[(\w+)\]>=", requirement)
        assert found is not None, requirement
        assert found[1] == name
        assert name in known
