"""Clutter: are small objects kept, and do confidence maps point at objects?

Two claims about Multi-scale Pyramid Pooling, measured on the generated scenes of
`mpp_jax.data.clutter` (ten classes, objects from 1/8 of the picture to the whole of it):

- *Small objects.* For each octave of object size (small: diameter 1/8 to 1/4 of the picture's
  shorter side, medium: to 1/2, large: to 1) the pictures whose largest object of a class lies in
  the octave are ranked among those without the class: average precision, and recall where one in
  ten pictures without the class is taken for one with it; means over classes. Differences to MPP
  come with 95% intervals from a bootstrap over test pictures.
- *Pointing.* For every class in a test picture, whether the peak of its confidence map lies in a
  box of the class, beside a point drawn uniformly and the picture's centre: they look at nothing.

    python experiments/clutter.py                         the network in the package: 3 minutes
    python experiments/clutter.py --network squeezenet    4.5 minutes on 2 cores
    python experiments/clutter.py --quick                 1 minute, another result file

``squeezenet`` is read from ``$MPP_JAX_SHARED/data/squeezenet`` (default ../shared) unless
``--weights`` names a file. Each network and layer has an entry in the result file; others stay. The
run's folder (``--keep``) holds codebook and encodings, with which a second call goes on.

Expected: with SqueezeNet MPP keeps the small objects that NFK loses, by about 10 points of average
precision, and FC7, itself a mean over positions there, keeps them as well; most maps point at their
object, where chance hits one in six. The network in the package hardly sees small objects; its MPP
leads its FC7 at every size, but not NFK. Results: ``results/clutter.json``, and the table in
``README.md`` beside this file.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from machine import provenance, weights_of

from mpp_jax import metrics
from mpp_jax.cli import stages
from mpp_jax.cli.console import Console
from mpp_jax.config import Encoder, Pyramid, Run
from mpp_jax.data.clutter import BANDS, CLASSES, Clutter, SceneObject, open_clutter, scene
from mpp_jax.maps.accumulation import Reading
from mpp_jax.maps.picture_maps import map_pictures
from mpp_jax.maps.pointing import CENTRE, covered_share, inside, peak
from mpp_jax.memory import keep_freed_memory
from mpp_jax.nets import Network
from mpp_jax.progress import Watcher
from mpp_jax.runs import pipeline
from mpp_jax.runs.model import Model, open_model
from mpp_jax.runs.settings import Job
from mpp_jax.storage.store import Store
from mpp_jax.weights.load import load_network

METHODS = ("mpp", "nfk", "csf", "avg", "fc7")
RIVALS = ("nfk", "fc7")
FALSE_ALARMS = 0.1
MAP_SIDE = 256
Objects = Sequence[tuple[SceneObject, ...]]


def largest(objects: tuple[SceneObject, ...], label: int) -> SceneObject | None:
    """Return the largest object of a class in a scene."""
    mine = [entry for entry in objects if entry.label == label]
    return max(mine, key=lambda entry: entry.size) if mine else None


def band_targets(scenes: Objects, band: str) -> np.ndarray:
    """Return (N, L): +1 where a class's largest object is in the band, 0 in another, -1 absent."""
    targets = np.full((len(scenes), len(CLASSES)), -1.0)
    for row, objects in enumerate(scenes):
        for label in {entry.label for entry in objects}:
            found = largest(objects, label)
            targets[row, label] = float(found is not None and found.band == band)
    return targets


