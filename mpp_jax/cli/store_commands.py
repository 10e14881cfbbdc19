"""The commands that keep what is on disk: merge and verify. Heavy imports are inside."""

from contextlib import ExitStack
from pathlib import Path

import click

from mpp_jax.cli.errors import faces_user
from mpp_jax.cli.job_options import log_option
from mpp_jax.cli.options import quiet_option
from mpp_jax.cli.places import PLACE


@click.command()
@click.argument("stores", type=PLACE, nargs=-1, required=True, metavar="STORE...")
@click.option("--out", required=True, type=PLACE, help="Folder for the encodings.")
@log_option
@quiet_option
@faces_user
def merge(stores: tuple[Path, ...], out: Path, quiet: bool) -> int:
    """Join the parts that `encode --shard 1/N` ... `--shard N/N` wrote.

    OUT has the bytes that one `encode` of everything would have written. Settings, codebook and
    pictures of all parts must agree; parts that are missing or unfinished are named. One whole
    STORE of an earlier version of this program becomes one of the present version.
    """
    from mpp_jax.cli.console import DONE, Console
    from mpp_jax.files import exclusive
    from mpp_jax.storage.store_merge import merge_stores

    console = Console(quiet)
    with ExitStack() as held:
        # The parts too, which their `encode`, given again, would change meanwhile.
        for place in dict.fromkeys(place.absolute() for place in (out, *stores)):
            held.enter_context(exclusive(place))
        pictures = merge_stores(stores, out, console)
    console.say(f"{pictures} pictures")
    console.wrote("encodings", out)
    return DONE


@click.command()
@click.argument("places", type=PLACE, nargs=-1, required=True, metavar="STORE|MODEL|CODEBOOK...")
@quiet_option
@faces_user
def verify(places: tuple[Path, ...], quiet: bool) -> int:
    """Compare every file of encodings, indices, models, codebooks or whole runs with its checksum.

    Lists all that are missing or damaged, and ends with status 1 if there are any. The same
    `encode` command again makes damaged encodings anew, and only those.
    """
    from mpp_jax.cli.console import DONE, SOME_SKIPPED, Console
    from mpp_jax.progress import one_line
    from mpp_jax.storage.verify import verify as findings

    console, bad = Console(quiet), 0
    for place in places:
        files = 0
        for finding in findings(place):
            files += 1
            if finding.problem is not None:
                bad += 1
                console.result(one_line(f"{finding.place}: {finding.problem}"))
        console.say(f"{place}: {files} files compared")
    if not bad:
        console.say("all sound")
    return SOME_SKIPPED if bad else DONE
