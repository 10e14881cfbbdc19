"""Pictures made by formula: scenes of textured planes and objects that no camera ever saw.

A *recipe* is a small set of numbers: a layout (flat texture, dead leaves, horizon, room or street),
a handful of textures, and a distribution of objects. It stands for a class. A *variant* draws what
the recipe leaves open: where objects stand, the phases of the textures, colours, light. Both come
from one seed (`formula_recipes.py`), so that picture ``(seed, recipe, variant)`` is the same
everywhere.

Every picture is one label map. Label ``l`` has a projective map ``H_l`` from picture to texture
coordinates, a texture, two colours and a slope of its light. Pixel ``p`` of label ``l`` shows

    colour(p) = dark_l + (light_l - dark_l) * texture_l(H_l p)  times  illumination(p)

so that painting is a few gathers, whatever the number of objects (about 8 ms a picture). Textures
are those of `formula_textures.py`.

Sources: Kataoka et al. 2020, "Pre-training without Natural Images" (fractals as classes); Baradad
et al. 2021, "Learning to See by Looking at Noise" (dead leaves, spectra); Lee, Mumford and Huang
2001, "Occlusion models for natural images" (sizes falling as r^-3).
"""

import contextlib
import functools
import math
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from formula_recipes import Objects, Recipe, make_recipe
from formula_textures import RADIUS, TILE, Array, Random, noise, rotation, sample, texture_field
from PIL import Image, ImageDraw
from tqdm import tqdm


class Surface(NamedTuple):
    """A label: where it takes its colours from.

    Attributes:
        texture: number of the texture (and palette entry).
        homography: (9,) row-major; texture coordinates (u/w, v/w) in pixels of the tile.
        light: factor on the colours.
    """

    texture: int
    homography: tuple[float, ...]
    light: float


def draw_picture(seed: int, recipe: int, variant: int, side: int = 192) -> Array:
    """Draw a picture.

    Args:
        seed: of the whole collection.
        recipe: number of the recipe, any non-negative integer.
        variant: number of the variant of that recipe.
        side: of the square, in pixels.

    Returns:
        (side, side, 3) uint8 RGB.
    """
    plan = make_recipe(np.random.default_rng([seed, recipe]))
    return render(plan, np.random.default_rng([seed, recipe, 1 + variant]), side)


