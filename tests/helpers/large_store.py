"""Stores of synthetic vectors of any size, and training on them in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from helpers import REPOSITORY
from mpp_jax.config import Run, Svm
from mpp_jax.data import Dataset, Item
from mpp_jax.runs.provenance import Provenance
from mpp_jax.storage.store import Store, StoreWriter

METHOD = "avg"


def made_of(svm: Svm, seed: int = 0) -> Provenance:
    """Return a provenance that training can take."""
    return Provenance(
        "toy", "0" * 64, None, "made", "0" * 64, Run(svm=svm, pooling=(METHOD,), seed=seed)
    )


def write_store(
    folder: Path,
    train: int,
    dimension: int,
    classes: int = 3,
    *,
    test: int = 0,
    shard_size: int = 256,
    multi_label: bool = False,
) -> Store:
    """Write unit vectors of overlapping classes; with several labels some are ignored."""
    rng = np.random.default_rng(0)
    names = tuple(f"class {i}" for i in range(classes))

    def item(number: int, split: str) -> Item:
        own, other = number % classes, (number // classes) % (classes + 2)
        if not multi_label or other in (own, *range(classes, classes + 2)):
            return Item(f"{split}/{number}.jpg", (own,), split)
        if number % 2:
            return Item(f"{split}/{number}.jpg", (own,), split, ignored=(other,))
        return Item(f"{split}/{number}.jpg", tuple(sorted((own, other))), split)

    numbers = [("train", i) for i in range(train)] + [("test", i) for i in range(test)]
    items = tuple(item(i, split) for split, i in numbers)
    centres = rng.standard_normal((classes, dimension)).astype(np.float32)
    data = Dataset("made", names, items, multi_label=multi_label)
    writer = StoreWriter(
        folder,
        data,
        methods=(METHOD,),
        network="toy",
        weights_sha256="0" * 64,
        codebook_sha256=None,
        config={},
        shard_size=shard_size,
    )
    with writer:
        for start in range(0, len(items), shard_size):
            block = items[start : start + shard_size]
            x = rng.standard_normal((len(block), dimension), np.float32)
            for row, one in enumerate(block):
                x[row] += 0.3 * centres[list(one.labels)].sum(axis=0)
            x /= np.linalg.norm(x, axis=1, keepdims=True)
            writer.put(block, {METHOD: x})
    return Store.open(folder)


class Measured(NamedTuple):
    """What training in a process of its own took, and what came of it."""

    peak: int  # bytes beyond those after the imports and the start of JAX
    solver: str
    converged: bool
    gap: float
    reason: str


CHILD = """
import contextlib, io, json, resource, sys
import jax, numpy as np
from helpers.large_store import METHOD, made_of
from mpp_jax.config import Svm
from mpp_jax.progress import Watcher
from mpp_jax.runs import pipeline
from mpp_jax.storage.store import Store

class Listener(Watcher):
    said = []
    def say(self, text):
        self.said.append(text)

folder, memory, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
jax.block_until_ready(jax.numpy.ones(3) + 1)
peak = lambda: 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
made, watcher = made_of(Svm(**options)), Listener(quiet=True)
model, infos = pipeline.train(
    Store.open(folder), {}, made, watcher=watcher, memory=memory or None
)
info = infos[METHOD]
print(json.dumps([
    peak() - before, model.provenance.config.svm.solver, bool(info.converged.all()),
    float(info.relative_gap.max()), watcher.said[0],
]))
"""


def train_measured(folder: Path, memory: int = 0, **options: object) -> Measured:
    """Train in a process of its own; 0 bytes of memory stand for what there is."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), str(memory), json.dumps(options)],
        cwd=REPOSITORY / "tests",
        env=None,
        check=True,
        capture_output=True,
        timeout=3600,
    )
    return Measured(*json.loads(done.stdout))
