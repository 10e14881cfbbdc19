"""The whole method: fit a codebook, encode pictures, train SVMs, evaluate them.

Each stage reads what the stage before wrote, so that `run` and the single commands give the same
bytes. Read this file first; every step is one call into the module that does it.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mpp_jax import metrics as measures
from mpp_jax.codebook import Codebook, CodebookInfo, check_sizes, fit_codebook
from mpp_jax.config import Run
from mpp_jax.data import DataError, Dataset, Item, Skipped
from mpp_jax.encoding import encode_described, wanted_crops, wanted_scales
from mpp_jax.extraction import Crops, Described, DescriptorSample, describe_items
from mpp_jax.model import Model, Provenance, codebook_digest
from mpp_jax.nets import Network
from mpp_jax.pooling import check_methods, get_pooling, split_stacks
from mpp_jax.progress import StageTimer, progress
from mpp_jax.pyramid import scale_side
from mpp_jax.store import SHARD_SIZE, Store, StoreWriter
from mpp_jax.svm import SVMInfo, fit_svm, svm_scores


class DescribedCache:
    """Activations kept on the device between fitting and encoding, up to a number of bytes.

    Attributes:
        crops: sets of crops to be kept besides the scales.
        full: whether a batch has been turned away.
        batches: (pictures, activations).
    """

    def __init__(self, limit: int, crops: tuple[Crops, ...] = ()) -> None:
        """Start empty, with room for ``limit`` bytes."""
        self._room = limit
        self.crops = crops
        self.full = False
        self.batches: list[tuple[list[Item], Described]] = []

    def offer(self, items: list[Item], described: Described) -> None:
        """Keep a batch and its pictures if there is room."""
        self.full = self.full or described.nbytes > self._room
        if not self.full:
            self._room -= described.nbytes
            self.batches.append((items, described))


def provenance(
    dataset: Dataset, network: Network, config: Run, weights_file: str | None = None
) -> Provenance:
    """Return what a codebook or model of these pictures, network and settings is stamped with."""
    names = "\n".join(item.id for item in dataset.split("train"))
    digest = hashlib.sha256(names.encode("utf-8", "surrogateescape"))
    return Provenance(
        network.spec.name,
        network.weights_sha256,
        weights_file,
        dataset.name,
        digest.hexdigest(),
        config,
    )


def needs_codebook(config: Run) -> bool:
    """Return whether any of the representations reads Fisher vectors."""
    return any(get_pooling(name).codebook for name in split_stacks(config.pooling))


def encoding_settings(config: Run) -> dict[str, Any]:
    """Return what decides the vectors besides network, weights and codebook, as JSON values."""
    settings = config.to_dict()
    return {
        "pyramid": settings["pyramid"] | {"scales": list(config.pyramid.scales)},
        "skip_first": config.encoder.skip_first,
        "dtype": config.dtype,
    }


def _blocks(items: Sequence[Item], dataset: Dataset) -> Iterator[list[Item]]:
    """Group items by shard and split: batches never reach beyond, whichever stage asks for them."""
    number = {item.id: i // SHARD_SIZE for i, item in enumerate(dataset.items)}
    for _, block in itertools.groupby(items, key=lambda item: (number[item.id], item.split)):
        yield list(block)


def fit(
    dataset: Dataset,
    network: Network,
    config: Run,
    *,
    timer: StageTimer | None = None,
    cache: DescribedCache | None = None,
    on_skip: Callable[[str, str], object] | None = None,
    quiet: bool = False,
) -> tuple[Codebook, CodebookInfo]:
    """Fit PCA and mixture to descriptors sampled from the training pictures over all scales.

    Args:
        dataset: pictures; those of the training split are read.
        network: the network.
        config: settings.
        timer: collects seconds per stage.
        cache: is offered every batch of activations.
        on_skip: is told (id, reason) of every picture that could not be decoded.
        quiet: no progress bar.

    Raises:
        ValueError: too few descriptors, or NaN among them.
    """
    timer = timer or StageTimer()
    items = dataset.split("train")
    _check_enough(len(items), network, config)
    place = {item.id: i for i, item in enumerate(items)}
    sample = DescriptorSample(len(items), config.encoder.samples, config.seed)
    with (
        timer.stage("describe training pictures"),
        progress(len(items), "describe", "picture", quiet=quiet) as bar,
    ):
        for block in _blocks(items, dataset):
            keeping = cache is not None and not cache.full

            def skip(entry: Skipped) -> None:
                bar.update(1)
                if on_skip is not None:
                    on_skip(entry.path, entry.reason)

            described = describe_items(
                network,
                block,
                config.pyramid,
                crops=cache.crops if cache is not None and keeping else (),
                on_skip=skip,
            )
            for batch in described:
                mine = [block[i] for i in batch.index if i >= 0]
                if cache is not None and keeping:
                    cache.offer(mine, batch)
                where = [place[block[i].id] if i >= 0 else -1 for i in batch.index]
                sample.add(batch._replace(index=np.array(where)))
                bar.update(len(mine))
    with timer.stage("fit PCA and mixture"):
        key = jax.random.key(config.seed)
        return fit_codebook(key, sample.finish(), config.encoder)


def _check_enough(pictures: int, network: Network, config: Run) -> None:
    """Raise where the codebook could not be fitted even if every picture can be read."""
    spec, pyramid = network.spec, config.pyramid
    sides = [scale_side(spec.side, k, pyramid.rounding) for k in pyramid.scales]
    each = sum(spec.positions(side, pyramid.layer) ** 2 for side in sides)
    most = min(config.encoder.samples, pictures * each)
    check_sizes(most, spec.layer(pyramid.layer).channels, config.encoder)


def encode_dataset(
    dataset: Dataset,
    network: Network,
    codebook: Codebook | None,
    config: Run,
    folder: Path,
    *,
    timer: StageTimer | None = None,
    cache: DescribedCache | None = None,
    quiet: bool = False,
) -> Store:
    """Encode all pictures into a store, resuming an unfinished one of the same settings.

    Raises:
        StoreError: the folder holds something else.
        ValueError: a representation lacks its codebook or scale.
    """
    timer = timer or StageTimer()
    methods = split_stacks(config.pooling)
    check_methods(methods, codebook=codebook is not None, scales=config.pyramid.scales)
    crops, scales = wanted_crops(methods), wanted_scales(methods, config.pyramid.scales)
    writer = StoreWriter(
        folder,
        dataset,
        methods=methods,
        network=network.spec.name,
        weights_sha256=network.weights_sha256,
        codebook_sha256=codebook_digest(codebook) if codebook and needs_codebook(config) else None,
        config=encoding_settings(config),
        shard_size=SHARD_SIZE,
    )
    todo = list(writer.remaining)
    total = len(dataset.items)
    with (
        writer,
        timer.stage("encode pictures"),
        progress(total, "encode", "picture", quiet=quiet, initial=total - len(todo)) as bar,
    ):

        def put(items: list[Item], described: Described) -> None:
            _, vectors = encode_described(described, codebook, config, methods)
            writer.put(items, vectors)
            bar.update(len(items))

        open_ids = {item.id for item in todo}
        while cache is not None and cache.batches:
            items, described = cache.batches.pop(0)
            if all(item.id in open_ids for item in items):
                put(items, described)
                open_ids -= {item.id for item in items}
        for block in _blocks([item for item in todo if item.id in open_ids], dataset):

            def skip(entry: Skipped, block: list[Item] = block) -> None:
                writer.skip(block[entry.position], entry.reason)
                bar.update(1)

            batches = describe_items(
                network, block, config.pyramid, scales=scales, crops=crops, on_skip=skip
            )
            for described in batches:
                put([block[i] for i in described.index if i >= 0], described)
    return Store.open(folder)


def train(
    store: Store,
    codebook: Codebook | None,
    made: Provenance,
    methods: Sequence[str] | None = None,
    *,
    timer: StageTimer | None = None,
    quiet: bool = False,
) -> tuple[Model, dict[str, SVMInfo]]:
    """Train one-vs-rest machines for every representation on the stored training vectors.

    Raises:
        DataError: a class that no usable training picture has, or that all of them have.
        StoreError: a representation that is not stored.
    """
    timer = timer or StageTimer()
    config = made.config
    methods = tuple(methods or config.pooling)
    targets = store.targets("train")
    for column, name in enumerate(store.classes):
        if not (targets[:, column] > 0).any():
            raise DataError(
                f"class {name!r} has no training picture that could be read; "
                "mend its files or remove the class, then train again"
            )
        if not (targets[:, column] < 0).any():
            raise DataError(
                f"class {name!r} is that of every training picture; "
                "a classifier needs pictures of other classes as well"
            )
    svms, infos = {}, {}
    with timer.stage("train SVMs"):
        for method in progress(methods, "train", "method", quiet=quiet):
            svms[method], infos[method] = fit_svm(
                store.vectors(method, "train"),
                targets,
                config.svm.c,
                tolerance=config.svm.tolerance,
                max_iterations=config.svm.max_iterations,
            )
    return Model(made, codebook, svms, store.classes, methods[0]), infos


def score(model: Model, store: Store, *, quiet: bool = False) -> dict[str, np.ndarray]:
    """Return {method: (N, L) scores} of the stored test vectors.

    Raises:
        DataError: other classes, or no test picture.
    """
    if store.classes != model.classes:
        raise DataError("the store has other classes than the model; encode and train on one set")
    if not store.items("test"):
        raise DataError("no test picture could be read, so there is nothing to evaluate")
    return {
        method: np.concatenate(
            [np.asarray(svm_scores(svm, part)) for part in store.iter_vectors(method, "test")]
        )
        for method, svm in progress(model.svms.items(), "evaluate", "method", quiet=quiet)
    }


def results(scores: dict[str, np.ndarray], store: Store) -> dict[str, dict[str, Any]]:
    """Return the figures of ``metrics.json`` for every method; None where one does not apply."""
    targets = store.targets("test")
    table = {}
    for method, values in scores.items():
        map11 = measures.mean_average_precision(values, targets, "11point")
        if store.multi_label:
            per_class = measures.average_precision(values, targets, "11point")
            top1 = mean_class = None
        else:
            labels = store.labels("test")
            per_class = measures.class_accuracies(values, labels)
            top1 = measures.top1_accuracy(values, labels)
            mean_class = measures.mean_class_accuracy(values, labels)
        table[method] = {
            "top1": top1,
            "mean_class_accuracy": mean_class,
            "map11": _or_none(map11),
            "per_class": dict(zip(store.classes, map(_or_none, per_class), strict=True)),
        }
    return table


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
