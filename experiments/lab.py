"""What the experiments on pooling share: activations once, many representations, paired figures.

Activations are taken from (and kept in) a folder, `mpp_jax.describe.disk_cache`. ``ranged``
registers a variant for each range of scales 1..n, so that a whole curve comes out of one pass.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpp_jax import metrics
from mpp_jax.config import Encoder, Pyramid, Run
from mpp_jax.data import Dataset, Skipped, open_dataset
from mpp_jax.describe.disk_cache import ActivationCache
from mpp_jax.describe.memory_cache import Describe, describe_with
from mpp_jax.memory import keep_freed_memory
from mpp_jax.nets import Network
from mpp_jax.numerics import stack_unit_vectors
from mpp_jax.pooling import POOLINGS, get_pooling, parse, register_pooling
from mpp_jax.progress import progress
from mpp_jax.runs import pipeline
from mpp_jax.runs.settings import settled
from mpp_jax.runs.vectors import atoms_of, encode_described, wanted_of
from mpp_jax.stats.codebook import Codebooks
from mpp_jax.svm import fit_svm, svm_scores
from mpp_jax.weights.load import load_network

RESULTS = Path(__file__).parent / "results"
SHARED = Path(os.environ.get("MPP_JAX_SHARED", Path(__file__).parents[2] / "shared")) / "data"
SCORED_AT_ONCE = 64
ROOM = 5 << 30
"""Bytes of training vectors held at once; more representations make more passes."""


@dataclass(frozen=True)
class Lab:
    """Pictures, network and settings of an experiment."""

    dataset: Dataset
    network: Network
    config: Run
    cache: Path | None

    @property
    def describe(self) -> Describe:
        """Activations from the cache, or computed (and kept there)."""
        if self.cache is None:
            return describe_with(self.network, self.config)
        return ActivationCache(self.cache, self.network, self.config).describe


def parser(description: str, name: str, *, scales: int) -> argparse.ArgumentParser:
    """Return a command line of what every such experiment takes."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--data", default=str(SHARED / "scene15"), help="as for mpp-jax run")
    made.add_argument("--network", default="squeezenet")
    made.add_argument("--weights", default=str(SHARED / "squeezenet" / "compressed_SqueezeNet.net"))
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


def open_lab(args: argparse.Namespace, pooling: Sequence[str]) -> Lab:
    """Open what the command line names, for these representations."""
    keep_freed_memory()
    if args.quick:
        args.limit_per_class, args.scales, args.pca, args.components = 10, 2, 64, 32
    network = load_network(args.network, args.weights or None)
    config = Run(
        pyramid=Pyramid(tuple(range(args.scales)), args.layer),
        encoder=Encoder(pca=args.pca, components=args.components, l2=args.l2),
        pooling=tuple(pooling),
        seed=args.seed,
    )
    dataset = open_dataset(args.data, limit_per_class=args.limit_per_class)
    return Lab(dataset, network, settled(network, config), args.cache)


def ranged(variant: str, scales: int) -> tuple[str, ...]:
    """Register a variant for each range of scales 1..n, n up to ``scales``; return their names."""
    names = []
    for n in range(1, scales + 1):
        name = f"{variant}-to{n}"
        if name not in POOLINGS:
            base = get_pooling(variant)
            register_pooling(name, codebook=base.codebook, scales=tuple(range(n)))(base.function)
        names.append(name)
    return tuple(names)


def fit(lab: Lab) -> Codebooks:
    """Return the codebooks of the experiment's representations."""
    codebooks, infos = pipeline.fit(lab.dataset, lab.network, lab.config, describe=lab.describe)
    for key, info in infos.items():
        print(f"codebook {key}: {info.samples} descriptors, {int(info.em.iterations)} steps")
    return codebooks


def test_scores(lab: Lab, codebooks: Codebooks) -> dict[str, np.ndarray]:
    """Return {representation: (N, L) scores of the test pictures}.

    Training vectors are held in memory, test vectors scored as they come; representations are
    taken in as many passes as that needs.
    """
    scores: dict[str, np.ndarray] = {}
    waiting = list(lab.config.pooling)
    while waiting:
        group = _fitting(lab, codebooks, waiting)
        waiting = waiting[len(group) :]
        scores |= _one_pass(lab, codebooks, group)
        print(f"scored {', '.join(group)}", flush=True)
    return scores


