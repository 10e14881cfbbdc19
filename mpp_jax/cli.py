"""The command line. Heavy modules are imported inside the commands, so that --help is quick."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import click

from mpp_jax import __version__
from mpp_jax.cli_options import (
    PATH,
    c_option,
    data_options,
    extra_options,
    fit_options,
    network_option,
    plugin_option,
    pooling_option,
    quiet_option,
    read_config,
    read_scales,
    scales_option,
    weights_option,
)
from mpp_jax.config import Run

USER_ERROR, INTERRUPTED = 2, 130

DATA_HELP = """
DATA is a folder with train/<class>/* and test/<class>/*; or a folder of class folders (split by
--test-fraction with --seed); or a CSV list with rows path,label[;label],split; or tfds:NAME.
"""


def _faces_user(command: Callable[..., int]) -> Callable[..., None]:
    """Turn what goes wrong into one line and an exit status."""

    @wraps(command)
    def wrapped(**options: Any) -> None:
        from mpp_jax.memory import keep_freed_memory

        keep_freed_memory()
        try:
            _load_plugins(options.pop("plugins", ()))
            status = command(**options)
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            message = _user_message(error)
            if message is None or os.environ.get("MPP_JAX_TRACEBACK"):
                raise
            click.echo(f"error: {message}", err=True)
            status = USER_ERROR
        except KeyboardInterrupt:
            click.echo("interrupted; what was done is kept, run the command again", err=True)
            status = INTERRUPTED
        sys.exit(status)

    return wrapped


def _load_plugins(files: Sequence[Path]) -> None:
    for file in files:
        from mpp_jax.pooling import load_plugin

        load_plugin(file)


def _user_message(error: Exception) -> str | None:
    """One line about what went wrong; None for a fault of the program itself."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "Out of memory" in text:
        return f"out of memory; use fewer --scales, --samples or --components ({text[:200]})"
    if isinstance(error, RuntimeError):
        return None
    # File names need not be valid UTF-8; a message must not fail for that.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text or type(error).__name__


class _OneLineErrors(click.Group):
    """A group whose usage errors are one line, like all other errors."""

    def main(  # type: ignore[override]  # click overloads it on standalone_mode
        self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        """Run the command line; see `click.Command.main`."""
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **extra)
        try:
            sys.exit(super().main(args, standalone_mode=False, **extra) or 0)
        except click.ClickException as error:
            if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help text
                click.echo(error.format_message(), err=True)
                sys.exit(USER_ERROR)
            context = getattr(error, "ctx", None)
            hint = f" (see {context.command_path} --help)" if context is not None else ""
            message = " ".join(error.format_message().split())
            click.echo(f"error: {message}{hint}", err=True)
            sys.exit(USER_ERROR)
        except click.Abort:
            sys.exit(INTERRUPTED)


@click.group(
    cls=_OneLineErrors,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="mpp-jax")
def main() -> None:
    """Multi-scale Pyramid Pooling: fixed-length picture representations from a CNN.

    `mpp-jax run DATA --out DIR` does everything: describes the pictures at several scales, fits
    PCA and a Gaussian mixture, encodes Fisher vectors, trains linear SVMs and reports how well
    they do. The other commands are its parts.

    Exit status: 0 done; 1 done, but some inputs were skipped (listed); 2 wrong usage or an unusable
    file; 130 interrupted. Set MPP_JAX_TRACEBACK=1 to see where an error comes from.
    """


@main.command(epilog=DATA_HELP)
@click.argument("data")
@click.option("--out", required=True, type=PATH, help="Folder for everything that is made.")
@fit_options
@pooling_option
@plugin_option
@extra_options
@c_option
@data_options
@click.option(
    "--maps",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Test pictures that the report shows with confidence maps.",
)
@quiet_option
@_faces_user
def run(data: str, out: Path, maps: int, quiet: bool, **options: Any) -> int:
    """Do everything, from the pictures in DATA to a report.

    Writes DIR/report.html, DIR/metrics.json, DIR/codebook, DIR/encodings and DIR/model. Given
    again after an interruption, it goes on where it stopped.
    """
    from mpp_jax import commands

    output, config, dataset, network, extras = _open(data, quiet, options)
    return commands.run(
        dataset, network, options["weights"], config, out, output, extras, maps=maps
    )


def _open(data: str, quiet: bool, options: dict[str, Any]) -> tuple[Any, Run, Any, Any, Any]:
    from mpp_jax import console
    from mpp_jax.nets import get_spec
    from mpp_jax.pooling import parse_all

    output = console.Output(quiet)
    config = read_config(options)
    extras = _extras(options)
    parse_all(config.pooling, extras.features)
    get_spec(options["network"])
    dataset = console.open_data(
        data,
        test_fraction=options["test_fraction"],
        seed=options["seed"],
        limit_per_class=options["limit_per_class"],
        output=output,
    )
    # Last, for it may have to be downloaded.
    network = console.open_network(options["network"], options["weights"], options["dtype"], output)
    return output, config, dataset, network, extras


def _extras(options: dict[str, Any]) -> Any:
    from mpp_jax.commands import Extras
    from mpp_jax.features import Features

    files = options["features"]
    read = {name: Features.read(name, file) for name, file in files.items()}
    return Extras(read, options["cache"])


@main.command(epilog=DATA_HELP)
@click.argument("data")
@click.option("--out", required=True, type=PATH, help="Folder for the codebook.")
@fit_options
@pooling_option
@plugin_option
@extra_options
@data_options
@quiet_option
@_faces_user
def fit(data: str, out: Path, quiet: bool, **options: Any) -> int:
    """Fit codebooks (PCA and Gaussian mixture) to the training pictures of DATA.

    As many as the representations of --pooling need: one for most, more for other layers.
    """
    from mpp_jax import commands

    output, config, dataset, network, extras = _open(data, quiet, options)
    return commands.fit(dataset, network, options["weights"], config, out, output, extras)


@main.command(epilog=DATA_HELP)
@click.argument("data")
@click.option("--codebook", required=True, type=PATH, help="Folder that `fit` wrote.")
@click.option("--out", required=True, type=PATH, help="Folder for the encodings.")
@weights_option
@pooling_option
@plugin_option
@extra_options
@data_options
@quiet_option
@_faces_user
def encode(
    data: str,
    codebook: Path,
    out: Path,
    weights: str | None,
    pooling: tuple[str, ...] | None,
    quiet: bool,
    **options: Any,
) -> int:
    """Encode the pictures of DATA into vectors on disk.

    OUT holds manifest.json and shard-*.npy files that NumPy alone can read. An interrupted
    encoding goes on where it stopped. Scales, layer and sizes are the codebook's.
    """
    from mpp_jax import commands, console

    output = console.Output(quiet)
    extras = _extras({name: options.pop(name) for name in ("features", "cache")})
    dataset = console.open_data(data, output=output, **options)
    return commands.encode(dataset, codebook, weights, pooling, out, output, extras)


@main.command()
@click.argument("store", type=PATH)
@click.option("--out", required=True, type=PATH, help="Folder for the model.")
@pooling_option
@plugin_option
@c_option
@quiet_option
@_faces_user
def train(
    store: Path, out: Path, pooling: tuple[str, ...] | None, c: float | None, quiet: bool
) -> int:
    """Train one-versus-rest SVMs on the encodings in STORE."""
    from mpp_jax import commands, console

    return commands.train(store, pooling, c, out, console.Output(quiet))


@main.command()
@click.argument("model", type=PATH)
@click.argument("store", type=PATH)
@click.option("--out", required=True, type=PATH, help="Folder for metrics.json and report.html.")
@click.option("--data", help="Where the pictures are, for the report's thumbnails.")
@data_options
@plugin_option
@quiet_option
@_faces_user
def evaluate(
    model: Path, store: Path, out: Path, data: str | None, quiet: bool, **options: Any
) -> int:
    """Score the test encodings in STORE with MODEL and write metrics and a report."""
    from mpp_jax import commands, console

    output = console.Output(quiet)
    pictures = None if data is None else console.open_data(data, output=output, **options)
    return commands.evaluate(model, store, pictures, out, output)


@main.command()
@click.argument("model", type=PATH)
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURE...")
@weights_option
@click.option("--method", help="Representation. [default: the model's primary one]")
@click.option("--top", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="Print JSON: path, classes, error, network.")
@plugin_option
@quiet_option
@_faces_user
def predict(
    model: Path,
    pictures: tuple[str, ...],
    weights: str | None,
    method: str | None,
    top: int,
    as_json: bool,
    quiet: bool,
) -> int:
    """Rank the classes of new pictures with a saved MODEL."""
    from mpp_jax import console, queries

    output = console.Output(quiet)
    return queries.predict(model, pictures, weights, method, top, as_json, output)


@main.command()
@click.argument("model", type=PATH)
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURE...")
@click.option("--out", required=True, type=PATH, help="Folder for the maps.")
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
@click.option("--method", help="Representation. [default: the model's primary one]")
@plugin_option
@quiet_option
@_faces_user
def confidence(
    model: Path,
    pictures: tuple[str, ...],
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
    from mpp_jax import console, queries

    output = console.Output(quiet)
    names = None if classes is None else [name.strip() for name in classes.split(",")]
    return queries.confidence(model, pictures, weights, method, names, output, **options)


@main.command()
@click.argument("store", type=PATH)
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURE...")
@weights_option
@click.option(
    "--method",
    help="Representation that is stored, or a stack of such as a+b. [default: the first]",
)
@click.option("--top", default=10, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: path, neighbours, error, network."
)
@plugin_option
@quiet_option
@_faces_user
def search(
    store: Path,
    pictures: tuple[str, ...],
    weights: str | None,
    method: str | None,
    top: int,
    as_json: bool,
    quiet: bool,
) -> int:
    """Find the pictures in STORE that are most similar to new ones (cosine of the encodings)."""
    from mpp_jax import console, queries

    output = console.Output(quiet)
    return queries.search(store, pictures, weights, method, top, as_json, output)


@main.command()
@click.argument("network")
@click.option("--scales", default="1-7", show_default=True, callback=read_scales)
@click.option("--layer", metavar="NAME", help="Activation. [default: the network's]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_faces_user
def geometry(network: str, scales: tuple[int, ...], layer: str | None, as_json: bool) -> int:
    """Print side and number of descriptors of NETWORK at every scale (the paper's Table 1)."""
    import json

    from mpp_jax.nets.geometry import format_geometry, geometry_table

    if as_json:
        click.echo(json.dumps(geometry_table(network, scales, layer), indent=1))
    else:
        click.echo(format_geometry(network, scales, layer))
    return 0


@main.command(epilog=DATA_HELP)
@click.option(
    "--out",
    default="mpp-jax-demo",
    show_default=True,
    type=PATH,
    help="Folder for everything that is made.",
)
@click.option("--data", help="Your own pictures instead of generated scenes.")
@click.option(
    "--scenes",
    default=300,
    show_default=True,
    type=click.IntRange(min=10),
    help="Scenes that are generated for training, and as many for the test.",
)
@network_option
@weights_option
@scales_option("1-5")
@data_options
@quiet_option
@_faces_user
def demo(data: str | None, out: Path, scenes: int, quiet: bool, **options: Any) -> int:
    """Run everything at a small size, to see what it does: needs no pictures and no download.

    Describes, trains and tests on generated scenes (ten kinds of objects at all sizes amid
    clutter), or on the pictures in --data, and writes a report that compares the representations
    and shows where in the pictures their evidence lies.
    """
    from mpp_jax import console
    from mpp_jax.demo import demo_data, run_demo

    output = console.Output(quiet)
    network, weights = options.pop("network"), options.pop("weights")
    scales, seed = options.pop("scales"), options["seed"]
    if data is None:
        dataset = demo_data(scenes, seed, output)
    else:
        dataset = console.open_data(data, output=output, **options)
    opened = console.open_network(network, weights, "float32", output)
    return run_demo(dataset, opened, weights, scales, seed, out, output)


@main.group()
def weights() -> None:
    """List, download, import and verify pretrained weights."""


@weights.command("list")
@_faces_user
def weights_list() -> int:
    """List the public weight files that are known, and which of them are in the cache."""
    from mpp_jax.weights import list_weights

    for row in list_weights():
        click.echo(f"{row['name']:<24} {row['network']:<20} {row['state']:<9} {row['note']}")
    return 0


@weights.command("download")
@click.argument("name")
@quiet_option
@_faces_user
def weights_download(name: str, quiet: bool) -> int:
    """Download a public weight file by NAME into the cache folder; its hash is checked."""
    from mpp_jax.weights import download_weights

    click.echo(f"weights: {download_weights(name, progress=not quiet)}")
    return 0


@weights.command("import")
@click.argument("file", type=PATH)
@click.option("--network", required=True, help="The network that the file is for.")
@click.option("--out", type=PATH, help="Folder to write. [default: where the network is looked up]")
@_faces_user
def weights_import(file: Path, network: str, out: Path | None) -> int:
    """Convert FILE into this package's own form.

    Afterwards NETWORK needs no --weights any more (unless --out names another folder).
    """
    from mpp_jax.weights import import_weights

    folder, audit = import_weights(file, network, out)
    click.echo(str(audit))
    click.echo(f"weights: {folder}")
    return 0


@weights.command("verify")
@click.argument("file", type=PATH)
@click.option("--network", help="The network that the file should be for. [default: any]")
@_faces_user
def weights_verify(file: Path, network: str | None) -> int:
    """Find out what FILE is, check it, and print what is assigned from where."""
    from mpp_jax.weights import verify_weights

    found = verify_weights(file, network)
    click.echo(f"sha256: {found.sha256}\npublic file: {found.published or 'none'}")
    click.echo(f"fits: {', '.join(found.networks) or 'no network'}")
    if found.audit is not None:
        click.echo(str(found.audit))
    if found.problem is not None:
        raise ValueError(found.problem)
    return 0
