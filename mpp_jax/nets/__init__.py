"""The networks: descriptions, Linen modules, formulations of convolution, dense SIFT."""

import importlib
from typing import TYPE_CHECKING, Any

from mpp_jax.nets.registry import DEFAULT_NETWORK, NETWORKS, get_spec
from mpp_jax.nets.spec import LayerSpec, NetSpec

if TYPE_CHECKING:
    from mpp_jax.nets.network import Network, param_shapes, random_network

__all__ = [
    "DEFAULT_NETWORK",
    "NETWORKS",
    "LayerSpec",
    "NetSpec",
    "Network",
    "get_spec",
    "param_shapes",
    "random_network",
]


def __getattr__(name: str) -> Any:
    # Descriptions are plain Python; jax and flax come when they are asked for.
    if name in ("Network", "param_shapes", "random_network"):
        return getattr(importlib.import_module("mpp_jax.nets.network"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
