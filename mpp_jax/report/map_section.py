"""The confidence maps of ``report.html``: pictures with boxes, overlays and their peaks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from mpp_jax.data import Box
from mpp_jax.maps.pointing import inside
from mpp_jax.report.figures import jpeg_uri


@dataclass(frozen=True)
class Overlay:
    """The map of one class over a picture.

    Attributes:
        name: the class.
        score: the classifier's score of the whole picture.
        pixels: (h, w, 3) uint8, the map laid over the picture.
        peak: (y, x) of the map's highest point, as shares of height and width.
    """

    name: str
    score: float
    pixels: np.ndarray = field(repr=False)
    peak: tuple[float, float]


@dataclass(frozen=True)
class MapExample:
    """One picture with the maps of some classes.

    Attributes:
        id: its name.
        pixels: (h, w, 3) uint8, the picture, reduced.
        present: names of the classes that it holds.
        overlays: what is shown of it.
        boxes: the objects' boxes; None where they are unknown.
    """

    id: str
    pixels: np.ndarray = field(repr=False)
    present: frozenset[str]
    overlays: tuple[Overlay, ...]
    boxes: tuple[Box, ...] | None = None


@dataclass(frozen=True)
class MapGallery:
    """What the section shows.

    Attributes:
        method: the representation whose maps these are.
        reading: what was accumulated: "sum" or "vote".
        examples: pictures; empty where there are no maps.
        reason: why there are none; empty where there are some.
        chosen: why this representation, to stand behind its name; empty where it was named.
    """

    method: str = ""
    reading: str = "sum"
    examples: tuple[MapExample, ...] = ()
    reason: str = "None were made; mpp-jax run --maps N shows them for N test pictures."
    chosen: str = ""


class Panel(NamedTuple):
    """One picture of the section, as the template shows it; styles are CSS."""

    image: str  # data URI
    title: str
    score: str
    kind: str  # "picture", "held" (the class is in the picture) or "other"
    boxes: tuple[tuple[str, str], ...]  # (class, style)
    peak: str  # style; empty where there is none
    verdict: str  # whether the peak lies in a box of the class; empty where that is unknown


class Row(NamedTuple):
    """A picture and its maps."""

    name: str
    aspect: str  # width over height
    panels: tuple[Panel, ...]


def map_rows(gallery: MapGallery) -> dict[str, Any]:
    """Return the section's rows, and how many peaks lie in a box of the map's class.

    Only maps of classes that the picture holds count.
    """
    rows, hits, counted = [], 0, 0
    for example in gallery.examples:
        height, width = example.pixels.shape[:2]
        boxes = example.boxes or ()
        original = Panel(
            jpeg_uri(example.pixels), "", "", "picture", _styles(boxes), peak="", verdict=""
        )
        panels = [original]
        for overlay in example.overlays:
            mine = [box for box in boxes if box.name == overlay.name]
            held = overlay.name in example.present
            verdict = ""
            if held and mine:
                hit = inside(overlay.peak, [box.place for box in mine])
                hits, counted = hits + hit, counted + 1
                verdict = "peak inside" if hit else "peak outside"
            panels.append(
                Panel(
                    jpeg_uri(overlay.pixels),
                    overlay.name,
                    f"{overlay.score:+.2f}",
                    "held" if held else "other",
                    _styles(mine),
                    "top:{:.2%};left:{:.2%}".format(*overlay.peak),
                    verdict,
                )
            )
        rows.append(Row(example.id, f"{width / height:.4f}", tuple(panels)))
    return {"rows": rows, "hits": hits, "counted": counted, "boxed": _boxed(gallery.examples)}


def _boxed(examples: Iterable[MapExample]) -> bool:
    return any(example.boxes for example in examples)


def _styles(boxes: Iterable[Box]) -> tuple[tuple[str, str], ...]:
    styles = []
    for box in boxes:
        top, left, bottom, right = box.place
        place: Mapping[str, float] = {
            "top": top,
            "left": left,
            "width": right - left,
            "height": bottom - top,
        }
        styles.append((box.name, ";".join(f"{key}:{value:.2%}" for key, value in place.items())))
    return tuple(styles)