def picture_pool(
    folder: Path, seed: int, recipes: int, variants: int, side: int, workers: int = 1
) -> Array:
    """Draw a collection, or find it drawn.

    Args:
        folder: where it is kept, in one .npy file named after the numbers that decide it.
        seed: of the collection.
        recipes: numbers 0..recipes-1 are drawn.
        variants: of each recipe.
        side: of the pictures, in pixels.
        workers: processes; the pictures do not depend on it.

    Returns:
        (recipes, variants, side, side, 3) uint8, memory-mapped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"pictures-seed{seed}-{recipes}x{variants}-{side}px.npy"
    if not path.exists():
        partial = path.with_suffix(".partial")
        shape = (recipes, variants, side, side, 3)
        file = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
        draw = functools.partial(_draw_variants, seed, variants, side)
        with contextlib.ExitStack() as stack:
            drawn: Iterator[Array] = map(draw, range(recipes))
            if workers > 1:
                context = multiprocessing.get_context("spawn")
                executor = stack.enter_context(ProcessPoolExecutor(workers, context))
                drawn = executor.map(draw, range(recipes), chunksize=16)
            for i, pictures in enumerate(
                tqdm(drawn, "draw", recipes, unit="recipe", mininterval=2)
            ):
                file[i] = pictures
        file.flush()
        partial.rename(path)
    return np.load(path, mmap_mode="r")


def _draw_variants(seed: int, variants: int, side: int, recipe: int) -> Array:
    return np.stack([draw_picture(seed, recipe, v, side) for v in range(variants)])


def render(recipe: Recipe, rng: Random, side: int) -> Array:
    """Draw a variant of a recipe, (side, side, 3) uint8."""
    scene = _Scene(recipe, rng, side)
    {
        "texture": _draw_texture,
        "leaves": _draw_leaves,
        "horizon": _draw_horizon,
        "room": _draw_room,
        "street": _draw_street,
    }[recipe.layout](scene)
    return scene.paint()


class _Scene:
    """A label map in the making; later surfaces hide earlier ones."""

    def __init__(self, recipe: Recipe, rng: Random, side: int) -> None:
        self.recipe, self.rng, self.side = recipe, rng, side
        self.surfaces: list[Surface] = []
        self.map = Image.new("I", (side, side), 0)
        self.pen = ImageDraw.Draw(self.map)
        self.horizon = recipe.horizon + rng.normal(0, 0.04)
        self.vanishing = recipe.vanishing + rng.normal(0, 0.06)

    def add(self, corners: Array, texture: int, plane: str = "flat", **options: float) -> None:
        """Cover a polygon, (n, 2) of (x, y) as shares of the side, with a texture."""
        self.surfaces.append(self._surface(texture % len(self.recipe.textures), plane, **options))
        points = [(float(x), float(y)) for x, y in np.asarray(corners) * self.side]
        self.pen.polygon(points, fill=len(self.surfaces) - 1)

    def _surface(
        self, texture: int, plane: str, angle: float = 0.0, light: float = 1.0, zoom: float = 1.0
    ) -> Surface:
        # Texture coordinates are pixels of the tile at a picture of 192 pixels.
        scale = 192 * zoom * self.recipe.zooms[texture]
        u0, v0 = self.rng.uniform(0, TILE, 2)
        c, s = scale * math.cos(angle), scale * math.sin(angle)
        x0, y0, f = self.vanishing, self.horizon, 0.35 * scale
        homography = {
            "flat": (c, -s, u0, s, c, v0, 0.0, 0.0, 1.0),
            # (x - x0) / (y - y0) and 1 / (y - y0): a plane below (or above) the eye
            "floor": (f, u0, -f * x0 - u0 * y0, 0.0, v0, f - v0 * y0, 0.0, 1.0, -y0),
            "wall": (u0, 0.0, f - u0 * x0, v0, f, -f * y0 - v0 * x0, 1.0, 0.0, -x0),
        }[plane]
        return Surface(texture, homography, light)

    def paint(self) -> Array:
        """Sample textures and colours for every pixel."""
        recipe, rng, side = self.recipe, self.rng, self.side
        used = sorted({s.texture for s in self.surfaces})
        fields = np.zeros((len(recipe.textures), TILE, TILE), np.float32)
        for i in used:
            fields[i] = texture_field(recipe.textures[i], rng)
        label = np.asarray(self.map, np.int32)
        x = ((np.arange(side, dtype=np.float32) + 0.5) / side)[None, :]
        y = x.T
        h = np.array([s.homography for s in self.surfaces], np.float32)[label]
        w = h[..., 6] * x + h[..., 7] * y + h[..., 8]
        w = np.where(np.abs(w) < 0.01, np.float32(0.01), w)
        u = (h[..., 0] * x + h[..., 1] * y + h[..., 2]) / w
        v = (h[..., 3] * x + h[..., 4] * y + h[..., 5]) / w
        texture = np.array([s.texture for s in self.surfaces])
        value = sample(fields.reshape(-1), texture[label] * (TILE * TILE), u, v)
        far = np.abs(w) < 0.08  # detail near the vanishing line is haze, not aliasing
        value = np.where(far & (h[..., 8] != 1), 0.5, value)
        dark, light = self._palette(texture)
        picture = dark[label] + (light - dark)[label] * value[..., None]
        shade = np.exp(0.18 * noise(RADIUS**-2.2, rng))[: TILE // 2, : TILE // 2]
        shade = np.asarray(Image.fromarray(shade).resize((side, side), Image.Resampling.BILINEAR))
        slope = np.exp(rng.normal(0, 0.3) * (x - 0.5) + rng.normal(0, 0.3) * (y - 0.5))
        picture *= (shade * slope)[..., None]
        picture += rng.normal(0, 0.012, picture.shape[:2]).astype(np.float32)[..., None]
        return (255 * np.clip(picture, 0, 1)).astype(np.uint8)

    def _palette(self, texture: Array) -> tuple[Array, Array]:
        """Return dark and light colour of every surface: its texture's, shifted a little."""
        n = len(texture)
        shift = self.rng.normal(0, 0.05, (n, 1, 3)) + self.rng.normal(0, 0.06, (n, 1, 1))
        tone = np.array([s.light for s in self.surfaces])[:, None, None]
        ends = (self.recipe.colours[texture] + shift) * tone
        return ends[:, 0].astype(np.float32), ends[:, 1].astype(np.float32)


SQUARE = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)


