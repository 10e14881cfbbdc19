"""Products of vectors instead of vectors: stacks, costs C and folds of a small set at no cost.

Representations are unit vectors, so the Gram matrix of a stack is the sum of its members' and a
scale. An experiment on a thousand pictures encodes each representation once, keeps (N, N) products
of the training pictures and (M, N) of test and training pictures, and asks everything of them.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import lab
import numpy as np
from kept import Kept

from mpp_jax.files import write_file
from mpp_jax.runs.choosing import stacked_gram
from mpp_jax.runs.settings import Job
from mpp_jax.runs.vectors import atoms_of, encode_described, wanted_of
from mpp_jax.svm import fit_svm_gram, gram_scores


class Kernel(NamedTuple):
    """Products of one representation's vectors.

    Attributes:
        train: (N, N) float32, of training pictures.
        cross: (M, N) float32, of test pictures and training pictures.
    """

    train: np.ndarray
    cross: np.ndarray


def kernels_of(job: Job) -> dict[str, Kernel]:
    """Return the products of each part of a job's representations, by its name.

    What the folder of the job's activations keeps is not computed again.
    """
    kept, found = Kept(job, job.extras.cache), {}
    assert kept.made is not None  # experiments on products keep their activations
    files = {atom.name: kept.made / f"kernel-{atom.name}.npz" for atom in atoms_of(job.config)}
    missing = [name for name, file in files.items() if not file.is_file()]
    if missing:
        vectors = _encoded(lab.with_pooling(job, missing), kept)
        for name in missing:
            train, test = vectors.pop(name)
            write_file(files[name], partial(np.savez, train=train @ train.T, cross=test @ train.T))
    for name, file in files.items():
        with np.load(file) as arrays:
            found[name] = Kernel(arrays["train"], arrays["cross"])
    return found


def _encoded(job: Job, kept: Kept) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the vectors of training and test pictures, by representation."""
    codebooks = lab.codebooks_of(job, kept)
    atoms = atoms_of(job.config)
    wants = wanted_of(atoms, job.config.pyramid.scales)
    found: dict[str, list[np.ndarray]] = {atom.name: [] for atom in atoms}
    for split in ("train", "test"):
        items, parts = job.data.split(split), {}
        for described in job.activations.describe(items, wants, lab.refuse):
            index, vectors = encode_described(described, wants, codebooks, job.config, atoms)
            for name, value in vectors.items():
                if name not in parts:
                    parts[name] = np.empty((len(items), value.shape[1]), np.float32)
                parts[name][index] = value
        for name, value in parts.items():
            found[name].append(value)
    return {name: (train, test) for name, (train, test) in found.items()}


def stacked(parts: Sequence[Kernel], weights: Sequence[float] | None = None) -> Kernel:
    """Return the products of a stack of unit vectors, each times the root of its weight."""
    weights = [1.0] * len(parts) if weights is None else weights
    pairs = list(zip(weights, parts, strict=True))
    train = np.asarray(stacked_gram([np.float32(w) * part.train for w, part in pairs]))
    # Of unit vectors the stack's norm is the same for all: the root of the weights' sum.
    cross = sum(np.float32(w) * part.cross for w, part in pairs) / np.float32(sum(weights))
    return Kernel(train, cross)


def judged(kernel: Kernel, targets: np.ndarray, c: float) -> np.ndarray:
    """Return (M, L) scores of the test pictures, by machines of the training pictures."""
    coefficients, _ = fit_svm_gram(kernel.train, targets, c)
    return gram_scores(kernel.cross, coefficients)


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
