"""The networks: descriptions, Linen modules, geometry."""

import importlib
from typing import TYPE_CHECKING, Any

from mpp_jax.nets.registry import DEFAULT_NETWORK, NETWORKS, get_spec
from mpp_jax.nets.spec import LayerSpec, NetSpec

if TYPE_CHECKING:
    from mpp_jax.nets.geometry import format_geometry, geometry_table
    from mpp_jax.nets.network import Network, param_shapes, random_network
    from mpp_jax.weights.load import load_network

__all__ = [
    "DEFAULT_NETWORK",
    "NETWORKS",
    "LayerSpec",
    "NetSpec",
    "Network",
    "format_geometry",
    "geometry_table",
    "get_spec",
    "load_network",
    "param_shapes",
    "random_network",
]

# Descriptions are plain Python; jax, flax and file reading come when they are asked for.
_HOMES = {
    "Network": "mpp_jax.nets.network",
    "format_geometry": "mpp_jax.nets.geometry",
    "geometry_table": "mpp_jax.nets.geometry",
    "load_network": "mpp_jax.weights.load",
    "param_shapes": "mpp_jax.nets.network",
    "random_network": "mpp_jax.nets.network",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
