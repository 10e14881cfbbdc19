"""Pretrain caffenet_mini on pictures made by formula: no photograph, nobody's weights.

    python experiments/pretrain_mini.py --out FOLDER         the packaged weights, from seed 0
    python experiments/pretrain_mini.py --out FOLDER --quick   the same in a few seconds, of no use

Five stages, each of which finds what an earlier call has done in FOLDER and goes on from there:

1. draw ``recipes`` x ``variants`` pictures (`formula_pictures.py`), about 8 ms each on one core;
2. train conv1..conv5 to tell recipes apart (`mini_training.py`): of two views of one recipe and all
   views of the others in the batch, which belong together? Views are small squares of 99 pixels,
   for speed, and at last, for fewer steps, of 163, where most positions see no padding; conv1
   starts from Gabor functions, the rest from He's random numbers;
3. run the finished trunk over views of 227 pixels and keep their pool5 activations;
4. train fc6 and fc7 on these with the same loss;
5. fold the batch normalisation, whose statistics are measured on views of 227 pixels, into kernels
   and biases, round kernels to 8 bits, and write ``caffenet_mini.safetensors``.

Seed, settings and this script decide the weights (on one kind of processor: sums of floating-point
numbers depend on their order). ``settings.json`` and ``log.jsonl`` in FOLDER tell what was done.
The cost is dominated by stage 2: on two cores about 0.2 and 0.6 seconds a step.

``--install`` copies the file into the package.
"""

import argparse
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mini_training as training
import numpy as np
from formula_pictures import picture_pool
from jax import Array
from machine import provenance
from safetensors.numpy import save
from training_loop import schedule, train

from mpp_jax.memory import keep_freed_memory
from mpp_jax.nets.caffenet_mini import CAFFENET_MINI, MINI_MEAN
from mpp_jax.nets.spec import map_channels, map_size
from mpp_jax.progress import Watcher
from mpp_jax.weights.load import packaged_file
from mpp_jax.weights.quantised import SUFFIX, quantise

