"""What the experiments on pooling share: activations once, many representations, paired figures.

Activations are taken from (and kept in) a folder, `mpp_jax.describe.disk_cache`. `ranged` registers
a variant for each range of scales 1..n, so that a whole curve comes out of one pass.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from machine import shared, weights_of

from mpp_jax import metrics
from mpp_jax.config import Encoder, Pyramid, Run
from mpp_jax.data import Dataset, Skipped, open_dataset
from mpp_jax.intervals import Figure, bootstrap
from mpp_jax.memory import keep_freed_memory
from mpp_jax.numerics import stack_unit_vectors
from mpp_jax.pooling import POOLINGS, get_pooling, parse, register_pooling
from mpp_jax.pooling.notation import format_atoms
from mpp_jax.progress import Watcher
from mpp_jax.runs import pipeline
from mpp_jax.runs.settings import Extras, Job
from mpp_jax.runs.vectors import atoms_of, encode_described, wanted_of
from mpp_jax.stats.codebook import CodebookInfo, Codebooks
from mpp_jax.svm import fit_svm, svm_scores
from mpp_jax.weights.load import load_network

RESULTS = Path(__file__).parent / "results"
SCORED_AT_ONCE = 64
ROOM = 5 << 30
"""Bytes of training vectors held at once; more representations make more passes."""


class Scored(NamedTuple):
    """What one representation came to.

    Attributes:
        scores: (N, L) of the test pictures.
        relative_gap: of the worst class's machine.
        dimension: of the vectors.
    """

    scores: np.ndarray
    relative_gap: float
    dimension: int


def parser(description: str, name: str, *, scales: int) -> argparse.ArgumentParser:
    """Return a command line of what every such experiment takes."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--data", help="as for mpp-jax run; default: the shared scene15")
    made.add_argument("--network", default="squeezenet")
    made.add_argument("--weights", help="default: SqueezeNet's shared file, else the library's own")
    made.add_argument("--layer", help="of the network; default: its own")
    made.add_argument("--scales", type=int, default=scales, help="largest number of scales")
    made.add_argument("--l2", default="before", choices=("none", "before", "both"))
    made.add_argument("--pca", type=int, default=128)
    made.add_argument("--components", type=int, default=256)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--limit-per-class", type=int)
    made.add_argument("--quick", action="store_true", help="10 pictures a class, 2 scales, K = 32")
    made.add_argument("--cache", type=Path, default=Path("activations"), help="kept there")
    made.add_argument("--out", type=Path, default=RESULTS / f"{name}.json")
    return made


def open_job(args: argparse.Namespace, pooling: Sequence[str]) -> Job:
    """Open what the command line names, for these representations."""
    keep_freed_memory()
    if args.quick:
        args.limit_per_class, args.scales, args.pca, args.components = 10, 2, 64, 32
    weights = weights_of(args.network, args.weights)
    network = load_network(args.network, weights)
    config = Run(
        pyramid=Pyramid(tuple(range(args.scales)), args.layer),
        encoder=Encoder(pca=args.pca, components=args.components, l2=args.l2),
        pooling=tuple(pooling),
        seed=args.seed,
    )
    data = args.data or str(shared("scene15"))
    dataset = open_dataset(data, limit_per_class=args.limit_per_class)
    extras = Extras(cache=args.cache)
    return Job(dataset, network, config, args.out, weights, extras).settled()


def ranged(name: str, scales: int) -> tuple[str, ...]:
    """Return the names of a representation of scales 1..n, for n up to ``scales``.

    Variants are registered as need be; those that read fixed scales, or crops, stay themselves.
    """
    atoms = parse(name)
    return tuple(
        "+".join(format_atoms([replace(a, variant=_up_to(a.variant, n))], "") for a in atoms)
        for n in range(1, scales + 1)
    )


def _up_to(variant: str, n: int) -> str:
    base = get_pooling(variant)
    if base.crops or base.scales is not None:
        return variant
    name = f"{variant}-to{n}"
    if name not in POOLINGS:
        register = register_pooling(
            name, codebook=base.codebook, scales=tuple(range(n)), reads=base.reads
        )
        register(base.function)
    return name


def describe_all(job: Job) -> None:
    """Complete the folder of activations, so that what follows reads them."""
    if job.extras.cache is None:
        return
    wants = wanted_of(atoms_of(job.config), job.config.pyramid.scales)
    with Watcher().bar(len(job.data.items), "describe", "picture") as bar:
        for described in job.activations.describe(job.data.items, wants, _refuse):
            bar.update(int((described.index >= 0).sum()))


def fit(job: Job) -> tuple[Codebooks, dict[str, CodebookInfo]]:
    """Return the codebooks of the experiment's representations, and how their fits went, by key."""
    codebooks, infos = pipeline.fit(job.data, job.network, job.config, activations=job.activations)
    for key, info in infos.items():
        print(f"codebook {key}: {info.samples} descriptors, {int(info.em.iterations)} steps")
    return codebooks, infos


