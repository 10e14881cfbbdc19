"""The pointing game on real boxes: the part of ``figure5.py`` for ``--data voc:PATH``.

For every class that a test picture shows and of which it has boxes: does the peak of the class's
confidence map lie in one of them? Beside it stand chance, the share of the picture that the boxes
cover, and the centre of the picture, which photographers favour. (Zhang et al., "Top-down Neural
Attention by Excitation Backprop", ECCV 2016, without their tolerance of 15 pixels.)
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from machine import weights_of
from PIL import Image, ImageDraw

from mpp_jax.cli import stages
from mpp_jax.cli.console import Console
from mpp_jax.config import Encoder, Pyramid, Run, Svm
from mpp_jax.data import Dataset, Item, open_dataset
from mpp_jax.maps.accumulation import Reading
from mpp_jax.maps.overlays import panels
from mpp_jax.maps.picture_maps import map_pictures
from mpp_jax.maps.pointing import CENTRE, covered_share, inside, peak
from mpp_jax.progress import Watcher
from mpp_jax.report.certainty import wilson_interval
from mpp_jax.runs.model import Model, load_model, open_model
from mpp_jax.runs.settings import Job
from mpp_jax.weights.load import load_network

READINGS: tuple[Reading, ...] = ("sum", "vote")
MAP_SIDE = 256


class Pointed(NamedTuple):
    """One class in one picture.

    Attributes:
        name: the class.
        hit: whether the map's peak lies in a box of it.
        chance: share of the picture that its boxes cover.
        centre: whether the picture's centre lies in one.
    """

    name: str
    hit: bool
    chance: float
    centre: bool


def trained(args: argparse.Namespace) -> tuple[Model, Dataset]:
    """Return a model and its data: the one of ``--model``, or one that is trained here."""
    data = open_dataset(args.data, limit_per_class=args.limit_per_class)
    if args.model is not None:
        return load_model(args.model), data
    weights = weights_of(args.network, args.weights)
    network = load_network(args.network, weights)
    config = Run(
        pyramid=Pyramid(tuple(range(args.scales)), args.layer),
        encoder=Encoder(pca=args.pca, components=args.components, l2="before"),
        svm=Svm(c=1.0),
        pooling=tuple(args.methods),
        seed=args.seed,
    )
    stages.run(Job(data, network, config, args.run, weights), Console(), maps=args.drawn)
    return replace(open_model(args.run / "model"), network=network), data


Boxed = dict[str, list[Any]]
"""The places of a picture's boxes, by class."""


def boxed_items(data: Dataset, model: Model) -> list[tuple[Item, Boxed]]:
    """Return the test pictures with boxes of classes that they show and the model knows."""
    found = []
    for item in data.split("test"):
        shown = [data.classes[label] for label in item.labels]
        boxes = () if item.boxes is None else item.boxes()
        places = {n: [b.place for b in boxes if b.name == n] for n in shown if n in model.classes}
        places = {name: held for name, held in places.items() if held}
        if places:
            found.append((item, places))
    return found


def pointed(
    model: Model, items: Sequence[tuple[Item, Boxed]], method: str, reading: Reading
) -> Iterator[Pointed]:
    """Play the game for one representation and reading."""
    found = map_pictures(
        model,
        [item for item, _ in items],
        method=method,
        classes=model.classes,
        reading=reading,
        max_side=MAP_SIDE,
        on_skip=print,
    )
    for maps in Watcher().bar(found, f"{method}, {reading}", "picture"):
        for name, places in items[maps.position][1].items():
            point = peak(maps.maps[maps.classes.index(name)])
            yield Pointed(
                name, inside(point, places), covered_share(places), inside(CENTRE, places)
            )


def figures_of(rows: Sequence[Pointed]) -> dict[str, Any]:
    """Return hits, chance and centre by class, their means over classes, and over all pairs."""

    def means(some: Sequence[Pointed]) -> dict[str, float]:
        keys = ("hit", "chance", "centre")
        return {key: float(np.mean([getattr(row, key) for row in some])) for key in keys}

    names = sorted({row.name for row in rows})
    by_class = {name: [row for row in rows if row.name == name] for name in names}
    table = {name: {"pairs": len(some)} | means(some) for name, some in by_class.items()}
    average = {
        key: float(np.mean([row[key] for row in table.values()]))
        for key in ("hit", "chance", "centre")
    }
    everything = means(rows)
    interval = wilson_interval(everything["hit"], len(rows))
    return {
        "classes": table,
        "mean_of_classes": average,
        "all": {"pairs": len(rows), **everything, "hit_interval": list(interval)},
    }


def draw(model: Model, item: Item, places: Boxed, method: str, place: Path) -> None:
    """Draw a picture with its boxes, and the maps of the classes that have some."""
    [found] = map_pictures(
        model, [item], method=method, classes=list(places), max_side=400, on_skip=print
    )
    outlined = Image.fromarray(found.picture)
    height, width = found.picture.shape[:2]
    for boxes in places.values():
        for top, left, bottom, right in boxes:
            corners = (left * width, top * height, right * width - 1, bottom * height - 1)
            ImageDraw.Draw(outlined).rectangle(corners, outline="cyan", width=3)
    panels(np.asarray(outlined), found.maps, list(found.classes)).save(place)
    print(place)


def play(args: argparse.Namespace) -> dict[str, Any]:
    """Play the game with every representation, print the figures and return the record."""
    model, data = trained(args)
    items = boxed_items(data, model)
    if not items:
        raise SystemExit(f"error: {args.data}: no test picture with a box of a class that it shows")
    methods = [method for method in args.methods if method in model.svms] or [model.primary]
    record: dict[str, Any] = {"pictures": len(items), "methods": {}}
    for method in methods:
        for reading in READINGS:
            found = figures_of(list(pointed(model, items, method, reading)))
            record["methods"].setdefault(method, {})[reading] = found
            print(f"{method}, {reading}: in the box / chance / centre, %")
            rows = found["classes"] | {"mean of classes": found["mean_of_classes"]}
            for name, row in (rows | {"all pairs": found["all"]}).items():
                shares = " / ".join(f"{100 * row[key]:5.1f}" for key in ("hit", "chance", "centre"))
                print(f"  {name:<16} {shares}   {row.get('pairs', '')}")
    args.figures.mkdir(parents=True, exist_ok=True)
    step = max(1, len(items) // max(args.drawn, 1))
    for item, places in items[::step][: args.drawn]:
        draw(model, item, places, methods[0], args.figures / f"{Path(item.id).stem}.png")
    return record | {"model": model.provenance.to_dict() | {"weights_file": None}}
