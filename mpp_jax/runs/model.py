"""A trained model: codebook, one-vs-rest SVMs and class names, saved as one folder."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mpp_jax.config import Run
from mpp_jax.data import Item, Skipped
from mpp_jax.describe.dense import DEFAULT
from mpp_jax.nets import Network, get_spec
from mpp_jax.pooling.notation import Atom, canonical
from mpp_jax.runs.vectors import encode_whole
from mpp_jax.stats.codebook import FISHER, Codebook, Codebooks
from mpp_jax.stats.gmm import GMM
from mpp_jax.stats.pca import PCA
from mpp_jax.storage.bundle import RECORD, BundleError, arrays_digest, read_bundle, write_bundle
from mpp_jax.svm.machines import LinearSVM, svm_scores
from mpp_jax.weights.load import load_network

CODEBOOK = "mpp-jax-codebook"
MODEL = "mpp-jax-model"


@dataclass(frozen=True)
class Provenance:
    """Where a codebook or model comes from; a mismatch is refused.

    Attributes:
        network: its name.
        weights_sha256: of the network's weight file.
        weights_file: path it was read from (a hint for the next time), or None.
        dataset: name of the pictures.
        pictures_sha256: of the list of training pictures.
        config: settings of the run.
    """

    network: str
    weights_sha256: str
    weights_file: str | None
    dataset: str
    pictures_sha256: str
    config: Run

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**self.__dict__, "config": self.config.to_dict()}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Provenance":
        """Read what `to_dict` wrote, ignoring other keys."""
        names = cls.__dataclass_fields__
        values = {name: record[name] for name in names if name in record}
        return cls(**{**values, "config": Run.from_dict(record["config"])})

    def find_weights(self, weights: str | os.PathLike[str] | None) -> Any:
        """Return ``weights``, or where there are none the recorded file if it still exists."""
        hint = self.weights_file
        return hint if weights is None and hint is not None and Path(hint).exists() else weights

    def method_name(self, text: str) -> str:
        """Return the name under which a representation that the user typed is known here.

        Raises:
            ValueError: bad notation, or a layer that the network does not have.
        """
        spec = get_spec(self.network)
        own = spec.layer(self.config.pyramid.layer).name
        return canonical(text, spec, own, self.config.features)

    def check_network(self, network: Network) -> None:
        """Raise unless ``network`` is the one with the same weights.

        Raises:
            BundleError: another network, or other weights.
        """
        if network.spec.name != self.network:
            raise BundleError(f"made with network {self.network!r}, not {network.spec.name!r}")
        if network.weights_sha256 != self.weights_sha256:
            raise BundleError(
                f"made with {self.network} weights of sha256 {self.weights_sha256[:12]}..., the "
                f"given ones have {network.weights_sha256[:12] or 'none'}...; "
                "give the same file with --weights"
            )


def codebooks_digest(codebooks: Codebooks, atoms: Sequence[Atom]) -> str | None:
    """Return the SHA-256 of the codebooks that the atoms read; None where they read none."""
    keys = {atom.codebook for atom in atoms}
    used = {key: book for key, book in codebooks.items() if key in keys}
    return arrays_digest(_arrays(used)) if used else None


def _arrays(codebooks: Codebooks) -> dict[str, Any]:
    if not codebooks:
        return {}
    return {
        "codebooks": {
            key: {"pca": book.pca._asdict(), "gmm": book.gmm._asdict()}
            for key, book in sorted(codebooks.items())
        }
    }


def _record(codebooks: Codebooks) -> dict[str, dict[str, bool]]:
    return {
        key: {"l2_before": book.l2_before, "l2_after": book.l2_after}
        for key, book in sorted(codebooks.items())
    }


def _codebooks_from(arrays: dict[str, Any], record: dict[str, Any]) -> Codebooks:
    books = {}
    for key, flags in record["codebooks"].items():
        parts = jax.tree.map(jnp.asarray, arrays["codebooks"][key])
        pca, gmm = PCA(**parts["pca"]), GMM(**parts["gmm"])
        books[key] = Codebook(pca, gmm, flags["l2_before"], flags["l2_after"])
    return books


def save_codebooks(folder: Path, codebooks: Codebooks, provenance: Provenance) -> None:
    """Write a codebook folder; raises `BundleError` where the place is taken by something else.

    None at all are saved as well: it says that these settings need none.
    """
    record = provenance.to_dict() | {"codebooks": _record(codebooks)}
    write_bundle(folder, CODEBOOK, _arrays(codebooks), record)


def load_codebooks(folder: Path) -> tuple[Codebooks, Provenance]:
    """Read a codebook folder; raises `BundleError` where it cannot be."""
    arrays, record = read_bundle(folder, CODEBOOK)
    with _damage_reported(folder):
        return _codebooks_from(arrays, record), Provenance.from_dict(record)


@contextmanager
def _damage_reported(folder: Path) -> Iterator[None]:
    """Turn what a record with missing or misshapen entries raises into one BundleError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no entry {error}" if isinstance(error, KeyError) else str(error)
        raise BundleError(f"{folder / RECORD}: damaged ({reason}); make it anew") from error