def test_scores(job: Job, codebooks: Codebooks) -> dict[str, np.ndarray]:
    """Return {representation: (N, L) scores of the test pictures}; see `judged`."""
    return {name: found.scores for name, found in judged(job, codebooks).items()}


def judged(job: Job, codebooks: Codebooks) -> dict[str, Scored]:
    """Train machines for every representation and return what they say of the test pictures.

    Training vectors are held in memory, test vectors scored as they come; representations are
    taken in as many passes as that needs.
    """
    scored: dict[str, Scored] = {}
    waiting = list(job.config.pooling)
    while waiting:
        group = _fitting(job, codebooks, waiting)
        waiting = waiting[len(group) :]
        scored |= _one_pass(job, codebooks, group)
        print(f"scored {', '.join(group)}", flush=True)
    return scored


def _fitting(job: Job, codebooks: Codebooks, names: list[str]) -> list[str]:
    """Return the first names, those whose training vectors fit into memory together."""
    pictures, room, taken = len(job.data.split("train")), ROOM, []
    seen: set[str] = set()
    for name in names:
        for atom in parse(name, (), job.config.pyramid.layer):
            if atom.name not in seen:
                seen.add(atom.name)
                floats = 8192
                if atom.codebook is not None:
                    floats += 2 * codebooks[atom.codebook].gmm.means.size
                scales = len(atom.pooling.scales or job.config.pyramid.scales)
                room -= 4 * pictures * floats * (scales if "csf" in atom.variant else 1)
        if room < 0 and taken:
            break
        taken.append(name)
    return taken


def _one_pass(job: Job, codebooks: Codebooks, names: list[str]) -> dict[str, Scored]:
    config = replace(job.config, pooling=tuple(names))
    atoms = atoms_of(config)
    wants = wanted_of(atoms, config.pyramid.scales)
    parts = {name: [a.name for a in parse(name, (), config.pyramid.layer)] for name in names}

    def encoded(split: str, take: Callable[[np.ndarray, dict[str, np.ndarray]], None]) -> None:
        items = job.data.split(split)
        with Watcher().bar(len(items), f"encode {split}", "picture") as bar:
            for described in job.activations.describe(items, wants, _refuse):
                index, vectors = encode_described(described, wants, codebooks, config, atoms)
                take(index, vectors)
                bar.update(len(index))

    def stack(vectors: dict[str, np.ndarray], name: str) -> np.ndarray:
        return stack_unit_vectors([vectors[part] for part in parts[name]])

    trained: dict[str, np.ndarray] = {}

    def keep(index: np.ndarray, vectors: dict[str, np.ndarray]) -> None:
        for name, value in vectors.items():
            if name not in trained:
                rows = len(job.data.split("train"))
                trained[name] = np.empty((rows, value.shape[1]), np.float32)
            trained[name][index] = value

    encoded("train", keep)
    targets = job.data.targets("train")
    machines, gaps = {}, {}
    for name in names:
        machines[name], info = fit_svm(stack(trained, name), targets, config.svm.c)
        gaps[name] = float(np.max(info.relative_gap))
    trained.clear()
    shape = (len(job.data.split("test")), len(job.data.classes))
    scores = {name: np.empty(shape, np.float32) for name in names}

    waiting: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []

    def score(index: np.ndarray, vectors: dict[str, np.ndarray]) -> None:
        waiting.append((index, vectors))
        if sum(len(rows) for rows, _ in waiting) >= SCORED_AT_ONCE:
            score_waiting()

    def score_waiting() -> None:
        index = np.concatenate([rows for rows, _ in waiting])
        for name in names:
            stacked = np.concatenate([stack(vectors, name) for _, vectors in waiting])
            scores[name][index] = svm_scores(machines[name], stacked)
        waiting.clear()

    encoded("test", score)
    if waiting:
        score_waiting()
    return {
        name: Scored(scores[name], gaps[name], int(machines[name].weights.shape[1]))
        for name in names
    }


def _refuse(entry: Skipped) -> None:
    raise SystemExit(f"error: {entry.path}: {entry.reason}")


def figures(scores: np.ndarray, dataset: Dataset) -> dict[str, float]:
    """Return top-1 accuracy, mean class accuracy and 11-point mean AP."""
    labels = np.array([item.labels[0] for item in dataset.split("test")])
    return {
        "top1": metrics.top1_accuracy(scores, labels),
        "mean_class_accuracy": metrics.mean_class_accuracy(scores, labels),
        "map11": metrics.mean_average_precision(scores, dataset.targets("test"), "11point"),
    }


def paired_bootstrap(one: np.ndarray, other: np.ndarray, dataset: Dataset) -> dict[str, float]:
    """Return the difference of two top-1 accuracies, or 11-point mAPs, and its 95% interval.

    Args:
        one: (N, L) scores.
        other: (N, L) scores of the same pictures.
        dataset: whose test pictures they are.
    """
    figure: Figure = "map11" if dataset.multi_label else "top1"
    found = bootstrap({"one": one, "other": other}, dataset.targets("test"), figure)
    gain = found["one"].minus(found["other"])
    return {"difference": gain.value, "low": gain.low, "high": gain.high}
