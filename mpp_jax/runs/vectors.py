"""Pictures to finished vectors: activations and pooling together, batch by batch."""

import hashlib
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from mpp_jax.config import Run
from mpp_jax.data import Batch, Item, Skipped
from mpp_jax.describe.batches import over_batches
from mpp_jax.describe.counting import Counts, count_sources
from mpp_jax.describe.extraction import ActivationSource, Described, Extractor, describe_items
from mpp_jax.describe.memory_cache import MemoryCache
from mpp_jax.describe.wants import Wanted, Wants
from mpp_jax.devices import current_mesh, on_mesh
from mpp_jax.nets import NetSpec, Network
from mpp_jax.nets.registry import NETWORKS, PACKAGED
from mpp_jax.numerics import stack_unit_vectors
from mpp_jax.pooling import Atom, check_methods, encode, parse, parse_all
from mpp_jax.pooling.batched import countable, encode_counted
from mpp_jax.stats.codebook import Codebooks, Recipe, settled_codebooks

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


def fitting_wants(config: Run) -> Wants:
    """Return what the fits of a run's codebooks read: all scales of their sources."""
    scales = config.pyramid.scales
    return {source: Wanted(scales) for source, _ in recipes_of(config).values()}


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


def encode_counts(
    index: np.ndarray,
    counts: Counts,
    wants: Wants,
    codebooks: Codebooks,
    config: Run,
    methods: Sequence[Atom],
) -> tuple[np.ndarray, Vectors]:
    """Return what `encode_described` does, of pictures whose descriptors are counted.

    Args:
        index: (B,) position of each picture, -1 for padding.
        counts: their statistics.
        wants: the scales that were counted.
        codebooks: by key.
        config: settings.
        methods: atoms that are `countable`.
    """
    with on_mesh(current_mesh()):
        arrays = encode_counted(
            counts,
            {key: codebooks[key] for key in counts},
            tuple(methods),
            tuple((source, want.scales) for source, want in wants.items()),
            first_encoded(config),
        )
    valid = index >= 0
    return index[valid], {name: np.asarray(v)[valid] for name, v in arrays.items()}


def count_items(
    network: Network,
    items: Sequence[Item],
    codebooks: Codebooks,
    config: Run,
    methods: Sequence[Atom],
    *,
    on_skip: Callable[[Skipped], object] | None = None,
) -> Iterator[tuple[np.ndarray, Vectors]]:
    """Do what `encode_items` does by one program a scale, which keeps no activations.

    Args:
        network: the network.
        items: pictures.
        codebooks: by key.
        config: pyramid and encoder settings.
        methods: atoms that are `countable`.
        on_skip: is told of every picture that could not be decoded.
    """
    wants = wanted_of(methods, config.pyramid.scales)
    pairs = dict.fromkeys((atom.source, atom.codebook) for atom in methods)
    wanted = [(source, key, wants[source].scales) for source, key in pairs if key is not None]

    def count(network: Network, batch: Batch) -> tuple[np.ndarray, Counts]:
        return batch.index, count_sources(network, batch, config.pyramid, wanted, codebooks)

    for index, counts in over_batches(count, network, items, config.pyramid, on_skip=on_skip):
        yield encode_counts(index, counts, wants, codebooks, config, methods)


def encode_from(
    activations: ActivationSource,
    network: Network,
    items: Sequence[Item],
    codebooks: Codebooks,
    config: Run,
    methods: Sequence[Atom],
    *,
    on_skip: Callable[[Skipped], object],
) -> Iterator[tuple[np.ndarray, Vectors]]:
    """Encode pictures from where activations are kept, or computed; yield as `encode_items`.

    Pictures whose activations would be computed for this alone are counted instead, where that is
    the best (`counts_only`).

    Args:
        activations: their source.
        network: the network.
        items: pictures.
        codebooks: by key.
        config: pyramid and encoder settings.
        methods: atoms that are not external.
        on_skip: is told of every picture that could not be decoded.
    """
    codebooks = settled_codebooks(codebooks)
    kept = activations.kept if isinstance(activations, MemoryCache) else set()
    source = activations.source if isinstance(activations, MemoryCache) else activations
    count = isinstance(source, Extractor) and counts_only(methods)
    described = [i for i, item in enumerate(items) if not count or item.id in kept]
    counted = [i for i, item in enumerate(items) if count and item.id not in kept]
    wants = wanted_of(methods, config.pyramid.scales)

    def skip_of(positions: np.ndarray) -> Callable[[Skipped], object]:
        return lambda entry: on_skip(entry._replace(position=int(positions[entry.position])))

    if described:
        place = np.array(described)
        some = [items[i] for i in described]
        for batch in activations.describe(some, wants, skip_of(place)):
            index, vectors = encode_described(batch, wants, codebooks, config, methods)
            yield place[index], vectors
    if counted:
        place = np.array(counted)
        some = [items[i] for i in counted]
        skip = skip_of(place)
        for index, vectors in count_items(network, some, codebooks, config, methods, on_skip=skip):
            yield place[index], vectors


def counts_only(methods: Sequence[Atom]) -> bool:
    """Return whether pictures are best encoded by `count_items`: on accelerators, if they can be.

    A CPU's caches are too small for that, and its memory large enough for the activations of the
    few pictures that it has under way.
    """
    return jax.default_backend() != "cpu" and bool(methods) and all(map(countable, methods))


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
    codebooks = settled_codebooks(codebooks)
    if counts_only(methods):
        yield from count_items(network, items, codebooks, config, methods, on_skip=on_skip)
        return
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
