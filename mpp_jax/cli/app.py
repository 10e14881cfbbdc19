"""The command line. Heavy modules are imported inside the commands, so that --help is quick."""

from pathlib import Path
from typing import Any

import click

from mpp_jax import __version__
from mpp_jax.cli.compare_command import compare
from mpp_jax.cli.data_commands import data as data_group
from mpp_jax.cli.engine_options import engine_options
from mpp_jax.cli.errors import OneLineErrors, faces_user
from mpp_jax.cli.job_options import log_option
from mpp_jax.cli.options import (
    data_options,
    devices_option,
    extra_options,
    fit_options,
    network_option,
    plugin_option,
    pooling_option,
    quiet_option,
    scales_option,
    seeds_option,
    svm_options,
    weights_option,
)
from mpp_jax.cli.picture_commands import confidence, geometry, predict
from mpp_jax.cli.places import PLACE
from mpp_jax.cli.search_commands import index, search
from mpp_jax.cli.store_commands import merge, verify
from mpp_jax.cli.store_options import memory_option, shard_option, store_dtype_option
from mpp_jax.cli.weight_commands import weights

DATA_HELP = """
DATA is a folder with train/<class>/* and test/<class>/*; or a folder of class folders (split by
--test-fraction with --seed); or a CSV list with rows path,label[;label],split; or tfds:NAME, a
prepared set of TensorFlow Datasets (see `mpp-jax data list`), read without TensorFlow; or an
unpacked archive as it is published: voc:PATH (a year's folder), mit67:PATH, flowers102:PATH,
caltech101:PATH or scene15:PATH; or tars as img2dataset and webdataset write them, wds:PATTERN, for
instance 'wds:shards/{00000..00099}.tar'.
Folders, lists and tars may be addresses (s3://, gs://, https://), and so may results.
A list may have a header, then its columns stand in any order. In a list ?label says that it is
unclear whether the picture shows this class: it counts neither for nor against it, in training and
in test (as "difficult" of PASCAL VOC), for example: a.jpg,cat;?dog,train
`mpp-jax data show DATA` prints what is in it; with --list FILE it writes any DATA as such a list.
"""


@click.group(
    cls=OneLineErrors,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="mpp-jax")
def main() -> None:
    """Multi-scale Pyramid Pooling: fixed-length picture representations from a CNN.

    `mpp-jax run DATA --out DIR` does everything: describes the pictures at several scales, fits
    PCA and a Gaussian mixture, encodes Fisher vectors, trains linear SVMs and reports how well
    they do. The other commands are its parts.

    Pictures, results, encodings and models may be at addresses: s3://, gs://, https:// (pip install
    'mpp-jax[s3]', [gcs], [http]). Results are written in the cache folder, and sent as they are
    finished; credentials and endpoints are configured as fsspec has it.

    Exit status: 0 done; 1 done, but some inputs were skipped (listed); 2 wrong usage, or a file or
    machine that cannot be used; 70 a fault of the program or of a plug-in; 130 or 143 interrupted
    by Ctrl-C or SIGTERM: what was done is kept. Set MPP_JAX_TRACEBACK=1 to see where an error comes
    from. Compiled programs are kept in a private folder of the user's cache, so that the next
    command starts faster: MPP_JAX_COMPILATION_CACHE names another folder, or off.
    """


@main.command(epilog=DATA_HELP)
@click.argument("data")
@click.option("--out", required=True, type=PLACE, help="Folder for everything that is made.")
@fit_options
@pooling_option
@store_dtype_option
@plugin_option
@extra_options
@engine_options
@svm_options
@memory_option
@data_options
@click.option(
    "--maps",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Test pictures that the report shows with confidence maps.",
)
@seeds_option
@log_option
@quiet_option
@faces_user
def run(
    data: str, out: Path, maps: int, seeds: tuple[int, ...] | None, quiet: bool, **options: Any
) -> int:
    """Do everything, from the pictures in DATA to a report.

    Writes DIR/report.html, DIR/metrics.json, DIR/codebook, DIR/encodings and DIR/model, and
    config.json in each, from which --config repeats it. Given again after an interruption, it goes
    on where it stopped. DIR/scores.npz keeps what every test picture scored, 4 bytes for each
    method, picture and class, so that `compare` can judge runs on the same pictures. With --seeds,
    DIR/seed-N is what DIR is otherwise, and DIR/metrics.json (mean results, deviation) and
    DIR/report.html are about all of them.
    """
    from mpp_jax.cli import opening, stages
    from mpp_jax.cli.console import Console

    console = Console(quiet)
    if seeds is None:
        return stages.run(opening.open_job(data, out, options, console), console, maps=maps)
    from mpp_jax.cli.seeds import run_seeds

    given = click.get_current_context().get_parameter_source("seed")
    if given is click.core.ParameterSource.COMMANDLINE:
        raise ValueError("give --seed or --seeds, not both")
    jobs = opening.open_jobs(data, out, options, seeds, console)
    return run_seeds(jobs, out, console, maps=maps)


@main.command(epilog=DATA_HELP)
@click.argument("data")
@click.option("--out", required=True, type=PLACE, help="Folder for the codebook.")
@fit_options
@pooling_option
@plugin_option
@extra_options
@engine_options
@data_options
@log_option
@quiet_option
@faces_user
def fit(data: str, out: Path, quiet: bool, **options: Any) -> int:
    """Fit codebooks (PCA and Gaussian mixture) to the training pictures of DATA.

    As many as the representations of --pooling need: one for most, more for other layers.
    """
    from mpp_jax.cli import stages
    from mpp_jax.cli.console import Console
    from mpp_jax.cli.opening import open_job

    console = Console(quiet)
    return stages.fit(open_job(data, out, options, console), console)


