"""What the user names on the command line, opened: pictures, network, features."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp

from mpp_jax.cli.console import Console, made_with
from mpp_jax.cli.options import read_config
from mpp_jax.data import Dataset, open_dataset
from mpp_jax.data.dataset import SPLITS
from mpp_jax.data.features import Features
from mpp_jax.nets import Network, get_spec
from mpp_jax.pooling import parse_all
from mpp_jax.runs.settings import Extras, Job
from mpp_jax.weights.load import load_network

DATA_OPTIONS = ("test_fraction", "seed", "limit_per_class")


def open_data(data: str, options: dict[str, Any], console: Console) -> Dataset:
    """Open DATA with the options of `DATA_OPTIONS`, and say what is in it."""
    dataset = open_dataset(data, **{name: options[name] for name in DATA_OPTIONS})
    train, test = len(dataset.split("train")), len(dataset.split("test"))
    console.say(
        f"{dataset.name}: {len(dataset.classes)} classes, {train} training pictures, {test} test"
    )
    for note in dataset.notes:
        console.say(note)
    return dataset


def check_outside(data: str, *places: Path | None) -> None:
    """Raise where something would be written among the pictures, to be read as one the next time.

    Args:
        data: DATA of the command line.
        places: folders to be written; None for none.

    Raises:
        ValueError: one that lies in a class folder, or where it would be one itself.
    """
    folder = Path(data).expanduser()
    for place in places if folder.is_dir() else ():
        if place is None or not place.resolve().is_relative_to(folder.resolve()):
            continue
        parts = place.resolve().relative_to(folder.resolve()).parts
        beside_splits = (folder / "train").is_dir() and parts and parts[0] not in SPLITS
        if not beside_splits:
            raise ValueError(
                f"{place}: lies among the pictures of {data} and would be taken for some of them "
                "the next time; give a folder elsewhere"
            )


def open_network(name: str, weights: str | None, dtype: str, console: Console) -> Network:
    """Load a network and say which."""
    network = load_network(name, weights, dtype=jnp.dtype(dtype))
    console.say(made_with(network.spec.name, network.weights_sha256))
    if network.spec.lacking:
        console.say(
            f"the weights end at layer {network.spec.layer_names[-1]}, without "
            f"{', '.join(network.spec.lacking)}; the default layer is {network.spec.default_layer}"
        )
    return network


def open_extras(options: dict[str, Any]) -> Extras:
    """Read the files of --features; the folder of --cache may be made later."""
    files = options["features"]
    read = {name: Features.read(name, file) for name, file in files.items()}
    return Extras(read, options["cache"])


def open_job(data: str, out: Path, options: dict[str, Any], console: Console) -> Job:
    """Open everything that a command of DATA works on, what is checked in a moment first."""
    config = read_config(options)
    extras = open_extras(options)
    parse_all(config.pooling, (*config.features, *extras.features))
    get_spec(options["network"])
    check_outside(data, out, extras.cache)
    dataset = open_data(data, options, console)
    # Last, for it may have to be downloaded.
    network = open_network(options["network"], options["weights"], config.dtype, console)
    return Job(dataset, network, config, out, options["weights"], extras)