def _fitting(lab: Lab, codebooks: Codebooks, names: list[str]) -> list[str]:
    """Return the first names, those whose training vectors fit into memory together."""
    pictures, room, taken = len(lab.dataset.split("train")), ROOM, []
    for name in names:
        atoms = parse(name, (), lab.config.pyramid.layer)
        books = [codebooks[a.codebook] for a in atoms if a.codebook is not None]
        floats = sum(2 * book.gmm.means.size for book in books) + 8192
        room -= 4 * pictures * floats * (len(lab.config.pyramid.scales) if "csf" in name else 1)
        if room < 0 and taken:
            break
        taken.append(name)
    return taken


def _one_pass(lab: Lab, codebooks: Codebooks, names: list[str]) -> dict[str, np.ndarray]:
    config = Run(
        lab.config.pyramid, lab.config.encoder, lab.config.svm, tuple(names), seed=lab.config.seed
    )
    atoms = atoms_of(config)
    wants = wanted_of(atoms, config.pyramid.scales)
    parts = {name: [a.name for a in parse(name, (), config.pyramid.layer)] for name in names}

    def encoded(split: str, take: Callable[[np.ndarray, dict[str, np.ndarray]], None]) -> None:
        items = lab.dataset.split(split)
        with progress(len(items), f"encode {split}", "picture") as bar:
            for described in lab.describe(items, wants, _refuse):
                index, vectors = encode_described(described, wants, codebooks, config, atoms)
                take(index, vectors)
                bar.update(len(index))

    trained: dict[str, np.ndarray] = {}

    def keep(index: np.ndarray, vectors: dict[str, np.ndarray]) -> None:
        for name, value in vectors.items():
            if name not in trained:
                rows = len(lab.dataset.split("train"))
                trained[name] = np.empty((rows, value.shape[1]), np.float32)
            trained[name][index] = value

    encoded("train", keep)
    targets = lab.dataset.targets("train")
    machines = {
        name: fit_svm(_stack(trained, parts[name]), targets, config.svm.c)[0] for name in names
    }
    trained.clear()
    shape = (len(lab.dataset.split("test")), len(lab.dataset.classes))
    scores = {name: np.empty(shape, np.float32) for name in names}

    waiting: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []

    def score(index: np.ndarray, vectors: dict[str, np.ndarray]) -> None:
        waiting.append((index, vectors))
        if sum(len(rows) for rows, _ in waiting) >= SCORED_AT_ONCE:
            score_waiting()

    def score_waiting() -> None:
        index = np.concatenate([rows for rows, _ in waiting])
        for name in names:
            stacks = [_stack(vectors, parts[name]) for _, vectors in waiting]
            scores[name][index] = svm_scores(machines[name], np.concatenate(stacks))
        waiting.clear()

    encoded("test", score)
    if waiting:
        score_waiting()
    return scores


def _stack(vectors: dict[str, np.ndarray], parts: list[str]) -> np.ndarray:
    arrays = [vectors[part] for part in parts]
    return arrays[0] if len(arrays) == 1 else stack_unit_vectors(arrays)


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


def paired_bootstrap(
    one: np.ndarray, other: np.ndarray, dataset: Dataset, *, draws: int = 10_000, seed: int = 0
) -> dict[str, float]:
    """Return the difference of two top-1 accuracies, and its 95% interval.

    Test pictures are drawn with replacement, the same ones for both (Efron and Tibshirani 1993).

    Args:
        one: (N, L) scores.
        other: (N, L) scores of the same pictures.
        dataset: whose test pictures they are.
        draws: resamples.
        seed: of the draws.
    """
    labels = np.array([item.labels[0] for item in dataset.split("test")])
    right = (one.argmax(axis=1) == labels).astype(np.int64)
    right -= other.argmax(axis=1) == labels
    # Only how often each of -1, 0, 1 is drawn matters: a multinomial, not N indices a draw.
    values, counts = np.unique(right, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(right), counts / len(right), draws)
    low, high = np.quantile(drawn @ values / len(right), [0.025, 0.975])
    return {"difference": float(right.mean()), "low": float(low), "high": float(high)}
