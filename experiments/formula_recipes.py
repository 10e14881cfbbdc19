"""What the variants of a formula picture share: layout, textures, colours and objects.

A recipe stands for a class of pictures; `formula_pictures.py` draws its variants.
"""

import dataclasses

import numpy as np
from formula_textures import Array, Random, Texture, make_texture

LAYOUTS = ("texture", "leaves", "horizon", "room", "street")
SHAPES = ("polygon", "ellipse", "box", "blade", "star")
SKYLINES = ("none", "ridge", "towers", "trees")


@dataclasses.dataclass(frozen=True)
class Objects:
    """Distribution of a recipe's objects; lengths are shares of the picture's side."""

    shape: str
    count: int
    smallest: float
    largest: float
    corners: int
    aspect: float
    upright: float
    skyline: str
    skyline_height: float
    skyline_step: float


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that the variants of a picture share."""

    layout: str
    textures: tuple[Texture, ...]
    colours: Array  # (labels' palette, 2, 3): dark and light ends
    zooms: Array
    objects: Objects
    horizon: float
    vanishing: float
    depth: float
    haze: float


def make_recipe(rng: Random) -> Recipe:
    """Draw the numbers of a recipe."""
    count = 6
    textures = tuple(make_texture(rng) for _ in range(count))
    # Colours of one recipe lie near one line in RGB, mostly along grey, as those of places do.
    base = rng.uniform(0.15, 0.85, (count, 1, 3)) * 0.4 + 0.6 * rng.uniform(0, 1, (count, 1, 1))
    contrast = rng.uniform(0.08, 0.45, (count, 1, 1)) * np.array([-1.0, 1.0])[None, :, None]
    tint = rng.normal(0, 0.08, (count, 2, 3))
    few = rng.random() < 0.5
    objects = Objects(
        shape=str(rng.choice(SHAPES)),
        count=int(rng.integers(2, 14) if few else rng.integers(14, 90)),
        smallest=float(rng.uniform(0.02, 0.08)),
        largest=float(rng.uniform(0.12, 0.5)),
        corners=int(rng.integers(3, 9)),
        aspect=float(np.exp(rng.normal(0, 0.6))),
        upright=float(rng.choice([0.03, 0.15, 3.0])),
        skyline=str(rng.choice(SKYLINES)),
        skyline_height=float(rng.uniform(0.08, 0.5)),
        skyline_step=float(rng.uniform(0.04, 0.25)),
    )
    return Recipe(
        layout=str(rng.choice(LAYOUTS, p=[0.12, 0.2, 0.26, 0.22, 0.2])),
        textures=textures,
        colours=np.clip(base + contrast + tint, 0, 1).astype(np.float32),
        zooms=np.exp(rng.uniform(np.log(0.25), np.log(2.0), count)),
        objects=objects,
        horizon=float(rng.uniform(0.2, 0.75)),
        vanishing=float(rng.uniform(0.2, 0.8)),
        depth=float(rng.uniform(0.1, 0.6)),
        haze=float(rng.uniform(0, 0.6)),
    )
