"""What the commands about new pictures do: predict, confidence and search."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpp_jax.cli.console import Console, made_with
from mpp_jax.cli.opening import open_network
from mpp_jax.data import Skipped
from mpp_jax.maps.accumulation import Reading
from mpp_jax.maps.picture_maps import check_free, free_names, map_pictures, save_maps
from mpp_jax.progress import one_line
from mpp_jax.runs.model import load_model, picture_item
from mpp_jax.runs.provenance import Provenance, open_codebooks_of
from mpp_jax.runs.search import Neighbour, nearest
from mpp_jax.runs.vectors import encode_whole
from mpp_jax.storage.bundle import check_place
from mpp_jax.storage.store import Store


def predict(
    model_folder: Path,
    pictures: Sequence[str],
    weights: str | None,
    method: str | None,
    top: int,
    as_json: bool,
    console: Console,
) -> int:
    """Rank the classes of new pictures."""
    model = load_model(model_folder, weights)
    made = model.provenance
    console.say(made_with(made.network, made.weights_sha256))
    prediction = model.predict(pictures, method)
    reasons = {entry.position: entry.reason for entry in prediction.skipped}
    ranked = [prediction.ranked(i, top) for i in range(len(pictures))]
    if as_json:
        entries = [
            {
                "path": path,
                "classes": [{"class": name, "score": value} for name, value in ranked[i]],
                "error": reasons.get(i),
                **_maker(made),
            }
            for i, path in enumerate(pictures)
        ]
        console.result(json.dumps(entries, indent=1, allow_nan=False))
    else:
        for i, path in enumerate(pictures):
            if i not in reasons:
                console.result(
                    f"{one_line(path)}: "
                    + ", ".join(f"{name} {value:+.3f}" for name, value in ranked[i])
                )
    return console.skipped([(pictures[i], reason) for i, reason in sorted(reasons.items())])


def confidence(
    model_folder: Path,
    pictures: Sequence[str],
    weights: str | None,
    method: str | None,
    classes: Sequence[str] | None,
    console: Console,
    *,
    out: Path,
    top: int,
    reading: Reading,
    bias: bool,
    max_side: int,
) -> int:
    """Map the confidence in new pictures, as arrays and drawn over them."""
    model = load_model(model_folder, weights)
    check_place(out)
    items = [picture_item(i, picture) for i, picture in enumerate(pictures)]
    names = free_names(pictures)
    check_free(out, names)
    skipped: list[Skipped] = []
    found = map_pictures(
        model,
        items,
        method=method,
        classes=classes,
        top=top,
        reading=reading,
        bias=bias,
        max_side=max_side,
        on_skip=skipped.append,
    )
    for maps in found:
        out.mkdir(parents=True, exist_ok=True)
        place = out / names[maps.position]
        save_maps(place, maps, method or model.primary, reading)
        scores = ", ".join(
            f"{name} {value:+.3f}" for name, value in zip(maps.classes, maps.scores, strict=True)
        )
        console.result(
            f"{one_line(pictures[maps.position])}: {one_line(str(place))}.png ({scores})"
        )
    return console.skipped([(pictures[entry.position], entry.reason) for entry in skipped])


def search(
    store_folder: Path,
    pictures: Sequence[str],
    weights: str | None,
    method: str | None,
    top: int,
    as_json: bool,
    console: Console,
) -> int:
    """Find the stored pictures that are most similar to new ones."""
    store = Store.open(store_folder)
    codebooks, made = open_codebooks_of(store)
    name = made.config.primary if method is None else method.lower()
    dimension = store.dimension(name)  # refuses what is not stored
    network = open_network(made.network, made.find_weights(weights), made.config.dtype, console)
    made.check_network(network)
    items = [picture_item(i, picture) for i, picture in enumerate(pictures)]
    skipped: list[Skipped] = []
    vectors = np.zeros((len(items), dimension), np.float32)
    for index, part in encode_whole(
        network, items, codebooks, made.config, name, on_skip=skipped.append
    ):
        vectors[index] = part
    reasons = {entry.position: entry.reason for entry in skipped}
    found = nearest(store, name, vectors, top)
    if as_json:
        entries = [
            {
                "path": path,
                "neighbours": [] if i in reasons else [_entry(n, store) for n in found[i]],
                "error": reasons.get(i),
                **_maker(made),
            }
            for i, path in enumerate(pictures)
        ]
        console.result(json.dumps(entries, indent=1, allow_nan=False))
    else:
        for i, path in enumerate(pictures):
            if i not in reasons:
                console.result(f"{one_line(path)}:")
                for neighbour in found[i]:
                    entry = _entry(neighbour, store)
                    classes = ", ".join(entry["classes"])
                    console.result(
                        f"  {entry['similarity']:.4f}  {one_line(entry['path'])}  ({classes})"
                    )
    return console.skipped([(pictures[i], reason) for i, reason in sorted(reasons.items())])


def _maker(made: Provenance) -> dict[str, str]:
    """Return network and weights, which each entry states so that it can be read by itself."""
    return {"network": made.network, "weights_sha256": made.weights_sha256}


def _entry(neighbour: Neighbour, store: Store) -> dict[str, Any]:
    item, similarity = neighbour
    return {
        "path": item.id,
        "split": item.split,
        "classes": [store.classes[label] for label in item.labels],
        "similarity": similarity,
    }
