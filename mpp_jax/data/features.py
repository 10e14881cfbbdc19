"""Representations that were computed elsewhere, to be stacked with ours ("mpp+dsfl").

A file of features is what ``numpy.savez(file, ids=ids, vectors=vectors)`` writes: ``ids`` (N,) are
pictures as the data name them (the path below the folder, with forward slashes), ``vectors`` (N, D)
real numbers. Each is finished as our own representations are: signed square root, then L2.
"""

import hashlib
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from mpp_jax.data import DataError, Dataset, Item

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Features:
    """Finished vectors of pictures by id.

    Attributes:
        name: as in "mpp+NAME".
        vectors: (N, D) float32, rows of unit length or zero.
        rows: row of each picture.
        sha256: of ids and vectors.
    """

    name: str
    vectors: np.ndarray = field(repr=False)
    rows: dict[str, int] = field(repr=False)
    sha256: str

    @classmethod
    def read(cls, name: str, file: Path) -> Self:
        """Read a file of features.

        Raises:
            ValueError: a bad name, or a file that is missing or holds something else.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"features: a name is of a-z, 0-9 and _, got {name!r}")
        try:
            # Opened here: NumPy leaves a file that is no archive open.
            with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                ids, raw = arrays["ids"], np.asarray(arrays["vectors"], np.float32)
        except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"features: {file}: wanted an .npz file with ids (N,) and vectors (N, D) ({error})"
            ) from error
        if raw.ndim != 2 or ids.shape != (len(raw),) or ids.dtype.kind != "U":
            raise ValueError(
                f"features: {file}: wanted ids (N,) of text and vectors (N, D), got {ids.dtype} "
                f"{ids.shape} and {raw.shape}"
            )
        bad = [str(identity) for identity in ids[~np.isfinite(raw).all(axis=1)]]
        if bad:
            raise ValueError(f"features: {file}: NaN or infinity in the vector of {bad[0]!r}")
        rows = {str(identity): i for i, identity in enumerate(ids)}
        if len(rows) != len(ids):
            raise ValueError(f"features: {file}: {len(ids) - len(rows)} ids are there twice")
        digest = hashlib.sha256("\n".join(rows).encode() + raw.tobytes()).hexdigest()
        root = np.sign(raw) * np.sqrt(np.abs(raw))
        norm = np.linalg.norm(root, axis=1, keepdims=True)
        return cls(name, root / np.where(norm > 0, norm, 1), rows, digest)

    def check(self, dataset: Dataset) -> None:
        """Raise a `DataError` where pictures of a dataset have no vector here."""
        lacking = [item.id for item in dataset.items if item.id not in self.rows]
        if lacking:
            raise DataError(
                f"features {self.name}: no vector of {len(lacking)} of {len(dataset.items)} "
                f"pictures, {lacking[0]!r} for one; their ids are paths as in the data"
            )

    def of(self, items: Sequence[Item]) -> np.ndarray:
        """Return the vectors (n, D) of pictures."""
        return self.vectors[[self.rows[item.id] for item in items]]
