"""Weight files: finding, downloading, reading, converting and auditing them."""

import importlib
from typing import TYPE_CHECKING, Any

from mpp_jax.nets.weight_files import WeightPlace
from mpp_jax.weights.places import PLACES

if TYPE_CHECKING:
    from mpp_jax.weights.cache import cache_folder, fetch
    from mpp_jax.weights.convert import Audit
    from mpp_jax.weights.load import load_audited, load_network
    from mpp_jax.weights.manage import (
        Verification,
        download_weights,
        import_weights,
        list_weights,
        verify_weights,
    )
    from mpp_jax.weights.native import save_network
    from mpp_jax.weights.source import WeightsError

__all__ = [
    "PLACES",
    "Audit",
    "Verification",
    "WeightPlace",
    "WeightsError",
    "cache_folder",
    "download_weights",
    "fetch",
    "import_weights",
    "list_weights",
    "load_audited",
    "load_network",
    "save_network",
    "verify_weights",
]

# Looking at the list of public files must not wait for jax.
_HOMES = {
    "Audit": "convert",
    "Verification": "manage",
    "WeightsError": "source",
    "cache_folder": "cache",
    "download_weights": "manage",
    "fetch": "cache",
    "import_weights": "manage",
    "list_weights": "manage",
    "load_audited": "load",
    "load_network": "load",
    "save_network": "native",
    "verify_weights": "manage",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"mpp_jax.weights.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
