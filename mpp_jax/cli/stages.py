"""What the commands of the method's stages do, once the command line has been read."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from mpp_jax.cli.console import DONE, Output, Skips, made_with, open_network, results_table
from mpp_jax.config import Run
from mpp_jax.data import DataError, Dataset
from mpp_jax.describe.memory_cache import Describe, DescribedCache
from mpp_jax.nets import Network
from mpp_jax.pooling import check_methods, parse_all
from mpp_jax.progress import StageTimer
from mpp_jax.report.map_examples import map_gallery
from mpp_jax.report.map_section import MapGallery
from mpp_jax.report.metrics_json import write_metrics
from mpp_jax.report.page import write_report
from mpp_jax.runs import pipeline
from mpp_jax.runs.model import (
    CODEBOOK,
    MODEL,
    Model,
    Provenance,
    codebooks_digest,
    load_codebooks,
    open_model,
    save_codebooks,
    save_model,
)
from mpp_jax.runs.settings import (
    NOTHING,
    Extras,
    check_run_folder,
    check_same_run,
    describe_for,
    fit_settings,
    provenance_of,
    settled,
)
from mpp_jax.runs.vectors import atoms_of
from mpp_jax.stats.codebook import Codebooks
from mpp_jax.stats.gmm import EMInfo
from mpp_jax.storage.bundle import check_place, holds_bundle
from mpp_jax.storage.store import Store, StoreError
from mpp_jax.storage.store_format import differences

CODEBOOK_OF_STORE = "codebook"
"""Encodings carry the codebook that made them, so that a model trained on them is complete."""


def run(
    data: Dataset,
    network: Network,
    weights: str | None,
    config: Run,
    out: Path,
    output: Output,
    extras: Extras = NOTHING,
    *,
    maps: int = 0,
) -> int:
    """Everything: fit, encode, train, evaluate, report, with confidence maps of some pictures."""
    config = settled(network, config, extras)
    check_run_folder(out)
    if not data.split("test"):
        raise DataError(
            f"{data.name}: no test picture, so there is nothing to evaluate; add some, "
            "or use the commands fit, encode and train"
        )
    pipeline.check_contrast(data.classes, data.targets("train"))
    pipeline.check_features(data, config, extras.features)
    timer = StageTimer()
    made = provenance_of(data, network, config, weights)
    codebooks: Codebooks = {}
    cache = None
    describe = describe_for(network, config, extras, output)
    if pipeline.recipes(config):
        check_same_run(out, made)
        cache = DescribedCache(config.cache_bytes if extras.cache is None else 0)
        codebooks, _ = _codebooks_or_fit(
            out / "codebook", data, network, made, output, timer, cache, describe
        )
    store = pipeline.encode_dataset(
        data,
        network,
        codebooks,
        config,
        out / "encodings",
        features=extras.features,
        timer=timer,
        cache=cache,
        describe=describe,
        quiet=output.quiet,
    )
    save_codebooks(store.path / CODEBOOK_OF_STORE, codebooks, made)
    output.wrote("encodings", store.path)
    skips = _store_skips(store) + _dataset_skips(data)
    try:
        model = _train(store, codebooks, made, config.pooling, out / "model", output, timer)
        gallery = None
        if maps:
            with timer.stage("confidence maps"):
                gallery = map_gallery(
                    replace(model, network=network), data, maps, quiet=output.quiet
                )
        _evaluate(model, store, out, output, timer, data, skips, gallery)
    except ValueError:
        output.skipped(skips)  # the likely cause
        raise
    return output.skipped(skips)


def _codebooks_or_fit(
    folder: Path,
    dataset: Dataset,
    network: Network,
    made: Provenance,
    output: Output,
    timer: StageTimer,
    cache: DescribedCache | None,
    describe: Describe,
) -> tuple[Codebooks, Skips]:
    """Take the codebooks of the same settings that are in ``folder``, or fit and save them.

    Returns them, and the pictures that could not be read for them.
    """
    check_place(folder, CODEBOOK)
    if holds_bundle(folder):
        codebooks, old = load_codebooks(folder)
        if codebooks and fit_settings(old) == fit_settings(made):
            output.say(f"codebook: taken from {folder}")
            return codebooks, []
    skips: Skips = []
    codebooks, infos = pipeline.fit(
        dataset,
        network,
        made.config,
        timer=timer,
        cache=cache,
        describe=describe,
        on_skip=lambda name, reason: skips.append((name, reason)),
        quiet=output.quiet,
    )
    for key, info in infos.items():
        steps = f"{'EM' if isinstance(info.em, EMInfo) else 'k-means'} {int(info.em.iterations)}"
        output.say(
            f"codebook {key}: {info.samples} descriptors, PCA keeps {info.explained:.1%} of their "
            f"variance, {steps} steps{'' if info.em.converged else ' (limit reached)'}"
        )
    save_codebooks(folder, codebooks, made)
    output.say(f"codebook of {made_with(made.network, made.weights_sha256)}")
    output.wrote("codebook", folder)
    return codebooks, skips


def fit(
    data: Dataset,
    network: Network,
    weights: str | None,
    config: Run,
    out: Path,
    output: Output,
    extras: Extras = NOTHING,
) -> int:
    """PCA and mixture only; those that the representations read, or the Fisher vector's."""
    timer = StageTimer()
    config = settled(network, config, extras)
    if not pipeline.recipes(config):
        raise ValueError(f"pooling: {', '.join(config.pooling)} need no codebook; encode at once")
    made = provenance_of(data, network, config, weights)
    describe = describe_for(network, config, extras, output)
    _, skips = _codebooks_or_fit(out, data, network, made, output, timer, None, describe)
    timer.print_table(quiet=output.quiet)
    return output.skipped(skips + _dataset_skips(data))


