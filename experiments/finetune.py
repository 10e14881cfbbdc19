"""What training the codebook gives over the fitted one, on Scene-15.

The paper fits PCA and mixture without labels and leaves training them to future work. Here they
are trained end to end (`mpp_jax.pooling.layer`) from the fitted ones on, by the hinge loss of
linear classifiers that are trained along, on cached activations; then once more with the weights
of the scales as parameters. Judged are the same SVMs, trained anew on the vectors of each: ``mpp``
by the fitted codebook, by the trained one, and by the trained one with weights. Each seed draws its
own descriptors, mixture and order of pictures. Differences have 95% intervals by paired bootstrap
over the test pictures.

    python experiments/finetune.py            three scales, K = 64: 15 minutes on 2 cores
    python experiments/finetune.py --quick    10 pictures a class, 2 scales, one seed: 2 minutes

Data: ``$MPP_JAX_SHARED/data/scene15`` (default ../shared), **resized to 200 x 200 pixels by whoever
published it**. Activations are kept in ``--cache``. Results: ``results/finetune.json``.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import lab
import numpy as np
from machine import provenance

from mpp_jax.pooling.layer import LayerParams, init_layer, mpp_layer
from mpp_jax.progress import Watcher
from mpp_jax.runs.finetune import Training, TrainingSet, train_layer
from mpp_jax.runs.settings import Job
from mpp_jax.svm import fit_svm, svm_scores

KEY = "default.fisher"
AT_ONCE = 32


def pictures_of(job: Job, split: str) -> TrainingSet:
    """Return the labelled activations of a split, which stay in memory."""
    scales = job.config.pyramid.scales
    items, classes = job.data.split(split), len(job.data.classes)
    return TrainingSet(job.activations, items, classes, "default", scales, job.config.cache_bytes)


def vectors(layer: LayerParams, pictures: TrainingSet) -> np.ndarray:
    """Return the representations (N, D) of pictures."""
    found = []
    for first in range(0, len(pictures.items), AT_ONCE):
        rows = range(first, min(first + AT_ONCE, len(pictures.items)))
        parts, _ = pictures.batch(rows, AT_ONCE)
        found.append(np.asarray(mpp_layer(layer, parts))[: len(rows)])
    return np.concatenate(found)


def judged(layer: LayerParams, sets: dict[str, TrainingSet], c: float) -> dict[str, np.ndarray]:
    """Train machines on the vectors of a layer; return their scores of both splits."""
    trained = vectors(layer, sets["train"])
    svm, _ = fit_svm(trained, sets["train"].targets, c)
    return {
        "train": np.asarray(svm_scores(svm, trained)),
        "test": np.asarray(svm_scores(svm, vectors(layer, sets["test"]))),
    }


def one_seed(job: Job, sets: dict[str, TrainingSet], training: Training) -> dict[str, Any]:
    """Return the figures of one seed."""
    codebooks, _ = lab.fit(job)
    book, scales = codebooks[KEY], len(job.config.pyramid.scales)
    layers = {"fitted": init_layer(book, scales)}
    losses = {}
    for name, chosen in (("trained", False), ("trained, scales weighed", True)):
        how = replace(training, seed=job.config.seed, scales=chosen)
        layers[name], losses[name] = train_layer(book, sets["train"], how, Watcher())
    scores = {name: judged(layer, sets, job.config.svm.c) for name, layer in layers.items()}
    row: dict[str, Any] = {"seed": job.config.seed, "losses": losses}
    row["scale_weights"] = np.exp(layers["trained, scales weighed"].scales).tolist()
    for name, found in scores.items():
        row[name] = lab.figures(found["test"], job.data)
        gain = lab.paired_bootstrap(found["test"], scores["fitted"]["test"], job.data)
        row[name] |= {"over_fitted": gain}
    shown = {name: round(100 * row[name]["top1"], 2) for name in layers}
    print(f"seed {job.config.seed}: top-1 {shown}", flush=True)
    return row


def means(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return mean and standard deviation of the top-1 accuracies over the seeds."""
    rows = list(rows)
    names = [name for name, value in rows[0].items() if isinstance(value, dict) and "top1" in value]
    table = {}
    for name in names:
        values = [row[name]["top1"] for row in rows]
        gains = [row[name]["top1"] - row["fitted"]["top1"] for row in rows]
        table[name] = {
            "top1": float(np.mean(values)),
            "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
            "over_fitted": float(np.mean(gains)),
        }
    return table


def main() -> None:
    parser = lab.parser(__doc__.split("\n\n")[0], "finetune", scales=3)
    parser.set_defaults(pca=64, components=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--reach", type=float, default=Training(1).reach)
    parser.add_argument("--loss", choices=("hinge", "softmax"), default="hinge")
    args = parser.parse_args()
    started = time.perf_counter()
    job = lab.open_job(args, ("mpp",))
    if args.quick:
        args.seeds, args.epochs = 1, 5
    training = Training(args.epochs, reach=args.reach, loss=args.loss)
    lab.describe_all(job)
    sets = {split: pictures_of(job, split) for split in ("train", "test")}
    rows = [
        one_seed(replace(job, config=replace(job.config, seed=seed)), sets, training)
        for seed in range(args.seed, args.seed + args.seeds)
    ]
    table = means(rows)
    for name, row in table.items():
        print(
            f"{name:<24} {100 * row['top1']:.2f} +- {100 * row['deviation']:.2f}, "
            f"{100 * row['over_fitted']:+.2f}"
        )
    record = {
        "made": provenance(),
        "pictures": {split: len(job.data.split(split)) for split in ("train", "test")},
        "config": job.config.to_dict(),
        "training": dict(training.__dict__),
        "mean": table,
        "seeds": rows,
        "wall_seconds": time.perf_counter() - started,
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"results: {args.out}")


if __name__ == "__main__":
    main()
