"""A function with its parameters, in a network's place."""

import dataclasses
import hashlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mpp_jax.nets.function_spec import FunctionSpec, flat
from mpp_jax.nets.network import Network


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "mean", "scale", "mean_image"],
    meta_fields=["spec", "weights_sha256", "precision", "forms"],
)
@dataclasses.dataclass(frozen=True)
class FunctionNetwork(Network):
    """A network whose activations are the maps of a JAX function.

    What forms say of convolutions does not reach the function; pictures are resized and batched as
    for other networks.
    """

    @property
    def dtype(self) -> Any:
        """The parameters' dtype; float32 where there are none."""
        return next((leaf.dtype for leaf in jax.tree.leaves(self.params)), jnp.dtype("float32"))

    def activations(self, x: Array, until: str | None = None) -> dict[str, Array]:
        """Return all maps of RGB pictures (B, H, W, 3), 0..255; what is not used costs nothing."""
        assert isinstance(self.spec, FunctionSpec)
        with jax.default_matmul_precision(self.precision):
            maps = self.spec.function(self.params, self.preprocess(x))
        return {name: maps[name] for name in self.spec.layer_names}


def carried_digest(spec: FunctionSpec) -> str:
    """Return the SHA-256 of the parameters that come with a function: places, shapes and values."""
    digest = hashlib.sha256()
    for path, leaf in flat(spec.carried() if spec.carried else {}, spec.name):
        values = np.ascontiguousarray(leaf, np.float32)
        digest.update(f"{path} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
