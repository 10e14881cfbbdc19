"""Pictures to finished vectors: activations and pooling together, batch by batch."""

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mpp_jax.config import Run
from mpp_jax.data import Item, Skipped
from mpp_jax.describe.extraction import Described, Wanted, Wants, describe_items
from mpp_jax.devices import current_mesh, on_mesh
from mpp_jax.nets import NetSpec, Network
from mpp_jax.nets.registry import NETWORKS, PACKAGED
from mpp_jax.numerics import stack_unit_vectors
from mpp_jax.pooling import Atom, check_methods, encode, parse, parse_all
from mpp_jax.stats.codebook import Codebooks, Recipe

Vectors = dict[str, np.ndarray]
"""(n, D) float32 by atom's name."""


def atoms_of(config: Run) -> tuple[Atom, ...]:
    """Return what a run's representations are made of, each once, in order."""
    return parse_all(config.pooling, config.features, config.pyramid.layer)


def recipes_of(config: Run) -> dict[str, tuple[str, Recipe]]:
    """Return (source, recipe) of every codebook that a run's representations read, by key."""
    return {
        atom.codebook: (atom.source, atom.pooling.codebook)
        for atom in atoms_of(config)
        if atom.codebook is not None and atom.pooling.codebook is not None
    }


def code_of(config: Run, spec: NetSpec) -> dict[str, str]:
    """Return the SHA-256 of users' code in a run, by variant or network; empty without any."""
    code = {a.variant: a.pooling.code for a in atoms_of(config) if not a.external}
    if spec.name not in PACKAGED:
        # As registered: weight files may end lower, and state constants of normalisation.
        registered = repr(NETWORKS.get(spec.name, spec))
        code[f"network {spec.name}"] = hashlib.sha256(registered.encode()).hexdigest()
    return {name: digest for name, digest in code.items() if digest}


def wanted_of(methods: Sequence[Atom], scales: tuple[int, ...]) -> Wants:
    """Return what the variants read: of each source some or all of the scales, and crops."""
    wants: Wants = {}
    for atom in methods:
        if atom.external:
            continue
        pooling, old = atom.pooling, wants.get(atom.source, Wanted(()))
        read = () if pooling.crops else scales if pooling.scales is None else pooling.scales
        crops = ((pooling.crops, pooling.flip),) if pooling.crops else ()
        wants[atom.source] = Wanted(
            tuple(sorted({*old.scales, *read})), tuple(dict.fromkeys((*old.crops, *crops)))
        )
    return wants


def first_encoded(config: Run) -> int:
    """Return the index of the first scale that encodings by a codebook take."""
    return 1 if config.encoder.skip_first and len(config.pyramid.scales) > 1 else 0


def encode_described(
    described: Described,
    wants: Wants,
    codebooks: Codebooks,
    config: Run,
    methods: Sequence[Atom],
) -> tuple[np.ndarray, Vectors]:
    """Return (index (n,), {atom's name: (n, D)}) of the pictures in a batch, without padding.

    A batch that divides evenly is spread over the devices of `mpp_jax.devices`.

    Args:
        described: activations, of these sources and scales at least.
        wants: the scales that were described.
        codebooks: by key.
        config: settings.
        methods: atoms that are not external.
    """
    keys = {atom.codebook for atom in methods}
    with on_mesh(current_mesh()):
        arrays = encode(
            described.sources,
            {key: book for key, book in codebooks.items() if key in keys},
            tuple(methods),
            tuple((source, want.scales) for source, want in wants.items()),
            first_encoded(config),
        )
    valid = described.index >= 0
    return described.index[valid], {name: np.asarray(v)[valid] for name, v in arrays.items()}


def encode_items(
    network: Network,
    items: Sequence[Item],
    codebooks: Codebooks,
    config: Run,
    methods: Sequence[Atom],
    *,
    on_skip: Callable[[Skipped], object] | None = None,
) -> Iterator[tuple[np.ndarray, Vectors]]:
    """Decode and encode pictures; yield (positions among the items, {atom's name: vectors}).

    Args:
        network: the network.
        items: pictures.
        codebooks: by key.
        config: pyramid and encoder settings.
        methods: what is computed.
        on_skip: is told of every picture that could not be decoded.

    Raises:
        ValueError: a variant lacks its codebook or scale, or its vectors come from a file.
    """
    external = [atom.name for atom in methods if atom.external]
    if external:
        raise ValueError(
            f"method: {', '.join(external)} are features of a file, which new pictures lack; "
            "name a method without them"
        )
    check_methods(methods, codebooks=codebooks, scales=config.pyramid.scales)
    wants = wanted_of(methods, config.pyramid.scales)
    for described in describe_items(network, items, config.pyramid, wants=wants, on_skip=on_skip):
        yield encode_described(described, wants, codebooks, config, methods)


def encode_whole(
    network: Network,
    items: Sequence[Item],
    codebooks: Codebooks,
    config: Run,
    name: str,
    *,
    on_skip: Callable[[Skipped], object],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Decode pictures and encode them with one representation, a variant or a stack ``a+b``.

    Yields (positions (n,), vectors (n, D)); ``on_skip`` is told of pictures that could not be
    decoded, and of those whose encoding is not finite. Arguments as for `encode_items`.
    """
    parts = parse(name, config.features, config.pyramid.layer)
    for index, vectors in encode_items(network, items, codebooks, config, parts, on_skip=on_skip):
        whole = stack_unit_vectors([vectors[part.name] for part in parts])
        finite = np.isfinite(whole).all(axis=1)
        for position in index[~finite]:
            on_skip(Skipped(int(position), items[position].id, "encoding is not finite"))
        yield index[finite], whole[finite]
