"""Pictures to finished vectors: activations and pooling together, batch by batch."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mpp_jax.codebook import Codebook
from mpp_jax.config import Run
from mpp_jax.data import Item, Skipped
from mpp_jax.extraction import Crops, Described, describe_items
from mpp_jax.nets import Network
from mpp_jax.pooling import check_methods, encode, get_pooling, split_stacks
from mpp_jax.store import stack_unit_vectors

Vectors = dict[str, np.ndarray]


def wanted_crops(methods: Sequence[str]) -> tuple[Crops, ...]:
    """Return the sets of crops that the variants read."""
    poolings = [get_pooling(name) for name in methods]
    return tuple(dict.fromkeys((p.crops, p.flip) for p in poolings if p.crops))


def wanted_scales(methods: Sequence[str], scales: tuple[int, ...]) -> tuple[int, ...]:
    """Return those of the scales that the variants read: all, the base scale alone, or none."""
    readers = [p for p in map(get_pooling, methods) if not p.crops]
    if all(p.base_only for p in readers):
        return scales[:1] if readers else ()
    return scales


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
    on_skip: Callable[[Skipped], object] | None = None,
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
    check_methods(methods, codebook=codebook is not None, scales=config.pyramid.scales)
    batches = describe_items(
        network,
        items,
        config.pyramid,
        scales=wanted_scales(methods, config.pyramid.scales),
        crops=wanted_crops(methods),
        on_skip=on_skip,
    )
    for described in batches:
        yield encode_described(described, codebook, config, methods)


def encode_whole(
    network: Network,
    items: Sequence[Item],
    codebook: Codebook | None,
    config: Run,
    name: str,
    *,
    on_skip: Callable[[Skipped], object],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Decode pictures and encode them with one representation, a variant or a stack ``a+b``.

    Yields (positions (n,), vectors (n, D)); ``on_skip`` is told of pictures that could not be
    decoded, and of those whose encoding is not finite. Arguments as for `encode_items`.
    """
    parts = split_stacks([name])
    for index, vectors in encode_items(network, items, codebook, config, parts, on_skip=on_skip):
        arrays = [vectors[part] for part in parts]
        whole = arrays[0] if len(arrays) == 1 else stack_unit_vectors(arrays)
        finite = np.isfinite(whole).all(axis=1)
        for position in index[~finite]:
            on_skip(Skipped(int(position), items[position].id, "encoding is not finite"))
        yield index[finite], whole[finite]
