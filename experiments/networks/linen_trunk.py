"""A Flax Linen module as a network: a file for ``--plugin``.

::

    mpp-jax run PICTURES --plugin experiments/networks/linen_trunk.py --network linen_trunk
        --weights FILE --pca 16 --components 16 --out DIR

FILE holds the module's own variables, as ``safetensors`` or ``npz``: ``params/conv1/kernel``,
``batch_stats/norm/mean`` and so on. Stride and window of its map are probed.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

import mpp_jax as mpp
from mpp_jax.nets import FunctionNet

SIDE = 64


class Trunk(nn.Module):
    """Two convolutions, of which the first is normalised."""

    @nn.compact
    def __call__(self, x):
        """Return (B, P, Q, 32) of pictures (B, H, W, 3)."""
        x = nn.Conv(16, (5, 5), 4, padding="VALID", name="conv1")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="norm")(x))
        return nn.relu(nn.Conv(32, (3, 3), name="conv2")(x))


@mpp.register_network
def linen_trunk():
    """The module in five lines."""
    return FunctionNet(
        name="linen_trunk",
        side=SIDE,
        function=lambda variables, x: {"conv2": Trunk().apply(variables, x / 255)},
        like=lambda: Trunk().init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3))),
    )
