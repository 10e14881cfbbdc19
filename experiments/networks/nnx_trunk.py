"""A Flax NNX module as a network: a file for ``--plugin``.

::

    mpp-jax run PICTURES --plugin experiments/networks/nnx_trunk.py --network nnx_trunk
        --weights FILE --pca 16 --components 16 --out DIR

FILE holds ``nnx.to_pure_dict(state)``, as ``safetensors`` or ``npz``: ``conv1/kernel``,
``norm/mean`` and so on. Stride and window of its map are probed.
"""

from flax import nnx

import mpp_jax as mpp
from mpp_jax.nets import FunctionNet


class Trunk(nnx.Module):
    """Two convolutions, of which the first is normalised."""

    def __init__(self, rngs):
        self.conv1 = nnx.Conv(3, 16, (5, 5), 4, padding="VALID", rngs=rngs)
        self.norm = nnx.BatchNorm(16, use_running_average=True, rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), rngs=rngs)

    def __call__(self, x):
        """Return (B, P, Q, 32) of pictures (B, H, W, 3)."""
        return nnx.relu(self.conv2(nnx.relu(self.norm(self.conv1(x)))))


GRAPH, STATE = nnx.split(Trunk(nnx.Rngs(0)))


@mpp.register_network
def nnx_trunk():
    """The module in five lines."""
    return FunctionNet(
        name="nnx_trunk",
        side=64,
        function=lambda params, x: {"conv2": nnx.merge(GRAPH, params)(x / 255)},
        like=lambda: nnx.to_pure_dict(STATE),
    )
