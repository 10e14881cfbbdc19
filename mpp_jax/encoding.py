"""Pictures to finished vectors: activations and pooling together, batch by batch."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mpp_jax.codebook import Codebook
from mpp_jax.config import Run
from mpp_jax.data import Item, Skipped
from mpp_jax.extraction import Crops, Described, describe_items
from mpp_jax.nets import Network
from mpp_jax.pooling import check_methods, encode, get_pooling

Vectors = dict[str, np.ndarray]


def wanted_crops(methods: Sequence[str]) -> tuple[Crops, ...]:
    """Return the sets of crops that the variants read."""
    poolings = [get_pooling(name) for name in methods]
    return tuple(dict.fromkeys((p.crops, p.flip) for p in poolings if p.crops))


def encode_described(
    described: Described, codebook: Codebook | None, config: Run, methods: Sequence[str]
) -> tuple[np.ndarray, Vectors]:
    """Return (index (n,), {method: (n, D) float32}) of the pictures in a batch, without padding."""
    first = 1 if config.encoder.skip_first and len(described.scales) > 1 else 0
    arrays = encode(described.scales, described.crops, codebook, tuple(methods), first)
    valid = described.index >= 0
    return described.index[valid], {name: np.asarray(v)[valid] for name, v in arrays.items()}


def encode_items(
    network: Network,
    items: Sequence[Item],
    codebook: Codebook | None,
    config: Run,
    methods: Sequence[str],
    *,
    on_skip: Callable[[Skipped], None] | None = None,
) -> Iterator[tuple[np.ndarray, Vectors]]:
    """Decode and encode pictures; yield (positions among the items, {method: vectors}).

    Args:
        network: the network.
        items: pictures.
        codebook: None where no method needs one.
        config: pyramid and encoder settings.
        methods: single variants, no stacks.
        on_skip: is told of every picture that could not be decoded.

    Raises:
        ValueError: a variant lacks its codebook or scale.
    """
    check_methods(methods, codebook, config.pyramid.scales)
    crops = wanted_crops(methods)
    for described in describe_items(network, items, config.pyramid, crops=crops, on_skip=on_skip):
        yield encode_described(described, codebook, config, methods)
