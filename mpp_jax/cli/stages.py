"""What the commands of the method's stages do, once the command line has been read."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from mpp_jax.cli.codebook_stage import codebooks_or_fit
from mpp_jax.cli.console import DONE, Console, Skips, made_with, results_table
from mpp_jax.cli.engine import engine_of
from mpp_jax.cli.opening import open_network
from mpp_jax.config import StoreDtype
from mpp_jax.data import Dataset
from mpp_jax.data.dataset import listed_classes
from mpp_jax.describe.batches import planned
from mpp_jax.describe.extraction import ActivationSource
from mpp_jax.describe.memory_cache import MemoryCache, union
from mpp_jax.describe.planning import forecast
from mpp_jax.describe.wants import Wants
from mpp_jax.files import exclusive
from mpp_jax.pooling import check_methods
from mpp_jax.report.map_examples import map_gallery
from mpp_jax.report.map_section import MapGallery
from mpp_jax.report.metrics_json import write_metrics
from mpp_jax.report.page import check_results_place, write_report
from mpp_jax.report.scores import ScoresPlace, scores_of_run
from mpp_jax.runs import pipeline
from mpp_jax.runs.contents import Contents
from mpp_jax.runs.fitted_on import check_same_run
from mpp_jax.runs.model import MODEL, Model, open_model, save_model
from mpp_jax.runs.provenance import (
    CODEBOOK_OF_STORE,
    Provenance,
    check_store,
    load_codebooks,
    names_digest,
    open_codebooks_of,
    save_codebooks,
)
from mpp_jax.runs.ray_engine import RayEngine
from mpp_jax.runs.settings import (
    NOTHING,
    SECONDS,
    Extras,
    Job,
    check_evaluable,
    check_features,
    check_finetune,
    check_run_folder,
    write_config,
)
from mpp_jax.runs.vectors import atoms_of, fitting_wants, recipes_of, wanted_of
from mpp_jax.stats.codebook import Codebooks
from mpp_jax.storage.bundle import check_place
from mpp_jax.storage.store import Store


class Shared(NamedTuple):
    """What several runs on the same pictures share.

    Attributes:
        activations: keeps what was computed.
        contents: the digests of pictures as they were read.
    """

    activations: ActivationSource
    contents: Contents


def run(job: Job, console: Console, *, maps: int = 0, shared: Shared | None = None) -> int:
    """Fit, encode, train, evaluate, report; with confidence maps of some pictures."""
    with exclusive(job.out):
        return _run(job.settled(), console, maps, shared)


def _run(job: Job, console: Console, maps: int, shared: Shared | None) -> int:
    check_run_folder(job.out)
    check_results_place(job.out)
    check_evaluable(job)
    check_finetune(job)
    check_features(job.data, job.config, job.extras.features)
    console.keep_in(job.out / SECONDS)
    made, (activations, contents) = job.made, shared or Shared(watched(job, console), Contents())
    codebooks: Codebooks = {}
    skips: Skips = []
    with engine_of(job, console) as engine:
        if recipes_of(job.config):
            check_same_run(job.out, made, job.data, contents)
            fitting = activations
            if job.extras.cache is None and engine is None and shared is None:
                later = wanted_of(atoms_of(job.config), job.config.pyramid.scales)
                activations = cache = MemoryCache(activations, job.config.cache_bytes, later)
                fitting = cache.recorder
            place = job.out / "codebook"
            codebooks, skips = codebooks_or_fit(job, place, fitting, contents, console, engine)
        place = job.out / "encodings"
        with exclusive(place):  # which `encode --append` may be writing to
            store = _encode(job, place, codebooks, activations, contents, console, engine)
    write_config(job.out, made)
    console.wrote("encodings", store.path)
    known = _store_skips(store)
    names = {name for name, _ in known}
    skips = [(name, reason) for name, reason in skips if name not in names]
    skips = [(name, f"while the codebook was fitted: {reason}") for name, reason in skips]
    skips = known + skips + _dataset_skips(job.data)
    try:
        most, place = job.extras.memory, job.out / "model"
        model = _train(store, codebooks, made, None, place, console, most)
        write_config(job.out, model.provenance)  # with the solver that was taken

        def gallery(table: dict[str, Any]) -> MapGallery:
            with console.stage("confidence maps"):
                shown = replace(model, network=job.network)
                return map_gallery(shown, job.data, maps, results=table, watcher=console)

        _evaluate(model, store, job.out, console, job.data, skips, gallery if maps else None)
    except ValueError:
        console.skipped(skips)  # the likely cause
        raise
    return console.skipped(skips)


def watched(job: Job, console: Console, wants: Wants | None = None) -> ActivationSource:
    """Return where a job's activations come from; say so, and how they are computed.

    Args:
        job: the job.
        console: is told.
        wants: what is described; None for what the fits and the encodings read.
    """
    if job.extras.cache is not None:
        console.say(f"activations: kept in and taken from {job.extras.cache}")
    if jax.default_backend() != "cpu":
        config, pyramid = job.config, job.config.pyramid
        console.say(f"plan: {planned(job.network, pyramid)}")
        if job.extras.cluster is None:  # whose workers have devices of their own
            if wants is None:
                wants = union(fitting_wants(config), wanted_of(atoms_of(config), pyramid.scales))
            console.say(f"forecast: {forecast(job.network, pyramid, wants)}")
    return job.activations


def fit(job: Job, console: Console) -> int:
    """Fit PCA and mixture only; those that the representations read, or the Fisher vector's."""
    job = job.settled()
    if not recipes_of(job.config):
        names = ", ".join(job.config.pooling)
        raise ValueError(f"pooling: {names} need no codebook; encode at once")
    check_finetune(job)
    with exclusive(job.out), engine_of(job, console) as engine:
        activations = watched(job, console, fitting_wants(job.config))
        _, skips = codebooks_or_fit(job, job.out, activations, Contents(), console, engine)
    console.print_table()
    return console.skipped(skips + _dataset_skips(job.data))