class Prediction(NamedTuple):
    """What a model says of pictures.

    Attributes:
        classes: (L,) names, the order of the columns.
        scores: (N, L) float32 SVM scores; rows of pictures that could not be read are NaN.
        skipped: those pictures, with the reason, in their order.
    """

    classes: tuple[str, ...]
    scores: np.ndarray
    skipped: tuple[Skipped, ...]

    def ranked(self, row: int, top: int | None = None) -> list[tuple[str, float]]:
        """Return (class, score) of one picture, best first; empty where it could not be read."""
        if np.isnan(self.scores[row]).any():
            return []
        order = np.argsort(-self.scores[row], kind="stable")[:top]
        return [(self.classes[i], float(self.scores[row, i])) for i in order]


@dataclass(frozen=True)
class Model:
    """A trained model.

    Attributes:
        provenance: network, weights, data and settings it was made with.
        codebooks: those that the representations read, by key.
        svms: one-vs-rest machines by representation.
        classes: (L,) names.
        primary: the representation used unless another is named.
        network: loaded weights, for `predict`; None where only stored encodings are scored.
    """

    provenance: Provenance
    codebooks: Codebooks = field(repr=False)
    svms: dict[str, LinearSVM] = field(repr=False)
    classes: tuple[str, ...]
    primary: str
    network: Network | None = field(default=None, repr=False)

    @property
    def codebook(self) -> Codebook | None:
        """The one of the run's own layer, for Fisher vectors; None where there is none."""
        return self.codebooks.get(f"{DEFAULT}.{FISHER.name}")

    def predict(
        self,
        pictures: Sequence[str | os.PathLike[str] | np.ndarray] | np.ndarray,
        method: str | None = None,
    ) -> Prediction:
        """Score pictures.

        Args:
            pictures: paths, or uint8 RGB arrays (H, W, 3) of any sizes, or one array (B, H, W, 3).
            method: representation; None for the primary one.

        Raises:
            ValueError: an unknown representation, no network, or arrays of another kind.
            TypeError: one path instead of a sequence.
        """
        if isinstance(pictures, str | os.PathLike):
            raise TypeError(f"pictures must be a sequence of paths or arrays, got {pictures!r}")
        name = self.primary if method is None else method
        if name not in self.svms:
            name = self.provenance.method_name(name)
        if name not in self.svms:
            raise ValueError(f"method: the model knows {', '.join(self.svms)}, not {name!r}")
        if self.network is None:
            raise ValueError("network: the model was opened without its network; use load_model")
        items = [picture_item(i, picture) for i, picture in enumerate(pictures)]
        skipped: list[Skipped] = []
        scores = np.full((len(items), len(self.classes)), np.nan, np.float32)
        config = self.provenance.config
        encoded = encode_whole(
            self.network, items, self.codebooks, config, name, on_skip=skipped.append
        )
        for index, vectors in encoded:
            if len(index):
                scores[index] = np.asarray(svm_scores(self.svms[name], vectors))
        return Prediction(self.classes, scores, tuple(sorted(skipped)))


def picture_item(number: int, picture: str | os.PathLike[str] | np.ndarray) -> Item:
    """Return a picture without label as an item: a path, or an array (H, W, 3) uint8."""
    if isinstance(picture, np.ndarray):
        return Item(f"picture {number}", (), "test", read=lambda: picture)
    return Item(os.fspath(picture), (), "test", path=Path(picture))


def save_model(folder: Path, model: Model) -> None:
    """Write a model folder; raises `BundleError` where the place is taken by something else."""
    svms = {name: svm._asdict() for name, svm in model.svms.items()}
    arrays = {"svms": svms, **_arrays(model.codebooks)}
    record = model.provenance.to_dict() | {
        "classes": list(model.classes),
        "methods": list(model.svms),
        "primary": model.primary,
        "codebooks": _record(model.codebooks),
    }
    write_bundle(folder, MODEL, arrays, record)


def open_model(folder: Path) -> Model:
    """Read a model folder without its network; raises `BundleError` where it cannot be read."""
    arrays, record = read_bundle(folder, MODEL)
    with _damage_reported(folder):
        codebooks = _codebooks_from(arrays, record)
        svms = {name: LinearSVM(**arrays["svms"][name]) for name in record["methods"]}
        provenance = Provenance.from_dict(record)
        classes, primary = tuple(record["classes"]), record["primary"]
        if primary not in svms or any(
            np.shape(svm.bias) != (len(classes),) for svm in svms.values()
        ):
            raise ValueError("its classes or methods do not fit its arrays")
        return Model(provenance, codebooks, svms, classes, primary)


def load_model(
    folder: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None
) -> Model:
    """Open a model with its network, ready to predict.

    Args:
        folder: written by ``mpp-jax train`` or ``mpp-jax run``.
        weights: the network's weight file; None takes the place recorded at training if it still
            exists, else the cache or a download.

    Raises:
        BundleError: no model there, or other weights than it was trained with.
        WeightsError: the weight file cannot be read or had.
    """
    model = open_model(Path(folder))
    made = model.provenance
    weights = made.find_weights(weights)
    network = load_network(made.network, weights, dtype=jnp.dtype(made.config.dtype))
    made.check_network(network)
    return replace(model, network=network)
