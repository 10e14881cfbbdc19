"""The archives of the paper's tables in their official layouts, with pictures that can be learned.

As in `archives`, but in stripes and noise around each class's colour. By default each has four
classes, two training pictures of each and a test picture (so that programs of one fit all).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from helpers.archives import annotation, lines, save_mat
from helpers.toy import picture

PALETTE = ((40, 60, 200), (210, 60, 50), (50, 190, 70), (200, 190, 60))


def photograph(place: Path, colours: Sequence[Sequence[int]], rng: np.random.Generator) -> None:
    """Write a JPEG, a half of each colour."""
    place.parent.mkdir(parents=True, exist_ok=True)
    halves = [picture(rng, colour, 48, 64 // len(colours)) for colour in colours]
    Image.fromarray(np.concatenate(halves, axis=1)).save(place, "JPEG", quality=90)


VOC_CLASSES = ("bus", "car", "cat", "train")


def write_voc_set(root: Path, train: int = 2, test: int = 1) -> Path:
    """Write VOC2007 with ``train`` + ``test`` pictures of each class, some of two classes.

    Every third picture shows the next class too, as difficult alone where its number is odd.
    """
    classes = VOC_CLASSES
    rng, year = np.random.default_rng(0), root / "VOCdevkit" / "VOC2007"
    numbers = iter(range(1, 10_000))
    for split, count in (("trainval", train), ("test", test)):
        objects: dict[str, Mapping[str, Sequence[bool]]] = {}
        for k in range(count * len(classes)):
            shown = {classes[k % len(classes)]: [False]}
            if k % 3 == 2:
                shown[classes[(k + 1) % len(classes)]] = [k % 2 == 1]
            objects[f"{next(numbers):06d}"] = shown
        main = year / "ImageSets" / "Main"
        lines(main / f"{split}.txt", list(objects))
        for label in classes:
            states = {i: 0 if all(o[label]) else 1 for i, o in objects.items() if label in o}
            lines(main / f"{label}_{split}.txt", [f"{i} {states.get(i, -1):2d}" for i in objects])
        for name, held in objects.items():
            colours = [PALETTE[classes.index(label) % len(PALETTE)] for label in held]
            photograph(year / "JPEGImages" / f"{name}.jpg", colours, rng)
            lines(year / "Annotations" / f"{name}.xml", [annotation(name, held)])
    return year


def write_mit67_set(root: Path, train: int = 2, test: int = 1) -> Path:
    """Write Images, TrainImages.txt and TestImages.txt of four classes."""
    rng = np.random.default_rng(1)
    listed: dict[str, list[str]] = {"Train": [], "Test": []}
    for name, colour in zip(("bar", "gym", "inside_bus", "winecellar"), PALETTE, strict=True):
        for n in range(train + test):
            file = f"{name}/{n:02d}.jpg"
            photograph(root / "Images" / file, [colour], rng)
            listed["Train" if n < train else "Test"].append(file)
    for split, files in listed.items():
        lines(root / f"{split}Images.txt", files)
    return root


def write_flowers_set(root: Path, classes: int = 4) -> Path:
    """Write jpg, imagelabels.mat and setid.mat: one of each class in each of the three parts."""
    rng = np.random.default_rng(2)
    labels = [1 + n % classes for n in range(3 * classes)]
    for number, label in enumerate(labels, 1):
        photograph(root / "jpg" / f"image_{number:05d}.jpg", [PALETTE[label - 1]], rng)
    save_mat(root / "imagelabels.mat", labels=np.array([labels], np.uint8))
    parts = np.arange(1, len(labels) + 1, dtype=np.uint16).reshape(3, -1)
    save_mat(
        root / "setid.mat",
        **{name: part[None] for name, part in zip(("trnid", "valid", "tstid"), parts, strict=True)},
    )
    return root
