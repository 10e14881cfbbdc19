"""Pooling: from the local activations of a picture to one vector.

`protocol` says what a variant is and how to add one; `variants` are the paper's, `codings` the
other encoders in their place; `notation` reads "MPP(Alex-FC7,Pool5)+SP"; `batched` computes.
"""

from mpp_jax.describe.dense import Activations, Crops
from mpp_jax.pooling import codings, variants
from mpp_jax.pooling.batched import check_methods, encode, pool, pool_picture
from mpp_jax.pooling.notation import Atom, candidates, canonical, members, parse, parse_all
from mpp_jax.pooling.plugins import load_plugin
from mpp_jax.pooling.protocol import (
    POOLINGS,
    Evidence,
    Pooling,
    get_pooling,
    projected,
    register_pooling,
    scale_statistics,
)

__all__ = [
    "POOLINGS",
    "Activations",
    "Atom",
    "Crops",
    "Evidence",
    "Pooling",
    "candidates",
    "canonical",
    "check_methods",
    "codings",
    "encode",
    "get_pooling",
    "load_plugin",
    "members",
    "parse",
    "parse_all",
    "pool",
    "pool_picture",
    "projected",
    "register_pooling",
    "scale_statistics",
    "variants",
]
