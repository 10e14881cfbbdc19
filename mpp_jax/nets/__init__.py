"""The networks: descriptions, Linen modules, formulations of convolution, dense SIFT.

What a file of yours needs to describe a network is here: the layers `Conv`, `Pool`, `LRN`, `Fire`,
`Add` and `GlobalMean`, `Preprocessing`, `WeightFiles` and `WeightPlace`, `NetSpec` and
`register_network`; for any JAX function, `FunctionNet` and `Map`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from mpp_jax.nets.function_net import FunctionNet, Map
from mpp_jax.nets.registry import DEFAULT_NETWORK, NETWORKS, get_spec, register_network
from mpp_jax.nets.spec import (
    LRN,
    Add,
    Conv,
    Fire,
    GlobalMean,
    LayerSpec,
    NetSpec,
    Pool,
    Preprocessing,
)
from mpp_jax.nets.weight_files import WeightFiles, WeightPlace

if TYPE_CHECKING:
    from mpp_jax.nets.network import Network, param_shapes, random_network

__all__ = [
    "DEFAULT_NETWORK",
    "LRN",
    "NETWORKS",
    "Add",
    "Conv",
    "Fire",
    "FunctionNet",
    "GlobalMean",
    "LayerSpec",
    "Map",
    "NetSpec",
    "Network",
    "Pool",
    "Preprocessing",
    "WeightFiles",
    "WeightPlace",
    "get_spec",
    "param_shapes",
    "random_network",
    "register_network",
]


def __getattr__(name: str) -> Any:
    # Descriptions are plain Python; jax and flax come when they are asked for.
    if name in ("Network", "param_shapes", "random_network"):
        return getattr(importlib.import_module("mpp_jax.nets.network"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
