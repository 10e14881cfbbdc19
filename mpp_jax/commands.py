"""What the commands of the method's stages do, once the command line has been read."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mpp_jax import pipeline
from mpp_jax.bundle import check_place, holds_bundle
from mpp_jax.codebook import Codebook
from mpp_jax.config import Run
from mpp_jax.console import DONE, Output, Skips, open_network, results_table
from mpp_jax.data import DataError, Dataset
from mpp_jax.encoding import wanted_crops
from mpp_jax.model import (
    CODEBOOK,
    MODEL,
    Model,
    Provenance,
    codebook_digest,
    load_codebook,
    open_model,
    save_codebook,
    save_model,
)
from mpp_jax.nets import Network
from mpp_jax.pooling import check_methods, split_stacks
from mpp_jax.progress import StageTimer
from mpp_jax.report import write_metrics, write_report
from mpp_jax.store import Store, StoreError
from mpp_jax.store_format import MANIFEST, differences

CODEBOOK_OF_STORE = "codebook"
"""Encodings carry the codebook that made them, so that a model trained on them is complete."""


def check_settings(network: Network, config: Run) -> None:
    """Raise a ValueError for settings that would fail only after hours."""
    network.spec.layer(config.pyramid.layer)
    check_methods(split_stacks(config.pooling), codebook=True, scales=config.pyramid.scales)


def _weights_file(weights: str | None) -> str | None:
    return None if weights is None else str(Path(weights).resolve())


def _provenance(data: Dataset, network: Network, config: Run, weights: str | None) -> Provenance:
    return pipeline.provenance(data, network, config, _weights_file(weights))


def run(
    data: Dataset, network: Network, weights: str | None, config: Run, out: Path, output: Output
) -> int:
    """Everything: fit, encode, train, evaluate, report."""
    check_settings(network, config)
    _check_run_folder(out)
    if not data.split("test"):
        raise DataError(
            f"{data.name}: no test picture, so there is nothing to evaluate; add some, "
            "or use the commands fit, encode and train"
        )
    timer = StageTimer()
    made = _provenance(data, network, config, weights)
    codebook = None
    cache = None
    if pipeline.needs_codebook(config):
        _check_same_run(out, made)
        cache = pipeline.DescribedCache(
            config.cache_bytes, wanted_crops(split_stacks(config.pooling))
        )
        codebook, _ = _codebook_or_fit(out / "codebook", data, network, made, output, timer, cache)
    store = pipeline.encode_dataset(
        data,
        network,
        codebook,
        config,
        out / "encodings",
        timer=timer,
        cache=cache,
        quiet=output.quiet,
    )
    save_codebook(store.path / CODEBOOK_OF_STORE, codebook, made)
    output.wrote("encodings", store.path)
    skips = _store_skips(store) + _dataset_skips(data)
    try:
        model = _train(store, codebook, made, config.pooling, out / "model", output, timer)
        _evaluate(model, store, out, output, timer, data, skips)
    except ValueError:
        output.skipped(skips)  # the likely cause
        raise
    return output.skipped(skips)


def _check_run_folder(out: Path) -> None:
    """Raise unless ``out`` is absent, empty, or the folder of an earlier run."""
    check_place(out)
    ours = any((out / part).is_dir() for part in ("codebook", "encodings"))
    if out.is_dir() and any(out.iterdir()) and not ours:
        raise ValueError(f"{out}: not empty, and no earlier run; give a new folder")


def _check_same_run(out: Path, made: Provenance) -> None:
    """Raise where finished encodings would lose the codebook that they were made with."""
    if holds_bundle(out / "codebook") and (out / "encodings" / MANIFEST).exists():
        _, old = load_codebook(out / "codebook")
        found = differences(_fit_settings(old), _fit_settings(made))
        if found:
            raise ValueError(
                f"{out}: holds a run of other settings: {'; '.join(found)}; "
                "give a new folder or remove this one"
            )


def _fit_settings(made: Provenance) -> dict[str, Any]:
    """Everything that decides a codebook, as JSON values."""
    settings = made.config.to_dict()
    pyramid = settings["pyramid"] | {"scales": list(made.config.pyramid.scales)}
    encoder = {key: value for key, value in settings["encoder"].items() if key != "skip_first"}
    return {
        "network": made.network,
        "weights_sha256": made.weights_sha256,
        "training pictures' sha256": made.pictures_sha256,
        "seed": made.config.seed,
        "dtype": made.config.dtype,
        **pyramid,
        **encoder,
    }


def _codebook_or_fit(
    folder: Path,
    dataset: Dataset,
    network: Network,
    made: Provenance,
    output: Output,
    timer: StageTimer,
    cache: pipeline.DescribedCache | None,
) -> tuple[Codebook, Skips]:
    """Take the codebook of the same settings that is in ``folder``, or fit one and save it.

    Returns it, and the pictures that could not be read for it.
    """
    check_place(folder, CODEBOOK)
    if holds_bundle(folder):
        codebook, old = load_codebook(folder)
        if codebook is not None and _fit_settings(old) == _fit_settings(made):
            output.say(f"codebook: taken from {folder}")
            return codebook, []
    skips: Skips = []
    codebook, info = pipeline.fit(
        dataset,
        network,
        made.config,
        timer=timer,
        cache=cache,
        on_skip=lambda name, reason: skips.append((name, reason)),
        quiet=output.quiet,
    )
    em = info.em
    output.say(
        f"codebook: {info.samples} descriptors, PCA keeps {info.explained:.1%} of their variance, "
        f"EM {int(em.iterations)} steps{'' if em.converged else ' (limit reached)'}"
    )
    save_codebook(folder, codebook, made)
    output.wrote("codebook", folder)
    return codebook, skips


def fit(
    data: Dataset, network: Network, weights: str | None, config: Run, out: Path, output: Output
) -> int:
    """PCA and mixture only."""
    timer = StageTimer()
    network.spec.layer(config.pyramid.layer)
    made = _provenance(data, network, config, weights)
    _, skips = _codebook_or_fit(out, data, network, made, output, timer, None)
    timer.print_table(quiet=output.quiet)
    return output.skipped(skips + _dataset_skips(data))


def encode(
    data: Dataset,
    codebook_folder: Path,
    weights: str | None,
    pooling: tuple[str, ...] | None,
    out: Path,
    output: Output,
) -> int:
    """Pictures to vectors on disk, with a saved codebook."""
    codebook, made = load_codebook(codebook_folder)
    weights = made.find_weights(weights)
    network = open_network(made.network, weights, made.config.dtype, output)
    made.check_network(network)
    config = replace(made.config, pooling=pooling or made.config.pooling)
    check_settings(network, config)
    here = _provenance(data, network, config, weights)
    if here.pictures_sha256 != made.pictures_sha256:
        output.say(f"note: {codebook_folder} was fitted to other training pictures than these")
    timer = StageTimer()
    store = pipeline.encode_dataset(
        data, network, codebook, config, out, timer=timer, quiet=output.quiet
    )
    save_codebook(store.path / CODEBOOK_OF_STORE, codebook, here)
    timer.print_table(quiet=output.quiet)
    output.wrote("encodings", out)
    return output.skipped(_store_skips(store) + _dataset_skips(data))


def open_codebook_of(store: Store) -> tuple[Codebook | None, Provenance]:
    """Return the codebook that a store carries, after checking that it is the store's own."""
    folder = store.path / CODEBOOK_OF_STORE
    if not holds_bundle(folder):
        raise StoreError(
            f"{store.path}: its codebook is missing; give the same encode command again"
        )
    codebook, made = load_codebook(folder)
    _check_store(store, codebook, made)
    return codebook, made


