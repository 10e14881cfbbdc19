r"""Clutter: generated scenes of objects at all sizes, with labels and boxes.

A scene is a textured ground with random clutter, and on it one to three objects of ten classes
(`CLASSES`) that differ in outline and surface. Colours, rotations, places and light are
random; an object's diameter runs from 1/8 of the picture's shorter side to the whole of it, its
logarithm uniform, so each of the three octaves (`BANDS`) holds as many. That makes the set a
yardstick for representations that ought to keep small objects and to tell where an object is.

Scene ``i`` of a split follows from ``(seed, split, i)`` alone: every process and platform makes the
same bytes, nothing is stored, and a larger set begins with the scenes of a smaller one. The first
object of scene ``i`` has class ``i mod 10`` and band ``(i div 10) mod 3``; the others are drawn.
Small objects lie on top of large ones. Boxes are *amodal*: around the whole object, also where
another one hides a part of it (at most a quarter).
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

import numpy as np

from mpp_jax.data import clutter_paint as paint
from mpp_jax.data.clutter_paint import Draws, Look, Placed
from mpp_jax.data.clutter_shapes import SHAPES
from mpp_jax.data.dataset import SPLITS, Box, Dataset, Item, make_dataset

CLASSES: Final = tuple(SHAPES)
BANDS: Final = {"small": (1 / 8, 1 / 4), "medium": (1 / 4, 1 / 2), "large": (1 / 2, 1.0)}
"""Band -> range of an object's diameter, in shorter sides of the picture."""
_TRIES = 20


@dataclass(frozen=True)
class Clutter:
    """Which scenes.

    Attributes:
        train: training scenes, at least one for each class.
        test: test scenes.
        seed: another seed makes other scenes.
        sides: shortest and longest side of a picture in pixels; height and width are drawn apart.
        most: objects in a scene, at most.
    """

    train: int = 300
    test: int = 300
    seed: int = 0
    sides: tuple[int, int] = (256, 384)
    most: int = 3

    def __post_init__(self) -> None:
        if self.train < len(CLASSES):
            raise ValueError(f"train must be at least {len(CLASSES)}, got {self.train}")
        if self.test < 0 or self.seed < 0 or self.most < 1:
            raise ValueError(
                "test and seed must be 0 or more and most at least 1, got "
                f"{self.test}, {self.seed} and {self.most}"
            )
        low, high = self.sides
        if not 64 <= low <= high:
            raise ValueError(f"sides must be (low, high) with 64 <= low <= high, got {self.sides}")


class SceneObject(NamedTuple):
    """An object in a scene.

    Attributes:
        label: its class, an index of `CLASSES`.
        box: (ymin, xmin, ymax, xmax) in [0, 1], of the picture's height and width, as in TFDS.
        size: diameter of the circle around it, in shorter sides of the picture: 1/8 to 1.
    """

    label: int
    box: tuple[float, float, float, float]
    size: float

    @property
    def band(self) -> str:
        """The key of `BANDS` whose range holds the size."""
        return next(name for name, (_, high) in BANDS.items() if self.size < high)


class Scene(NamedTuple):
    """A rendered scene: ``(H, W, 3)`` uint8 RGB, and its objects, largest first."""

    picture: np.ndarray
    objects: tuple[SceneObject, ...]


class _Layout(NamedTuple):
    height: int
    width: int
    objects: tuple[tuple[int, float, Placed], ...]  # (label, size, place), largest first


def scene(clutter: Clutter, split: str, index: int) -> Scene:
    """Render one scene, in some 20 ms.

    Args:
        clutter: which set.
        split: ``"train"`` or ``"test"``.
        index: number of the scene from 0. It may lie beyond the set's own size.

    Raises:
        ValueError: an unknown split or a negative index.
    """
    layout = _layout(clutter, split, index)
    draws = _draws(clutter, split, index, 1)
    picture = paint.ground(draws, layout.height, layout.width)
    side = min(layout.height, layout.width)
    light = draws.uniform(0, 2 * math.pi)
    for _ in range(draws.whole(4, 10)):
        diameter = side * draws.geometric(0.08, 0.6)
        place = Placed(
            draws.uniform(0, layout.height),
            draws.uniform(0, layout.width),
            diameter,
            draws.uniform(0, 2 * math.pi),
        )
        shape = paint.clutter_shape(draws)
        first = paint.colour(draws)
        second = first + 0.35 * (paint.colour(draws) - first)
        paint.lay(picture, shape, place, _lit(draws, first, second, light))
    objects = []
    for label, size, place in layout.objects:
        behind = _mean_around(picture, place)
        first = paint.colour_unlike(draws, [behind], 0.6)
        second = paint.colour_unlike(draws, [behind, first], 0.6)
        look = _lit(draws, first, second, light)
        top, left, bottom, right = paint.lay(picture, SHAPES[CLASSES[label]], place, look)
        box = (
            *(top / layout.height, left / layout.width),
            *(bottom / layout.height, right / layout.width),
        )
        objects.append(SceneObject(label, box, size))
    return Scene(paint.finish(picture, draws), tuple(objects))


