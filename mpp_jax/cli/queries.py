"""What the commands about new pictures do: predict and confidence (search: `similar`)."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mpp_jax.cli.console import Console, made_with
from mpp_jax.cli.opening import say_dtype
from mpp_jax.data import Item, Skipped
from mpp_jax.maps.accumulation import Reading
from mpp_jax.maps.picture_maps import check_free, free_names, map_pictures, save_maps
from mpp_jax.progress import one_line
from mpp_jax.report.map_examples import local_method
from mpp_jax.runs.model import load_model
from mpp_jax.runs.provenance import Provenance
from mpp_jax.storage.bundle import check_place


def predict(
    model_folder: Path,
    items: Sequence[Item],
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
    say_dtype(model.opened_network(), made.config.dtype, console)
    prediction = model.predict(items, method)
    ranked = [prediction.ranked(i, top) for i in range(len(items))]

    def found(i: int) -> list[dict[str, Any]]:
        chosen: list[dict[str, Any]] = [{"class": name, "score": s} for name, s in ranked[i]]
        if prediction.probabilities is not None:
            row = dict(zip(model.classes, prediction.probabilities[i].tolist(), strict=True))
            chosen = [one | {"probability": row[one["class"]]} for one in chosen]
        return chosen

    def entry(i: int) -> dict[str, Any]:
        return {"classes": found(i)}

    def lines(i: int) -> str:
        scores = (
            f"{one['class']} {one['score']:+.3f}"
            + (f" ({one['probability']:.1%})" if "probability" in one else "")
            for one in found(i)
        )
        return f"{one_line(items[i].id)}: " + ", ".join(scores)

    return answer(items, prediction.skipped, made, entry, lines, as_json, console)


def confidence(
    model_folder: Path,
    items: Sequence[Item],
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
    say_dtype(model.opened_network(), model.provenance.config.dtype, console)
    check_place(out)
    names = free_names([item.id for item in items])
    check_free(out, names)
    skipped: list[Skipped] = []
    if method is None and (local := local_method(model)) not in (None, model.primary):
        console.say(f"method: {model.primary} has no maps; these are of {local}")
        method = local
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
            f"{one_line(items[maps.position].id)}: {one_line(str(place))}.png ({scores})"
        )
    return console.skipped([(items[entry.position].id, entry.reason) for entry in skipped])


def answer(
    items: Sequence[Item],
    skipped: Sequence[Skipped],
    made: Provenance,
    entry: Callable[[int], dict[str, Any]],
    lines: Callable[[int], str],
    as_json: bool,
    console: Console,
) -> int:
    """Print what was found of each picture, as JSON or as lines; return the exit status.

    Each JSON entry states network and weights, so that it can be read by itself.
    """
    reasons = {one.position: one.reason for one in skipped}
    if as_json:
        maker = {"network": made.network, "weights_sha256": made.weights_sha256}
        entries = [
            {"path": item.id, **entry(i), "error": reasons.get(i), **maker}
            for i, item in enumerate(items)
        ]
        console.result(json.dumps(entries, indent=1, allow_nan=False))
    else:
        for i in range(len(items)):
            if i not in reasons:
                console.result(lines(i))
    return console.skipped([(items[i].id, reason) for i, reason in sorted(reasons.items())])