def encode(
    data: Dataset,
    codebook_folder: Path,
    weights: str | None,
    pooling: tuple[str, ...] | None,
    out: Path,
    output: Output,
    extras: Extras = NOTHING,
) -> int:
    """Pictures to vectors on disk, with saved codebooks."""
    codebooks, made = load_codebooks(codebook_folder)
    weights = made.find_weights(weights)
    network = open_network(made.network, weights, made.config.dtype, output)
    made.check_network(network)
    chosen = replace(made.config, pooling=pooling or made.config.pooling)
    config = settled(network, chosen, extras)
    check_methods(atoms_of(config), codebooks=codebooks, scales=config.pyramid.scales)
    here = provenance_of(data, network, config, weights)
    if here.pictures_sha256 != made.pictures_sha256:
        output.say(f"note: {codebook_folder} was fitted to other training pictures than these")
    timer = StageTimer()
    store = pipeline.encode_dataset(
        data,
        network,
        codebooks,
        config,
        out,
        features=extras.features,
        timer=timer,
        describe=describe_for(network, config, extras, output),
        quiet=output.quiet,
    )
    save_codebooks(store.path / CODEBOOK_OF_STORE, codebooks, here)
    timer.print_table(quiet=output.quiet)
    output.say(f"encodings of {made_with(here.network, here.weights_sha256)}")
    output.wrote("encodings", out)
    return output.skipped(_store_skips(store) + _dataset_skips(data))


def open_codebooks_of(store: Store) -> tuple[Codebooks, Provenance]:
    """Return the codebooks that a store carries, after checking that they are the store's own."""
    folder = store.path / CODEBOOK_OF_STORE
    if not holds_bundle(folder):
        raise StoreError(
            f"{store.path}: its codebook is missing; give the same encode command again"
        )
    codebooks, made = load_codebooks(folder)
    _check_store(store, codebooks, made)
    return codebooks, made


def _check_store(store: Store, codebooks: Codebooks, made: Provenance) -> None:
    """Raise unless a store was encoded with this codebook, network, weights and settings."""
    wanted = {
        "network": made.network,
        "weights_sha256": made.weights_sha256,
        **pipeline.encoding_settings(made.config),
    }
    found = {key: store.manifest[key] for key in ("network", "weights_sha256")} | store.config
    features = found.pop("features", {})
    digest = store.manifest["codebook_sha256"]
    if digest is not None:
        found["codebook_sha256"] = digest
        atoms = parse_all(list(store.methods), features, made.config.pyramid.layer)
        wanted["codebook_sha256"] = codebooks_digest(codebooks, atoms)
    other = differences(wanted, found)
    if other:
        raise StoreError(f"{store.path}: encoded with other settings: {'; '.join(other)}")


