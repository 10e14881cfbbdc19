"""What a network's number format costs: float32 against tf32 and bfloat16.

    python experiments/dtype_cost.py                        Scene-15, SqueezeNet, four scales
    python experiments/dtype_cost.py --set voc2007_part     part of VOC 2007, AlexNet, five scales
    python experiments/dtype_cost.py --limit-per-class 20   a part of either
    python experiments/dtype_cost.py --quick                10 pictures a class, 2 scales

For each format the whole method is run: a codebook is fitted, pictures are encoded, machines are
trained and tested in it. Three things are compared with float32:

- **shared**: float32's codebook, the rest in the format. The vectors of the same pictures are
  compared too, by their cosine: the smallest and the mean.
- **own**: its own codebook as well. Rounding sends k-means and EM another way, so that components
  change places; cosines fall for that alone, and show what must not be mixed.
- **crossed**: vectors in the format (float32's codebook) scored by float32's machines, as when a
  model is used on another device than it was made on.

Figures are top-1 accuracy, or 11-point mAP where pictures have several classes; differences have
95% intervals by paired bootstrap over the test pictures.

On a CPU both are emulated: for TF32 the inputs of every convolution are rounded to its 10 bits of
mantissa, and the products taken and added in float32; for bfloat16 convolutions are taken in
float32, where products of bfloat16 are exact, and rounded. So a GPU computes, but for the order of
additions. One pass of the network for each format, two where the descriptors of the training
pictures do not fit into memory.

Expected: with float32's codebook, or its own, no format moves a figure by more than its interval; a
cosine of tf32 is 0.997 at least. Scene-15 takes one to two hours on two cores, the part of VOC one.

Results: ``results/dtype_cost_SET.json``.
"""

import argparse
import contextlib
import json
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import lab
import numpy as np
from jax import Array, lax
from machine import provenance, shared

from mpp_jax.data import Dataset, open_dataset
from mpp_jax.data.dataset import limited_items
from mpp_jax.describe.memory_cache import MemoryCache
from mpp_jax.nets import layers
from mpp_jax.nets.dtypes import NAMES, has_tf32
from mpp_jax.progress import Watcher
from mpp_jax.runs import pipeline
from mpp_jax.runs.settings import Job
from mpp_jax.runs.vectors import atoms_of, encode_described, wanted_of
from mpp_jax.svm import fit_svm, svm_scores
from mpp_jax.weights.load import load_network

SETS: dict[str, dict[str, Any]] = {
    "scene15": {"network": "squeezenet", "scales": 4},
    "voc2007_part": {"network": "alexnet_torchvision", "scales": 5},
}
VOC_CLASSES = ("bus", "car", "cat", "person", "train")
"""Those of which the part has enough pictures."""
TF32_BITS = 10

Vectors = dict[tuple[str, str], dict[str, np.ndarray]]
"""(codebook, representation): {split: (N, D)}."""


def command_line() -> argparse.ArgumentParser:
    """Return the options: the lab's, and this experiment's own."""
    parser = lab.parser(__doc__.split("\n\n")[0], "dtype_cost", scales=0)
    parser.add_argument("--set", default="scene15", choices=list(SETS), help="which pictures")
    parser.add_argument("--methods", default="mpp,avg", help="representations, none stacked")
    parser.add_argument("--dtypes", default=",".join(NAMES), help="beside float32")
    parser.set_defaults(network=None, scales=None, out=None)
    return parser


def open_job(args: argparse.Namespace) -> Job:
    """Open the experiment's job, in float32."""
    usual = SETS[args.set]
    args.cache = None  # a folder keeps float16, which is no finer than TF32
    args.network = args.network or usual["network"]
    args.scales = args.scales or usual["scales"]
    args.out = args.out or lab.RESULTS / f"dtype_cost_{args.set}.json"
    part = args.set == "voc2007_part" and args.data is None
    if part:
        args.data = f"voc:{shared('voc2007_part')}"
        if args.weights is None and args.network == usual["network"]:
            args.weights = str(shared("weights/alexnet_torchvision_conv.npz"))
    job = lab.open_job(args, args.methods.split(","))
    if part:
        data = narrowed(open_dataset(args.data), VOC_CLASSES, args.limit_per_class)
        job = replace(job, data=data)
    if any("+" in name for name in job.config.pooling):
        raise SystemExit(f"error: --methods {args.methods}: stacks are not taken; name their parts")
    return job


def narrowed(data: Dataset, names: Sequence[str], limit: int | None) -> Dataset:
    """Return the pictures of a data set that show one of some classes, and these classes alone.

    Args:
        data: of several labels a picture.
        names: classes, in the data set's order.
        limit: pictures of each class that are kept in each split; None for all.
    """
    kept = lab.of_classes(data, names)
    kept = replace(kept, items=tuple(item for item in kept.items if item.labels))
    return kept if limit is None else replace(kept, items=limited_items(kept, limit, 0))


@contextlib.contextmanager
def emulated(formats: Collection[str]) -> Iterator[None]:
    """Let convolutions of some formats be computed by products and sums of float32.

    Args:
        formats: among "tf32", whose inputs are rounded, and "bfloat16", whose result is: products
            of bfloat16 are exact in float32.
    """
    usual = layers.conv2d

    def conv2d(x: Array, kernel: Array, **how: Any) -> Array:
        exact = how | {"precision": "highest", "prepared": None}
        if "bfloat16" in formats and x.dtype == jnp.bfloat16:
            wide = (v.astype(jnp.float32) for v in (x, kernel))
            return usual(*wide, **exact | {"formulation": None}).astype(x.dtype)
        if "tf32" in formats and x.dtype == jnp.float32 and how["precision"] == "default":
            return usual(*(lax.reduce_precision(v, 8, TF32_BITS) for v in (x, kernel)), **exact)
        return usual(x, kernel, **how)

    layers.conv2d = conv2d
    try:
        yield
    finally:
        layers.conv2d = usual


