"""What the experiments on pooling share: activations once, many representations, paired figures.

Activations are taken from (and kept in) a folder, `mpp_jax.describe.disk_cache`, and so are
codebooks and scores (`kept.py`): an experiment that was killed goes on. `ranged` registers a
variant for each range of scales 1..n, so that a whole curve comes out of one pass.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from kept import Kept, Scored
from machine import shared, weights_of

from mpp_jax import metrics
from mpp_jax.config import Encoder, Pyramid, Run, Svm
from mpp_jax.data import Dataset, Skipped, open_dataset
from mpp_jax.intervals import Figure, bootstrap
from mpp_jax.memory import keep_freed_memory
from mpp_jax.numerics import stack_unit_vectors
from mpp_jax.pooling import POOLINGS, get_pooling, parse, register_pooling
from mpp_jax.pooling.notation import format_atoms, grid_cells
from mpp_jax.progress import Watcher
from mpp_jax.runs import pipeline
from mpp_jax.runs.settings import Extras, Job
from mpp_jax.runs.vectors import atoms_of, encode_described, recipes_of, wanted_of
from mpp_jax.stats.codebook import CodebookInfo, Codebooks
from mpp_jax.svm import fit_svm, svm_scores
from mpp_jax.weights.load import load_network

RESULTS = Path(__file__).parent / "results"
SCORED_AT_ONCE = 64
ROOM = 5 << 30
"""Bytes of training vectors held at once; more representations make more passes."""


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
    made.add_argument("--c", type=float, help="cost of the SVMs; default: 1 for voc:, else 10")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--classes", help="of a multi-label set: those that count, a,b")
    made.add_argument("--limit-per-class", type=int)
    made.add_argument("--quick", action="store_true", help="10 pictures a class, 2 scales, K = 32")
    made.add_argument("--cache", type=Path, default=Path("activations"), help="kept there")
    made.add_argument("--out", type=Path, default=RESULTS / f"{name}.json")
    return made


def open_job(args: argparse.Namespace, pooling: Sequence[str]) -> Job:
    """Open what the command line names, for these representations."""
    keep_freed_memory()
    if args.quick:
        most = {"limit_per_class": 10, "scales": 2, "pca": 64, "components": 32}
        for name, value in most.items():
            setattr(args, name, min(getattr(args, name) or value, value))
    weights = weights_of(args.network, args.weights)
    network = load_network(args.network, weights)
    config = Run(
        pyramid=Pyramid(tuple(range(args.scales)), args.layer),
        encoder=Encoder(pca=args.pca, components=args.components, l2=args.l2),
        pooling=tuple(pooling),
        svm=Svm(c=cost(args.data) if args.c is None else args.c),
        seed=args.seed,
    )
    data = args.data or str(shared("scene15"))
    dataset = open_dataset(data, limit_per_class=args.limit_per_class)
    if args.classes:
        dataset = of_classes(dataset, args.classes.split(","))
    extras = Extras(cache=args.cache)
    return Job(dataset, network, config, args.out, weights, extras).settled()


def cost(data: str | None) -> float:
    """Return the cost C of the first author's settings: 1 for VOC, 10 for all others."""
    return 1.0 if (data or "").startswith("voc:") else 10.0


