"""Centred objects: pictures that one crop shows whole, written as folders of class folders.

Two sets, both seeded, so that a larger one begins with the pictures of a smaller one:

- *objects* are painted. A class is a pair (outer shape, inner shape) of four shapes, 16 in all (or
  of up to seven): the outer one fills 3/4 to the whole of the picture, the inner one lies on its
  middle. Colours, ground, light, turns (up to 30 degrees) and clutter behind and before them are
  random. Every shape is outer in as many classes as it is inner, so that no detail by itself says
  which class it is; that takes a view of both.
- *crops* are boxes of photographs in VOC's layout with a margin around them, one a picture.
"""

import itertools
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from mpp_jax.data import clutter_paint as paint
from mpp_jax.data import open_dataset
from mpp_jax.data.clutter_paint import Draws, Look, Placed
from mpp_jax.data.clutter_shapes import SHAPES
from mpp_jax.data.dataset import SPLITS, seeded_order
from mpp_jax.data.decode import decode_picture

NAMES = ("arrow", "crescent", "cross", "ring", "star", "gear", "grid")
MARGIN = 0.15
"""Of a box's sides, on each side of it."""
SMALLEST = 80
"""Pixels of the shorter side of a box that is taken."""


def draw_object(outer: str, inner: str, split: str, index: int, seed: int = 0) -> np.ndarray:
    """Draw a picture of an object.

    Args:
        outer: the large shape, one of `NAMES`.
        inner: the shape on it, likewise.
        split: "train" or "test".
        index: number of the picture among those of its class.
        seed: of the set.

    Returns:
        (H, W, 3) uint8, sides of 224 to 320 pixels.
    """
    which = NAMES.index(outer) * len(NAMES) + NAMES.index(inner)
    draws = Draws(seed, SPLITS.index(split), which, index)
    height, width = (draws.whole(224, 320) for _ in range(2))
    side = min(height, width)
    picture = paint.ground(draws, height, width)
    light = draws.uniform(0, 2 * math.pi)

    def clutter(count: int, largest: float) -> None:
        for _ in range(count):
            y, x = draws.uniform(0, height), draws.uniform(0, width)
            diameter = side * draws.geometric(0.1, largest)
            place = Placed(y, x, diameter, draws.uniform(0, 2 * math.pi))
            shape, first = paint.clutter_shape(draws), paint.colour(draws)
            second = first + 0.35 * (paint.colour(draws) - first)
            paint.lay(picture, shape, place, _lit(draws, first, second, light))

    clutter(draws.whole(3, 8), 0.5)
    diameter = side * draws.uniform(0.75, 1.0)
    y, x = (part / 2 + side * draws.uniform(-0.06, 0.06) for part in (height, width))
    behind = [picture[height // 4 : -height // 4, width // 4 : -width // 4].mean(axis=(0, 1))]
    for name, share in ((outer, 1.0), (inner, draws.uniform(0.35, 0.55))):
        first = paint.colour_unlike(draws, behind, 0.5)
        second = paint.colour_unlike(draws, [*behind, first], 0.4)
        place = Placed(y, x, share * diameter, draws.uniform(-math.pi / 6, math.pi / 6))
        paint.lay(picture, SHAPES[name], place, _lit(draws, first, second, light))
        behind = [first, second]
    clutter(draws.whole(0, 2), 0.25)
    return paint.finish(picture, draws)


def _lit(draws: Draws, first: np.ndarray, second: np.ndarray, light: float) -> Look:
    strength = draws.uniform(0.0, 0.3)
    return Look(first, second, (strength * math.sin(light), strength * math.cos(light)))


def write_objects(folder: Path, shapes: int, train: int, test: int, seed: int = 0) -> Path:
    """Write the painted set, ``train/<class>/NNN.png`` and ``test``; what is there stays.

    Args:
        folder: made if absent.
        shapes: how many of `NAMES` there are; each pair of them is a class.
        train: pictures of each class.
        test: likewise.
        seed: of the set.
    """
    for outer, inner in itertools.product(NAMES[:shapes], repeat=2):
        for split, count in (("train", train), ("test", test)):
            for index in range(count):
                file = folder / split / f"{outer}_{inner}" / f"{index:03d}.png"
                _write(file, partial(draw_object, outer, inner, split, index, seed))
    return folder


def write_crops(folder: Path, voc: Path, classes: tuple[str, ...], train: int, test: int) -> Path:
    """Write boxes of photographs, cropped, as `write_objects` does.

    The largest box of each picture is taken, where it is large enough and of one of the classes;
    training pictures come from the data's training pictures, and test pictures from its others.

    Raises:
        SystemExit: too few boxes of a class.
    """
    data = open_dataset(f"voc:{voc}")
    for split, count in (("train", train), ("test", test)):
        items = {item.id: item for item in data.split(split)}
        found = {name: [] for name in classes}
        for key in seeded_order(items, 0, "centred"):
            item = items[key]
            boxes = item.boxes() if item.boxes is not None else ()
            if not boxes or all(len(held) == count for held in found.values()):
                continue
            box = max(boxes, key=lambda b: _area(b.place))
            if box.name not in found or len(found[box.name]) == count:
                continue
            picture = decode_picture(item.source())
            height, width = picture.shape[:2]
            top, left, bottom, right = box.place
            if min((bottom - top) * height, (right - left) * width) >= SMALLEST:
                found[box.name].append(_crop(picture, box.place))
        for name, pictures in found.items():
            if len(pictures) < count:
                raise SystemExit(f"error: {len(pictures)} boxes of {name} in {split}, not {count}")
            for index, picture in enumerate(pictures):
                _write(folder / split / name / f"{index:03d}.png", partial(_given, picture))
    return folder


def _area(place: tuple[float, float, float, float]) -> float:
    return (place[2] - place[0]) * (place[3] - place[1])


def _crop(picture: np.ndarray, place: tuple[float, float, float, float]) -> np.ndarray:
    """Return what a box holds, with a margin as far as the picture goes."""
    height, width = picture.shape[:2]
    top, left, bottom, right = place
    tall, wide = MARGIN * (bottom - top), MARGIN * (right - left)
    rows = slice(round(max(top - tall, 0) * height), round(min(bottom + tall, 1) * height))
    columns = slice(round(max(left - wide, 0) * width), round(min(right + wide, 1) * width))
    return picture[rows, columns]


def _given(picture: np.ndarray) -> np.ndarray:
    return picture


def _write(file: Path, draw: Callable[[], np.ndarray]) -> None:
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw()).save(file)
