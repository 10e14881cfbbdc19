"""Inner products of representations: from them stacks and costs C are judged without vectors.

A picture's vector has length 1, so the inner products of a stack are the mean of its members', and
all stacks, all C and all folds of a set of representations cost one pass of encoding. `kernels_of`
makes that pass and keeps what comes out beside the codebooks (`kept.py`).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import lab
import numpy as np
from kept import Kept

from mpp_jax import metrics
from mpp_jax.data import Dataset
from mpp_jax.files import write_file
from mpp_jax.runs.settings import Job
from mpp_jax.runs.vectors import atoms_of
from mpp_jax.stats.codebook import Codebooks
from mpp_jax.svm import accuracy_metric, cross_validate_svm, fit_svm_gram, gram_matrix, gram_scores

CS = (0.3, 1.0, 3.0, 10.0, 30.0)
FOLDS = 5
LOOSE = {"tolerance": 1e-2, "max_iterations": 4000}
"""Of the machines of folds: enough to tell which C or stack is better."""
DRAWS = 2
"""Times that folds are drawn; what is reported is the mean."""
SCORED_AT_ONCE = 256


class Kernel(NamedTuple):
    """Inner products of unit vectors of one representation.

    Attributes:
        train: (N, N) float32, among the training pictures.
        cross: (M, N) float32, of test with training pictures.
        dimension: of the vectors; 0 where it does not matter.
    """

    train: np.ndarray
    cross: np.ndarray
    dimension: int = 0


class Judged(NamedTuple):
    """What held-out folds of the training pictures say.

    Attributes:
        c: the best C.
        value: the figure at it, the mean over draws and folds.
        at_ten: the figure at C = 10.
    """

    c: float
    value: float
    at_ten: float


def kernels_of(job: Job, test: bool = True) -> dict[str, Kernel]:
    """Return the kernel of each part of a job's representations, by its name.

    Without ``test`` only training pictures are encoded, and M is 0: enough to judge by folds.
    """
    kept = Kept(job, job.extras.cache)
    assert kept.made is not None  # experiments that use kernels keep activations
    kind = "kernel" if test else "folds"
    names = [atom.name for atom in atoms_of(job.config)]
    files = {name: kept.made / f"{kind}-{name}.npz" for name in names}
    waiting = [name for name, file in files.items() if not file.is_file()]
    if waiting:
        books = lab.codebooks_of(lab.with_pooling(job, waiting), kept)
        while waiting:
            group = lab.fitting(job, books, waiting)
            for name, kernel in _one_pass(lab.with_pooling(job, group), books, test).items():
                write_file(files[name], partial(np.savez, **kernel._asdict()))
            print(f"kernels of {', '.join(group)}", flush=True)
            waiting = waiting[len(group) :]
    return {name: _read(file) for name, file in files.items()}


def stacked(kernels: Sequence[Kernel], weights: Sequence[float] | None = None) -> Kernel:
    """Return the kernel of a stack, brought back to length 1; each part times its weight's root."""
    weights = [1.0] * len(kernels) if weights is None else weights
    pairs = [
        (kernel, np.float32(w / sum(weights))) for kernel, w in zip(kernels, weights, strict=True)
    ]
    return Kernel(
        sum(share * kernel.train for kernel, share in pairs),
        sum(share * kernel.cross for kernel, share in pairs),
        sum(kernel.dimension for kernel in kernels),
    )


def subset(job: Job, chosen: Sequence[int]) -> Job:
    """Return the job with some of each class's training pictures, by their number in the class."""
    seen: dict[int, int] = {}
    items = []
    for item in job.data.items:
        if item.split == "train":
            number = seen[item.labels[0]] = seen.get(item.labels[0], -1) + 1
            if number not in chosen:
                continue
        items.append(item)
    return replace(job, data=replace(job.data, items=tuple(items)))


def judged(kernel: Kernel, targets: np.ndarray, c: float) -> np.ndarray:
    """Return (M, L) scores of the test pictures, by machines of the training pictures."""
    coefficients, _ = fit_svm_gram(kernel.train, targets, c)
    return gram_scores(kernel.cross, coefficients)