def not_of(device: jax.Device) -> list[str]:
    """Return the formats whose products a device does not take, or far too slowly."""
    return ([] if has_tf32(device) else ["tf32"]) + ["bfloat16"] * (device.platform == "cpu")


def in_dtype(job: Job, name: str) -> Job:
    """Return the job with its network in a format; tf32 where need be for the emulation."""
    if name == "tf32":
        return replace(job, network=replace(job.network, precision="default"))
    return replace(job, network=load_network(job.network.spec.name, job.weights, dtype=name))


def encoded(job: Job, shared_books: Any) -> tuple[Any, Vectors]:
    """Fit a codebook, and encode all pictures by it ("own") and by float32's ("shared").

    Args:
        job: in one format.
        shared_books: float32's; None where this is float32.
    """
    config, atoms = job.config, atoms_of(job.config)
    wants = wanted_of(atoms, config.pyramid.scales)
    activations = MemoryCache(job.activations, config.cache_bytes, wants)
    own, _ = pipeline.fit(job.data, job.network, config, activations=activations.recorder)
    books = {"shared": own} if shared_books is None else {"shared": shared_books, "own": own}
    vectors: Vectors = {}
    for split in ("train", "test"):
        items = job.data.split(split)
        with Watcher().bar(len(items), f"encode {split}", "picture") as bar:
            for described in activations.describe(items, wants, lab.refuse):
                for book, codebooks in books.items():
                    read = [a for a in atoms if book == "shared" or a.codebook is not None]
                    index, found = encode_described(described, wants, codebooks, config, read)
                    for name, rows in found.items():
                        kept = vectors.setdefault((book, name), {})
                        if split not in kept:
                            kept[split] = np.empty((len(items), rows.shape[1]), np.float32)
                        kept[split][index] = rows
                bar.update(len(index))
    return own, vectors


def figure(scores: np.ndarray, data: Dataset) -> float:
    """Return top-1 accuracy, or mAP where pictures have several classes."""
    return lab.figures(scores, data)[lab.measure(data)]


def cosines(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the smallest, the lowest hundredth and the mean of the cosines of unit vectors.

    Args:
        one: (N, D) of each split.
        other: of the same pictures.
    """
    found = [np.einsum("nd,nd->n", one[s], other[s], dtype=np.float64) for s in one]
    together = np.concatenate(found)
    return {
        "smallest": float(together.min()),
        "hundredth": float(np.quantile(together, 0.01)),
        "mean": float(together.mean()),
    }


def main() -> None:
    parser = command_line()
    args = parser.parse_args()
    names = [name for name in args.dtypes.split(",") if name != "float32"]
    if unknown := set(names) - set(NAMES):
        parser.error(f"--dtypes: {', '.join(sorted(unknown))}: not among {', '.join(NAMES)}")
    missing = not_of(jax.devices()[0])
    job = open_job(args)
    with emulated(missing):
        rows, seconds = compare(job, names)
    record = {
        "made": provenance(),
        "data": job.data.name,
        "classes": len(job.data.classes),
        "network": job.network.spec.name,
        "weights_sha256": job.network.weights_sha256,
        "pictures": {s: len(job.data.split(s)) for s in ("train", "test")},
        "config": job.config.to_dict(),
        "figure": "map11" if job.data.multi_label else "top1",
        "emulated": missing,
        "results": rows,
        "seconds": seconds,
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"results: {args.out}")


def compare(job: Job, names: list[str]) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return a row for each format, codebook and representation, and the seconds of each format."""
    data, rows, seconds = job.data, [], {}
    targets, methods = data.targets("train"), job.config.pooling
    base: Vectors = {}
    machines: dict[str, Any] = {}
    scores: dict[str, np.ndarray] = {}
    books = None
    for dtype in ("float32", *names):
        begun = time.perf_counter()
        own, vectors = encoded(job if dtype == "float32" else in_dtype(job, dtype), books)
        for (book, method), found in vectors.items():
            machine, _ = fit_svm(found["train"], targets, job.config.svm.c)
            given = {book: np.asarray(svm_scores(machine, found["test"]))}
            if dtype == "float32":
                machines[method], scores[method] = machine, given[book]
                rows.append(row(dtype, book, method, {"figure": figure(given[book], data)}))
                continue
            if book == "shared":
                given["crossed"] = np.asarray(svm_scores(machines[method], found["test"]))
            for how, values in given.items():
                facts = {
                    "figure": figure(values, data),
                    **lab.paired_bootstrap(values, scores[method], data),
                }
                if how != "crossed":
                    facts["cosine"] = cosines(found, base["shared", method])
                rows.append(row(dtype, how, method, facts))
        if dtype == "float32":
            base, books = vectors, own
        seconds[dtype] = time.perf_counter() - begun
    assert {r["method"] for r in rows} == set(methods)
    return rows, seconds


def row(dtype: str, how: str, method: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Print a line of the page's table, and return it as a record."""
    cells = [dtype, how, method, f"{100 * facts['figure']:.2f}"]
    if "difference" in facts:
        d, low, high = (100 * facts[key] for key in ("difference", "low", "high"))
        cells.append(f"{d:+.2f} [{low:+.2f}, {high:+.2f}]")
    if "cosine" in facts:
        cells.append(" / ".join(f"{value:.6f}" for value in facts["cosine"].values()))
    print(f"| {' | '.join(cells)} |", flush=True)
    return {"dtype": dtype, "codebook": how, "method": method, **facts}


if __name__ == "__main__":
    main()
