"""Scene-15 with SqueezeNet: every pooling method at 1..S scales.

Data: ``$MPP_JAX_SHARED/data`` (default ../shared/data): ``scene15/{train,test}/<class>/*.jpg``, the
split of Lazebnik et al. 2006 (1,500 training and 2,985 test pictures), and the pretrained
SqueezeNet v1.0. The split is used as it stands: 16 files of the public set are exact duplicates,
11 of them across the split.

    python experiments/scene15.py                    5 scales: about 40 minutes on 2 cores
    python experiments/scene15.py --scales 4         20 minutes
    python experiments/scene15.py --quick            10 pictures a class, 2 scales: 1 minute

The activations of all pictures are computed once and kept
in ``--activations`` as float32 .npy files, 7 GB for five scales. A codebook is fitted to all scales
1-S, as ``mpp-jax run --scales 1-S`` does; with it pictures are encoded from 1, 2, ... S scales, and
SVMs trained for each. At five scales this is done for S = 4 and S = 5.

Expected, in per cent, at four scales: fc7 87.9, avg 89.0, nfk 87.2, mpp 89.3 (1..4 scales: 80.5,
85.6, 87.6, 89.3), mpp+fc7 90.4, mpp+avg 90.7, all within half a point or above, and mpp at least 1
above fc7 and 1.5 above nfk. Published on this split: spatial pyramid matching 81.4, AlexNet fc7 +
SVM 84.2, Places-CNN 90.2.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from machine import provenance

from mpp_jax import metrics
from mpp_jax.config import Encoder, Pyramid, Run
from mpp_jax.data import Dataset, open_dataset
from mpp_jax.describe.dense import Activations, Descriptors
from mpp_jax.describe.extraction import Described, DescriptorSample, Wanted, describe_items
from mpp_jax.describe.pyramid import receptive_windows, scale_side
from mpp_jax.memory import keep_freed_memory
from mpp_jax.nets import Network
from mpp_jax.numerics import stack_unit_vectors
from mpp_jax.pooling import parse_all
from mpp_jax.progress import progress
from mpp_jax.runs.vectors import atoms_of, encode_described, wanted_of
from mpp_jax.stats.codebook import Codebook, fit_codebook
from mpp_jax.svm import fit_svm, svm_scores
from mpp_jax.weights.load import load_network

METHODS = ("fc7", "ap10", "avg", "nfk", "csf", "mpp", "mpp+fc7", "mpp+avg")
EXPECTED = {"fc7": 87.9, "avg": 89.0, "nfk": 87.2, "mpp": 89.3, "mpp+fc7": 90.4, "mpp+avg": 90.7}
CROPS = (5, True)


def activation_file(folder: Path, part: str) -> Path:
    return folder / f"{part}.npy"


def describe_missing(
    network: Network, dataset: Dataset, scales: int, crops: bool, folder: Path
) -> dict[str, float]:
    """Write the activations that ``folder`` lacks, one array a scale and one for the crops.

    Returns seconds by what was described together, those of earlier calls included.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "seconds.json"
    seconds = json.loads(log.read_text()) if log.exists() else {}
    missing = [k for k in range(scales) if not activation_file(folder, f"scale{k}").exists()]
    cut = [CROPS] if crops and not activation_file(folder, "crops").exists() else []
    if not missing and not cut:
        return seconds
    spec, started = network.spec.layer(), time.perf_counter()
    side = network.spec.side
    rows = {f"scale{k}": network.spec.positions(scale_side(side, k)) ** 2 for k in missing}
    rows |= {"crops": CROPS[0] * (1 + CROPS[1])} if cut else {}
    partial = {name: activation_file(folder, name).with_suffix(".partial") for name in rows}
    files = {
        name: np.lib.format.open_memmap(
            partial[name],
            mode="w+",
            dtype=np.float32,
            shape=(len(dataset.items), count, spec.channels),
        )
        for name, count in rows.items()
    }
    pyramid = Pyramid(tuple(range(scales)))
    with progress(len(dataset.items), f"describe {', '.join(rows)}", "picture") as bar:
        wants = {"default": Wanted(tuple(missing), tuple(cut))}
        for described in describe_items(network, dataset.items, pyramid, wants=wants):
            valid = described.index >= 0
            found = described.sources["default"]
            parts = [np.asarray(x) for x in (*(d.x for d in found.scales), *found.crops.values())]
            for array, part in zip(files.values(), parts, strict=True):
                array[described.index[valid]] = part[valid]
            bar.update(int(valid.sum()))
    for name, array in files.items():
        array.flush()
        partial[name].rename(activation_file(folder, name))
    seconds[f"describe {', '.join(rows)}"] = time.perf_counter() - started
    log.write_text(json.dumps(seconds))
    return seconds