@main.command(epilog=DATA_HELP)
@click.argument("data")
@click.option("--codebook", required=True, type=PLACE, help="Folder that `fit` wrote.")
@click.option("--out", required=True, type=PLACE, help="Folder for the encodings.")
@click.option(
    "--append",
    is_flag=True,
    help="Add pictures that the encodings in OUT lack; DATA may hold nothing but them.",
)
@shard_option
@weights_option
@devices_option
@pooling_option
@store_dtype_option
@plugin_option
@extra_options
@engine_options
@data_options
@log_option
@quiet_option
@faces_user
def encode(
    data: str,
    codebook: Path,
    out: Path,
    weights: str | None,
    pooling: tuple[str, ...] | None,
    append: bool,
    shard: tuple[int, int] | None,
    store_dtype: Any,
    quiet: bool,
    **options: Any,
) -> int:
    """Encode the pictures of DATA into vectors on disk.

    OUT holds manifest.json, and shards with a record each: shard-*.npy and shard-*.json, which
    NumPy and a JSON reader alone can read. An interrupted encoding goes on where it stopped, and
    does again what was damaged since. Scales, layer and sizes are the codebook's. DATA may lack
    training pictures (a folder with test/ alone) or labels (a folder of pictures, for `search`).

    Finished encodings follow DATA: pictures that were replaced are encoded again, those that are
    gone are left out (their vectors stay, should they return), labels are taken as DATA has them.
    New pictures join with --append, which leaves nothing out.
    """
    from mpp_jax.cli import opening, stages
    from mpp_jax.cli.console import Console

    if append and shard is not None:
        raise ValueError("--append adds to whole encodings: merge the parts of --shard first")
    console = Console(quiet)
    extras = opening.open_extras(options)
    opening.check_outside(data, out, extras.cache)
    dataset = opening.open_data(data, options, console, to_train=False)
    return stages.encode(
        dataset,
        codebook,
        out,
        console,
        weights=weights,
        pooling=pooling,
        extras=extras,
        append=append,
        shard=shard,
        store_dtype=store_dtype,
    )


@main.command()
@click.argument("store", type=PLACE)
@click.option("--out", required=True, type=PLACE, help="Folder for the model.")
@memory_option
@pooling_option
@plugin_option
@svm_options
@devices_option
@log_option
@quiet_option
@faces_user
def train(
    store: Path,
    out: Path,
    pooling: tuple[str, ...] | None,
    memory: float | None,
    quiet: bool,
    **options: Any,
) -> int:
    """Train one-versus-rest SVMs on the encodings in STORE.

    Settings that are not given are those that STORE was made with. Sets of any size train: where
    the vectors or their Gram matrix do not fit in memory, they are read from STORE (--solver).
    """
    from mpp_jax.cli import stages
    from mpp_jax.cli.console import Console

    given = {name: value for name, value in options.items() if value is not None}
    return stages.train(store, out, Console(quiet), methods=pooling, svm=given, memory=memory)


@main.command()
@click.argument("model", type=PLACE)
@click.argument("store", type=PLACE)
@click.option("--out", required=True, type=PLACE, help="For metrics.json, scores.npz, report.html.")
@click.option("--data", help="Where the pictures are, for the report's thumbnails.")
@click.option(
    "--scores",
    metavar="FILE",
    help="Also write every test picture's scores there: FILE.npz (methods, ids, classes, scores, "
    "targets), FILE.csv (method,id,CLASS...) of all representations; or FOLDER/, for the VOC "
    "development kit, comp1_cls_test_<class>.txt with lines 'id score', of the first one.",
)
@data_options
@plugin_option
@log_option
@quiet_option
@faces_user
def evaluate(
    model: Path,
    store: Path,
    out: Path,
    data: str | None,
    scores: str | None,
    quiet: bool,
    **options: Any,
) -> int:
    """Score the test encodings in STORE with MODEL and write metrics and a report."""
    from mpp_jax.cli import opening, stages
    from mpp_jax.cli.console import Console

    console = Console(quiet)
    pictures = None
    if data is not None:
        opening.check_outside(data, out, None if scores is None else Path(scores))
        pictures = opening.open_data(data, options, console, to_train=False)
    return stages.evaluate(model, store, out, console, pictures=pictures, scores=scores)


@main.command(epilog=DATA_HELP)
@click.option(
    "--out",
    default="mpp-jax-demo",
    show_default=True,
    type=PLACE,
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
@devices_option
@scales_option("1-5")
@data_options
@log_option
@quiet_option
@faces_user
def demo(data: str | None, out: Path, scenes: int, quiet: bool, **options: Any) -> int:
    """Run everything at a small size, to see what it does: needs no pictures and no download.

    Describes, trains and tests on generated scenes (ten kinds of objects at all sizes amid
    clutter), or on the pictures in --data, and writes a report that compares the representations
    and shows where in the pictures their evidence lies.
    """
    from mpp_jax.cli import opening
    from mpp_jax.cli.console import Console
    from mpp_jax.cli.demo import demo_data, demo_job, run_demo
    from mpp_jax.nets.registry import DEFAULT_NETWORK

    console = Console(quiet)
    if data is None:
        own = options["network"] == DEFAULT_NETWORK and options["weights"] is None
        dataset = demo_data(scenes, options["seed"], own, console)
    else:
        opening.check_outside(data, out)
        dataset = opening.open_data(data, options, console)
    network, weights = options["network"], options["weights"]
    opened = opening.open_network(network, weights, "auto", console)
    job = demo_job(dataset, opened, weights, options["scales"], options["seed"], out, console)
    return run_demo(job, console)


for command in (
    *(compare, predict, confidence, search, index, geometry),
    *(merge, verify, weights, data_group),
):
    main.add_command(command)