def encode(
    data: Dataset,
    codebook: Path,
    out: Path,
    console: Console,
    *,
    weights: str | None = None,
    pooling: tuple[str, ...] | None = None,
    extras: Extras = NOTHING,
    append: bool = False,
    shard: tuple[int, int] | None = None,
    store_dtype: StoreDtype | None = None,
) -> int:
    """Encode pictures into vectors on disk, with saved codebooks.

    With ``append`` new ones are added; with ``shard`` (i, n) only the i-th of n parts is encoded.
    """
    codebooks, made = load_codebooks(codebook)
    weights = made.find_weights(weights)
    network = open_network(made.network, weights, made.config.dtype, console)
    made.check_network(network)
    chosen = replace(
        made.config,
        pooling=pooling or made.config.pooling,
        store_dtype=store_dtype or made.config.store_dtype,
    )
    job = Job(data, network, chosen, out, weights, extras).settled()
    config, here = job.config, job.made
    check_methods(atoms_of(config), codebooks=codebooks, scales=config.pyramid.scales)
    other = here.pictures_sha256 != made.pictures_sha256
    if data.split("train") and other and not append:
        console.say(f"note: {codebook} was fitted to other training pictures than these")
    with exclusive(out), engine_of(job, console) as engine:
        wants = wanted_of(atoms_of(config), config.pyramid.scales)
        activations = watched(job, console, wants)
        store = _encode(
            job, out, codebooks, activations, Contents(), console, engine, append=append, part=shard
        )
    console.print_table()
    if shard is not None:
        console.say(f"part {shard[0]} of {shard[1]}; `mpp-jax merge` joins them when all are done")
    console.say(f"encodings of {made_with(here.network, here.weights_sha256)}")
    console.wrote("encodings", out)
    return console.skipped(_store_skips(store) + _dataset_skips(data))


def _encode(
    job: Job,
    folder: Path,
    codebooks: Codebooks,
    activations: ActivationSource,
    contents: Contents,
    console: Console,
    engine: RayEngine | None,
    *,
    append: bool = False,
    part: tuple[int, int] | None = None,
) -> Store:
    """Encode into a store, and put beside it what made it."""
    store = pipeline.encode_dataset(
        job.data,
        job.network,
        codebooks,
        job.config,
        folder,
        features=job.extras.features,
        activations=activations,
        contents=contents,
        append=append,
        part=part,
        engine=engine,
        watcher=console,
    )
    made = job.made
    if append:  # the store holds more than these data
        there = (item for item in store.all_items if item.status != "removed")
        digest = names_digest(item.id for item in there if item.split == "train")
        made = replace(made, dataset=store.manifest["dataset"], pictures_sha256=digest)
    save_codebooks(folder / CODEBOOK_OF_STORE, codebooks, made)
    write_config(folder, made)
    return store


def train(
    store: Path,
    out: Path,
    console: Console,
    *,
    methods: tuple[str, ...] | None = None,
    svm: Mapping[str, Any] = MappingProxyType({}),
    memory: float | None = None,
) -> int:
    """Train SVMs on stored encodings; settings of ``svm`` replace those of the store.

    Training takes ``memory`` GB at most; None for what is free.
    """
    opened = Store.open(store)
    codebooks, made = open_codebooks_of(opened)
    config = made.config
    if methods:
        names = dict.fromkeys(made.method_name(method) for method in methods)
        config = replace(config, pooling=tuple(names))
    config = replace(config, svm=replace(config.svm, **svm))
    made = replace(made, config=config)
    with exclusive(out):
        _train(opened, codebooks, made, config.pooling if methods else None, out, console, memory)
    console.print_table()
    return DONE


