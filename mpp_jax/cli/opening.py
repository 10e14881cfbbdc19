"""What the user names on the command line, opened: pictures, network, features."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mpp_jax.cli.console import Console, made_with
from mpp_jax.cli.engine import cluster_of
from mpp_jax.cli.options import read_config
from mpp_jax.data import Dataset, Item, open_dataset
from mpp_jax.data.content import read_stream
from mpp_jax.data.dataset import SPLITS
from mpp_jax.data.far_folders import far_files
from mpp_jax.data.features import Features
from mpp_jax.data.folders import Walk
from mpp_jax.data.sources import split_spec
from mpp_jax.devices import current_mesh, replicated
from mpp_jax.files import expanded
from mpp_jax.nets import Network, get_spec
from mpp_jax.nets.dtypes import dtype_name
from mpp_jax.pooling import parse_all
from mpp_jax.remote.addresses import is_address
from mpp_jax.remote.mirror import shown
from mpp_jax.runs.model import picture_item
from mpp_jax.runs.provenance import CODEBOOK
from mpp_jax.runs.settings import Extras, Job
from mpp_jax.runs.sizing import default_pooling
from mpp_jax.weights.load import load_network

DATA_OPTIONS = (
    *("test_fraction", "seed", "limit_per_class"),
    *("split_train", "split_test", "train_per_class", "label_field", "split_field"),
)


def open_data(
    data: str, options: dict[str, Any], console: Console, *, to_train: bool = True
) -> Dataset:
    """Open DATA with the options of `DATA_OPTIONS`, and say what is in it."""
    chosen = {name: options[name] for name in DATA_OPTIONS}
    dataset = open_dataset(data, **chosen, to_train=to_train, watcher=console)
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
    prefix, folder_name = split_spec(data)
    for place in places if is_address(folder_name) else ():
        if place is not None and f"{shown(str(place))}/".startswith(f"{folder_name.rstrip('/')}/"):
            raise ValueError(
                f"{shown(str(place))}: lies among the pictures of {data} and would be taken for "
                "some of them the next time; give a folder elsewhere"
            )
    folder = expanded(folder_name)
    # The other archives are read by lists.
    found = prefix in ("", "caltech101", "scene15") and folder.is_dir()
    for place in places if found else ():
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
    """Load a network and say which.

    Args:
        name: of the network.
        weights: its file; None for the usual one.
        dtype: that is asked for or recorded, see `mpp_jax.nets.dtypes`.
        console: hears of it.
    """
    network = load_network(name, weights, dtype=dtype)
    console.say(made_with(network.spec.name, network.weights_sha256))
    say_dtype(network, dtype, console)
    if network.spec.lacking:
        console.say(
            f"the weights end at layer {network.spec.layer_names[-1]}, without "
            f"{', '.join(network.spec.lacking)}; the default layer is {network.spec.default_layer}"
        )
    # Once: every batch would take it from the first device to the others.
    return replicated(network, current_mesh())


def say_dtype(network: Network, dtype: str, console: Console) -> None:
    """Say in what a network computes where that is not what was asked for or recorded."""
    computed = dtype_name(network.dtype, network.precision)
    if dtype == "auto" and computed != "float32":
        console.say(f"dtype auto: the network computes in {computed}")
    elif dtype not in ("auto", computed):
        console.say(f"dtype {dtype}: not on this device; the network computes in {computed}")


def open_pictures(named: Sequence[str], files: Sequence[Path], console: Console) -> list[Item]:
    """Return the pictures that the user names: files, pipes, folders, "-", and lists of them.

    Args:
        named: paths or addresses; "-" is one picture from standard input, a folder (at an
            address: with a slash at its end) all files in it, sorted.
        files: lists with one of these a line; "-" is standard input.
        console: hears of linked folders that were followed.

    Raises:
        ValueError: none at all, or a list or folder that cannot be read.
    """
    names = [*named]
    for file in files:
        try:
            text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{file}: no list of pictures ({error})") from error
        names += [line for line in text.splitlines() if line.strip()]
    items: list[Item] = []
    for name in names:
        place = Path(name)
        if name == "-":
            read = partial(read_stream, sys.stdin.buffer, "-")
            items.append(Item("-", (), "test", read=read))
        elif is_address(name) and name.endswith("/"):
            items += _far_inside(name)
        elif place.is_dir():
            items += _inside(place, console)
        else:
            items.append(picture_item(0, name))
    if not items:
        raise ValueError("no picture: name files, folders, - for standard input, or --list FILE")
    return items


def _inside(folder: Path, console: Console) -> list[Item]:
    """Return the files in a folder; special ones too, which are skipped by name when decoded."""
    walk = Walk(folder)
    try:
        found = walk.files(folder) + [folder / name for name in walk.special]
    except OSError as error:
        raise ValueError(f"{error.filename}: cannot be read ({error.strerror})") from error
    for note in walk.notes:
        console.say(f"{folder}: {note}")
    return [Item(str(path), (), "test", path=path) for path in sorted(found)]


def _far_inside(folder: str) -> list[Item]:
    """Return the files in a folder at an address."""
    found = far_files(folder)
    if not found:
        raise ValueError(f"{folder}: no such folder, or nothing in it")
    return [Item(one.address, (), "test", read=one, far=True) for one in found.values()]


def open_extras(options: dict[str, Any]) -> Extras:
    """Read the files of --features; the folder of --cache may be made later.

    Commands that do not train have no --memory.
    """
    cluster = cluster_of(options)
    files = options["features"]
    read = {name: Features.read(name, file) for name, file in files.items()}
    return Extras(read, options["cache"], cluster, options.get("memory"))


def open_job(
    data: str,
    out: Path,
    options: dict[str, Any],
    console: Console,
    *,
    seed: int | None = None,
    before: Path | None = None,
) -> Job:
    """Open everything that a command of DATA works on, what is checked in a moment first.

    ``seed`` stands above that of the options and of their file. ``before`` is where an earlier call
    has left its settings, if not in ``out``.
    """
    config = read_config(options)
    if seed is not None:
        config, options["seed"] = replace(config, seed=seed), seed
    extras = open_extras(options)
    parse_all(config.pooling, (*config.features, *extras.features))
    get_spec(options["network"])
    check_outside(data, out, extras.cache)
    dataset = open_data(data, options, console)
    file = options.get("config_file")
    if options.get("pooling") is None and (file is None or "pooling" not in file["config"]):
        before = before or out
        count = len(dataset.split("train"))
        pooling, line = default_pooling(count, before, before / CODEBOOK)
        config = replace(config, pooling=pooling)
        if line:
            console.say(line)
    # Last, for it may have to be downloaded.
    network = open_network(options["network"], options["weights"], config.dtype, console)
    return Job(dataset, network, config, out, options["weights"], extras)


def open_jobs(
    data: str, out: Path, options: dict[str, Any], seeds: Sequence[int], console: Console
) -> list[Job]:
    """Open a job for each seed, in a folder of its own; one network, and what the seed draws."""
    before = out / f"seed-{seeds[0]}"
    first = open_job(data, out, options, console, seed=seeds[0], before=before)
    quiet = Console(quiet=True)
    return [
        replace(
            first,
            data=open_data(data, options | {"seed": seed}, quiet)
            if seed != seeds[0]
            else first.data,
            config=replace(first.config, seed=seed),
            out=out / f"seed-{seed}",
        )
        for seed in seeds
    ]
