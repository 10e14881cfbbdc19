"""Peak memory of encode, train, evaluate and search: flat in the number of pictures.

Generated pictures of five colours pass through a tiny network with random weights and a pooling
that repeats what it gives to any number of dimensions. Each stage runs in a process of its own,
which notes the most memory that it had beyond what it took to import everything and start JAX.
Training is told to take 2 GB at most (`mpp-jax train --memory 2`). Many pictures with short
vectors, a tenth of them, and fewer with vectors as long as the paper's: 50,000 of those would take
13 GB in one piece.

    python experiments/bench_memory.py            50,000 and 5,000 x 256; 3,000 and 600 x 65,536
    python experiments/bench_memory.py --quick    600 x 256 and 300 x 4,096

Expected: each stage stays under 2 GB, and takes no more for many pictures than for few beside what
scores and lists of them take. Results: ``results/bench_memory.json``.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from fault_tools import TINY
from machine import provenance

import mpp_jax as mpp
from mpp_jax.cli import stages
from mpp_jax.cli.console import Console
from mpp_jax.config import Pyramid, Run, Svm
from mpp_jax.data import Dataset, Item
from mpp_jax.nets import NETWORKS, random_network
from mpp_jax.runs import pipeline
from mpp_jax.runs.provenance import Provenance, save_codebooks
from mpp_jax.runs.search import StoredVectors, nearest
from mpp_jax.storage.store import Store

RESULTS = Path(__file__).parent / "results"
STAGES = ("encode", "train", "evaluate", "search")
CLASSES = ("blue", "green", "red", "white", "black")
COLOURS = ((40, 60, 200), (50, 190, 70), (210, 60, 50), (230, 230, 230), (30, 30, 30))
MEMORY = 2.0
"""GB that training may take."""


def picture(number: int) -> np.ndarray:
    """Return a picture of 35 x 35 pixels, of its class's colour and noise."""
    noise = np.random.default_rng(number).normal(0, 60, (35, 35, 3))
    return np.clip(np.array(COLOURS[number % len(COLOURS)]) + noise, 0, 255).astype(np.uint8)


def dataset(count: int) -> Dataset:
    """Return a data set, half of it to train on."""
    items = tuple(
        Item(f"{i}", (i % len(CLASSES),), split, read=partial(picture, i))
        for split, numbers in (("train", range(count // 2)), ("test", range(count // 2, count)))
        for i in numbers
    )
    return Dataset("generated", CLASSES, items)


def know(dimension: int) -> Run:
    """Make the network and the pooling known; return settings."""
    NETWORKS[TINY.name] = TINY

    @mpp.register_pooling("repeated", codebook=None)
    def repeated(evidence: Any, codebook: Any) -> jax.Array:
        x = jnp.where(evidence.mask[0][:, None], evidence.x[0], 0).mean(axis=0)
        whole = jnp.resize(x, dimension) * jnp.cos(jnp.arange(dimension))
        return whole / jnp.linalg.norm(whole)

    pyramid = Pyramid(scales=(0,), layer="fire2", batch=64)
    return Run(pyramid=pyramid, pooling=("repeated",), svm=Svm(c=1.0))


def stage(name: str, folder: Path, count: int, dimension: int) -> dict[str, Any]:
    """Do one stage in this process; return its seconds and peak."""
    config, console = know(dimension), Console(quiet=True)
    store, model = folder / "store", folder / "model"
    network = random_network(jax.random.key(0), TINY)
    jax.block_until_ready(jnp.ones(3) + 1)
    data = dataset(count) if name == "encode" else None
    before, start = peak(), time.perf_counter()
    extra: dict[str, Any] = {}
    if data is not None:
        pipeline.encode_dataset(data, network, {}, config, store, watcher=console)
        save_codebooks(store / "codebook", {}, Provenance.of(data, network, config))
    elif name == "train":
        stages.train(store, model, console, memory=MEMORY)
        record = json.loads((model / "record.json").read_text())
        extra = {"solver": record["config"]["svm"]["solver"]}
    elif name == "evaluate":
        stages.evaluate(model, store, folder / "results", console)
        metrics = json.loads((folder / "results" / "metrics.json").read_text())
        extra = {"top1": metrics["results"]["repeated"]["top1"]}
    else:
        opened = Store.open(store)
        queries = next(opened.iter_vectors("repeated", "test"))[:10]
        found = nearest(StoredVectors(opened, "repeated"), queries)
        assert all(abs(each[0].similarity - 1) < 1e-5 for each in found)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_bytes": peak() - before, **extra}


def peak() -> int:
    """Return the most memory that this process has had, in bytes (Linux counts in KiB)."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--stage", help="only this one, of COUNT x DIMENSION in FOLDER; for itself")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--size", type=int, nargs=2, metavar=("COUNT", "DIMENSION"))
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_memory.json")
    args = parser.parse_args()
    if args.stage is not None:
        print(json.dumps(stage(args.stage, args.folder, *args.size)))
        return
    sizes = [(5_000, 256), (50_000, 256), (600, 65_536), (3_000, 65_536)]
    if args.quick:
        sizes = [(600, 256), (300, 4_096)]
    rows = []
    for count, dimension in sizes:
        row: dict[str, Any] = {"pictures": count, "dimension": dimension}
        with tempfile.TemporaryDirectory() as place:
            for name in STAGES:
                alone = [sys.executable, __file__, "--stage", name, "--folder", place]
                alone += ["--size", str(count), str(dimension)]
                done = subprocess.run(alone, check=True, stdout=subprocess.PIPE, text=True)
                row[name] = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        each = ", ".join(f"{name} {row[name]['peak_bytes'] / 1e6:,.0f} MB" for name in STAGES)
        print(f"{count:,} x {dimension:,}: {each}", flush=True)
    record = {"made": provenance(), "memory_gb_of_training": MEMORY, "stores": rows}
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"results: {args.out}")


if __name__ == "__main__":
    main()
