"""A small network with a weight file, and small sets of pictures, made on the fly.

The network has everything that matters to the pipeline: padding, ceil-mode pooling, descriptors
that are means over a window of the map. It computes in microseconds and compiles in a moment.
Classes differ in colour, so that random weights tell them apart. As a program this module is the
command line with the toy network among the networks, which writes shards of ``TOY_SHARD`` pictures
and stops for a minute after shard ``TOY_PAUSE_AFTER_SHARD``::

    python tests/helpers/toy.py run DATA --network toy --weights FILE ...
"""

import csv
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from mpp_jax.data import Dataset, Item
from mpp_jax.nets import NETWORKS, Network, random_network
from mpp_jax.nets.spec import Conv, Fire, NetSpec, Pool, Preprocessing
from mpp_jax.runs import pipeline
from mpp_jax.storage.store_shard import ShardWriter

MEAN = (100.0, 110.0, 120.0)
TOY = NetSpec(
    name="toy",
    side=35,
    layers=(
        Conv("conv1", 8, 5, stride=2),
        Pool("pool1", 3, 2),
        Fire("fire2", 6, 8, 8),
    ),
    default_layer="fire2",
    descriptor_layers=("conv1", "fire2"),
    preprocessing=(
        ("native", Preprocessing("RGB", MEAN, std=(60.0, 60.0, 60.0))),
        ("caffe", Preprocessing("BGR", MEAN)),
    ),
    pooling="ceil",
    averaged=("fire2",),
    averaged_stride=8,
)
SIDES = (35, 50, 70)
POSITIONS = (1, 4, 25)
"""Sides and descriptors of the toy network's first scales."""

COLOURS = {"blue": (40, 60, 200), "green": (50, 190, 70), "red": (210, 60, 50)}


def toy_network(seed: int = 0) -> Network:
    return random_network(jax.random.key(seed), TOY)


def weight_arrays(network: Network) -> dict[str, np.ndarray]:
    """The parameters by path: conv1/kernel, ..."""
    leaves = jax.tree_util.tree_flatten_with_path(network.params)[0]
    return {"/".join(key.key for key in path): np.array(leaf) for path, leaf in leaves}


def write_weights(place: Path, seed: int = 0) -> Path:
    """Write a safetensors file of the toy network."""
    save_file(weight_arrays(toy_network(seed)), place)
    return place


def picture(rng: np.random.Generator, colour: Sequence[int], height: int, width: int) -> np.ndarray:
    """Stripes and noise around a colour."""
    wave = 40 * np.sin(np.arange(width) * rng.uniform(0.2, 1.0))[None, :, None]
    noise = rng.normal(0, 20, (height, width, 3))
    return np.clip(np.array(colour)[None, None, :] + wave + noise, 0, 255).astype(np.uint8)


def write_folder(
    root: Path,
    train: int = 5,
    test: int = 3,
    classes: Iterable[str] = COLOURS,
    largest: int = 90,
    seed: int = 1,
) -> Path:
    """Write ROOT/{train,test}/CLASS/NN.png, of many sizes."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("test", test)):
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                height, width = rng.integers(30, largest, 2)
                pixels = picture(rng, COLOURS[name], height, width)
                Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return root


def write_list(root: Path, train: int = 12, test: int = 8, seed: int = 2) -> Path:
    """Write ROOT/list.csv of pictures with the colours of their left and right half as labels."""
    rng = np.random.default_rng(seed)
    names = sorted(COLOURS)
    root.mkdir(parents=True, exist_ok=True)
    with (root / "list.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "labels", "split"])
        for i in range(train + test):
            pair = [names[i % 3], names[i // 3 % 3]]
            halves = [picture(rng, COLOURS[name], 40, 30) for name in pair]
            Image.fromarray(np.concatenate(halves, axis=1)).save(root / f"{i:02d}.png")
            split = "train" if i < train else "test"
            rows.writerow([f"{i:02d}.png", ";".join(sorted(set(pair))), split])
    return root / "list.csv"


def memory_dataset(pictures: Sequence[np.ndarray], split: str = "train") -> Dataset:
    """A data set of arrays, all of one class."""
    items = tuple(Item(f"{i:03d}", (0,), split, read=lambda p=p: p) for i, p in enumerate(pictures))
    return Dataset("memory", ("only",), items)


def _pause_after_shard(number: int) -> None:
    """Stop for a minute once a shard is on disk, and say so by a file beside the store."""
    write = ShardWriter.write

    def written(self: ShardWriter) -> None:
        write(self)
        if self.task.shard == number:
            (self.task.folder.parent / "paused").touch()
            time.sleep(60)

    ShardWriter.write = written  # type: ignore[method-assign]


if __name__ == "__main__":
    from mpp_jax.cli.app import main

    NETWORKS["toy"] = TOY
    pipeline.SHARD_SIZE = int(os.environ["TOY_SHARD"])
    _pause_after_shard(int(os.environ["TOY_PAUSE_AFTER_SHARD"]))
    sys.argv[0] = "mpp-jax"
    main()