def train(
    store_folder: Path,
    methods: tuple[str, ...] | None,
    c: float | None,
    out: Path,
    output: Output,
) -> int:
    """SVMs from stored encodings."""
    store = Store.open(store_folder)
    codebooks, made = open_codebooks_of(store)
    config = made.config
    if methods:
        names = dict.fromkeys(made.method_name(method) for method in methods)
        config = replace(config, pooling=tuple(names))
    if c is not None:
        config = replace(config, svm=replace(config.svm, c=c))
    timer = StageTimer()
    _train(store, codebooks, replace(made, config=config), config.pooling, out, output, timer)
    timer.print_table(quiet=output.quiet)
    return DONE


def _train(
    store: Store,
    codebooks: Codebooks,
    made: Provenance,
    methods: tuple[str, ...],
    out: Path,
    output: Output,
    timer: StageTimer,
) -> Model:
    check_place(out, MODEL)
    model, infos = pipeline.train(store, codebooks, made, methods, timer=timer, quiet=output.quiet)
    for method, info in infos.items():
        gap, worst = float(np.max(info.relative_gap)), int(np.max(info.iterations))
        note = "" if info.converged.all() else " (iteration limit reached)"
        output.say(f"svm {method}: relative duality gap {gap:.1e} after {worst} iterations{note}")
    save_model(out, model)
    output.say(f"model on {made_with(made.network, made.weights_sha256)}")
    output.wrote("model", out)
    return model


def _store_skips(store: Store) -> Skips:
    return [(item.id, item.reason or "unknown reason") for item in store.skipped]


def _dataset_skips(dataset: Dataset) -> Skips:
    return [(dataset.name, warning) for warning in dataset.warnings]


def evaluate(
    model_folder: Path, store_folder: Path, pictures: Dataset | None, out: Path, output: Output
) -> int:
    """Scores of stored test vectors, metrics and report."""
    check_place(out)
    model = open_model(model_folder)
    store = Store.open(store_folder)
    _check_store(store, model.codebooks, model.provenance)
    skips = _store_skips(store) + (_dataset_skips(pictures) if pictures is not None else [])
    _evaluate(model, store, out, output, StageTimer(), pictures, skips)
    return output.skipped(skips)


def _evaluate(
    model: Model,
    store: Store,
    out: Path,
    output: Output,
    timer: StageTimer,
    pictures: Dataset | None,
    skips: Skips,
    gallery: MapGallery | None = None,
) -> None:
    with timer.stage("evaluate"):
        scores = pipeline.score(model, store, quiet=output.quiet)
        table = pipeline.results(scores, store)
    made = model.provenance
    metrics = {
        "data": made.dataset,
        "network": made.network,
        "weights_sha256": made.weights_sha256,
        "config": made.config.to_dict(),
        "results": table,
        "seconds": dict(timer.seconds),
        "pictures": {
            "train": len(store.items("train")),
            "test": len(store.items("test")),
            "skipped": [{"path": name, "reason": reason} for name, reason in skips],
        },
    }
    sources = {item.id: item.source for item in pictures.items} if pictures is not None else {}
    write_metrics(out, metrics)
    report = write_report(
        out,
        metrics=metrics,
        classes=store.classes,
        method=model.primary,
        labels=store.targets("test") if store.multi_label else store.labels("test"),
        scores=scores,
        test_paths=[sources.get(item.id, item.id) for item in store.items("test")],
        maps=gallery,
    )
    timer.print_table(quiet=output.quiet)
    output.say(f"results on {made_with(made.network, made.weights_sha256)}")
    output.say(results_table(table))
    output.wrote("metrics", out / "metrics.json")
    output.wrote("report", report)
