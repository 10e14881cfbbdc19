"""Commands about data sets: which are known, how to prepare them, what is in one."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpp_jax.cli.errors import faces_user
from mpp_jax.cli.options import PATH, data_options, quiet_option

if TYPE_CHECKING:
    from mpp_jax.cli.console import Console
    from mpp_jax.data.survey import Survey

_SHOWN = 5
"""Names of pictures that `show` prints of each kind; --json has all."""

data_dir_option = click.option(
    "--data-dir",
    type=PATH,
    help="TFDS folder. [default: TFDS_DATA_DIR or ~/tensorflow_datasets]",
)


@click.group()
def data() -> None:
    """List and prepare published data sets; show what is in any DATA.

    Published archives are also read in place, unpacked: voc:PATH, mit67:PATH, flowers102:PATH,
    caltech101:PATH, scene15:PATH. A prepared set is a few large files instead of thousands of small
    ones, and opens as tfds:NAME, from any program that knows TensorFlow Datasets too.
    """


@data.command("list")
@data_dir_option
@faces_user
def data_list(data_dir: Path | None) -> int:
    """List the published sets, where their files are, and which sets are prepared."""
    from mpp_jax.data.published import SETS, prepared_sets, tfds_folder

    folder = tfds_folder(data_dir)
    prepared = prepared_sets(folder)
    for entry in SETS.values():
        there = prepared.pop(entry.tfds, None)
        state = f"prepared, tfds:{entry.tfds}" if there else "not prepared"
        click.echo(f"{entry.name:<12}{state:<30}{entry.title}")
        for file in entry.files:
            checked = f"{file.size or 0:,} bytes" if file.sha256 else "give it with --archive"
            click.echo(f"{'':<12}{file.urls[0]} ({checked})")
    for name, versions in prepared.items():
        click.echo(f"{name:<12}prepared, tfds:{name} ({', '.join(versions)})")
    click.echo(f"prepared sets lie in {folder}")
    return 0


@data.command("prepare")
@click.argument("name")
@click.option(
    "--archive",
    "archives",
    multiple=True,
    metavar="PATH",
    type=PATH,
    help="An archive as it was downloaded (give the option again for each of several files), a "
    "folder that they lie in, or the unpacked folder. [default: download them]",
)
@data_dir_option
@quiet_option
@faces_user
def data_prepare(name: str, archives: tuple[Path, ...], data_dir: Path | None, quiet: bool) -> int:
    """Prepare the published set NAME (see `data list`), so that it opens as tfds:NAME.

    Pictures are kept to the byte, with their names, order, labels, official splits, "difficult"
    marks and boxes; TensorFlow is not needed. Downloads are checked against known digests, and so
    are files that you give by their published names. What was drawn at random (Caltech 101,
    Scene-15) is drawn as caltech101:PATH and scene15:PATH do it with seed 0.

    Example: mpp-jax data prepare voc2007 --archive VOCtrainval_06-Nov-2007.tar --archive
    VOCtest_06-Nov-2007.tar
    """
    from mpp_jax.cli.console import Console
    from mpp_jax.data.published import published
    from mpp_jax.files import expanded

    entry = published(name)
    console = Console(quiet)
    with _tfds_aside(quiet):
        from mpp_jax.data.published_tfds import prepare

        done = prepare(
            name,
            None if data_dir is None else expanded(data_dir),
            [expanded(path) for path in archives],
            console.say,
        )
    if done.opened is None:
        console.say(f"{name}: prepared already; remove the folder to have it prepared anew")
    else:
        _say_opened(done.opened, console)
    usual = data_dir is None
    console.wrote("prepared", done.folder)
    console.say(f"open it as tfds:{entry.tfds if usual else done.folder}")
    warnings = done.opened.warnings if done.opened is not None else ()
    return console.skipped([(name, warning) for warning in warnings])


@data.command("show")
@click.argument("data")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, all names too.")
@click.option(
    "--list",
    "list_file",
    type=PATH,
    metavar="FILE",
    help="Also write DATA as a CSV list, in which you may correct labels and mark unclear ones.",
)
@data_options
@quiet_option
@faces_user
def data_show(data: str, as_json: bool, list_file: Path | None, quiet: bool, **options: Any) -> int:
    """Show what is in DATA (any that `run` takes): counts, odd pictures, duplicates.

    Pictures are counted by class and split, "difficult" ones (in a CSV list: ?label) apart. Each is
    decoded; those that cannot be are listed with the reason, and the exit status is 1. Two pictures
    count as the same where they have the same pixels; copies that were compressed again do not.
    """
    from mpp_jax.cli.console import Console
    from mpp_jax.cli.opening import open_data
    from mpp_jax.data.lists import write_list
    from mpp_jax.data.survey import Survey, look

    console = Console(quiet)
    dataset = open_data(data, options, console, to_train=False)
    dataset = dataset.joining(dataset.unclear)  # classes that no picture surely shows, too
    if list_file is not None:
        write_list(dataset, list_file)
    bar = console.bar(len(dataset.items), "look at pictures", "picture")
    seen = []
    with bar:
        for one in look(dataset):
            seen.append(one)
            bar.update(1)
    found = Survey(dataset, tuple(seen))
    console.result(json.dumps(found.as_json(), indent=1) if as_json else _shown(found))
    if list_file is not None:
        console.say(f"list: {list_file}")
    skipped = [(dataset.name, warning) for warning in dataset.warnings]
    return console.skipped(skipped + found.broken)


def _say_opened(opened: Any, console: "Console") -> None:
    train, test = len(opened.split("train")), len(opened.split("test"))
    console.say(f"{len(opened.classes)} classes, {train} training pictures, {test} test")
    for note in opened.notes:
        console.say(note)


@contextmanager
def _tfds_aside(quiet: bool) -> Iterator[None]:
    """Keep what TFDS prints off standard output, and its bars off logs."""
    import tensorflow_datasets as tfds

    if quiet or not sys.stderr.isatty():
        tfds.disable_progress_bar()
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


def _shown(found: "Survey") -> str:
    """Return what was found as lines."""
    from mpp_jax.data.survey import is_across

    lines = [_class_table(found)]
    if found.sides:
        parts = [
            f"{name} {low} to {high}, half of them up to {middle}"
            for name, (low, middle, high) in found.sides.items()
        ]
        lines.append(f"pixels: {'; '.join(parts)}")
    for what, names in found.odd.items():
        lines.append(f"odd: {what}: {_some(names)}")
    if found.broken:
        lines.append(f"cannot be decoded: {_some([name for name, _ in found.broken])}")
    elif not found.odd:
        lines.append("odd: none")
    groups = found.same
    across = sum(map(is_across, groups))
    differ = sum(len({item.labels for item in group}) > 1 for group in groups)
    copies = sum(len(group) - 1 for group in groups)
    if groups:
        lines.append(
            f"duplicates: {copies} pictures have the same pixels as another before them, in "
            f"{len(groups)} groups; groups in training and test: {across}; of different labels: "
            f"{differ}"
        )
    else:
        lines.append("duplicates: none")
    for group in groups[:_SHOWN]:
        lines.append("  " + " = ".join(f"{item.id} ({item.split})" for item in group))
    if len(groups) > _SHOWN:
        lines.append(f"  and {len(groups) - _SHOWN} more groups (--json has all)")
    return "\n".join(lines)


def _class_table(found: "Survey") -> str:
    dataset = found.dataset
    splits = [split for split in ("train", "test") if dataset.split(split)]
    difficult = any(item.ignored for item in dataset.items)
    rows = [
        ["class", *(f"{s}{end}" for s in splits for end in ("", " difficult")[: 1 + difficult])]
    ]
    for name, counts in found.classes.items():
        rows.append([name, *_cells([counts[split] for split in splits], difficult)])
    whole = [[str(len(dataset.split(split))), ""][: 1 + difficult] for split in splits]
    rows.append(["pictures", *(cell for pair in whole for cell in pair)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"{row[0]:<{widths[0]}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    )


def _cells(counts: Sequence[tuple[int, int]], difficult: bool) -> list[str]:
    return [str(value) for count in counts for value in count[: 1 + difficult]]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} ({', '.join(names[:_SHOWN])}{more})"
