"""What an experiment has found so far, so that one that was killed goes on where it was.

FOLDER/found-DIGEST/ holds ``settings.json``, everything that decides scores (the pictures by
content, their labels, network, weights, settings; DIGEST is of it), and a file of scores for each
representation; FOLDER/made-DIGEST/ the same without labels and classifiers, with the codebooks and,
where vectors are kept, their store. Whatever changes, a stale folder is never met.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
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
from mpp_jax.stats.codebook import Codebook, Codebooks
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
    """The codebooks and scores of a job on disk.

    Attributes:
        made: the folder of its codebooks; None where nothing is kept.
    """

    def __init__(self, job: Job, folder: Path | None) -> None:
        """Look for a job's folders in a folder; with None nothing is kept."""
        self._job = job
        self.made = self._found = None
        if folder is not None:
            vectors, labels = _deciding(job)
            self.made = _place(folder, "made", vectors)
            self._found = _place(folder, "found", vectors | labels)

    def scored(self, names: Sequence[str]) -> dict[str, Scored]:
        """Return what is there of some representations."""
        if self._found is None:
            return {}
        files = {name: self._found / f"{name}.npz" for name in names}
        return {name: _read(file) for name, file in files.items() if file.is_file()}

    def keep(self, found: dict[str, Scored]) -> None:
        """Write scores."""
        for name, one in found.items():
            if self._found is not None:
                write_file(self._found / f"{name}.npz", partial(np.savez, **one._asdict()))

    def codebooks(self, keys: Iterable[str]) -> Codebooks:
        """Return those of some codebooks that are there."""
        found: dict[str, Codebook] = {}
        for key in keys:
            if self.made is not None and holds_bundle(self.made / f"codebook-{key}"):
                found |= load_codebooks(self.made / f"codebook-{key}")[0]
        return found

    def keep_codebooks(self, codebooks: Codebooks) -> None:
        """Write codebooks, each by itself."""
        for key, book in codebooks.items():
            if self.made is not None:
                save_codebooks(self.made / f"codebook-{key}", {key: book}, self._job.made)


def _deciding(job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what decides vectors besides a representation's name, and what else decides scores."""
    made, contents = job.made, Contents()
    pictures, labels = hashlib.sha256(), hashlib.sha256()
    for item in job.data.items:
        for digest, facts in (
            (pictures, f"{item.split} {contents.now(item)}"),
            (labels, f"{item.labels} {item.ignored}"),
        ):
            digest.update(f"{item.id} {facts}\n".encode("utf-8", "surrogateescape"))
    # A representation counts for itself: others of the job, and their codebooks, do not.
    fit = {name: value for name, value in fit_settings(made).items() if name != "codebooks"}
    return {
        "pictures and splits": pictures.hexdigest(),
        "fit": fit,
        "encode": encoding_settings(made.config, {}),
    }, {
        "labels": labels.hexdigest(),
        "classes": list(job.data.classes),
        "svm": asdict(made.config.svm),
        "features": {name: part.sha256 for name, part in job.extras.features.items()},
    }


def _place(folder: Path, kind: str, settings: dict[str, Any]) -> Path:
    """Return the folder of some settings, made with them in it."""
    text = json.dumps(settings, indent=1, sort_keys=True).encode()
    place = folder / f"{kind}-{hashlib.sha256(text).hexdigest()[:16]}"
    place.mkdir(parents=True, exist_ok=True)
    write_file(place / "settings.json", text)
    return place


def _read(file: Path) -> Scored:
    with np.load(file) as arrays:
        gap, dimension = float(arrays["relative_gap"]), int(arrays["dimension"])
        return Scored(arrays["scores"], gap, dimension)