def stored(
    network: Network, folder: Path, scales: int, rows: range, crops: bool = True, batch: int = 4
) -> Iterator[Described]:
    """Read activations back, as `describe_items` would yield them."""
    spec = network.spec.layer()
    arrays = [np.load(activation_file(folder, f"scale{k}"), mmap_mode="r") for k in range(scales)]
    cut = np.load(activation_file(folder, "crops"), mmap_mode="r") if crops else None
    windows = []
    for k in range(scales):
        side = scale_side(network.spec.side, k)
        positions = network.spec.positions(side)
        windows.append(jnp.asarray(receptive_windows(positions, spec.stride, spec.window, side)))
    for start in range(rows.start, rows.stop, batch):
        index = np.arange(start, start + batch)
        index = np.where(index < rows.stop, index, -1)
        valid = jnp.asarray(index >= 0)
        parts = []
        for array, window in zip(arrays, windows, strict=True):
            x = jnp.asarray(array[index])
            mask = jnp.broadcast_to(valid[:, None], x.shape[:2])
            parts.append(Descriptors(x, mask, window))
        crops_of = {} if cut is None else {CROPS: jnp.asarray(cut[index])}
        yield Described(index, {"default": Activations(tuple(parts), crops_of)})


def vectors(
    network: Network, folder: Path, codebook: Codebook, config: Run, rows: range, what: str
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Encode stored activations with all single methods."""
    methods = atoms_of(config)
    wants = wanted_of(methods, config.pyramid.scales)
    crops = bool(wants["default"].crops)
    batches = stored(network, folder, len(config.pyramid.scales), rows, crops)
    codebooks = {"default.fisher": codebook}
    for described in progress(batches, what, "batch"):
        yield encode_described(described, wants, codebooks, config, methods)


def stack(parts: dict[str, np.ndarray], method: str) -> np.ndarray:
    names = method.split("+")
    return parts[method] if len(names) == 1 else stack_unit_vectors([parts[n] for n in names])


def fit_to(
    network: Network, folder: Path, config: Run, n_train: int
) -> tuple[Codebook, dict[str, float]]:
    """Fit a codebook to the training activations of the configuration's scales."""
    sample = DescriptorSample(n_train, config.encoder.samples, config.seed)
    scales = len(config.pyramid.scales)
    for described in stored(network, folder, scales, range(n_train), crops=False):
        sample.add(described.index, described.sources["default"].scales)
    codebook, info = fit_codebook(jax.random.key(config.seed), sample.finish(), config.encoder)
    facts = {
        "samples": info.samples,
        "explained_variance": info.explained,
        "em_steps": int(info.em.iterations),
    }
    return codebook, facts


def evaluate(
    network: Network, dataset: Dataset, folder: Path, codebook: Codebook, config: Run
) -> dict[str, dict[str, float]]:
    """Encode, train and score with the configuration's scales; return figures by method."""
    n_train, n = len(dataset.split("train")), len(dataset.items)
    trained: dict[str, np.ndarray] = {}
    for index, parts in vectors(network, folder, codebook, config, range(n_train), "encode train"):
        for method, value in parts.items():
            if method not in trained:
                trained[method] = np.empty((n_train, value.shape[1]), np.float32)
            trained[method][index] = value
    machines, gaps = {}, {}
    for method in config.pooling:
        machines[method], svm = fit_svm(
            stack(trained, method), dataset.targets("train"), config.svm.c
        )
        gaps[method] = float(np.max(svm.relative_gap))
    del trained
    # Test vectors are scored as they come: at five scales CSF's alone would fill 4 GB.
    scores = {m: np.empty((n - n_train, len(dataset.classes)), np.float32) for m in config.pooling}
    for index, parts in vectors(
        network, folder, codebook, config, range(n_train, n), "encode test"
    ):
        for method in config.pooling:
            scores[method][index - n_train] = svm_scores(machines[method], stack(parts, method))
    labels = np.array([item.labels[0] for item in dataset.split("test")])
    return {
        method: {
            "top1": metrics.top1_accuracy(value, labels),
            "mean_class_accuracy": metrics.mean_class_accuracy(value, labels),
            "map11": metrics.mean_average_precision(value, dataset.targets("test"), "11point"),
            "relative_gap": gaps[method],
            "dimension": int(machines[method].weights.shape[1]),
        }
        for method, value in scores.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--scales", type=int, default=5, help="largest number of scales")
    parser.add_argument("--l2", default="before", choices=("none", "before", "both"))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--components", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--activations", type=Path, help="folder to keep (and find) activations in")
    parser.add_argument("--tolerance", type=float, default=Encoder().tolerance, help="of EM")
    parser.add_argument("--only-last", action="store_true", help="all scales only, no curve")
    parser.add_argument("--quick", action="store_true", help="10 pictures a class, 2 scales")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/scene15.json")
    args = parser.parse_args()
    keep_freed_memory()

    shared = Path(os.environ.get("MPP_JAX_SHARED", Path(__file__).parents[2] / "shared")) / "data"
    network = load_network("squeezenet", shared / "squeezenet" / "compressed_SqueezeNet.net")
    limit = 10 if args.quick else None
    dataset = open_dataset(str(shared / "scene15"), limit_per_class=limit)
    most = 2 if args.quick else args.scales
    methods = tuple(args.methods.split(","))
    crops = wanted_of(parse_all(methods), (0,))["default"].crops
    if crops not in ((), (CROPS,)):
        parser.error("--methods: of the crops only ap10 is offered here")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=args.out.parent) as temporary:
        folder = args.activations or Path(temporary)
        seconds = describe_missing(network, dataset, most, bool(crops), folder)
        print(f"seconds: { {name: round(s, 1) for name, s in seconds.items()} }")
        encoder = Encoder(
            components=32 if args.quick else args.components,
            pca=64 if args.quick else 128,
            l2=args.l2,
            tolerance=args.tolerance,
        )
        table = []
        for fitted in [most] if args.quick or args.only_last else range(min(4, most), most + 1):
            config = Run(
                pyramid=Pyramid(tuple(range(fitted))),
                encoder=encoder,
                pooling=methods,
                seed=args.seed,
            )
            begun = time.perf_counter()
            codebook, facts = fit_to(network, folder, config, len(dataset.split("train")))
            seconds[f"fit to {fitted} scales"] = time.perf_counter() - begun
            print(f"codebook of scales 1-{fitted}: {facts}", flush=True)
            for count in [fitted] if args.only_last else range(1, fitted + 1):
                begun = time.perf_counter()
                pyramid = Pyramid(tuple(range(count)))
                figures = evaluate(
                    network, dataset, folder, codebook, replace(config, pyramid=pyramid)
                )
                name = f"codebook {fitted}, encode {count}"
                seconds[name] = time.perf_counter() - begun
                table.append(
                    {
                        "codebook_scales": fitted,
                        "encoded_scales": count,
                        "codebook": facts,
                        "methods": figures,
                    }
                )
                shown = {m: round(100 * f["top1"], 2) for m, f in figures.items()}
                print(f"scales 1-{count}: top-1 {shown}", flush=True)
    record = {
        "made": provenance(),
        "pictures": {"train": len(dataset.split("train")), "test": len(dataset.split("test"))},
        "encoder": {"l2": args.l2, "pca": encoder.pca, "components": encoder.components},
        "results": table,
        "expected_at_4_scales": EXPECTED,
        "seconds": seconds,
        "wall_seconds": time.perf_counter() - started,
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"results: {args.out}")


if __name__ == "__main__":
    main()
