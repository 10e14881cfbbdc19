"""Options that say how a codebook is fitted. Nothing heavy is imported."""

from collections.abc import Callable
from typing import Any

import click

from mpp_jax.config import AUTO, AUTOMATIC, Run


def grouped(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return one decorator that adds several options, in this order."""

    def decorate(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def _read_size(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """Read a whole number from 1, or "auto"."""
    if text is None:
        return None
    if text.lower() == AUTO:
        return AUTOMATIC
    if not text.isdecimal() or int(text) < 1:
        raise click.BadParameter(f"{text!r}: give a whole number from 1, or auto")
    return int(text)


codebook_options = grouped(
    click.option(
        "--pca",
        default=Run().encoder.pca,
        show_default=True,
        type=click.IntRange(min=1),
        help="Dimensions that descriptors are reduced to.",
    ),
    click.option(
        "--whiten/--no-whiten",
        default=None,
        help="Scale what the PCA keeps to variance 1. [default: no-whiten]",
    ),
    click.option(
        "--components",
        callback=_read_size,
        metavar="NUMBER|auto",
        help="Gaussians of the mixture. auto takes as many as suit the number of training pictures "
        "(a power of two; five pictures or more for each), at most 256: a larger codebook fits "
        "pictures instead of what they have in common; in a folder of an earlier run it stays what "
        "it was. [default: auto; 256 with --fidelity author]",
    ),
    click.option(
        "--samples",
        default=Run().encoder.samples,
        show_default=True,
        type=click.IntRange(min=1),
        help="Training descriptors that PCA and mixture are fitted to.",
    ),
    click.option(
        "--finetune",
        default=Run().encoder.finetune,
        show_default=True,
        type=click.IntRange(min=0),
        metavar="EPOCHS",
        help="Train the fitted codebook further for so many passes over the labelled training "
        "pictures, so that linear classifiers tell their classes apart by MPP. Needs --cache.",
    ),
    click.option(
        "--l2",
        type=click.Choice(["none", "before", "both"]),
        help="L2-normalise descriptors before the PCA, or before and after it. "
        "[default: none; both with --fidelity author]",
    ),
)
