"""What follows from the data where the user does not say: the codebook's size, and "best".

The Gaussians of a codebook that few pictures were described for each belong to one or two of them.
At the optimum the Fisher vectors of those pictures, gradients, cancel: within a class they are no
more alike than between classes, and those of new pictures are not made so. So pyramid pooling loses
to one crop there, and with a codebook of a size that fits the set it does not
(`experiments/centred.py`, its table in `experiments/README.md`).
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mpp_jax.config import AUTOMATIC, Run
from mpp_jax.data import Dataset
from mpp_jax.pooling import members

MOST = Run().encoder.components
"""Gaussians of a set that is large enough: the paper's 256."""
PICTURES_EACH = 5
"""Training pictures for each Gaussian, at least."""
MOST_CHOSEN = 10_000
"""Training pictures up to which "best" is among the representations unasked: more folds take long.
"""


def components_for(pictures: int) -> int:
    """Return the Gaussians of a codebook of so many training pictures: a power of two, up to 256.

    Powers of two, so that a picture more or less does not change a codebook's size.
    """
    fitting = max(pictures // PICTURES_EACH, 1)
    return min(MOST, 1 << (fitting.bit_length() - 1))


def settled_components(asked: int, pictures: int, *folders: Path) -> int:
    """Return the Gaussians of a run.

    Args:
        asked: what the settings say, `AUTOMATIC` or a number.
        pictures: training pictures.
        folders: of the run or its codebook, where an earlier call may have settled it: pictures
            that have come or gone since do not change it.
    """
    if asked != AUTOMATIC:
        return asked
    held = (_components_in(folder / "config.json") for folder in folders)
    return next(filter(None, held), components_for(pictures))


def _components_in(file: Path) -> int | None:
    """Return the Gaussians that the settings in a file have; None where there are none."""
    try:
        return int(json.loads(file.read_text())["config"]["encoder"]["components"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def default_pooling(dataset: Dataset) -> tuple[tuple[str, ...], str]:
    """Return the representations of a run that names none, and a line if "best" is not one, or "".

    It is left out of large sets as well, for which folds take long.
    """
    names, targets = Run().pooling, dataset.targets("train")
    if len(targets) > MOST_CHOSEN:
        plain = tuple(name for name in names if not members(name))
        return plain, f"without best: {len(targets):,} training pictures take long to choose by"
    return without_choices(names, dataset.classes, targets, Run().svm.folds)


def without_choices(
    names: Sequence[str], classes: Sequence[str], targets: np.ndarray, folds: int
) -> tuple[tuple[str, ...], str]:
    """Return representations without those that folds choose, where there can be no folds.

    Args:
        names: representations; all stay where there is no other than chosen ones.
        classes: L names.
        targets: (N, L) of the training pictures.
        folds: how many.

    Returns:
        The representations, and a line that says what is left out and why, or "".
    """
    chosen = [name for name in names if members(name)]
    reason = f"{len(targets)} training pictures" if len(targets) < folds else ""
    for name, column in zip(classes, targets.T, strict=True):
        present, absent = int((column > 0).sum()), int((column < 0).sum())
        if min(present, absent) < 2:
            reason = f"class {name!r}: {present} of it, {absent} of others"
    if not chosen or not reason or len(chosen) == len(names):
        return tuple(names), ""
    plain = tuple(name for name in names if name not in chosen)
    return plain, f"without {', '.join(chosen)}: too few training pictures for folds ({reason})"