def _train(
    store: Store,
    codebooks: Codebooks,
    made: Provenance,
    methods: tuple[str, ...] | None,
    out: Path,
    console: Console,
    memory: float | None = None,
) -> Model:
    check_place(out, MODEL)
    most = None if memory is None else int(memory * 10**9)
    model, infos = pipeline.train(store, codebooks, made, methods, watcher=console, memory=most)
    for method, info in infos.items():
        trained = model.trained[method]
        if trained.folds is not None or trained.candidates is not None:
            console.say(f"svm {method}: {trained.summary(method)}")
        gap, worst = float(np.max(info.relative_gap)), int(np.max(info.iterations))
        note = "" if info.converged.all() else " (iteration limit reached)"
        console.say(f"svm {method}: relative duality gap {gap:.1e} after {worst} iterations{note}")
    save_model(out, model)
    write_config(out, model.provenance)
    console.say(f"model on {made_with(made.network, made.weights_sha256)}")
    console.wrote("model", out)
    return model


def _store_skips(store: Store) -> Skips:
    return [(item.id, item.reason or "unknown reason") for item in store.skipped]


def _dataset_skips(dataset: Dataset) -> Skips:
    return [(dataset.name, warning) for warning in dataset.warnings]


def evaluate(
    model: Path,
    store: Path,
    out: Path,
    console: Console,
    *,
    pictures: Dataset | None = None,
    scores: str | None = None,
) -> int:
    """Score stored test vectors; write metrics and report, and the scores where they are wanted."""
    place = None if scores is None else ScoresPlace.read(scores)
    check_place(out)
    check_results_place(out)
    opened, encodings = open_model(model), Store.open(store)
    ids = [item.id for item in encodings.items("test")]
    if place is not None:
        place.check(ids, encodings.classes)
    check_store(encodings, opened.codebooks, opened.provenance)
    skips = _store_skips(encodings) + (_dataset_skips(pictures) if pictures is not None else [])
    with exclusive(out):
        found = _evaluate(opened, encodings, out, console, pictures, skips)
        write_config(out, opened.provenance)
        if place is not None:
            targets = encodings.targets("test")
            place.write(found, ids, encodings.classes, targets, opened.primary)
            console.wrote("scores", place.path)
    return console.skipped(skips)


def _evaluate(
    model: Model,
    store: Store,
    out: Path,
    console: Console,
    pictures: Dataset | None,
    skips: Skips,
    gallery: Callable[[dict[str, Any]], MapGallery] | None = None,
) -> dict[str, np.ndarray]:
    """Write scores, metrics and report; return the scores (N, L) of every method."""
    with console.stage("evaluate"):
        scores = pipeline.score(model, store, watcher=console)
        table = pipeline.results(scores, store)
    maps = None if gallery is None else gallery(table)
    made = model.provenance
    seconds, waits = console.totals()
    metrics = {
        "data": made.dataset,
        "network": made.network,
        "weights_sha256": made.weights_sha256,
        "config": made.config.to_dict(),
        "results": table,
        "training": {method: model.trained[method].to_dict() for method in model.trained},
        "seconds": seconds,
        "waiting": waits,
        "pictures": {
            "train": len(store.items("train")),
            "test": len(store.items("test")),
            "skipped": [{"path": name, "reason": reason} for name, reason in skips],
        },
    }
    sources = {item.id: item.source for item in pictures.items} if pictures is not None else {}
    kept, ids = scores_of_run(out), [item.id for item in store.items("test")]
    kept.write(scores, ids, store.classes, store.targets("test"), model.primary)
    write_metrics(out, metrics)
    report = write_report(
        out,
        metrics=metrics,
        classes=store.classes,
        method=model.primary,
        labels=store.targets("test") if store.multi_label else store.labels("test"),
        scores=scores,
        test_paths=[sources.get(name, name) for name in ids],
        maps=maps,
        remarks=pictures.notes if pictures is not None else (),
    )
    console.print_table()
    console.say(f"results on {made_with(made.network, made.weights_sha256)}")
    console.say(results_table(table))
    if unjudged := [c for c, value in table[model.primary]["per_class"].items() if value is None]:
        console.say(f"{listed_classes(unjudged)} without test pictures: in no mean")
    console.wrote("scores", kept.path)
    console.wrote("metrics", out / "metrics.json")
    console.wrote("report", report)
    return scores