def mean_recall(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean over classes of the recall at a false alarm rate of `FALSE_ALARMS`."""
    recalls = []
    for value, target in zip(scores.T, targets.T, strict=True):
        if (target > 0).any() and (target < 0).any():
            threshold = np.quantile(value[target < 0], 1 - FALSE_ALARMS)
            recalls.append(np.mean(value[target > 0] > threshold))
    return float(np.mean(recalls))


def band_figures(
    scores: dict[str, np.ndarray], targets: np.ndarray, draws: int
) -> dict[str, dict[str, Any]]:
    """Return average precision and recall of each method, and how far MPP leads its rivals."""
    figures: dict[str, dict[str, Any]] = {
        method: {
            "map": metrics.mean_average_precision(value, targets, "area"),
            "recall": mean_recall(value, targets),
        }
        for method, value in scores.items()
    }
    rng = np.random.default_rng(0)
    ahead: dict[str, dict[str, list[float]]] = {
        rival: {"map": [], "recall": []} for rival in RIVALS
    }
    for _ in range(draws):
        rows = rng.integers(len(targets), size=len(targets))
        drawn = {
            method: (
                metrics.mean_average_precision(scores[method][rows], targets[rows], "area"),
                mean_recall(scores[method][rows], targets[rows]),
            )
            for method in ("mpp", *RIVALS)
        }
        for rival in RIVALS:
            for k, name in enumerate(("map", "recall")):
                ahead[rival][name].append(drawn["mpp"][k] - drawn[rival][k])
    for rival, values in ahead.items():
        figures[f"mpp - {rival}"] = {
            name: {
                "difference": figures["mpp"][name] - figures[rival][name],
                "interval": [float(q) for q in np.quantile(held, (0.025, 0.975))],
            }
            for name, held in values.items()
        }
    return figures


def pointing(
    model: Model, items: Sequence[Any], scenes: Objects, reading: Reading
) -> dict[str, dict[str, float]]:
    """Return pointing accuracy by band of the class's largest object, and over all; and chance."""
    rows: dict[str, list[tuple[float, float, float]]] = {band: [] for band in BANDS}
    skipped: list[Any] = []
    found = map_pictures(
        model,
        items,
        method="mpp",
        classes=model.classes,
        reading=reading,
        max_side=MAP_SIDE,
        on_skip=skipped.append,
    )
    for entry in Watcher().bar(found, f"maps, {reading}", "picture"):
        objects = scenes[entry.position]
        for label in sorted({o.label for o in objects}):
            boxes = [o.box for o in objects if o.label == label]
            biggest = largest(objects, label)
            assert biggest is not None
            point = peak(entry.maps[label])
            rows[biggest.band].append(
                (inside(point, boxes), covered_share(boxes), inside(CENTRE, boxes))
            )
    if skipped:
        raise RuntimeError(f"scenes that could not be mapped: {skipped}")
    rows["all"] = [row for band in BANDS for row in rows[band]]
    return {
        band: {"pairs": len(held)}
        | dict(zip(("accuracy", "chance", "centre"), np.mean(held, axis=0).tolist(), strict=True))
        for band, held in rows.items()
    }


def measure(
    network: Network, weights: str | None, clutter: Clutter, config: Run, folder: Path, args: Any
) -> dict[str, Any]:
    """Run everything with one network and return its figures."""
    started = time.perf_counter()
    data = open_clutter(clutter)
    stages.run(Job(data, network, config, folder, weights), Console())
    model = replace(open_model(folder / "model"), network=network)
    scores = pipeline.score(model, Store.open(folder / "encodings"))
    scenes = [scene(clutter, "test", index).objects for index in range(clutter.test)]
    result: dict[str, Any] = {
        "weights_sha256": network.weights_sha256,
        "config": config.to_dict(),
        "map": {
            method: metrics.mean_average_precision(value, data.targets("test"), "area")
            for method, value in scores.items()
        },
        "bands": {
            band: band_figures(scores, band_targets(scenes, band), args.bootstrap) for band in BANDS
        },
        "positives": {band: int((band_targets(scenes, band) > 0).sum()) for band in BANDS},
    }
    items = data.split("test")[: args.pointing]
    result["pointing"] = {
        reading: pointing(model, items, scenes, reading) for reading in args.readings
    }
    result["seconds"] = time.perf_counter() - started
    return result


def show(result: dict[str, Any]) -> None:
    """Print the figures in per cent."""
    for band, figures in result["bands"].items():
        for method, held in figures.items():
            if "map" in held and not isinstance(held["map"], dict):
                print(f"{band:<7} {method:<4} {100 * held['map']:5.1f} {100 * held['recall']:5.1f}")
            else:
                low, high = held["map"]["interval"]
                gain = held["map"]["difference"]
                print(
                    f"{band:<7} {method}: {100 * gain:+.1f} ({100 * low:+.1f}..{100 * high:+.1f})"
                )
    for reading, table in result["pointing"].items():
        for band, held in table.items():
            shares = " ".join(f"{k} {100 * held[k]:.1f}" for k in ("accuracy", "chance", "centre"))
            print(f"pointing ({reading}) {band:<7} {held['pairs']:4d} pairs: {shares}")


def scale_numbers(text: str) -> tuple[int, ...]:
    first, _, last = text.partition("-")
    return tuple(range(int(first) - 1, int(last or first)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--network", default="caffenet_mini")
    parser.add_argument("--weights", help="weight file; default: see above")
    parser.add_argument("--scales", type=scale_numbers, default=scale_numbers("1-5"))
    parser.add_argument("--layer", help="activation; default: the network's")
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--components", type=int, default=64)
    parser.add_argument("--pca", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pointing", type=int, default=100, help="test scenes that are mapped")
    parser.add_argument("--readings", nargs="+", default=["sum"], choices=get_args(Reading))
    parser.add_argument("--bootstrap", type=int, default=300)
    parser.add_argument("--keep", type=Path, help="folder of the run; default: a temporary one")
    parser.add_argument("--quick", action="store_true", help="few scenes, three scales")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/clutter.json")
    args = parser.parse_args()
    keep_freed_memory()
    if args.quick:
        args.train = args.test = 60
        args.scales, args.pointing, args.bootstrap = (0, 1, 2), 20, 50
        args.components = 16
        args.out = args.out.with_name("clutter_quick.json")
    weights = weights_of(args.network, args.weights)
    clutter = Clutter(train=args.train, test=args.test, seed=args.seed)
    encoder = Encoder(pca=args.pca, components=args.components, samples=100_000, l2="before")
    config = Run(
        pyramid=Pyramid(args.scales, args.layer), encoder=encoder, pooling=METHODS, seed=args.seed
    )
    network = load_network(args.network, weights)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary) / "run"
        result = measure(network, weights, clutter, config, folder, args)
    show(result)
    record = json.loads(args.out.read_text()) if args.out.exists() else {"networks": {}}
    name = f"{args.network} {network.spec.layer(args.layer).name}"
    record["networks"][name] = {"made": provenance(), "clutter": asdict(clutter)} | result
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"results: {args.out}")


if __name__ == "__main__":
    main()
