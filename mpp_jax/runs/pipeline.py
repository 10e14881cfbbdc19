"""The whole method: fit a codebook, encode pictures, train SVMs, evaluate them.

Each stage reads what the stage before wrote, so that `run` and the single commands give the same
bytes. Read this file first; every step is one call into the module that does it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mpp_jax import metrics as measures
from mpp_jax.config import Run
from mpp_jax.data import DataError, Dataset, decodable
from mpp_jax.data.dataset import listed_classes
from mpp_jax.data.features import Features
from mpp_jax.describe.dense import describer
from mpp_jax.describe.extraction import ActivationSource, DescriptorSample, Extractor
from mpp_jax.describe.pyramid import scale_side
from mpp_jax.describe.wants import source_layer
from mpp_jax.memory import available_device_memory, available_memory
from mpp_jax.nets import Network
from mpp_jax.pooling import check_methods, members, parse
from mpp_jax.progress import Watcher
from mpp_jax.runs.choosing import choose
from mpp_jax.runs.contents import Contents
from mpp_jax.runs.finetune import finetune
from mpp_jax.runs.model import Model
from mpp_jax.runs.provenance import Provenance, atoms_digest, encoding_settings
from mpp_jax.runs.ray_engine import RayEngine
from mpp_jax.runs.settings import check_contrast, check_features, check_folds
from mpp_jax.runs.shards import Encoding, Sampling, blocks
from mpp_jax.runs.sizing import without_choices
from mpp_jax.runs.solvers import Problem, plan_training
from mpp_jax.runs.training import Folds, train_method
from mpp_jax.runs.vectors import atoms_of, code_of, recipes_of
from mpp_jax.stats.codebook import CodebookInfo, Codebooks, Recipe, check_sizes, fit_codebook
from mpp_jax.storage.store import SHARD_SIZE, Store, StoreWriter
from mpp_jax.svm import SVMInfo, svm_scores


def fit(
    dataset: Dataset,
    network: Network,
    config: Run,
    *,
    activations: ActivationSource | None = None,
    contents: Contents | None = None,
    engine: RayEngine | None = None,
    watcher: Watcher | None = None,
    on_skip: Callable[[str, str], object] | None = None,
) -> tuple[Codebooks, dict[str, CodebookInfo]]:
    """Fit PCA and mixture to descriptors sampled from the training pictures over all scales.

    One codebook for each source of descriptors and recipe that the representations read. Where the
    settings say so, they are trained further by the labels (`mpp_jax.runs.finetune`).

    Args:
        dataset: pictures; those of the training split are read.
        network: the network.
        config: settings.
        activations: where they come from; None for the network itself.
        contents: is left the digests of the pictures that were read.
        engine: whoever describes; None for this process.
        watcher: is shown how far the work is; None for a new one.
        on_skip: is told (id, reason) of every picture that could not be decoded.

    Returns:
        Codebooks and how their fits went, by key.

    Raises:
        ValueError: too few descriptors, or NaN among them.
    """
    watcher = watcher or Watcher()
    activations = activations or Extractor(network, config.pyramid)
    contents = contents or Contents()
    items = dataset.split("train")
    books = recipes_of(config)
    _check_enough(len(items), network, config, books)
    place = {item.id: i for i, item in enumerate(items)}
    samples = {
        source: DescriptorSample(len(items), config.encoder.samples, config.seed)
        for source, _ in books.values()
    }
    parts = [
        (place[block[0].id], block)
        for block in blocks(items, lambda item: place[item.id] // SHARD_SIZE)
    ]
    with (
        watcher.stage("describe training pictures"),
        watcher.bar(len(items), "describe", "picture") as bar,
    ):

        def skip(position: int, name: str, reason: str) -> None:
            bar.skip(name, reason)
            bar.update(1)
            if on_skip is not None:
                on_skip(name, reason)

        if engine is not None:
            engine.sample(parts, samples, contents, bar.update, skip)
        else:
            sampling = Sampling(activations, config.pyramid.scales, contents)
            for first, block in parts:
                sampling.block(first, block, samples, bar.update, skip)
    with watcher.stage("fit PCA and mixture"):
        drawn = {source: sample.finish() for source, sample in samples.items()}
        fitted = {
            key: fit_codebook(
                jax.random.key(config.seed),
                drawn[source],
                recipe.settings(config.encoder),
                mixture=recipe.mixture,
            )
            for key, (source, recipe) in books.items()
        }
    codebooks = {key: book for key, (book, _) in fitted.items()}
    if config.encoder.finetune:
        with watcher.stage("train the codebook"):
            classes = len(dataset.classes)
            codebooks = finetune(codebooks, items, classes, activations, config, watcher)
    return codebooks, {key: info for key, (_, info) in fitted.items()}


def _check_enough(
    pictures: int, network: Network, config: Run, books: dict[str, tuple[str, Recipe]]
) -> None:
    """Raise where a codebook could not be fitted even if every picture can be read."""
    pyramid = config.pyramid
    for source, recipe in books.values():
        spec = describer(network, source).spec
        layer = source_layer(spec, source, pyramid)
        sides = [scale_side(spec.side, k, pyramid.rounding) for k in pyramid.scales]
        each = sum(spec.positions(side, layer) ** 2 for side in sides)
        most = min(config.encoder.samples, pictures * each)
        check_sizes(most, spec.layer(layer).channels, recipe.settings(config.encoder))


def encode_dataset(
    dataset: Dataset,
    network: Network,
    codebooks: Codebooks,
    config: Run,
    folder: Path,
    *,
    features: Mapping[str, Features] | None = None,
    activations: ActivationSource | None = None,
    contents: Contents | None = None,
    append: bool = False,
    part: tuple[int, int] | None = None,
    engine: RayEngine | None = None,
    watcher: Watcher | None = None,
) -> Store:
    """Encode all pictures into a store, resuming an unfinished one of the same settings.

    Pictures that an earlier run had to skip are tried again; where one can be read by now, or where
    the content of one has changed since, its shard is encoded anew. Pictures that are gone, and
    labels that are others, leave the vectors as they are (`mpp_jax.storage.store_list`).

    Args:
        dataset: pictures.
        network: the network.
        codebooks: by key; more than are needed do no harm.
        config: settings.
        folder: of the store.
        features: those that representations stack with, by name.
        activations: where they come from; None for the network itself.
        contents: the digests of pictures that were read already; None for a new one.
        append: whether pictures that the store lacks join it.
        part: (i, n) for every n-th shard from the i-th on alone, i = 1..n.
        engine: whoever encodes; None for this process.
        watcher: is shown how far the work is; None for a new one.

    Raises:
        StoreError: the folder holds something else.
        DataError: features lack a picture.
        ValueError: a representation lacks its codebook, scale or features.
    """
    watcher = watcher or Watcher()
    activations = activations or Extractor(network, config.pyramid)
    contents = contents or Contents()
    atoms = atoms_of(config)
    check_methods(atoms, codebooks=codebooks, scales=config.pyramid.scales)
    external = check_features(dataset, config, features or {})
    writer = StoreWriter(
        folder,
        dataset,
        methods=[atom.name for atom in atoms],
        network=network.spec.name,
        weights_sha256=network.weights_sha256,
        codebook_sha256=atoms_digest(codebooks, atoms),
        config=encoding_settings(config, code_of(config, network.spec))
        | {"features": {name: part.sha256 for name, part in external.items()}}
        | ({"activations": activations.rounded} if activations.rounded else {}),
        shard_size=SHARD_SIZE,
        dtype=config.store_dtype,
        mended=decodable,
        content=contents.now,
        append=append,
        part=part,
    )
    for note in writer.notes:
        watcher.say(f"{folder}: {note}")
    if writer.changed:
        watcher.say(
            f"{len(writer.changed)} pictures changed since they were encoded ({writer.changed[0]} "
            "for one); they are encoded again"
        )
    todo, total = writer.remaining, writer.total
    with (
        writer,
        watcher.stage("encode pictures"),
        watcher.bar(total, "encode", "picture", initial=total - len(todo)) as bar,
    ):
        if engine is not None:
            engine.encode(writer, codebooks, external, bar.update, bar.skip)
        else:
            encoding = Encoding(network, codebooks, config, activations, external, contents)
            for block in blocks(todo, writer.shard_of):
                encoding.block(block, writer, bar.update, bar.skip)
    return Store.open(folder, part=part is not None)


def train(
    store: Store,
    codebooks: Codebooks,
    made: Provenance,
    methods: Sequence[str] | None = None,
    *,
    watcher: Watcher | None = None,
    memory: int | None = None,
) -> tuple[Model, dict[str, SVMInfo]]:
    """Train one-vs-rest machines for every representation on the stored training vectors.

    The solver that was taken stands in the model's settings, also where "auto" chose it.

    Args:
        store: encodings.
        codebooks: those that they were made with, which the model keeps.
        made: what they were made of, with the settings of training.
        methods: the representations; None for those of the settings, less those that are chosen by
            folds where there are too few pictures, of a class or at all, for them.
        watcher: is shown how far the work is, and told the solver; None for a new one.
        memory: bytes that training may take; None for what there is.

    Returns:
        The model, and the certificates of its machines.

    Raises:
        DataError: no training picture, a class that none that is usable has, or that all have, or
            one that is too small for folds where these are asked for.
        StoreError: a representation that is not stored.
    """
    watcher = watcher or Watcher()
    config = made.config
    targets = store.targets("train")
    if not store.classes or not len(targets):
        raise DataError(
            "the store has no training picture with a label; encode a set that has a training part"
        )
    for name, column in zip(store.classes, targets.T, strict=True):
        if not (column > 0).any():
            raise DataError(
                f"class {name!r} has no training picture that could be read; "
                "mend its files and encode again into the same folder, or take the class out "
                "and give a new one"
            )
    check_contrast(store.classes, targets)
    if not methods:
        methods, reason = without_choices(config.pooling, store.classes, targets, config.svm.folds)
        if reason:
            watcher.say(reason)
    methods = tuple(methods)
    check_folds(store.classes, targets, config.svm, methods)
    atoms = (parse(m, config.features, config.pyramid.layer) for m in methods if members(m))
    held = max((len(set(each)) for each in atoms), default=0)
    dimension = max(map(store.dimension, methods))
    problem = Problem(len(targets), dimension, len(store.classes), held)
    free = available_memory() if memory is None else memory
    plan = plan_training(problem, config.svm, free, available_device_memory())
    watcher.say(plan.reason)
    made = replace(made, config=replace(config, svm=replace(config.svm, solver=plan.solver)))
    machines, key = {}, jax.random.key(config.seed)
    chosen: dict[str, Mapping[str, Folds]] = {}
    with watcher.stage("train SVMs"):
        for asked in filter(members, methods):
            choice = choose(store, asked, targets, config, plan, key, watcher)
            chosen.setdefault(choice.name, choice.candidates)  # of the first, if several choose it
            methods = tuple(choice.name if name == asked else name for name in methods)
        for method in watcher.bar(dict.fromkeys(methods), "train", "method"):
            one = train_method(store, method, targets, config.svm, plan, key, watcher)
            if method in chosen:
                one = one._replace(trained=replace(one.trained, candidates=chosen[method]))
            machines[method] = one
    model = Model(
        made,
        codebooks,
        {method: one.svm for method, one in machines.items()},
        store.classes,
        methods[0],
        trained={method: one.trained for method, one in machines.items()},
        platt={method: one.platt for method, one in machines.items() if one.platt is not None},
        exclusive=not store.multi_label,
    )
    return model, {method: one.info for method, one in machines.items()}


def score(model: Model, store: Store, *, watcher: Watcher | None = None) -> dict[str, np.ndarray]:
    """Return {method: (N, L) scores} of the stored test vectors, L the store's classes.

    Raises:
        DataError: a class that the model does not know, no classes at all, or no test picture.
    """
    unknown = [name for name in store.classes if name not in model.classes]
    if unknown:
        raise DataError(
            f"the store has {listed_classes(unknown)}, which the model does not know; encode and "
            "train on one set, or evaluate on some of the model's classes"
        )
    if not store.classes:
        raise DataError(
            "the store has no classes, its pictures carry no labels: evaluate needs labelled test "
            "pictures (`search` and `predict` do not)"
        )
    columns = [model.classes.index(name) for name in store.classes]
    if not store.items("test"):
        raise DataError("no test picture could be read, so there is nothing to evaluate")
    return {
        method: np.concatenate(
            [
                np.asarray(svm_scores(svm, part))[:, columns]
                for part in store.iter_vectors(method, "test")
            ]
        )
        for method, svm in (watcher or Watcher()).bar(model.svms.items(), "evaluate", "method")
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
