"""Commands about new pictures, and about a network's geometry."""

from pathlib import Path
from typing import Any

import click

from mpp_jax.cli.errors import faces_user
from mpp_jax.cli.options import (
    devices_option,
    pictures_arguments,
    plugin_option,
    quiet_option,
    read_scales,
    weights_option,
)
from mpp_jax.cli.places import PLACE


@click.command()
@click.argument("model", type=PLACE)
@pictures_arguments
@weights_option
@devices_option
@click.option("--method", help="Representation. [default: the model's primary one]")
@click.option("--top", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="Print JSON: path, classes, error, network.")
@plugin_option
@quiet_option
@faces_user
def predict(
    model: Path,
    pictures: tuple[str, ...],
    lists: tuple[Path, ...],
    weights: str | None,
    method: str | None,
    top: int,
    as_json: bool,
    quiet: bool,
) -> int:
    """Rank the classes of new pictures with a saved MODEL."""
    from mpp_jax.cli import queries
    from mpp_jax.cli.console import Console
    from mpp_jax.cli.opening import open_pictures

    console = Console(quiet)
    items = open_pictures(pictures, lists, console)
    return queries.predict(model, items, weights, method, top, as_json, console)


@click.command()
@click.argument("model", type=PLACE)
@pictures_arguments
@click.option("--out", required=True, type=PLACE, help="Folder for the maps.")
@click.option(
    "--classes",
    metavar="NAMES",
    help="Classes to map, comma-separated. [default: each picture's --top]",
)
@click.option("--top", default=3, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--reading",
    default="sum",
    show_default=True,
    type=click.Choice(["sum", "vote"]),
    help="Add up each class's scores, or one vote of each window for its best class.",
)
@click.option(
    "--bias/--no-bias",
    default=False,
    help="Add the machines' bias to every window's score. [default: no-bias]",
)
@click.option(
    "--max-side",
    default=1024,
    show_default=True,
    type=click.IntRange(1, 4096),
    help="Longest side of a map in pixels; larger pictures get smaller maps.",
)
@weights_option
@click.option(
    "--method", help="Representation. [default: the model's primary one, or the next with maps]"
)
@plugin_option
@quiet_option
@faces_user
def confidence(
    model: Path,
    pictures: tuple[str, ...],
    lists: tuple[Path, ...],
    weights: str | None,
    method: str | None,
    classes: str | None,
    quiet: bool,
    **options: Any,
) -> int:
    """Map where in new pictures a saved MODEL sees its classes.

    Writes OUT/NAME.png, the picture and its maps side by side, and OUT/NAME.npz, which NumPy alone
    can read: maps (n, h, w), classes, scores of the whole picture.
    """
    from mpp_jax.cli import queries
    from mpp_jax.cli.console import Console
    from mpp_jax.cli.opening import open_pictures

    names = None if classes is None else [name.strip() for name in classes.split(",")]
    console = Console(quiet)
    items = open_pictures(pictures, lists, console)
    return queries.confidence(model, items, weights, method, names, console, **options)


@click.command()
@click.argument("network")
@click.option("--scales", default="1-7", show_default=True, callback=read_scales)
@click.option("--layer", metavar="NAME", help="Activation. [default: the network's]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@plugin_option
@faces_user
def geometry(network: str, scales: tuple[int, ...], layer: str | None, as_json: bool) -> int:
    """Print side and number of descriptors of NETWORK at every scale (the paper's Table 1)."""
    import json

    from mpp_jax.describe.geometry import format_geometry, geometry_table

    if as_json:
        click.echo(json.dumps(geometry_table(network, scales, layer), indent=1))
    else:
        click.echo(format_geometry(network, scales, layer))
    return 0
