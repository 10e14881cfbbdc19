"""The layer as a Flax module, to stand at the end of a network of one's own.

Elsewhere Linen is confined to `mpp_jax.nets`. This one file stands here because the module is a
few names for what `mpp_jax.pooling.layer` computes, which reads encoders, statistics and pooling:
rooms to the right of the networks.
"""

from collections.abc import Sequence

import flax.linen as nn
from jax import Array

from mpp_jax.describe.dense import Descriptors
from mpp_jax.pooling.layer import LayerParams, init_layer, mpp_layer
from mpp_jax.stats.codebook import Codebook


class MPPLayer(nn.Module):
    """Multi-scale Pyramid Pooling with PCA, mixture and pooling as parameters.

    ``init`` gives the parameters of the codebook; `mpp_jax.pooling.layer` has the mathematics.

    Attributes:
        codebook: from `fit_codebook`.
    """

    codebook: Codebook

    @nn.compact
    def __call__(self, descriptors: Sequence[Descriptors]) -> Array:
        """Return representations (B, 2 K P) of unit length of descriptors, one set a scale."""
        start = init_layer(self.codebook, len(descriptors))
        names = ("centre", "projection", "logits", "means", "log_variances", "scales")
        held = {name: self.param(name, lambda key, n=name: getattr(start, n)) for name in names}
        params = LayerParams(**held, l2_before=start.l2_before, l2_after=start.l2_after)
        return mpp_layer(params, descriptors)
