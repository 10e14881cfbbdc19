"""The command that compares finished runs."""

from pathlib import Path

import click

from mpp_jax.cli.errors import faces_user
from mpp_jax.cli.options import PATH, quiet_option


@click.command()
@click.argument("runs", nargs=-1, required=True, type=PATH, metavar="RUN...")
@click.option("--out", required=True, type=PATH, help="Folder for page and tables.")
@click.option(
    "--figure",
    type=click.Choice(["top1", "mean_class_accuracy", "map11", "map_area"]),
    help="What is compared: an accuracy, or mean average precision by 11 points or area. "
    "[default: map11 where pictures have several classes, else top1]",
)
@click.option(
    "--classes", metavar="NAMES", help="Classes that count, comma-separated. [default: all]"
)
@click.option(
    "--baseline",
    metavar="METHOD",
    help="Differences are to this method, of the first run on the data that has it. "
    "[default: the method that headlines the first run]",
)
@click.option(
    "--draws",
    default=2000,
    show_default=True,
    type=click.IntRange(min=100),
    help="Resamples of the test pictures for the intervals.",
)
@quiet_option
@faces_user
def compare(
    runs: tuple[Path, ...],
    out: Path,
    figure: str | None,
    classes: str | None,
    baseline: str | None,
    draws: int,
    quiet: bool,
) -> int:
    """Compare finished runs: methods, settings, networks and data sets, with intervals.

    RUN is what --out of `run` or `evaluate` was; of `run --seeds`, it stands for all its seeds.
    Runs that differ in their seed alone are one row, with mean and sample deviation. Intervals of
    95% are by bootstrap over the test pictures, the same ones for every method, so differences of
    methods are paired, within and across runs on the same pictures. Runs that were tested on other
    pictures are marked. Runs without scores.npz (of earlier versions) have figures only.

    Writes OUT/comparison.html for people; rows.csv, classes.csv (each class of each row) and
    differences.csv (each pair of rows), in fractions; comparison.md and comparison.tex.
    """
    from mpp_jax.cli.console import DONE, Console
    from mpp_jax.files import exclusive
    from mpp_jax.report.comparing import compare as compared
    from mpp_jax.report.comparison_page import check_comparison_place, write_comparison
    from mpp_jax.report.comparison_tables import as_text
    from mpp_jax.report.finished_runs import read_runs
    from mpp_jax.storage.bundle import check_place

    console = Console(quiet)
    check_place(out)
    check_comparison_place(out)
    names = None if classes is None else tuple(filter(None, map(str.strip, classes.split(","))))
    if names == ():
        raise click.BadParameter("name at least one class", param_hint="--classes")
    tables = compared(
        read_runs(runs),
        figure=figure,  # type: ignore[arg-type]  # one of the choices
        classes=names,
        baseline=None if baseline is None else "".join(baseline.lower().split()),
        draws=draws,
        each=lambda todo: console.bar(todo, "compare", "run"),
    )
    with exclusive(out):
        places = write_comparison(out, tables)
    console.say(as_text(tables))
    for place in places:
        console.wrote("comparison", place)
    return DONE
