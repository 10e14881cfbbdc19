"""Retrieval: how well encodings find pictures of the same classes, exact and compressed.

Test pictures ask, training pictures are ranked by cosine: mean average precision by class
(`mpp_jax.runs.retrieval`), of several representations, exactly and by indices of fewer bytes
(`mpp_jax.runs.indexing`) with their recall against the exact ranking.

    python experiments/retrieval.py                     Scene-15, four scales: 40 minutes, 2 cores
    python experiments/retrieval.py --data voc:PATH     a VOC folder, 20 minutes for 1,900 pictures
    python experiments/retrieval.py --quick             20 pictures a class, 2 scales: 3 minutes

Data: ``$MPP_JAX_SHARED/data/scene15`` (default ../shared), **resized to 200 x 200 pixels by whoever
published it**, or ``--data``. Activations are kept in ``--cache``, encodings in ``--run``. Results
stand in ``results/retrieval.json`` by the name of the data; others there stay.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lab
from machine import provenance

from mpp_jax.cli import stages
from mpp_jax.cli.console import Console
from mpp_jax.progress import Watcher
from mpp_jax.runs.indexing import CENTROIDS, Plan, make_index
from mpp_jax.runs.retrieval import retrieval_figures
from mpp_jax.runs.search import StoredVectors
from mpp_jax.runs.settings import Job
from mpp_jax.storage.store import Store

METHODS = ("fc7", "avg", "nfk", "csf", "mpp", "mpp+avg")
INDEXED = ("avg", "mpp", "mpp+avg")
PLANS = {
    "PCA 256": Plan(256),
    "PCA 64": Plan(64),
    "PCA 256, whitened": Plan(256, whiten=True),
    "PCA 64, whitened": Plan(64, whiten=True),
    "PCA 256, 32 bytes": Plan(256, quantise=32),
    "PCA 256, whitened, 32 bytes": Plan(256, whiten=True, quantise=32),
}


def encoded(job: Job, folder: Path) -> Store:
    """Fit the codebook and encode all pictures, or take what is there."""
    console = Console()
    stages.fit(replace(job, out=folder / "codebook"), console)
    stages.encode(
        job.data,
        folder / "codebook",
        folder / "encodings",
        console,
        weights=job.weights,
        pooling=job.config.pooling,
        extras=job.extras,
    )
    return Store.open(folder / "encodings")


def measured(store: Store, folder: Path) -> dict[str, Any]:
    """Return the figures of every representation, exact and by every index."""
    table: dict[str, Any] = {}
    for method in METHODS:
        exact = StoredVectors(store, method)
        table[method] = {
            "exact": {
                "bytes": 4 * exact.dimension,
                **retrieval_figures(exact, watcher=Watcher()).to_dict(),
            }
        }
        for name, plan in PLANS.items() if method in INDEXED else ():
            if plan.quantise is not None and len(store.items("train")) < CENTROIDS:
                print(f"{method}, {name}: left out, too few pictures for {CENTROIDS} centroids")
                continue
            index = make_index(store, method, folder / "index", plan)
            table[method][name] = {
                "bytes": index.record["bytes"],
                "recall": index.record["recall"],
                **retrieval_figures(index, watcher=Watcher()).to_dict(),
            }
        for name, row in table[method].items():
            recall = row.get("recall", {"at": {}})["at"].get("10")
            said = "" if recall is None else f", recall at 10 {recall:.3f}"
            print(f"{method}, {name}: mAP {100 * row['mean']:.2f}, {row['bytes']} bytes{said}")
    return table


def main() -> None:
    parser = lab.parser(__doc__.split("\n\n")[0], "retrieval", scales=4)
    parser.add_argument("--run", type=Path, default=Path("runs/retrieval"), help="kept there")
    args = parser.parse_args()
    quick = args.quick
    if quick:
        args.quick = False
        args.limit_per_class, args.scales, args.pca, args.components = 20, 2, 64, 32
    job = lab.open_job(args, [method for method in METHODS if "+" not in method])
    folder = args.run / f"{job.data.name.split()[0]}{'-quick' if quick else ''}"
    table = measured(encoded(job, folder), folder)
    record = json.loads(args.out.read_text()) if args.out.exists() else {}
    record[job.data.name] = {
        "made": provenance(),
        "pictures": {split: len(job.data.split(split)) for split in ("train", "test")},
        "config": job.config.to_dict(),
        "results": table,
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"results: {args.out}")


if __name__ == "__main__":
    main()
