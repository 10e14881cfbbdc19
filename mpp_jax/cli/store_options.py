"""Options of commands that write stores or read large ones. Nothing heavy is imported."""

from typing import get_args

import click

from mpp_jax.config import StoreDtype


def read_shard(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[int, int] | None:
    """Read "i/n", i from 1 to n."""
    if text is None:
        return None
    first, _, last = text.partition("/")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise click.BadParameter(f"{text!r}: write it as 1/4, from 1/4 to 4/4")
    return int(first), int(last)


store_dtype_option = click.option(
    "--store-dtype",
    type=click.Choice(get_args(StoreDtype)),
    help="In which vectors are stored: float16 halves them on disk, and reading gives float32. "
    "[default: float32]",
)
shard_option = click.option(
    "--shard",
    callback=read_shard,
    metavar="I/N",
    help="Encode only the I-th of N parts (1/N to N/N), each into a folder of its own, without "
    "knowing of the others; `merge` joins them. In a Slurm array 1-N: "
    "--shard $SLURM_ARRAY_TASK_ID/N --out part-$SLURM_ARRAY_TASK_ID.",
)
memory_option = click.option(
    "--memory",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GB",
    help="Memory that training may take, by which --solver auto chooses. [default: what is free]",
)
