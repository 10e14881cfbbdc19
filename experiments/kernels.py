"""Inner products of representations: from them stacks and costs C are judged without vectors.

A picture's vector has length 1, so the inner products of a stack are the mean of its members', and
all stacks, all C and all folds of a set of representations cost one pass of encoding. `kernels_of`
makes that pass and keeps what comes out beside the codebooks (`kept.py`).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import lab
import numpy as np
from kept import Kept

from mpp_jax import metrics
from mpp_jax.data import Dataset
from mpp_jax.files import write_file
from mpp_jax.pooling import parse
from mpp_jax.runs.settings import Job
from mpp_jax.runs.vectors import atoms_of
from mpp_jax.stats.codebook import Codebooks
from mpp_jax.svm import accuracy_metric, cross_validate_svm, fit_svm_gram, gram_matrix, gram_scores

CS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
FOLDS = 5
DRAWS = 3
"""Times that folds are drawn; what is reported is the mean."""
SCORED_AT_ONCE = 64


class Kernel(NamedTuple):
    """Inner products of unit vectors of one representation.

    Attributes:
        train: (N, N) float32, among the training pictures.
        test: (M, N) float32, of test with training pictures.
        dimension: of the vectors.
    """

    train: np.ndarray
    test: np.ndarray
    dimension: int


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
    """Return the kernel of every representation of a job, none of which is a stack, by its name.

    Without ``test`` only training pictures are encoded, and M is 0: enough to judge by folds.
    """
    kept = Kept(job, job.extras.cache)
    assert kept.made is not None  # experiments that use kernels keep activations
    own = job.config.pyramid.layer
    atoms = {name: parse(name, (), own)[0].name for name in job.config.pooling}
    kind = "kernel" if test else "folds"
    files = {name: kept.made / f"{kind}-{atom}.npz" for name, atom in atoms.items()}
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


def stacked(kernels: Sequence[Kernel]) -> Kernel:
    """Return the kernel of representations that are stacked and brought back to length 1."""
    count = len(kernels)
    return Kernel(
        sum(kernel.train for kernel in kernels) / np.float32(count),
        sum(kernel.test for kernel in kernels) / np.float32(count),
        sum(kernel.dimension for kernel in kernels),
    )


def judged(kernel: Kernel, data: Dataset, seed: int = 0) -> Judged:
    """Judge a kernel at every C of `CS` by folds of the training pictures."""
    metric = metrics.mean_average_precision if data.multi_label else accuracy_metric
    targets = data.targets("train")
    means = np.mean(
        [
            cross_validate_svm(
                kernel.train, targets, CS, FOLDS, key=jax.random.key(seed + draw), metric=metric
            ).mean
            for draw in range(DRAWS)
        ],
        axis=0,
    )
    best = int(np.argmax(means))
    return Judged(CS[best], float(means[best]), float(means[CS.index(10.0)]))


def test_scores(kernel: Kernel, data: Dataset, c: float) -> np.ndarray:
    """Return the scores (M, L) of the test pictures by machines of all training pictures."""
    coefficients, _ = fit_svm_gram(kernel.train, data.targets("train"), c)
    return gram_scores(kernel.test, coefficients)


def _one_pass(job: Job, codebooks: Codebooks, test: bool) -> dict[str, Kernel]:
    names = list(job.config.pooling)
    atoms = dict(zip((atom.name for atom in atoms_of(job.config)), names, strict=True))
    count, others = len(job.data.split("train")), len(job.data.split("test")) if test else 0
    trained: dict[str, np.ndarray] = {}

    def keep(index: np.ndarray, vectors: Mapping[str, np.ndarray]) -> None:
        for atom, value in vectors.items():
            rows = trained.setdefault(atom, np.empty((count, value.shape[1]), np.float32))
            rows[index] = value

    lab.encode_split(job, codebooks, names, "train", keep)
    products = {atom: np.empty((others, count), np.float32) for atom in trained}
    waiting: list[tuple[np.ndarray, Mapping[str, np.ndarray]]] = []

    def multiply() -> None:
        index = np.concatenate([rows for rows, _ in waiting])
        for atom, rows in trained.items():
            products[atom][index] = np.concatenate([v[atom] for _, v in waiting]) @ rows.T
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
    for atom, rows in trained.items():
        gram = np.asarray(gram_matrix(rows))
        if not np.allclose(np.diagonal(gram), 1, atol=1e-3):
            raise ValueError(f"{atom}: some vectors are not of length 1, so stacks are no means")
        found[atoms[atom]] = Kernel(gram, products[atom], rows.shape[1])
    return found


def _read(file: Path) -> Kernel:
    with np.load(file) as arrays:
        return Kernel(arrays["train"], arrays["test"], int(arrays["dimension"]))
