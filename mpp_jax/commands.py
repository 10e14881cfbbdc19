"""What the commands do, once the command line has been read."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from mpp_jax import pipeline
from mpp_jax.codebook import Codebook
from mpp_jax.config import Run
from mpp_jax.data import Dataset, open_dataset
from mpp_jax.encoding import wanted_crops
from mpp_jax.model import (
    Model,
    Provenance,
    codebook_digest,
    load_codebook,
    load_model,
    open_model,
    save_codebook,
    save_model,
)
from mpp_jax.nets import Network, load_network
from mpp_jax.pooling import get_pooling, split_stacks
from mpp_jax.progress import StageTimer
from mpp_jax.report import write_metrics, write_report
from mpp_jax.store import Store

DONE, SOME_SKIPPED = 0, 1

CODEBOOK_OF_STORE = "codebook"
"""Encodings carry the codebook that made them, so that a model trained on them is complete."""


class Output:
    """Talks to the user on standard error; the results themselves go to files or standard out."""

    def __init__(self, quiet: bool) -> None:
        """With ``quiet``, say nothing but where results went and what was skipped."""
        self.quiet = quiet

    def say(self, text: str) -> None:
        """A line about progress or settings."""
        if not self.quiet:
            print(text, file=sys.stderr)

    def wrote(self, what: str, place: Path) -> None:
        """A line about a result's place."""
        print(f"{what}: {place}")

    def skipped(self, entries: Sequence[tuple[str, str]]) -> int:
        """List what was left out and why; return the exit status."""
        for name, reason in entries:
            print(f"skipped {name}: {reason}", file=sys.stderr)
        return SOME_SKIPPED if entries else DONE


def open_data(
    data: str, *, test_fraction: float, seed: int, limit_per_class: int | None, output: Output
) -> Dataset:
    """Open DATA and say what is in it."""
    dataset = open_dataset(
        data, test_fraction=test_fraction, seed=seed, limit_per_class=limit_per_class
    )
    train, test = len(dataset.split("train")), len(dataset.split("test"))
    output.say(
        f"{dataset.name}: {len(dataset.classes)} classes, {train} training pictures, {test} test"
    )
    for note in dataset.notes:
        output.say(note)
    return dataset


def open_network(name: str, weights: str | None, dtype: str, output: Output) -> Network:
    """Load a network and say which."""
    network = load_network(name, weights, dtype=jnp.dtype(dtype))
    output.say(f"network {name}, weights sha256 {network.weights_sha256[:12]}...")
    return network


def _dataset_skips(dataset: Dataset) -> list[tuple[str, str]]:
    return [(dataset.name, warning) for warning in dataset.warnings]


def _weights_file(weights: str | None) -> str | None:
    return None if weights is None else str(Path(weights).resolve())


def _codebook_or_fit(
    folder: Path,
    dataset: Dataset,
    network: Network,
    made: Provenance,
    output: Output,
    timer: StageTimer,
    cache: pipeline.DescribedCache | None,
) -> Codebook | None:
    """Take the codebook that an interrupted run left in ``folder``, or fit one and save it."""
    if folder.exists():
        codebook, old = load_codebook(folder)
        if _fit_settings(old) == _fit_settings(made):
            output.say(f"codebook: taken from {folder}")
            return codebook
    codebook, info = pipeline.fit(
        dataset, network, made.config, timer=timer, cache=cache, quiet=output.quiet
    )
    em = info.em
    output.say(
        f"codebook: {info.samples} descriptors, PCA keeps {info.explained:.1%} of their variance, "
        f"EM {int(em.iterations)} steps{'' if em.converged else ' (limit reached)'}"
    )
    save_codebook(folder, codebook, made)
    output.wrote("codebook", folder)
    return codebook


def _fit_settings(made: Provenance) -> tuple[Any, ...]:
    """Everything that decides a codebook."""
    config = made.config
    return (
        made.network,
        made.weights_sha256,
        made.pictures_sha256,
        config.pyramid,
        replace(config.encoder, skip_first=False),
        config.seed,
        config.dtype,
    )


def run(
    data: Dataset, network: Network, weights: str | None, config: Run, out: Path, output: Output
) -> int:
    """Everything: fit, encode, train, evaluate, report."""
    timer = StageTimer()
    made = pipeline.provenance(data, network, config, _weights_file(weights))
    parts = split_stacks(config.pooling)
    codebook = None
    cache = None
    if any(get_pooling(name).codebook for name in parts):
        cache = pipeline.DescribedCache(config.cache_bytes, wanted_crops(parts))
        codebook = _codebook_or_fit(out / "codebook", data, network, made, output, timer, cache)
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
    save_codebook(out / "encodings" / CODEBOOK_OF_STORE, codebook, made)
    output.wrote("encodings", out / "encodings")
    model = _train(store, codebook, made, config.pooling, out / "model", output, timer)
    return _evaluate(model, store, out, output, timer, data)


