"""Peak memory of the commands that read or write encodings: flat in the number of pictures.

Generated pictures of five colours pass through a tiny network with random weights and a pooling
that repeats what it gives to any number of dimensions. Each command runs in a process of its own,
which notes the most memory that it had beyond what it took to import everything and start JAX.
Training is told to take 2 GB at most (`mpp-jax train --memory 2`), and less where that has it take
another way. Many pictures with short vectors, a tenth of them, and fewer with vectors as long as
the paper's: 50,000 of those would take 13 GB in one piece. 400,000 are so many that 200,000 train
their machines, at a C of 10, which takes more epochs. `compare` reads scores alone: of drawn ones,
two runs of three representations and 20 classes, pictures of several.

    python experiments/bench_memory.py                    600 to 10,000 x 65,536; 5,000 and
                                                          50,000 x 256; 400,000 x 2,048
    python experiments/bench_memory.py --only 600 65536   this size again, the others as they are
    python experiments/bench_memory.py --quick            600 x 256 and 300 x 1,024

Expected: each stays under 2 GB, and takes no more for many pictures than for few beside what scores
and lists of them take. Results: ``results/bench_memory.json``.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from fault_processes import TINY
from machine import provenance

import mpp_jax as mpp
from mpp_jax.cli import stages
from mpp_jax.cli.app import main
from mpp_jax.cli.console import Console
from mpp_jax.config import Pyramid, Run, Svm
from mpp_jax.data import Dataset, Item
from mpp_jax.memory import keep_freed_memory
from mpp_jax.metrics import average_precision, mean_average_precision
from mpp_jax.nets import NETWORKS, random_network
from mpp_jax.report.metrics_json import write_metrics
from mpp_jax.report.scores import scores_of_run
from mpp_jax.runs import pipeline
from mpp_jax.runs.provenance import Provenance, save_codebooks
from mpp_jax.runs.search import StoredVectors, nearest
from mpp_jax.storage.store import Store

RESULTS = Path(__file__).parent / "results"
STAGES = ("encode", "train", "evaluate", "search", "verify", "merge", "index")
CLASSES = ("blue", "green", "red", "white", "black")
COLOURS = ((40, 60, 200), (50, 190, 70), (210, 60, 50), (230, 230, 230), (30, 30, 30))
MEMORY, COST = 2.0, 1.0
TRAININGS = {
    (3_000, 65_536): ((MEMORY, "auto", COST), (1.3, "auto", COST), (MEMORY, "primal", COST)),
    (400_000, 2_048): ((MEMORY, "auto", 10.0),),
}
"""GB that training may take, the solver and C, by pictures and dimension."""
RUNS, METHODS, LABELS, DRAWS = 2, ("mpp", "nfk", "avg"), 20, 500
"""What `compare` compares, and by how many draws: they cost time, and no memory to speak of."""


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
    return Run(pyramid=pyramid, pooling=("repeated",), svm=Svm(c=COST))


def write_runs(folder: Path, count: int) -> None:
    """Write finished runs with drawn scores of so many test pictures."""
    ids = [f"{i:06}.jpg" for i in range(count)]
    classes = [f"class {k:02}" for k in range(LABELS)]
    rng = np.random.default_rng(0)
    targets = rng.choice([-1, 0, 1], (count, LABELS), p=[0.9, 0.02, 0.08]).astype(np.int8)
    for seed in range(RUNS):
        scores, results = {}, {}
        for gain, method in enumerate(METHODS):
            noise = rng.standard_normal(targets.shape, np.float32)
            scores[method] = noise + np.float32(1 + 0.1 * gain) * targets
            each = average_precision(scores[method], targets).tolist()
            results[method] = {"top1": None, "mean_class_accuracy": None} | {
                "map11": mean_average_precision(scores[method], targets),
                "per_class": dict(zip(classes, each, strict=True)),
            }
        held = {
            **{"data": "drawn", "network": "none", "weights_sha256": None, "seconds": {}},
            "config": replace(Run(pooling=METHODS), seed=seed).to_dict(),
            "results": results,
            "pictures": {"train": 0, "test": count, "skipped": []},
        }
        run = folder / f"run-{seed}"
        write_metrics(run, held)
        scores_of_run(run).write(scores, ids, classes, targets, METHODS[0])


def command(*arguments: Any) -> None:
    """Do what a command line does, in this process."""
    try:
        main.main([*map(str, arguments), "--quiet"], standalone_mode=False)
    except SystemExit as end:
        if end.code != 0:
            raise RuntimeError(f"{arguments}: status {end.code}") from end


def stage(
    name: str, folder: Path, count: int, dimension: int, memory: float, solver: str, c: float
) -> dict[str, Any]:
    """Do one stage in this process; return its seconds and peak."""
    keep_freed_memory()  # as every command does; else the arenas of threads grow for long
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
        stages.train(store, model, console, svm={"solver": solver, "c": c}, memory=memory)
        record = json.loads((model / "record.json").read_text())
        trained = record["trained"]["repeated"]
        extra = {"memory_gb": memory, "c": c}
        extra |= {name: trained[name] for name in ("solver", "relative_gap")}
    elif name == "evaluate":
        stages.evaluate(model, store, folder / "results", console)
        metrics = json.loads((folder / "results" / "metrics.json").read_text())
        extra = {"top1": metrics["results"]["repeated"]["top1"]}
    elif name == "search":
        opened = Store.open(store)
        queries = next(opened.iter_vectors("repeated", "test"))[:10]
        found = nearest(StoredVectors(opened, "repeated"), queries)
        assert all(abs(each[0].similarity - 1) < 1e-5 for each in found)
    elif name == "runs":
        write_runs(folder, count)
    elif name == "compare":
        draws = ("--draws", DRAWS)
        command("compare", *sorted(folder.glob("run-*")), "--out", folder / "comparison", *draws)
    elif name == "verify":
        command("verify", store)
    else:
        command(name, store, "--out", folder / name)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_bytes": peak() - before, **extra}


def peak() -> int:
    """Return the most memory that this process has had, in bytes (Linux counts in KiB)."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def alone(
    name: str,
    folder: str,
    count: int,
    dimension: int = 0,
    memory: float = MEMORY,
    solver: str = "auto",
    c: float = COST,
) -> Any:
    """Do one stage in a process of its own; return what it notes, and show its peak."""
    command = [sys.executable, __file__, "--stage", name, "--folder", folder]
    command += ["--size", str(count), str(dimension), "--memory", str(memory), "--solver", solver]
    command += ["--c", str(c)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    how = f" by {found['solver']}" if "solver" in found else ""
    print(
        f"  {name}{how}: {found['peak_bytes'] / 1e6:,.0f} MB, {found['seconds']:.0f} s", flush=True
    )
    return found


def measure() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--stage", help="only this one, of COUNT x DIMENSION in FOLDER; for itself")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--size", type=int, nargs=2, metavar=("COUNT", "DIMENSION"))
    parser.add_argument("--memory", type=float, default=MEMORY)
    parser.add_argument("--solver", default="auto")
    parser.add_argument("--c", type=float, default=COST)
    parser.add_argument("--only", type=int, nargs=2, metavar=("COUNT", "DIMENSION"))
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_memory.json")
    args = parser.parse_args()
    if args.stage is not None:
        settings = (args.memory, args.solver, args.c)
        print(json.dumps(stage(args.stage, args.folder, *args.size, *settings)))
        return
    sizes = [(600, 65_536), (3_000, 65_536), (10_000, 65_536), (5_000, 256), (50_000, 256)]
    sizes += [(400_000, 2_048)]
    tests = [5_000, 50_000, 100_000]
    if args.quick:
        sizes, tests = [(600, 256), (300, 1_024)], [500]
    record: dict[str, Any] = {"made": provenance(), "stores": []}
    record["compare"] = {"runs": RUNS, "methods": len(METHODS), "classes": LABELS, "sets": []}
    if args.only:
        sizes, tests, record = [tuple(args.only)], [], json.loads(args.out.read_text())
    for count in tests:
        print(f"scores of {count:,} pictures", flush=True)
        with tempfile.TemporaryDirectory() as place:
            alone("runs", place, count)
            found = {"pictures": count} | alone("compare", place, count)
        record["compare"]["sets"].append(found)
    for count, dimension in sizes:
        found = {"pictures": count, "dimension": dimension, **commands(count, dimension)}
        if args.only:
            found["made"] = provenance()
        size = (count, dimension)
        others = [r for r in record["stores"] if (r["pictures"], r["dimension"]) != size]
        record["stores"] = [*others, found]
        args.out.write_text(json.dumps(record, indent=1) + "\n")  # what is left may take hours
    print(f"results: {args.out}")


def commands(count: int, dimension: int) -> dict[str, Any]:
    """Return what each command notes, of so many pictures."""
    print(f"{count:,} x {dimension:,}", flush=True)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for name in STAGES:
            if name == "train":
                ways = TRAININGS.get((count, dimension), ((MEMORY, "auto", COST),))
                found[name] = [alone(name, place, count, dimension, *way) for way in ways]
            else:
                found[name] = alone(name, place, count, dimension)
            if name in ("merge", "index"):
                shutil.rmtree(Path(place) / name)
    return found


if __name__ == "__main__":
    measure()
