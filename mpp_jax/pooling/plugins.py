"""Users' files that register pooling variants and networks of their own."""

import ast
import hashlib
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from mpp_jax.nets.registry import NETWORKS
from mpp_jax.pooling.protocol import POOLINGS

CALLS = "register_pooling or register_network"


def load_plugin(file: Path) -> tuple[str, ...]:
    """Run a Python file that registers variants, networks or both.

    Modules that lie beside the file can be imported by it. The code of all of them belongs to what
    makes two runs equal (`Pooling.code`).

    Returns:
        The names of what it registered: variants, then networks, each in alphabetical order.

    Raises:
        ValueError: no such file, one that fails, or one that registers nothing.
    """
    name = f"mpp_jax_plugin_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"plugin: {file} is no Python file; give one that calls {CALLS}")
    registries: tuple[dict[str, Any], ...] = (POOLINGS, NETWORKS)
    before = [dict(registry) for registry in registries]
    beside = str(file.resolve().parent)
    if beside not in sys.path:
        sys.path.append(beside)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and pickles look for what it defines
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file raises
        del sys.modules[name]
        raise ValueError(f"plugin: {file} fails: {type(error).__name__}: {error}") from error
    new = [
        sorted(key for key, value in now.items() if had.get(key) is not value)
        for now, had in zip(registries, before, strict=True)
    ]
    if not any(new):
        raise ValueError(
            f"plugin: {file} registers no variant and no network; it must call {CALLS}"
        )
    code = _code(_files_of(file))
    for variant in new[0]:
        POOLINGS[variant] = replace(POOLINGS[variant], code=code)
    for network in new[1]:
        described: Any = NETWORKS[network]
        if not described.of_layers:  # a list of layers is its own code
            NETWORKS[network] = replace(described, code=code)
    return tuple(each for names in new for each in names)


def _files_of(plugin: Path) -> list[Path]:
    """Return a plug-in's file and those that it imports from its own folder, near and far."""
    folder, found, todo = plugin.resolve().parent, dict.fromkeys([plugin.resolve()]), [plugin]
    while todo:
        for node in ast.walk(ast.parse(todo.pop().read_bytes())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                names = [node.module]
            for name in names:
                place = folder / name.partition(".")[0]
                new = [place.with_suffix(".py"), *sorted(place.rglob("*.py"))]
                todo += [file for file in new if file.is_file() and file not in found]
                found |= dict.fromkeys(todo)
    return [*found]


def _code(files: list[Path]) -> str:
    """Return the SHA-256 of the files' contents, whatever they are called."""
    digests = sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