def fit(
    data: Dataset, network: Network, weights: str | None, config: Run, out: Path, output: Output
) -> int:
    """PCA and mixture only."""
    timer = StageTimer()
    made = pipeline.provenance(data, network, config, _weights_file(weights))
    _codebook_or_fit(out, data, network, made, output, timer, None)
    timer.print_table(quiet=output.quiet)
    return output.skipped(_dataset_skips(data))


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
    if weights is None and made.weights_file and Path(made.weights_file).exists():
        weights = made.weights_file
    network = open_network(made.network, weights, made.config.dtype, output)
    made.check_network(network)
    config = replace(made.config, pooling=pooling or made.config.pooling)
    timer = StageTimer()
    store = pipeline.encode_dataset(
        data, network, codebook, config, out, timer=timer, quiet=output.quiet
    )
    save_codebook(out / CODEBOOK_OF_STORE, codebook, replace(made, config=config))
    timer.print_table(quiet=output.quiet)
    output.wrote("encodings", out)
    return output.skipped(_dataset_skips(data) + _store_skips(store))


def train(
    store_folder: Path,
    methods: tuple[str, ...] | None,
    c: float | None,
    out: Path,
    output: Output,
) -> int:
    """SVMs from stored encodings."""
    store = Store.open(store_folder)
    codebook, made = load_codebook(store_folder / CODEBOOK_OF_STORE)
    _check_store(store, codebook, made)
    config = replace(made.config, pooling=methods or made.config.pooling)
    if c is not None:
        config = replace(config, svm=replace(config.svm, c=c))
    timer = StageTimer()
    _train(store, codebook, replace(made, config=config), config.pooling, out, output, timer)
    timer.print_table(quiet=output.quiet)
    return DONE


def _check_store(store: Store, codebook: Codebook | None, made: Provenance) -> None:
    wanted = None if codebook is None else codebook_digest(codebook)
    found = store.manifest["codebook_sha256"]
    if found is not None and found != wanted:
        raise ValueError(f"{store.path}: encoded with another codebook (sha256 {found[:12]}...)")
    if store.manifest["weights_sha256"] != made.weights_sha256:
        raise ValueError(f"{store.path}: encoded with other network weights than the codebook's")


def _train(
    store: Store,
    codebook: Codebook | None,
    made: Provenance,
    methods: tuple[str, ...],
    out: Path,
    output: Output,
    timer: StageTimer,
) -> Model:
    model, infos = pipeline.train(store, codebook, made, methods, timer=timer, quiet=output.quiet)
    for method, info in infos.items():
        gap, worst = float(np.max(info.relative_gap)), int(np.max(info.iterations))
        note = "" if info.converged.all() else " (iteration limit reached)"
        output.say(f"svm {method}: relative duality gap {gap:.1e} after {worst} iterations{note}")
    save_model(out, model)
    output.wrote("model", out)
    return model


def _store_skips(store: Store) -> list[tuple[str, str]]:
    return [(item.id, item.reason or "unknown reason") for item in store.skipped]


def evaluate(
    model_folder: Path, store_folder: Path, pictures: Dataset | None, out: Path, output: Output
) -> int:
    """Scores of stored test vectors, metrics and report."""
    model = open_model(model_folder)
    store = Store.open(store_folder)
    if store.manifest["weights_sha256"] != model.provenance.weights_sha256:
        raise ValueError(f"{store.path}: encoded with other network weights than the model's")
    return _evaluate(model, store, out, output, StageTimer(), pictures)


def _evaluate(
    model: Model,
    store: Store,
    out: Path,
    output: Output,
    timer: StageTimer,
    pictures: Dataset | None,
) -> int:
    with timer.stage("evaluate"):
        scores = pipeline.score(model, store, quiet=output.quiet)
        table = pipeline.results(scores, store)
    skips = _store_skips(store) + (_dataset_skips(pictures) if pictures is not None else [])
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
    return output.skipped(skips)


def results_table(table: dict[str, dict[str, Any]]) -> str:
    """Return the figures of every method as aligned lines, in per cent."""
    columns = ("top1", "mean_class_accuracy", "map11")
    width = max(len("method"), *map(len, table))
    lines = [f"{'method':<{width}}  {'top-1':>6}  {'class':>6}  {'mAP11':>6}"]
    for method, figures in table.items():
        cells = ("-" if figures[c] is None else f"{100 * figures[c]:.2f}" for c in columns)
        lines.append(f"{method:<{width}}  " + "  ".join(f"{cell:>6}" for cell in cells))
    return "\n".join(lines)


def predict(
    model_folder: Path,
    pictures: Sequence[str],
    weights: str | None,
    method: str | None,
    top: int,
    as_json: bool,
    output: Output,
) -> int:
    """Ranked classes and scores of new pictures."""
    model = load_model(model_folder, weights)
    prediction = model.predict(pictures, method)
    reasons = {entry.position: entry.reason for entry in prediction.skipped}
    if as_json:
        entries = [
            {
                "path": path,
                "classes": [
                    {"class": name, "score": value} for name, value in prediction.ranked(i, top)
                ],
                "error": reasons.get(i),
            }
            for i, path in enumerate(pictures)
        ]
        print(json.dumps(entries, indent=1))
    else:
        for i, path in enumerate(pictures):
            if i not in reasons:
                ranked = prediction.ranked(i, top)
                print(f"{path}: " + ", ".join(f"{name} {value:+.3f}" for name, value in ranked))
    return output.skipped([(pictures[i], reason) for i, reason in sorted(reasons.items())])