def scene_labels(clutter: Clutter, split: str, index: int) -> tuple[int, ...]:
    """Return the classes in a scene, rising, without rendering it; arguments as for `scene`."""
    return tuple(sorted({label for label, _, _ in _layout(clutter, split, index).objects}))


def open_clutter(clutter: Clutter | None = None) -> Dataset:
    """Return the set as a multi-label data set whose pictures are rendered when they are read.

    Ids and order are those of ``tfds:clutter``, the same set prepared on disk (`clutter_tfds`).
    """
    clutter = clutter or Clutter()
    items = [
        Item(
            f"{split}/{index:06d}",
            scene_labels(clutter, split, index),
            split,
            read=partial(_picture, clutter, split, index),
            boxes=partial(_boxes, clutter, split, index),
        )
        for split in SPLITS
        for index in range(getattr(clutter, split))
    ]
    return make_dataset("clutter", CLASSES, items, multi_label=True)


def _picture(clutter: Clutter, split: str, index: int) -> np.ndarray:
    return scene(clutter, split, index).picture


def _boxes(clutter: Clutter, split: str, index: int) -> tuple[Box, ...]:
    objects = scene(clutter, split, index).objects
    return tuple(Box(CLASSES[entry.label], entry.box) for entry in objects)


def _draws(clutter: Clutter, split: str, index: int, purpose: int) -> Draws:
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
    if index < 0:
        raise ValueError(f"index must be 0 or more, got {index}")
    return Draws(clutter.seed, SPLITS.index(split), index, purpose)


def _layout(clutter: Clutter, split: str, index: int) -> _Layout:
    """Draw sides, classes, sizes and places of a scene."""
    draws = _draws(clutter, split, index, 0)
    height, width = (draws.whole(*clutter.sides) for _ in range(2))
    bands = tuple(BANDS.values())
    placed: list[tuple[int, float, Placed]] = []
    for number in range(draws.whole(1, clutter.most)):
        label, band = draws.whole(0, len(CLASSES) - 1), draws.whole(0, len(bands) - 1)
        if number == 0:
            label, band = index % len(CLASSES), index // len(CLASSES) % len(bands)
        for _ in range(_TRIES):
            size = draws.geometric(*bands[band])
            place = _place(draws, height, width, size * min(height, width))
            if all(_apart(place, other) for _, _, other in placed):
                placed.append((label, size, place))
                break
    return _Layout(height, width, tuple(sorted(placed, key=lambda entry: -entry[1])))


def _place(draws: Draws, height: int, width: int, diameter: float) -> Placed:
    """Draw a place where the whole object is inside the picture."""
    y, x = (draws.uniform(diameter / 2, side - diameter / 2) for side in (height, width))
    return Placed(y, x, diameter, draws.uniform(0, 2 * math.pi))


def _apart(one: Placed, other: Placed) -> bool:
    """Return whether the smaller one's square hides at most a quarter of the larger one's."""
    reach = (one.diameter + other.diameter) / 2
    small, large = sorted((one.diameter, other.diameter))
    down, across = (
        min(max(reach - abs(a - b), 0.0), small) for a, b in ((one.y, other.y), (one.x, other.x))
    )
    return down * across <= large * large / 4


def _mean_around(picture: np.ndarray, place: Placed) -> np.ndarray:
    """Return the mean colour (3,) of what an object will lie on."""
    top, left = (max(int(c - place.diameter / 2), 0) for c in (place.y, place.x))
    bottom, right = (math.ceil(c + place.diameter / 2) for c in (place.y, place.x))
    return picture[top:bottom, left:right].mean(axis=(0, 1))


def _lit(draws: Draws, first: np.ndarray, second: np.ndarray, light: float) -> Look:
    strength = draws.uniform(0.0, 0.3)
    return Look(first, second, (strength * math.sin(light), strength * math.cos(light)))
