"""One program a scale: pictures in, Fisher statistics out; no activations stay.

Resize, network, projection and the sums of the mixture are compiled together, batch by batch: the
4,096 numbers at each of 4,410 positions of a picture (72 MB) are gone when its scale is done, and
257 numbers a component are left. An accelerator encodes so whatever reads nothing but statistics
(`mpp_jax.pooling.batched.countable`); the results are those of the separate programs up to
rounding.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from mpp_jax.config import Pyramid, Resampling
from mpp_jax.data import Batch
from mpp_jax.describe.batches import pictures_at_once
from mpp_jax.describe.dense import DEFAULT, SIFT, Descriptors, describe_scale, describer
from mpp_jax.describe.pyramid import scale_side
from mpp_jax.describe.wants import source_layer
from mpp_jax.encoders.fisher import FisherStatistics, fisher_statistics
from mpp_jax.nets import Network
from mpp_jax.numerics import in_parts, over_pictures
from mpp_jax.stats.codebook import Codebook, Codebooks, project

Counts = dict[str, tuple[FisherStatistics, ...]]
"""By the codebook's key: statistics of a batch, (B, ...) leaves, one a scale."""


@partial(jax.jit, static_argnames=("side", "layers", "resampling", "most"))
def count_scale(
    network: Network,
    canvas: Array,
    sizes: Array,
    valid: Array,
    codebooks: Codebooks,
    *,
    side: int,
    layers: tuple[tuple[str, str], ...],
    resampling: Resampling = "bilinear",
    most: int | None = None,
) -> dict[str, FisherStatistics]:
    """Return the Fisher statistics of one scale of a batch of pictures.

    Args:
        network: the network.
        canvas: (B, S, S, 3) uint8, pictures in the upper left corner.
        sizes: (B, 2) int, true (height, width).
        valid: (B,) bool, False for rows that hold no picture: their statistics are of nothing.
        codebooks: by key.
        side: of the square that pictures are warped to.
        layers: (key of a codebook, the layer that it counts), all from one pass.
        resampling: kernel of the resize.
        most: pictures at once on each device, one part after the other; None for all.

    Returns:
        By key, leaves (B, ...) float32.
    """
    names = tuple(dict.fromkeys(layer for _, layer in layers))

    def count_part(part: tuple[Array, Array, Array]) -> dict[str, FisherStatistics]:
        canvas, sizes, valid = part
        described = describe_scale(
            network, canvas, sizes, side=side, layers=names, resampling=resampling, valid=valid
        )
        found = dict(zip(names, described, strict=True))
        return {key: count(codebooks[key], found[layer]) for key, layer in layers}

    def count(codebook: Codebook, descriptors: Descriptors) -> FisherStatistics:
        def one(picture: tuple[Array, Array]) -> FisherStatistics:
            x, mask = picture
            return fisher_statistics(project(codebook, x), codebook.gmm, mask)

        return over_pictures(one, (descriptors.x, descriptors.mask))

    return in_parts(count_part, (canvas, sizes, valid), most)


def count_sources(
    network: Network,
    batch: Batch,
    pyramid: Pyramid,
    wanted: Sequence[tuple[str, str, tuple[int, ...]]],
    codebooks: Codebooks,
) -> Counts:
    """Return the statistics of a batch at every scale.

    Args:
        network: the network.
        batch: pictures.
        pyramid: layer and resize.
        wanted: (source of descriptors, key of its codebook, numbers of scales from 0, rising).
        codebooks: by key.
    """
    canvas, sizes, valid = (jnp.asarray(a) for a in (batch.canvas, batch.sizes, batch.valid))
    found: dict[tuple[str, int], FisherStatistics] = {}
    for sift in (False, True):
        mine = [part for part in wanted if (part[0] == SIFT) == sift]
        network_of = describer(network, SIFT if sift else DEFAULT)
        for k in sorted({k for _, _, scales in mine for k in scales}):
            reading = [(source, key) for source, key, scales in mine if k in scales]
            counted = count_scale(
                network_of,
                canvas,
                sizes,
                valid,
                {key: codebooks[key] for _, key in reading},
                side=scale_side(network_of.spec.side, k, pyramid.rounding),
                layers=tuple(
                    (key, source_layer(network_of.spec, source, pyramid)) for source, key in reading
                ),
                resampling=pyramid.resampling,
                most=None if sift else pictures_at_once(network, pyramid, k),
            )
            found |= {(key, k): statistics for key, statistics in counted.items()}
    return {key: tuple(found[key, k] for k in scales) for _, key, scales in wanted}
