"""What an experiment has found so far, so that one that was killed goes on where it was.

FOLDER/found-DIGEST/ holds ``settings.json``, everything that decides scores (the pictures by
content, their labels, network, weights, settings; DIGEST is of it), the codebooks, and a file of
scores for each representation. Whatever changes, a stale folder is never met.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mpp_jax.files import write_file
from mpp_jax.runs.contents import Contents
from mpp_jax.runs.provenance import (
    encoding_settings,
    fit_settings,
    load_codebooks,
    save_codebooks,
)
from mpp_jax.runs.settings import Job
from mpp_jax.stats.codebook import Codebooks
from mpp_jax.storage.bundle import holds_bundle


class Scored(NamedTuple):
    """What one representation came to.

    Attributes:
        scores: (N, L) of the test pictures.
        relative_gap: of the worst class's machine.
        dimension: of the vectors.
    """

    scores: np.ndarray
    relative_gap: float
    dimension: int


class Kept:
    """The codebooks and scores of a job on disk; of a job without a cache nothing is kept."""

    def __init__(self, job: Job) -> None:
        """Use (and make, when there is something to keep) the folder of a job."""
        self._job, self._place = job, None
        if job.extras.cache is not None:
            settings = json.dumps(_deciding(job), indent=1, sort_keys=True)
            digest = hashlib.sha256(settings.encode()).hexdigest()[:16]
            self._place = job.extras.cache / f"found-{digest}"
            self._settings = settings

    def scored(self, names: Sequence[str]) -> dict[str, Scored]:
        """Return what is there of some representations."""
        if self._place is None:
            return {}
        files = {name: self._place / f"{name}.npz" for name in names}
        return {name: _read(file) for name, file in files.items() if file.is_file()}

    def keep(self, found: dict[str, Scored]) -> None:
        """Write scores."""
        if self._place is not None:
            self._made(self._place)
            for name, one in found.items():
                write_file(self._place / f"{name}.npz", partial(np.savez, **one._asdict()))

    def codebooks(self) -> Codebooks | None:
        """Return the codebooks, if they are there."""
        if self._place is None or not holds_bundle(self._place / "codebook"):
            return None
        return load_codebooks(self._place / "codebook")[0]

    def keep_codebooks(self, codebooks: Codebooks) -> None:
        """Write codebooks."""
        if self._place is not None:
            self._made(self._place)
            save_codebooks(self._place / "codebook", codebooks, self._job.made)

    def _made(self, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        write_file(place / "settings.json", self._settings.encode())


def _deciding(job: Job) -> dict[str, Any]:
    """Return everything that decides scores besides a representation's name."""
    made, contents, digest = job.made, Contents(), hashlib.sha256()
    for item in job.data.items:
        line = f"{item.id} {item.split} {item.labels} {item.ignored} {contents.now(item)}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return {
        "pictures, labels and splits": digest.hexdigest(),
        "classes": list(job.data.classes),
        "fit": fit_settings(made),
        "encode": encoding_settings(made.config, {}),
        "svm": asdict(made.config.svm),
        "features": {name: part.sha256 for name, part in job.extras.features.items()},
    }


def _read(file: Path) -> Scored:
    with np.load(file) as arrays:
        gap, dimension = float(arrays["relative_gap"]), int(arrays["dimension"])
        return Scored(arrays["scores"], gap, dimension)
