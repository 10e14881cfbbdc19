"""Users' files that register pooling variants and networks of their own."""

import importlib.util
from pathlib import Path
from typing import Any

from mpp_jax.nets.registry import NETWORKS
from mpp_jax.pooling.protocol import POOLINGS

CALLS = "register_pooling or register_network"


def load_plugin(file: Path) -> tuple[str, ...]:
    """Run a Python file that registers variants, networks or both.

    Returns:
        The names of what it registered: variants, then networks, each in alphabetical order.

    Raises:
        ValueError: no such file, one that fails, or one that registers nothing.
    """
    spec = importlib.util.spec_from_file_location(f"mpp_jax_plugin_{file.stem}", file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"plugin: {file} is no Python file; give one that calls {CALLS}")
    registries: tuple[dict[str, Any], ...] = (POOLINGS, NETWORKS)
    before = [set(registry) for registry in registries]
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except Exception as error:  # whatever the user's file raises
        raise ValueError(f"plugin: {file} fails: {type(error).__name__}: {error}") from error
    new = [sorted(set(names) - had) for names, had in zip(registries, before, strict=True)]
    if not any(new):
        raise ValueError(
            f"plugin: {file} registers no variant and no network; it must call {CALLS}"
        )
    return tuple(name for names in new for name in names)
