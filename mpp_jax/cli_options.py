"""Options of the command line, and how their texts become settings. Nothing heavy is imported."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from mpp_jax.config import Run, preset

PATH = click.Path(path_type=Path)


def read_scales(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
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


def read_names(context: click.Context, parameter: click.Parameter, text: str | None) -> Any:
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
    callback=read_names,
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
        callback=read_scales,
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


def read_config(options: dict[str, Any]) -> Run:
    """Put what was chosen into a configuration."""
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