def by_folds(kernel: Kernel, data: Dataset, keep: Path | None = None, seed: int = 0) -> Judged:
    """Judge a kernel at every C of `CS` by folds of the training pictures.

    What was judged before is read from ``keep``, a folder.
    """
    targets = data.targets("train")
    settings = f"{CS} {FOLDS} {DRAWS} {LOOSE} {seed} {data.multi_label}"
    file = _file(keep, "judged", settings, kernel.train, targets)
    if file is not None and file.is_file():
        return Judged(**json.loads(file.read_text()))
    metric = metrics.mean_average_precision if data.multi_label else accuracy_metric
    gram = jnp.asarray(kernel.train)
    draws = [
        cross_validate_svm(
            gram, targets, CS, FOLDS, key=jax.random.key(seed + draw), metric=metric, **LOOSE
        ).mean
        for draw in range(DRAWS)
    ]
    means = np.mean(draws, axis=0)
    best = int(np.argmax(means))
    found = Judged(CS[best], float(means[best]), float(means[CS.index(10.0)]))
    if file is not None:
        write_file(file, json.dumps(found._asdict()).encode())
    return found


def scored(kernel: Kernel, data: Dataset, c: float, keep: Path | None = None) -> np.ndarray:
    """Return what `judged` does; what was scored before is read from ``keep``, a folder."""
    targets = data.targets("train")
    file = _file(keep, "scores", f"{c}", kernel.train, kernel.cross, targets)
    if file is not None and file.is_file():
        return np.load(file)
    scores = judged(kernel, targets, c)
    if file is not None:
        write_file(file, partial(np.save, arr=scores))
    return scores


def _file(keep: Path | None, kind: str, settings: str, *arrays: np.ndarray) -> Path | None:
    """Return where something is kept that these arrays and settings decide."""
    if keep is None:
        return None
    digest = hashlib.sha256(settings.encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    folder = keep / "kernels"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{kind}-{digest.hexdigest()[:16]}{'.json' if kind == 'judged' else '.npy'}"


def _one_pass(job: Job, codebooks: Codebooks, test: bool) -> dict[str, Kernel]:
    names = list(job.config.pooling)
    count, others = len(job.data.split("train")), len(job.data.split("test")) if test else 0
    trained: dict[str, np.ndarray] = {}

    def keep(index: np.ndarray, vectors: Mapping[str, np.ndarray]) -> None:
        for atom, value in vectors.items():
            rows = trained.setdefault(atom, np.empty((count, value.shape[1]), np.float32))
            rows[index] = value

    lab.encode_split(job, codebooks, names, "train", keep)
    on_device = {atom: jnp.asarray(rows) for atom, rows in trained.items()}
    trained.clear()
    products = {atom: np.empty((others, count), np.float32) for atom in on_device}
    waiting: list[tuple[np.ndarray, Mapping[str, np.ndarray]]] = []

    def multiply() -> None:
        index = np.concatenate([rows for rows, _ in waiting])
        for atom, rows in on_device.items():
            asked = np.concatenate([vectors[atom] for _, vectors in waiting])
            products[atom][index] = jnp.matmul(asked, rows.T, precision="highest")
        waiting.clear()

    def score(index: np.ndarray, vectors: Mapping[str, np.ndarray]) -> None:
        waiting.append((index, vectors))
        if sum(len(rows) for rows, _ in waiting) >= SCORED_AT_ONCE:
            multiply()

    if test:
        lab.encode_split(job, codebooks, names, "test", score)
    if waiting:
        multiply()
    found = {}
    for atom, rows in on_device.items():
        gram = np.asarray(gram_matrix(rows))
        if not np.allclose(np.diagonal(gram), 1, atol=1e-3):
            raise ValueError(f"{atom}: some vectors are not of length 1, so stacks are no means")
        found[atom] = Kernel(gram, products[atom], rows.shape[1])
    return found


def _read(file: Path) -> Kernel:
    with np.load(file) as arrays:
        return Kernel(arrays["train"], arrays["cross"], int(arrays["dimension"]))
