"""Users' files that register pooling variants and networks of their own."""

import importlib.util
from pathlib import Path

from mpp_jax.pooling.protocol import POOLINGS


def load_plugin(file: Path) -> tuple[str, ...]:
    """Run a Python file that registers variants; return their names.

    Raises:
        ValueError: no such file, one that fails, or one that registers nothing.
    """
    spec = importlib.util.spec_from_file_location(f"mpp_jax_plugin_{file.stem}", file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"plugin: {file} is no Python file; give one that calls register_pooling")
    before = set(POOLINGS)
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except Exception as error:  # whatever the user's file raises
        raise ValueError(f"plugin: {file} fails: {type(error).__name__}: {error}") from error
    new = tuple(sorted(set(POOLINGS) - before))
    if not new:
        raise ValueError(f"plugin: {file} registers no variant; it must call register_pooling")
    return new