def of_classes(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """Return a multi-label set with some of its classes alone, in their order; all pictures stay.

    Raises:
        SystemExit: a class that it has not, or a set of one label a picture.
    """
    unknown = [name for name in names if name not in dataset.classes]
    if unknown or not dataset.multi_label:
        raise SystemExit(
            f"error: --classes {','.join(names)}: "
            + (
                f"{dataset.name} has no {unknown[0]!r}, only {', '.join(dataset.classes)}"
                if dataset.multi_label
                else f"for sets with several labels a picture; {dataset.name} has one"
            )
        )
    kept = [name for name in dataset.classes if name in names]
    new = {dataset.classes.index(name): place for place, name in enumerate(kept)}

    def of(labels: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(new[label] for label in labels if label in new)

    items = (replace(i, labels=of(i.labels), ignored=of(i.ignored)) for i in dataset.items)
    return replace(dataset, classes=tuple(kept), items=tuple(items))


def with_pooling(job: Job, pooling: Sequence[str], seed: int | None = None) -> Job:
    """Return the job of these representations (each once), and of another codebook's seed."""
    config = replace(job.config, pooling=tuple(dict.fromkeys(pooling)))
    return replace(job, config=config if seed is None else replace(config, seed=seed)).settled()


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
        for described in job.activations.describe(job.data.items, wants, refuse):
            bar.update(int((described.index >= 0).sum()))


def fit(job: Job) -> tuple[Codebooks, dict[str, CodebookInfo]]:
    """Return the codebooks of the experiment's representations, and how their fits went, by key."""
    codebooks, infos = pipeline.fit(
        job.data,
        job.network,
        job.config,
        activations=job.activations,
        on_skip=lambda name, reason: refuse(Skipped(-1, name, reason)),
    )
    for key, info in infos.items():
        print(f"codebook {key}: {info.samples} descriptors, {int(info.em.iterations)} steps")
    return codebooks, infos


def codebooks_of(job: Job, kept: Kept) -> Codebooks:
    """Return the codebooks of the experiment's representations; those that are kept are not fitted.

    Args:
        job: the experiment's.
        kept: what there is of it; what is fitted is kept there.
    """
    found = kept.codebooks(recipes_of(job.config))
    missing = [
        name
        for name in job.config.pooling
        if not recipes_of(with_pooling(job, [name]).config).keys() <= found.keys()
    ]
    if missing:
        fitted, _ = fit(with_pooling(job, missing))
        kept.keep_codebooks(fitted)
        found = found | fitted
    return found


def scores_of(job: Job, folder: Path | None = None) -> dict[str, np.ndarray]:
    """Return {representation: (N, L) scores of the test pictures}, by way of the codebooks.

    What is kept in a folder, or else in the job's cache, is not done again.
    """
    kept = Kept(job, folder or job.extras.cache)
    found = kept.scored(job.config.pooling)
    missing = [name for name in job.config.pooling if name not in found]
    if missing:
        part = with_pooling(job, missing)
        found |= judged(part, codebooks_of(part, kept), kept)
    return {name: found[name].scores for name in job.config.pooling}


def judged(job: Job, codebooks: Codebooks, kept: Kept | None = None) -> dict[str, Scored]:
    """Train machines for every representation and return what they say of the test pictures.

    Training vectors are held in memory, test vectors scored as they come; representations are
    taken in as many passes as that needs, and kept after each.
    """
    scored: dict[str, Scored] = {}
    waiting = list(job.config.pooling)
    while waiting:
        group = fitting(job, codebooks, waiting)
        waiting = waiting[len(group) :]
        found = _one_pass(job, codebooks, group)
        if kept is not None:
            kept.keep(found)
        scored |= found
        print(f"scored {', '.join(group)}", flush=True)
    return scored


def fitting(job: Job, codebooks: Codebooks, names: list[str]) -> list[str]:
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
                if "csf" in atom.variant:
                    floats *= len(atom.pooling.scales or job.config.pyramid.scales)
                if atom.grid:
                    floats *= len(grid_cells(atom.grid))
                room -= 4 * pictures * floats
        if room < 0 and taken:
            break
        taken.append(name)
    return taken


def _one_pass(job: Job, codebooks: Codebooks, names: list[str]) -> dict[str, Scored]:
    parts = {name: [a.name for a in parse(name, (), job.config.pyramid.layer)] for name in names}

    def stack(vectors: dict[str, np.ndarray], name: str) -> np.ndarray:
        return stack_unit_vectors([vectors[part] for part in parts[name]])

    trained: dict[str, np.ndarray] = {}

    def keep(index: np.ndarray, vectors: dict[str, np.ndarray]) -> None:
        for name, value in vectors.items():
            if name not in trained:
                rows = len(job.data.split("train"))
                trained[name] = np.empty((rows, value.shape[1]), np.float32)
            trained[name][index] = value

    encode_split(job, codebooks, names, "train", keep)
    targets = job.data.targets("train")
    machines, gaps = {}, {}
    for name in names:
        machines[name], info = fit_svm(stack(trained, name), targets, job.config.svm.c)
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

    encode_split(job, codebooks, names, "test", score)
    if waiting:
        score_waiting()
    return {
        name: Scored(scores[name], gaps[name], int(machines[name].weights.shape[1]))
        for name in names
    }


def encode_split(
    job: Job,
    codebooks: Codebooks,
    names: Sequence[str],
    split: str,
    take: Callable[[np.ndarray, dict[str, np.ndarray]], None],
) -> None:
    """Give the vectors of a split's pictures, a batch at a time: positions (n,), {atom: (n, D)}."""
    config = replace(job.config, pooling=tuple(names))
    atoms = atoms_of(config)
    wants = wanted_of(atoms, config.pyramid.scales)
    items = job.data.split(split)
    with Watcher().bar(len(items), f"encode {split}", "picture") as bar:
        for described in job.activations.describe(items, wants, refuse):
            take(*encode_described(described, wants, codebooks, config, atoms))
            bar.update(int((described.index >= 0).sum()))


def refuse(entry: Skipped) -> None:
    """Stop at a picture that cannot be read: experiments are of whole sets."""
    raise SystemExit(f"error: {entry.path}: {entry.reason}")


def measure(dataset: Dataset) -> Figure:
    """Return the name of the figure that counts: "map11" of multi-label sets, else "top1"."""
    return "map11" if dataset.multi_label else "top1"


def measure_name(dataset: Dataset) -> str:
    """Return what people call that figure."""
    return "mAP (11 points)" if dataset.multi_label else "top-1"


def figures(scores: np.ndarray, dataset: Dataset) -> dict[str, float]:
    """Return 11-point mean AP and, of sets of one label a picture, both accuracies."""
    found = {"map11": metrics.mean_average_precision(scores, dataset.targets("test"), "11point")}
    if not dataset.multi_label:
        labels = np.array([item.labels[0] for item in dataset.split("test")])
        found["top1"] = metrics.top1_accuracy(scores, labels)
        found["mean_class_accuracy"] = metrics.mean_class_accuracy(scores, labels)
    return found


def per_class(scores: np.ndarray, dataset: Dataset) -> dict[str, float | None]:
    """Return each class's 11-point AP or accuracy; None of one without test pictures."""
    if dataset.multi_label:
        found = metrics.average_precision(scores, dataset.targets("test"), "11point")
    else:
        labels = np.array([item.labels[0] for item in dataset.split("test")])
        found = metrics.class_accuracies(scores, labels)
    values = (None if np.isnan(value) else float(value) for value in found)
    return dict(zip(dataset.classes, values, strict=True))


def paired_bootstrap(one: np.ndarray, other: np.ndarray, dataset: Dataset) -> dict[str, float]:
    """Return the difference of the `measure` of two methods, and its 95% interval.

    Args:
        one: (N, L) scores.
        other: (N, L) scores of the same pictures.
        dataset: whose test pictures they are.
    """
    found = bootstrap({"one": one, "other": other}, dataset.targets("test"), measure(dataset))
    gain = found["one"].minus(found["other"])
    return {"difference": gain.value, "low": gain.low, "high": gain.high}


def shown(gain: dict[str, float]) -> str:
    """Return a difference and its interval in per cent, "+1.88 [+0.94, +2.81]"."""
    d = {key: 100 * value for key, value in gain.items()}
    return f"{d['difference']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}]"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