def _rectangle(x0: float, y0: float, x1: float, y1: float) -> Array:
    return SQUARE * [x1 - x0, y1 - y0] + [x0, y0]


def _outline(objects: Objects, rng: Random) -> Array:
    """Return the corners of an object of radius 1 about the origin, (n, 2)."""
    n = {"ellipse": 20, "box": 4, "blade": 3}.get(objects.shape, objects.corners)
    if objects.shape == "star":
        n *= 2
    turn = 2 * math.pi * (np.arange(n) + 0.5) / n
    radius = np.ones(n)
    if objects.shape == "polygon":
        radius = rng.uniform(0.6, 1.2, n)
    elif objects.shape == "star":
        radius[1::2] = 0.45
    corners = radius[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    if objects.shape == "blade":
        corners = np.array([[-0.12, 1.0], [0.12, 1.0], [rng.normal(0, 0.3), -1.0]])
    stretch = math.sqrt(objects.aspect) * math.exp(rng.normal(0, 0.15))
    corners = corners * [stretch, 1 / stretch]
    return corners @ rotation(rng.normal(0, objects.upright)).T


def _size(objects: Objects, rng: Random) -> float:
    """Return a radius; the density falls as r^-3 between the limits."""
    a, b = objects.smallest**-2, objects.largest**-2
    return (a + rng.random() * (b - a)) ** -0.5


def _scatter(scene: _Scene, first: int, last: int, grounded: bool) -> None:
    """Add objects of textures first..last: anywhere, or standing on the ground, far ones first."""
    objects, rng = scene.recipe.objects, scene.rng
    count = max(1, round(objects.count * math.exp(rng.normal(0, 0.2))))
    depth = np.sort(rng.random(count) ** 1.5)
    for i in range(count):
        corners = _outline(objects, rng) * _size(objects, rng)
        place = rng.uniform(-0.05, 1.05, 2)
        if grounded:
            near = scene.horizon + (1.1 - scene.horizon) * depth[i]
            corners = corners * (0.25 + 1.5 * depth[i])
            place = np.array([place[0], near - corners[:, 1].max()])
        number = int(rng.integers(first, last + 1))
        angle = rng.normal(0, scene.recipe.objects.upright)
        scene.add(corners + place, number, angle=angle, light=math.exp(rng.normal(0, 0.15)))


def _draw_texture(scene: _Scene) -> None:
    scene.add(_rectangle(-1, -1, 2, 2), 0, angle=scene.rng.normal(0, 0.1))
    if scene.recipe.depth < 0.3:  # two textures side by side
        x = scene.recipe.vanishing
        scene.add(_rectangle(x, -1, 2, 2), 1)


def _draw_leaves(scene: _Scene) -> None:
    scene.add(_rectangle(-1, -1, 2, 2), 0)
    for _ in range(3):
        _scatter(scene, 1, 5, grounded=False)


def _draw_horizon(scene: _Scene) -> None:
    rng, y = scene.rng, scene.horizon
    scene.add(_rectangle(-1, -1, 2, y), 0, light=1.25, zoom=0.4)
    scene.add(_rectangle(-1, y, 2, 2), 1, "floor")
    _draw_skyline(scene, 2)
    if scene.recipe.depth > 0.3:
        _scatter(scene, 3, 5, grounded=rng.random() < 0.9)


def _draw_skyline(scene: _Scene, texture: int) -> None:
    objects, rng, y = scene.recipe.objects, scene.rng, scene.horizon
    height, step = objects.skyline_height, objects.skyline_step
    if objects.skyline == "ridge":
        for layer in range(3):
            rough = np.cumsum(rng.normal(0, step / 2, 40))
            rough = height * (1 - layer / 3) * (0.6 + rough - rough.mean())
            x = np.linspace(-0.05, 1.05, 40)
            top = np.stack([x, y - np.maximum(rough, 0)], axis=1)
            low = y + 0.02
            corners = np.concatenate([top, [[1.05, low], [-0.05, low]]])
            scene.add(corners, texture + layer, light=1.3 - 0.2 * layer)
    elif objects.skyline == "towers":
        for x in np.arange(-0.1, 1.0, step) + rng.uniform(0, step):
            top = y - height * math.exp(rng.normal(0, 0.5))
            right = x + step * rng.uniform(0.5, 1.2)
            number = texture + int(rng.integers(0, 3))
            scene.add(_rectangle(x, top, right, y + 0.03), number)
            scene.add(_rectangle(right, top, right + step / 4, y + 0.03), number, light=0.6)
    elif objects.skyline == "trees":
        for x in np.arange(-0.1, 1.1, step / 2) + rng.uniform(0, step):
            size = height * rng.uniform(0.5, 1.2)
            trunk = _rectangle(x - 0.07 * size, y - size, x + 0.07 * size, y + 0.03)
            scene.add(trunk, texture, light=0.5)
            for _ in range(4):
                crown = _outline(objects, rng) * size * 0.3
                place = np.array([x + rng.normal(0, 0.15) * size, y - size])
                scene.add(crown + place, texture + 1)


def _box_corners(scene: _Scene) -> tuple[float, float, float, float]:
    """Return the back wall: (left, top, right, bottom)."""
    d = scene.recipe.depth
    x, y = scene.vanishing, scene.horizon
    return x - d * x, y - d * y, x + d * (1 - x), y + d * (1 - y)


def _draw_box(scene: _Scene, textures: Sequence[int], lights: Sequence[float]) -> None:
    """Add back wall, ceiling, floor, left and right side, seen from the open front."""
    left, top, right, bottom = _box_corners(scene)
    back, above, below, side_l, side_r = textures
    scene.add(_rectangle(-1, -1, 2, 2), back, light=lights[0])
    plane = "floor" if above != 0 else "flat"  # texture 0 is the sky
    ceiling = [[0, 0], [1, 0], [right, top], [left, top]]
    scene.add(np.array(ceiling), above, plane, light=lights[1], zoom=1 if above else 0.4)
    scene.add(np.array([[0, 1], [1, 1], [right, bottom], [left, bottom]]), below, "floor")
    scene.add(np.array([[0, 0], [left, top], [left, bottom], [0, 1]]), side_l, "wall")
    wall = np.array([[1, 0], [right, top], [right, bottom], [1, 1]])
    scene.add(wall, side_r, "wall", light=lights[2])


def _draw_room(scene: _Scene) -> None:
    _draw_box(scene, (1, 2, 3, 1, 1), (1.0, 1.15, 0.75))
    rng = scene.rng
    left, top, right, bottom = _box_corners(scene)
    for _ in range(int(1 + 3 * scene.recipe.haze)):  # pictures and windows on the back wall
        x0, x1 = np.sort(rng.uniform(left, right, 2))
        y0, y1 = np.sort(rng.uniform(top, (top + bottom) / 2, 2))
        scene.add(_rectangle(x0, y0, x1, y1), 4, light=1.2)
    for depth in np.sort(rng.random(2 + scene.recipe.objects.count // 6)):
        _draw_block(scene, depth)
    if scene.recipe.objects.count > 20:
        _scatter(scene, 4, 5, grounded=True)


def _draw_block(scene: _Scene, depth: float) -> None:
    """Add a box on the floor: front, top and one side."""
    rng, objects = scene.rng, scene.recipe.objects
    near = scene.horizon + (1.15 - scene.horizon) * (0.3 + 0.7 * depth)
    scale = 0.3 + depth
    width = scale * objects.largest * math.sqrt(objects.aspect) * rng.uniform(0.6, 1.2)
    height = scale * objects.largest / math.sqrt(objects.aspect) * rng.uniform(0.6, 1.2)
    x0 = rng.uniform(-0.1, 1.0 - width / 2)
    x1, y0 = x0 + width, near - height
    centre = np.array([scene.vanishing, scene.horizon])
    back = _rectangle(x0, y0, x1, near) + 0.2 * (centre - _rectangle(x0, y0, x1, near))
    front = _rectangle(x0, y0, x1, near)
    number = 4 + int(rng.integers(0, 2))
    scene.add(np.stack([front[0], front[1], back[1], back[0]]), number, light=1.25)
    hidden = 1 if scene.vanishing > (x0 + x1) / 2 else 0
    a, b = (1, 2) if hidden else (0, 3)
    scene.add(np.stack([front[a], front[b], back[b], back[a]]), number, light=0.65)
    scene.add(front, number)


def _draw_street(scene: _Scene) -> None:
    _draw_box(scene, (2, 0, 1, 3, 4), (0.9, 1.25, 0.7))
    if scene.recipe.haze > 0.3:
        _draw_skyline(scene, 3)
    if scene.recipe.objects.count > 10:
        _scatter(scene, 4, 5, grounded=True)