def _check_store(store: Store, codebook: Codebook | None, made: Provenance) -> None:
    """Raise unless a store was encoded with this codebook, network, weights and settings."""
    wanted = {
        "network": made.network,
        "weights_sha256": made.weights_sha256,
        **pipeline.encoding_settings(made.config),
    }
    found = {key: store.manifest[key] for key in ("network", "weights_sha256")} | store.config
    digest = store.manifest["codebook_sha256"]
    if digest is not None:
        found["codebook_sha256"] = digest
        wanted["codebook_sha256"] = None if codebook is None else codebook_digest(codebook)
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
    codebook, made = open_codebook_of(store)
    config = replace(made.config, pooling=methods or made.config.pooling)
    if c is not None:
        config = replace(config, svm=replace(config.svm, c=c))
    timer = StageTimer()
    _train(store, codebook, replace(made, config=config), config.pooling, out, output, timer)
    timer.print_table(quiet=output.quiet)
    return DONE


def _train(
    store: Store,
    codebook: Codebook | None,
    made: Provenance,
    methods: tuple[str, ...],
    out: Path,
    output: Output,
    timer: StageTimer,
) -> Model:
    check_place(out, MODEL)
    model, infos = pipeline.train(store, codebook, made, methods, timer=timer, quiet=output.quiet)
    for method, info in infos.items():
        gap, worst = float(np.max(info.relative_gap)), int(np.max(info.iterations))
        note = "" if info.converged.all() else " (iteration limit reached)"
        output.say(f"svm {method}: relative duality gap {gap:.1e} after {worst} iterations{note}")
    save_model(out, model)
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
    _check_store(store, model.codebook, model.provenance)
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
    )
    timer.print_table(quiet=output.quiet)
    output.say(results_table(table))
    output.wrote("metrics", out / "metrics.json")
    output.wrote("report", report)
