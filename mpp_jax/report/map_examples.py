"""Which test pictures a report shows with confidence maps, and their making."""

from collections.abc import Mapping, Sequence
from typing import Any

from mpp_jax.data import Dataset, Item, Skipped
from mpp_jax.maps.accumulation import Reading
from mpp_jax.maps.confidence import check_local
from mpp_jax.maps.overlays import overlay, shown_range
from mpp_jax.maps.picture_maps import PictureMaps, map_pictures
from mpp_jax.maps.pointing import peak
from mpp_jax.pooling import parse
from mpp_jax.progress import Watcher
from mpp_jax.report.figures import THUMBNAIL_SIDE, ranking
from mpp_jax.report.map_section import MapExample, MapGallery, Overlay
from mpp_jax.runs.model import Model

HELD, OTHERS = 3, 1
"""Maps of a picture, at most: of classes that it holds, and of classes that it does not."""


def spread_over_classes(items: Sequence[Item], classes: int, count: int) -> list[Item]:
    """Choose pictures without looking at results.

    Class after class gives one picture, until there are enough; where there are more classes than
    pictures wanted, classes that are evenly spaced. The k-th class gives the picture that lies
    k / classes of the way through its own, so that an order in the set does not matter.

    Args:
        items: pictures.
        classes: number of classes.
        count: pictures wanted; fewer are chosen where there are fewer.
    """
    chosen: list[Item] = []
    few = min(count, classes)
    spaced = [place * classes // few for place in range(few)]
    order = spaced + [label for label in range(classes) if label not in spaced]
    for turn in range(count):
        for label in order:
            mine = [item for item in items if label in item.labels and item not in chosen]
            if mine and len(chosen) < count:
                chosen.append(mine[(len(mine) * label // classes + turn) % len(mine)])
    return chosen


def local_method(model: Model, results: Mapping[str, Any] | None = None) -> str | None:
    """Return the best representation of a model that has maps; None where none has.

    Args:
        model: the model.
        results: figures by representation, as in ``metrics.json``: the highest is the best. None:
            the primary one is, and then those named before others.
    """
    config = model.provenance.config
    names = [model.primary, *(name for name in model.svms if name != model.primary)]
    if results is not None:
        single = results[model.primary]["top1"] is not None
        ranked = ranking(results, "top1" if single else "map11")
        names = [name for name in ranked if name in model.svms]
    for name in names:
        try:
            check_local(parse(name, config.features, config.pyramid.layer))
        except ValueError:
            continue
        return name
    return None


def map_gallery(
    model: Model,
    data: Dataset,
    count: int,
    *,
    results: Mapping[str, Any] | None = None,
    reading: Reading = "sum",
    watcher: Watcher | None = None,
) -> MapGallery:
    """Map the confidence of a model in some test pictures.

    Args:
        model: with its network.
        data: its classes are the model's.
        count: test pictures shown; of those with boxes, where there are any.
        results: figures by representation: the best one's maps are shown, see `local_method`.
        reading: see `mpp_jax.maps.confidence`.
        watcher: is shown how far the work is; None for a new one.

    Raises:
        ValueError: the model has no network.
    """
    method = local_method(model, results)
    if method is None:
        return MapGallery(
            reason="None: the representations of this run read crops or files, "
            "not descriptors that have a place in the picture."
        )
    tested = data.split("test")
    boxed = [item for item in tested if item.boxes is not None]
    items = spread_over_classes(boxed or tested, len(data.classes), count)
    skipped: list[Skipped] = []
    found = map_pictures(
        model,
        items,
        method=method,
        top=len(model.classes),
        reading=reading,
        max_side=THUMBNAIL_SIDE,
        on_skip=skipped.append,
    )
    bar = (watcher or Watcher()).bar(found, "confidence maps", "picture")
    examples = {entry.position: _example(items[entry.position], entry, data) for entry in bar}
    reason = "" if examples else "None: no test picture could be read."
    chosen = "" if results is None else ", the best of those here that have maps"
    return MapGallery(method, reading, tuple(examples[k] for k in sorted(examples)), reason, chosen)


def _example(item: Item, found: PictureMaps, data: Dataset) -> MapExample:
    """Return what is shown of a picture; each map has its own range, for it is to show where."""
    held = {data.classes[label] for label in item.labels}
    unclear = {data.classes[label] for label in item.ignored}
    order = range(len(found.classes))  # by falling score
    shown = [i for i in order if found.classes[i] in held][:HELD]
    shown += [i for i in order if found.classes[i] not in held | unclear][:OTHERS]
    return MapExample(
        id=item.id,
        pixels=found.picture,
        present=frozenset(held),
        overlays=tuple(
            Overlay(
                name=found.classes[i],
                score=float(found.scores[i]),
                pixels=overlay(found.picture, found.maps[i], *shown_range(found.maps[i])),
                peak=peak(found.maps[i]),
            )
            for i in shown
        ),
        boxes=None if item.boxes is None else item.boxes(),
    )
