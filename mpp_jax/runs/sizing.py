"""What follows from the data where the user does not say: the codebook's size, and "best".

The Gaussians of a codebook that few pictures were described for each belong to one or two of them.
At the optimum the Fisher vectors of those pictures, gradients, cancel: within a class they are no
more alike than between classes, and those of new pictures are not made so. So pyramid pooling loses
to one crop by far there; a codebook of a size that fits the set gives most of that back, though on
the smallest sets not all (`experiments/centred.py`, its tables in `experiments/README.md`).
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpp_jax.config import AUTOMATIC, Run
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
    for held in _settings_in(folders):
        encoder = held.get("encoder")
        if isinstance(encoder, dict) and isinstance(encoder.get("components"), int):
            return int(encoder["components"]) or components_for(pictures)
    return components_for(pictures)


def default_pooling(
    pictures: int, *folders: Path, names: tuple[str, ...] = Run().pooling
) -> tuple[tuple[str, ...], str]:
    """Return the representations of a run that names none, and a line where that is worth one.

    Args:
        pictures: training pictures; of large sets "best" is left out, for which folds take long.
        folders: of the run or its codebook, where an earlier call may have settled them.
        names: the representations of a new folder.
    """
    for held in _settings_in(folders):
        if isinstance(held.get("pooling"), list) and held["pooling"]:
            there = tuple(map(str, held["pooling"]))
            said = "" if there == names else f"representations, as before: {', '.join(there)}"
            return there, said
    if pictures > MOST_CHOSEN:
        plain = tuple(name for name in names if not members(name))
        return plain, f"without best: {pictures:,} training pictures take long to choose by"
    return names, ""


def _settings_in(folders: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield the settings that folders hold, of those that hold some."""
    for folder in folders:
        try:
            held = json.loads((folder / "config.json").read_text())["config"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(held, dict):
            yield held


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
