"""Commands that find similar pictures: search, and the index that makes it small."""

from pathlib import Path
from typing import Any

import click

from mpp_jax.cli.errors import faces_user
from mpp_jax.cli.options import (
    devices_option,
    pictures_arguments,
    plugin_option,
    quiet_option,
    weights_option,
)
from mpp_jax.cli.places import PLACE

method_option = click.option(
    "--method",
    help="Representation that is stored, or a stack of such as a+b. [default: the first; best, "
    "which training chooses, does not count]",
)


@click.command()
@click.argument("store", metavar="STORE|INDEX", type=PLACE)
@pictures_arguments
@weights_option
@devices_option
@method_option
@click.option("--top", default=10, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--figures",
    is_flag=True,
    help="Instead of looking for new pictures, say how well the stored ones find each other: mean "
    "average precision by class. Test pictures ask for training pictures; where there is one split "
    "alone, each picture for all others.",
)
@click.option(
    "--queries",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --figures: so many seeded pictures ask. [default: all]",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print JSON: path, neighbours, error, network; or figures.",
)
@plugin_option
@quiet_option
@faces_user
def search(
    store: Path,
    pictures: tuple[str, ...],
    lists: tuple[Path, ...],
    weights: str | None,
    method: str | None,
    top: int,
    figures: bool,
    queries: int | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Find the stored pictures that are most similar to new ones (cosine of the encodings).

    In STORE, encodings that `encode` or `run` wrote, every vector is compared exactly. In INDEX,
    which `index` made of them, compressed ones are. Both are read piece by piece: memory does not
    grow with the number of vectors.
    """
    from mpp_jax.cli import similar
    from mpp_jax.cli.console import Console
    from mpp_jax.cli.opening import open_pictures

    console = Console(quiet)
    if figures:
        if pictures or lists:
            raise ValueError("figures: --figures is about the stored pictures; name no others")
        return similar.figures(store, method, queries, as_json, console)
    items = open_pictures(pictures, lists, console)
    return similar.search(store, items, weights, method, top, as_json, console)


@click.command()
@click.argument("store", type=PLACE)
@click.option("--out", required=True, type=PLACE, help="Folder for the index.")
@method_option
@click.option(
    "--pca",
    default=256,
    show_default=True,
    type=click.IntRange(min=1),
    help="Dimensions that vectors are reduced to (fewer where there are fewer pictures).",
)
@click.option(
    "--whiten/--no-whiten",
    default=False,
    help="Scale the reduced dimensions to equal variance. It loses where pictures of the same "
    "class are wanted (measured on scenes, experiments/README.md). [default: no-whiten]",
)
@click.option(
    "--quantise",
    type=click.IntRange(min=1),
    metavar="BYTES",
    help="Quantise each reduced vector to so many bytes (product quantisation by faiss, "
    "pip install 'mpp-jax[faiss]'; searching needs no faiss). [default: float16, 2 bytes a "
    "dimension]",
)
@click.option(
    "--samples",
    default=10_000,
    show_default=True,
    type=click.IntRange(min=2),
    help="Stored pictures that all this is fitted to, at most; training pictures where there are.",
)
@click.option(
    "--queries",
    default=200,
    show_default=True,
    type=click.IntRange(min=1),
    help="Stored pictures by which recall against exact search is measured.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@plugin_option
@devices_option
@quiet_option
@faces_user
def index(store: Path, out: Path, method: str | None, quiet: bool, **options: Any) -> int:
    """Compress the encodings in STORE into an index that `search` takes in STORE's place.

    Reduces the vectors of one representation by principal components, and whitens and
    quantises them where that is wanted. OUT/index.json states what that costs: recall at 1, 10 and
    100, the share of the exact nearest pictures that are found. The files are NumPy's.
    """
    from mpp_jax.cli import similar
    from mpp_jax.cli.console import Console

    return similar.index(store, out, method, options, Console(quiet))
