"""Options of jobs whose pictures come in tars, and of those that are watched from elsewhere."""

import click

from mpp_jax.cli.places import PATH

log_option = click.option(
    "--log",
    type=PATH,
    metavar="FILE",
    help="Append to FILE how the work goes, one JSON object a line: start, stage, progress, skip, "
    "error, end. For those who watch from elsewhere.",
)
label_field_option = click.option(
    "--label-field",
    metavar="NAME",
    help="Field of the .json in wds: tars that holds the class, or a list of them. "
    "[default: .cls; else label, labels, cls or class]",
)
split_field_option = click.option(
    "--split-field",
    metavar="NAME",
    help="Field of the .json in wds: tars that holds the split. [default: split]",
)
