"""The command line. Heavy modules are imported inside the commands, so that --help is quick."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import click

from mpp_jax import __version__
from mpp_jax.config import Run, preset

USER_ERROR, INTERRUPTED = 2, 130
PATH = click.Path(path_type=Path)

DATA_HELP = """
DATA is a folder with train/<class>/* and test/<class>/*; or a folder of class folders (split by
--test-fraction with --seed); or a CSV list with rows path,label[;label],split; or tfds:NAME.
"""


def _scales(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    """Read "1-7", "3" or "1,2,4-6", counted from 1 as in the paper, into numbers from 0."""
    chosen: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            low, high = int(first), int(last or first)
        except ValueError:
            low, high = 0, 0
        if not 1 <= low <= high <= 16:
            raise click.BadParameter(f"{text!r}: write scales as 1-7, 3 or 1,2,4-6 (from 1 to 16)")
        chosen |= set(range(low - 1, high))
    return tuple(sorted(chosen))


def _names(context: click.Context, parameter: click.Parameter, text: str | None) -> Any:
    """Read "a,b+c" into a tuple of names."""
    if text is None:
        return None
    names = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    if not names:
        raise click.BadParameter("name at least one representation")
    return names


def _options(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


quiet_option = click.option("--quiet", is_flag=True, help="Print only results and skipped inputs.")
weights_option = click.option(
    "--weights",
    metavar="FILE",
    help="The network's weight file. Without it the public file is taken from the cache folder, "
    "or downloaded (its hash is checked).",
)
pooling_option = click.option(
    "--pooling",
    callback=_names,
    metavar="NAMES",
    help="Representations, comma-separated; the first one headlines. fc7, ap1, ap10, ap50, avg, "
    "nfk, csf, mpp, and stacks such as mpp+avg. "
    f"[default: {','.join(Run().pooling)}]",
)
data_options = _options(
    click.option(
        "--test-fraction",
        default=0.2,
        show_default=True,
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        help="Share of each class that is tested on, where DATA has no split.",
    ),
    click.option(
        "--limit-per-class",
        type=click.IntRange(min=1),
        metavar="N",
        help="Keep N seeded pictures of each class in each split.",
    ),
    click.option(
        "--seed",
        default=0,
        show_default=True,
        type=click.IntRange(min=0),
        help="Of splits, limits, the descriptor sample and the mixture.",
    ),
)
fit_options = _options(
    click.option("--network", default="squeezenet", show_default=True, help="See `weights list`."),
    weights_option,
    click.option("--layer", metavar="NAME", help="Activation to pool. [default: the network's]"),
    click.option(
        "--scales",
        default="1-7",
        show_default=True,
        callback=_scales,
        help="Scales of the pyramid: 1 is the network's own input side, each next has twice the "
        "area.",
    ),
    click.option(
        "--pca",
        default=Run().encoder.pca,
        show_default=True,
        type=click.IntRange(min=1),
        help="Dimensions that descriptors are reduced to.",
    ),
    click.option(
        "--components",
        default=Run().encoder.components,
        show_default=True,
        type=click.IntRange(min=1),
        help="Gaussians of the mixture.",
    ),
    click.option(
        "--samples",
        default=Run().encoder.samples,
        show_default=True,
        type=click.IntRange(min=1),
        help="Training descriptors that PCA and mixture are fitted to.",
    ),
    click.option(
        "--l2",
        type=click.Choice(["none", "before", "both"]),
        help="L2-normalise descriptors before the PCA, or before and after it. "
        "[default: none; both with --fidelity author]",
    ),
    click.option(
        "--dtype",
        default="float32",
        show_default=True,
        type=click.Choice(["float32", "bfloat16"]),
        help="In which the network computes.",
    ),
    click.option(
        "--fidelity",
        default="paper",
        show_default=True,
        type=click.Choice(["paper", "author"]),
        help="Details as the paper has them, or as its first author's published experiments.",
    ),
)
c_option = click.option(
    "--c",
    type=click.FloatRange(min=0, min_open=True),
    help="SVM cost: 0.5 |w|^2 + C sum hinge. [default: 10]",
)


def _config(options: dict[str, Any]) -> Run:
    run = preset(options["fidelity"])
    encoder = replace(
        run.encoder,
        pca=options["pca"],
        components=options["components"],
        samples=options["samples"],
        l2=options["l2"] or run.encoder.l2,
    )
    pyramid = replace(run.pyramid, scales=options["scales"], layer=options["layer"])
    svm = run.svm if options.get("c") is None else replace(run.svm, c=options["c"])
    return replace(
        run,
        pyramid=pyramid,
        encoder=encoder,
        svm=svm,
        pooling=options.get("pooling") or run.pooling,
        seed=options["seed"],
        dtype=options["dtype"],
    )


def _faces_user(command: Callable[..., int]) -> Callable[..., None]:
    """Turn what goes wrong into one line and an exit status."""

    @wraps(command)
    def wrapped(**options: Any) -> None:
        from mpp_jax.memory import keep_freed_memory

        keep_freed_memory()
        try:
            status = command(**options)
        except (ValueError, OSError) as error:
            if os.environ.get("MPP_JAX_TRACEBACK"):
                raise
            line = " ".join(str(error).split()) or type(error).__name__
            click.echo(f"error: {line}", err=True)
            status = USER_ERROR
        except KeyboardInterrupt:
            click.echo("interrupted; what was done is kept, run the command again", err=True)
            status = INTERRUPTED
        sys.exit(status)

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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
@c_option
@data_options
@quiet_option
@_faces_user
def run(data: str, out: Path, quiet: bool, **options: Any) -> int:
    """Do everything, from the pictures in DATA to a report.

    Writes DIR/report.html, DIR/metrics.json, DIR/codebook, DIR/encodings and DIR/model. Given
    again after an interruption, it goes on where it stopped.
    """
    from mpp_jax import commands

    output, config, dataset, network = _open(data, quiet, options)
    return commands.run(dataset, network, options["weights"], config, out, output)


def _open(data: str, quiet: bool, options: dict[str, Any]) -> tuple[Any, Run, Any, Any]:
    from mpp_jax import commands
    from mpp_jax.pooling import split_stacks

    output = commands.Output(quiet)
    config = _config(options)
    split_stacks(config.pooling)
    network = commands.open_network(
        options["network"], options["weights"], options["dtype"], output
    )
    dataset = commands.open_data(
        data,
        test_fraction=options["test_fraction"],
        seed=options["seed"],
        limit_per_class=options["limit_per_class"],
        output=output,
    )
    return output, config, dataset, network


@main.command(epilog=DATA_HELP)
@click.argument("data")
@click.option("--out", required=True, type=PATH, help="Folder for the codebook.")
@fit_options
@data_options
@quiet_option
@_faces_user
def fit(data: str, out: Path, quiet: bool, **options: Any) -> int:
    """Fit a codebook (PCA and Gaussian mixture) to the training pictures of DATA."""
    from mpp_jax import commands

    output, config, dataset, network = _open(data, quiet, options)
    return commands.fit(dataset, network, options["weights"], config, out, output)


@main.command(epilog=DATA_HELP)
@click.argument("data")
@click.option("--codebook", required=True, type=PATH, help="Folder that `fit` wrote.")
@click.option("--out", required=True, type=PATH, help="Folder for the encodings.")
@weights_option
@pooling_option
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
    from mpp_jax import commands

    output = commands.Output(quiet)
    dataset = commands.open_data(data, output=output, **options)
    return commands.encode(dataset, codebook, weights, pooling, out, output)


@main.command()
@click.argument("store", type=PATH)
@click.option("--out", required=True, type=PATH, help="Folder for the model.")
@pooling_option
@c_option
@quiet_option
@_faces_user
def train(
    store: Path, out: Path, pooling: tuple[str, ...] | None, c: float | None, quiet: bool
) -> int:
    """Train one-versus-rest SVMs on the encodings in STORE."""
    from mpp_jax import commands

    return commands.train(store, pooling, c, out, commands.Output(quiet))


@main.command()
@click.argument("model", type=PATH)
@click.argument("store", type=PATH)
@click.option("--out", required=True, type=PATH, help="Folder for metrics.json and report.html.")
@click.option("--data", help="Where the pictures are, for the report's thumbnails.")
@data_options
@quiet_option
@_faces_user
def evaluate(
    model: Path, store: Path, out: Path, data: str | None, quiet: bool, **options: Any
) -> int:
    """Score the test encodings in STORE with MODEL and write metrics and a report."""
    from mpp_jax import commands

    output = commands.Output(quiet)
    pictures = None if data is None else commands.open_data(data, output=output, **options)
    return commands.evaluate(model, store, pictures, out, output)


@main.command()
@click.argument("model", type=PATH)
@click.argument("pictures", nargs=-1, required=True, metavar="PICTURE...")
@weights_option
@click.option("--method", help="Representation. [default: the model's primary one]")
@click.option("--top", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="Print JSON: path, classes, error.")
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
    from mpp_jax import commands

    output = commands.Output(quiet)
    return commands.predict(model, pictures, weights, method, top, as_json, output)


@main.command()
@click.argument("network")
@click.option("--scales", default="1-7", show_default=True, callback=_scales)
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


@main.group()
def weights() -> None:
    """List, download, import and verify pretrained weights."""


@weights.command("list")
@_faces_user
def weights_list() -> int:
    """List the public weight files that are known, and which of them are in the cache."""
    from mpp_jax.weights import PLACES, cached_path

    for place in PLACES.values():
        state = "cached" if cached_path(place).is_file() else "-"
        click.echo(f"{place.name:<24}{place.network:<22}{state:<8}{place.note}")
    return 0


@weights.command("download")
@click.argument("name")
@quiet_option
@_faces_user
def weights_download(name: str, quiet: bool) -> int:
    """Download a public weight file by NAME into the cache folder; its hash is checked."""
    from mpp_jax.weights import PLACES, fetch

    if name not in PLACES:
        raise ValueError(f"no public weights {name!r}; there are {', '.join(PLACES)}")
    click.echo(f"weights: {fetch(PLACES[name], progress=not quiet)}")
    return 0


@weights.command("verify")
@click.argument("file", type=PATH)
@click.option("--network", required=True, help="The network that the file should be for.")
@_faces_user
def weights_verify(file: Path, network: str) -> int:
    """Read FILE, check that it fits NETWORK, and print what was assigned from where."""
    from mpp_jax.weights import load_audited

    _, audit = load_audited(network, file)
    click.echo(str(audit))
    return 0