SPEC = CAFFENET_MINI
POOL5 = SPEC.index("pool5") + 1
TRUNK, TOP = SPEC.layers[:POOL5], SPEC.layers[POOL5:]
# Views of 227 pixels that are described at once.
CHUNK = 32


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that decides the weights.

    Attributes:
        seed: of pictures, views and first weights.
        recipes: pictures' classes.
        variants: pictures of each recipe.
        picture_side: of the drawn pictures, in pixels.
        view_side: of the views that the trunk is trained on.
        pairs: recipes in a batch, two views each.
        steps: of the trunk.
        rate_steps: of the trunk's cosine of learning rates, at least ``steps``; by default it
            stops where the rate has fallen to a seventh of its peak, and the wide steps follow.
        rate: peak learning rate of AdamW.
        temperature: of the loss.
        least: smallest share of a picture's area that a view shows.
        kind: where the views of a pair come from, a key of `mini_training.SAME_PICTURE`.
        colour: conv1 kernels that start from coloured Gabor functions.
        wide_side: of the views of the trunk's last steps.
        wide_steps: how many these are.
        wide_rate: their peak learning rate; it falls to 0.
        top_views: of 227 pixels, of each recipe, for fc6 and fc7.
        top_recipes: recipes that they are taken of.
        top_pairs: recipes in a batch.
        top_steps: of fc6 and fc7.
        top_decorrelate: weight of the mean squared correlation between channels of fc7.
        statistics: views of 227 pixels that the folded mean and variance come from.
    """

    seed: int = 0
    recipes: int = 20_000
    variants: int = 2
    picture_side: int = 160
    view_side: int = 99
    pairs: int = 64
    steps: int = 9000
    rate_steps: int = 12_000
    rate: float = 2e-3
    temperature: float = 0.2
    least: float = 0.2
    kind: str = "mixed"
    colour: int = 8
    wide_side: int = 163
    wide_steps: int = 1500
    wide_rate: float = 5e-4
    top_views: int = 4
    top_recipes: int = 12_000
    top_pairs: int = 256
    top_steps: int = 1600
    top_decorrelate: float = 10.0
    statistics: int = 512

    def __post_init__(self) -> None:
        if self.kind not in training.SAME_PICTURE:
            raise ValueError(f"kind: take one of {', '.join(training.SAME_PICTURE)}")
        narrow, wide = (map_size(SPEC, n, "pool5") for n in (self.view_side, self.wide_side))
        if wide % narrow:
            raise ValueError(
                f"wide_side: pool5 of {self.wide_side} pixels has {wide} positions a side, no "
                f"multiple of the {narrow} of {self.view_side} pixels; take another"
            )
        if self.pairs > self.recipes or self.top_pairs > min(self.top_recipes, self.recipes):
            raise ValueError(
                f"pairs, top_pairs: batches of {self.pairs} and {self.top_pairs} recipes need as "
                f"many recipes and top_recipes, not {self.recipes} and {self.top_recipes}"
            )


QUICK = Settings(
    recipes=8,
    picture_side=64,
    view_side=67,
    pairs=8,
    steps=16,
    rate_steps=20,
    least=0.6,
    kind="crops",
    wide_side=67,
    wide_steps=2,
    top_views=2,
    top_recipes=8,
    top_pairs=8,
    top_steps=16,
    statistics=16,
)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of everything made")
    parser.add_argument("--quick", action="store_true", help="a few steps on a few pictures")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw pictures")
    parser.add_argument("--save-every", type=int, default=300, help="steps between checkpoints")
    parser.add_argument("--install", action="store_true", help="put the weights into the package")
    for field in dataclasses.fields(Settings):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=type(field.default), help=f"[{field.default}]")
    args = parser.parse_args(arguments)
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(Settings)}
    given = {name: value for name, value in given.items() if value is not None}
    try:
        settings = dataclasses.replace(QUICK if args.quick else Settings(), **given)
    except ValueError as error:
        parser.error(str(error))
    keep_freed_memory()
    path = pretrain(settings, args.out, args.workers, args.save_every)
    if args.install:
        place = packaged_file(SPEC.name)
        place.parent.mkdir(exist_ok=True)
        shutil.copy(path, place)
        print(f"installed: {place}")


def pretrain(settings: Settings, folder: Path, workers: int = 1, save_every: int = 300) -> Path:
    """Run all stages that are not done yet.

    Returns:
        The finished weight file.

    Raises:
        ValueError: the folder was made with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_settings(settings, folder / "settings.json")
    log = folder / "log.jsonl"
    c = settings
    pool = picture_pool(folder / "pictures", c.seed, c.recipes, c.variants, c.picture_side, workers)
    keys = jax.random.split(jax.random.key(c.seed), 6)

    trunk = training.init_params(keys[0], TRUNK)
    first = trunk["conv1"]["kernel"]
    trunk["conv1"]["kernel"] = jnp.asarray(
        training.wavelets(first.shape[-1], c.colour, first.shape[0])
    )
    cells = map_size(SPEC, c.view_side, "pool5")
    size = cells**2 * map_channels(SPEC, "pool5")
    state = {"net": trunk, "head": training.init_head(keys[1], size)}

    def trunk_loss(params: Any, key: Array, pictures: Array) -> tuple[Array, Array]:
        y, _ = training.forward(params["net"], prepared(key, pictures), TRUNK)
        y = training.mean_cells(y, cells)
        return training.contrast(training.project(params["head"], y), c.temperature)

    def trunk_views(start: int) -> Iterator[np.ndarray]:
        every = (c.pairs, c.view_side, c.least, c.kind)
        return training.batches(pool, [c.seed], start, c.steps, *every)

    rate = schedule(c.rate, c.rate_steps)
    state = train("trunk", state, trunk_loss, trunk_views, keys[2], c.steps, rate, log, save_every)

    def wide_views(start: int) -> Iterator[np.ndarray]:
        every = (c.pairs, c.wide_side, c.least, c.kind)
        return training.batches(pool, [c.seed, 3], start, c.wide_steps, *every)

    rate = schedule(c.wide_rate, c.wide_steps)
    key = jax.random.fold_in(keys[2], 1)
    state = train("wide", state, trunk_loss, wide_views, key, c.wide_steps, rate, log, save_every)
    trunk = state["net"]
    folded = training.fold(trunk, measured(trunk, pool, settings), TRUNK)

    features = top_features(folded, pool, settings, folder / "pool5.npy")
    top = training.init_params(keys[3], TOP, map_channels(SPEC, "pool5"))
    state = {"net": top, "head": training.init_head(keys[4], map_channels(SPEC, "fc7"))}

    def top_views(start: int) -> Iterator[np.ndarray]:
        for step in range(start, c.top_steps):
            rng = np.random.default_rng([c.seed, 2, step])
            rows = rng.choice(len(features), c.top_pairs, replace=False)
            views = rng.permuted(np.tile(np.arange(c.top_views), (c.top_pairs, 1)), axis=1)
            yield np.concatenate([features[rows, views[:, 0]], features[rows, views[:, 1]]])

    def top_loss(params: Any, key: Array, maps: Array) -> tuple[Array, Array]:
        y, _ = training.forward(params["net"], maps.astype(jnp.float32), TOP)
        loss, right = training.contrast(training.project(params["head"], y), c.temperature)
        return loss + c.top_decorrelate * training.correlation(y), right

    rate = schedule(c.rate, c.top_steps)
    state = train("top", state, top_loss, top_views, keys[5], c.top_steps, rate, log, save_every)
    maps = features[: c.statistics // c.top_views].reshape(-1, *features.shape[2:])
    _, stats = training.forward(state["net"], jnp.asarray(maps, jnp.float32), TOP)
    folded |= training.fold(state["net"], stats, TOP)

    path = folder / f"{SPEC.name}.safetensors"
    write_weights(path, folded, settings)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    print(f"weights: {path}, {path.stat().st_size:,} bytes, sha256 {digest}")
    print(f"log: {log}")
    return path


def _check_settings(settings: Settings, path: Path) -> None:
    """Write the settings, or compare them with those that are there."""
    values = dataclasses.asdict(settings)
    if not path.exists():
        path.write_text(json.dumps({"settings": values, "made": provenance()}, indent=1) + "\n")
    there = json.loads(path.read_text())["settings"]
    if there != values:
        other = [name for name in values if there.get(name) != values[name]]
        raise ValueError(
            f"out: {path.parent} was made with another {', '.join(other)}; take a new folder"
        )


def prepared(key: Array, pictures: Array) -> Array:
    """Return views of the pool in changed colours, as the network takes them."""
    mean, scale = MINI_MEAN.rgb()
    x = training.jitter(key, pictures)
    return (x - jnp.asarray(mean)[None, None, None]) * jnp.asarray(scale)[None, None, None]


def base_views(
    pool: np.ndarray, settings: Settings, purpose: int, recipes: range, each: int
) -> np.ndarray:
    """Cut views of 227 pixels, ``each`` of every recipe in turn from its variants.

    Args:
        pool: the pictures.
        settings: seed and smallest share of a view.
        purpose: a number that keeps the views of different uses apart.
        recipes: numbers, taken modulo those of the pool.
        each: views of a recipe.

    Returns:
        (len(recipes) * each, 227, 227, 3) uint8.
    """
    views = []
    for recipe in recipes:
        rng = np.random.default_rng([settings.seed, purpose, recipe])
        pictures = pool[recipe % pool.shape[0]]
        for view in range(each):
            picture = pictures[view % pool.shape[1]]
            views.append(training.cut_view(picture, rng, SPEC.side, settings.least))
    return np.stack(views)


def measured(trunk: Any, pool: np.ndarray, settings: Settings) -> training.Stats:
    """Return mean and variance of every convolution over views of 227 pixels."""
    key = jax.random.key(settings.seed)

    @jax.jit
    def run(start: Array, views: Array) -> training.Stats:
        own = jax.random.fold_in(key, start)
        return training.forward(trunk, prepared(own, views), TRUNK)[1]

    found = []
    for start in range(0, settings.statistics, CHUNK):
        views = base_views(pool, settings, 1, range(start, start + CHUNK), 1)
        found.append(run(start, views))
    # The mean of the batches' variances; the means' own variance between batches is small.
    return jax.tree.map(lambda *leaves: jnp.mean(jnp.stack(leaves), axis=0), *found)


def top_features(folded: Any, pool: np.ndarray, settings: Settings, path: Path) -> np.ndarray:
    """Return pool5 of views of 227 pixels, (recipes, views, 6, 6, C) float16, memory-mapped."""
    count, each = min(settings.top_recipes, settings.recipes), settings.top_views
    if not path.exists():
        key = jax.random.key(settings.seed + 1)

        @jax.jit
        def run(start: Array, views: Array) -> Array:
            own = jax.random.fold_in(key, start)
            return training.run_folded(folded, prepared(own, views), TRUNK)

        side = map_size(SPEC, SPEC.side, "pool5")
        shape = (count, each, side, side, map_channels(SPEC, "pool5"))
        partial = path.with_suffix(".partial")
        file = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=shape)
        some = CHUNK // each
        for start in Watcher().bar(range(0, count, some), "describe views", "chunk"):
            views = base_views(pool, settings, 2, range(start, start + some), each)
            maps = np.asarray(run(start, views)).reshape(some, *shape[1:])
            file[start : start + some] = maps[: count - start]
        file.flush()
        partial.rename(path)
    return np.load(path, mmap_mode="r")


def write_weights(path: Path, folded: Any, settings: Settings) -> None:
    """Round kernels to 8 bits and write them with their scales and the biases."""
    arrays = {}
    for layer, leaves in folded.items():
        q, scale = quantise(np.asarray(leaves["kernel"]))
        arrays |= {f"{layer}/kernel": q, f"{layer}/kernel{SUFFIX}": scale}
        arrays[f"{layer}/bias"] = np.asarray(leaves["bias"], np.float32)
    about = {"script": "experiments/pretrain_mini.py", "settings": dataclasses.asdict(settings)}
    # One entry: the library writes several in an order of its own, and the digest would change.
    path.write_bytes(save(arrays, {"made": json.dumps(about)}))


if __name__ == "__main__":
    main()
