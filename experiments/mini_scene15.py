"""How good caffenet_mini is: Scene-15, photographs that it has never seen, against random weights.

Data: ``$MPP_JAX_SHARED/data/scene15`` (default ../shared/data), 1,500 training and 2,985 test
pictures in 15 classes, the split of Lazebnik et al. 2006; a copy that its publisher resized to
200 x 200 pixels.

    python experiments/mini_scene15.py               about 15 minutes on 2 cores
    python experiments/mini_scene15.py --quick       30 pictures a class, 3 scales, small codebook

Every row of the table is one ``mpp-jax run`` with the same settings, by weights:

- ``pretrained``: the file in the package;
- ``random``: He-normal kernels, as `mpp_jax.nets.random_network` draws them;
- ``calibrated``: He-normal kernels, every channel brought to mean 0 and variance 1 before its
  rectification on pictures made by formula: what training starts from, but for conv1;
- ``start``: the same with Gabor functions in conv1: exactly what training starts from;
- ``sift``: dense SIFT instead of a network, whose ``nfk`` is the improved Fisher vector (IFK).

Expected: ``pretrained`` at least 8 points above ``random`` for mpp, and its mpp above nfk and fc7.
Results: ``results/mini_scene15.json``, and the table in ``README.md`` beside this file.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mini_training as training
import numpy as np
from formula_pictures import draw_picture
from machine import provenance, shared

from mpp_jax.nets.caffenet_mini import CAFFENET_MINI
from mpp_jax.nets.network import Network, prepare, random_network
from mpp_jax.weights import save_network

WEIGHTS = ("pretrained", "random", "calibrated", "start", "sift")
METHODS = "fc7,ap10,nfk,csf,mpp"


def calibrated(seed: int, wavelets: bool, pictures: int = 96) -> Network:
    """Return random kernels with the batch normalisation of training folded in."""
    params = training.init_params(jax.random.key(seed), CAFFENET_MINI.layers)
    if wavelets:
        kernel = params["conv1"]["kernel"]
        params["conv1"]["kernel"] = jnp.asarray(
            training.wavelets(kernel.shape[-1], 8, kernel.shape[0])
        )
    side = CAFFENET_MINI.side
    x = np.stack([draw_picture(0, recipe, 0, side) for recipe in range(pictures)])
    blank = random_network(jax.random.key(seed), CAFFENET_MINI)
    _, stats = training.forward(params, blank.preprocess(x), CAFFENET_MINI.layers)
    folded = training.fold(params, stats, CAFFENET_MINI.layers)
    return prepare(dataclasses.replace(blank, params=folded))


def make_weights(name: str, seed: int, folder: Path) -> list[str]:
    """Return the options that choose the weights; these are written to ``folder`` if need be."""
    if name == "sift":
        return ["--network", "sift"]
    options = ["--network", CAFFENET_MINI.name]
    if name == "pretrained":
        return options
    if name == "random":
        network = random_network(jax.random.key(seed), CAFFENET_MINI)
    else:
        network = calibrated(seed, wavelets=name == "start")
    return [*options, "--weights", str(save_network(network, folder / name))]


def run(data: Path, options: list[str]) -> dict[str, Any]:
    """Run ``mpp-jax run`` once and return its ``metrics.json``."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "mpp_jax", "run", str(data), "--out", f"{out}/run"]
        subprocess.run([*command, *options], check=True)
        found: dict[str, Any] = json.loads((Path(out) / "run" / "metrics.json").read_text())
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--weights", default="pretrained,random", help=", ".join(WEIGHTS))
    parser.add_argument("--layers", default="fc7", help="of the network, e.g. pool5,fc6,fc7")
    parser.add_argument("--scales", default="1-4")
    parser.add_argument("--pooling", default=METHODS)
    parser.add_argument("--components", type=int, default=256)
    parser.add_argument("--pca", type=int, default=128, help="at most; pool5 has 96 channels")
    parser.add_argument("--limit-per-class", type=int)
    parser.add_argument("--seed", type=int, default=0, help="of random weights")
    parser.add_argument("--quick", action="store_true", help="30 pictures a class, 3 scales")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results/mini_scene15.json"
    )
    args = parser.parse_args()
    if args.quick:
        args.scales, args.components, args.pca, args.limit_per_class = "1-3", 64, 64, 30
    unknown = set(args.weights.split(",")) - set(WEIGHTS)
    if unknown:
        parser.error(f"--weights: {', '.join(sorted(unknown))} is none of {', '.join(WEIGHTS)}")
    data = shared("scene15")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for weights in args.weights.split(","):
            chosen = make_weights(weights, args.seed, Path(folder))
            for layer in args.layers.split(",") if weights != "sift" else [None]:
                most = CAFFENET_MINI.layer(layer).channels if layer else 128
                options = [*chosen, "--scales", args.scales, "--pooling", args.pooling]
                options += ["--pca", str(min(args.pca, most))]
                options += ["--components", str(args.components)]
                options += ["--layer", layer] if layer else []
                if args.limit_per_class:
                    options += ["--limit-per-class", str(args.limit_per_class)]
                begun = time.perf_counter()
                metrics = run(data, options)
                top1 = {m: round(100 * r["top1"], 2) for m, r in metrics["results"].items()}
                print(f"{weights} {layer or ''}: {top1}", flush=True)
                rows.append(
                    {
                        "weights": weights,
                        "weights_sha256": metrics["weights_sha256"],
                        "layer": layer,
                        "options": options[len(chosen) :],
                        "top1_percent": top1,
                        "pictures": {k: metrics["pictures"][k] for k in ("train", "test")},
                        "seconds": round(time.perf_counter() - begun, 1),
                    }
                )
                # After every row: a run of an hour leaves what it has found.
                record = {"made": provenance(), "seed": args.seed, "rows": rows}
                args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"results: {args.out}")


if __name__ == "__main__":
    main()
