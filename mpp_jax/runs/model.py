"""A trained model: codebook, one-vs-rest SVMs and class names, saved as one folder."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mpp_jax.data import Item, Skipped
from mpp_jax.data.content import FarPicture, ReadOnce, is_pipe
from mpp_jax.data.decode import convert_picture
from mpp_jax.describe.dense import DEFAULT
from mpp_jax.nets import Network
from mpp_jax.remote.addresses import is_address
from mpp_jax.remote.mirror import local_copy
from mpp_jax.runs.provenance import Provenance, damage_reported
from mpp_jax.runs.training import Trained
from mpp_jax.runs.vectors import encode_whole
from mpp_jax.stats.codebook import FISHER, Codebook, Codebooks
from mpp_jax.storage.bundle import read_bundle, write_bundle
from mpp_jax.storage.codebooks import codebook_arrays, codebook_record, codebooks_from
from mpp_jax.svm import LinearSVM, PlattScaling, platt_probabilities, svm_scores
from mpp_jax.weights.load import load_network

MODEL = "mpp-jax-model"

Picture = str | os.PathLike[str] | bytes | np.ndarray | Image.Image
"""A picture that is asked about: a path or address, a file's content, pixels, or Pillow's."""


class Prediction(NamedTuple):
    """What a model says of pictures.

    Attributes:
        classes: (L,) names, the order of the columns.
        scores: (N, L) float32 SVM scores; rows of pictures that could not be read are NaN.
        skipped: those pictures, with the reason, in their order.
        probabilities: (N, L) float64 of the classes, NaN like scores; those of exclusive classes
            add up to one. None where the model was trained without ``--probabilities``.
    """

    classes: tuple[str, ...]
    scores: np.ndarray
    skipped: tuple[Skipped, ...]
    probabilities: np.ndarray | None = None

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
        trained: how the machines were trained, by representation; empty in models of earlier
            versions of this program.
        platt: sigmoids that turn scores into probabilities, by representation; empty without.
        exclusive: whether a picture has exactly one class.
    """

    provenance: Provenance
    codebooks: Codebooks = field(repr=False)
    svms: dict[str, LinearSVM] = field(repr=False)
    classes: tuple[str, ...]
    primary: str
    network: Network | None = field(default=None, repr=False)
    trained: dict[str, Trained] = field(default_factory=dict, repr=False)
    platt: dict[str, PlattScaling] = field(default_factory=dict, repr=False)
    exclusive: bool = True

    @property
    def codebook(self) -> Codebook | None:
        """The one of the run's own layer, for Fisher vectors; None where there is none."""
        return self.codebooks.get(f"{DEFAULT}.{FISHER.name}")

    def method(self, name: str | None = None) -> str:
        """Return the representation that a name stands for here.

        Args:
            name: as the user types it; None for the primary one.

        Raises:
            ValueError: bad notation, or one that the model was not trained on.
        """
        wanted = self.primary if name is None else name
        if wanted not in self.svms:
            wanted = self.provenance.method_name(wanted)
        if wanted not in self.svms:
            raise ValueError(f"method: the model knows {', '.join(self.svms)}, not {wanted!r}")
        return wanted

    def opened_network(self) -> Network:
        """Return the network, or raise a `ValueError` where the model was opened without it."""
        if self.network is None:
            raise ValueError("network: the model was opened without its network; use load_model")
        return self.network

    def predict(
        self,
        pictures: Sequence[Picture | Item] | np.ndarray,
        method: str | None = None,
    ) -> Prediction:
        """Score pictures.

        JAX's threads do not survive a fork: in a process forked after JAX has started, as by
        `multiprocessing` where ``"fork"`` is its method, this call waits for ever. Start worker
        processes by ``multiprocessing.get_context("spawn")`` and load the model in each.

        Args:
            pictures: paths or addresses, files' contents as bytes, PIL pictures, or uint8 RGB
                arrays (H, W, 3) of any sizes; or one array (B, H, W, 3).
            method: representation; None for the primary one.

        Raises:
            ValueError: an unknown representation, no network, or arrays of another kind.
            TypeError: one path instead of a sequence.
        """
        if isinstance(pictures, str | bytes | os.PathLike | Image.Image):
            raise TypeError(f"pictures must be a sequence of pictures, got one: {pictures!r:.80}")
        name = self.method(method)
        network = self.opened_network()
        items = [picture_item(i, picture) for i, picture in enumerate(pictures)]
        skipped: list[Skipped] = []
        scores = np.full((len(items), len(self.classes)), np.nan, np.float32)
        config = self.provenance.config
        encoded = encode_whole(network, items, self.codebooks, config, name, on_skip=skipped.append)
        for index, vectors in encoded:
            if len(index):
                scores[index] = np.asarray(svm_scores(self.svms[name], vectors))
        probabilities = self.probabilities(scores, name)
        return Prediction(self.classes, scores, tuple(sorted(skipped)), probabilities)

    def probabilities(self, scores: np.ndarray, method: str | None = None) -> np.ndarray | None:
        """Return probabilities (N, L) float64 of scores (N, L); None where there are no sigmoids.

        Args:
            scores: of this model's machines; rows with NaN stay NaN.
            method: their representation; None for the primary one.

        Raises:
            ValueError: an unknown representation, or scores of other classes.
        """
        platt = self.platt.get(self.method(method))
        if platt is None:
            return None
        scores = np.asarray(scores)
        found = np.full(scores.shape, np.nan)
        known = ~np.isnan(scores).any(axis=-1)
        found[known] = platt_probabilities(platt, scores[known], exclusive=self.exclusive)
        return found


def picture_item(number: int, picture: Picture | Item) -> Item:
    """Return a picture without label as an item; a pipe is read once, when it is needed."""
    if isinstance(picture, Item):
        return picture
    if isinstance(picture, np.ndarray | bytes):
        return Item(f"picture {number}", (), "test", read=lambda: picture)
    if isinstance(picture, Image.Image):
        return Item(f"picture {number}", (), "test", read=lambda: convert_picture(picture))
    name = os.fspath(picture)
    if is_address(name):
        return Item(name, (), "test", read=FarPicture(name), far=True)
    if is_pipe(name):
        return Item(name, (), "test", read=ReadOnce(name))
    return Item(name, (), "test", path=Path(name))


def save_model(folder: Path, model: Model) -> None:
    """Write a model folder.

    Raises:
        BundleError: the place is taken by something else.
    """
    svms = {name: svm._asdict() for name, svm in model.svms.items()}
    arrays = {"svms": svms, **codebook_arrays(model.codebooks)}
    if model.platt:
        arrays["platt"] = {name: platt._asdict() for name, platt in model.platt.items()}
    record = model.provenance.to_dict() | {
        "classes": list(model.classes),
        "methods": list(model.svms),
        "primary": model.primary,
        "codebooks": codebook_record(model.codebooks),
        "exclusive": model.exclusive,
        "trained": {name: trained.to_dict() for name, trained in model.trained.items()},
    }
    write_bundle(folder, MODEL, arrays, record)


def open_model(folder: Path) -> Model:
    """Read a model folder without its network.

    Raises:
        BundleError: it cannot be read.
    """
    arrays, record = read_bundle(folder, MODEL)
    with damage_reported(folder):
        codebooks = codebooks_from(arrays, record)
        svms = {name: LinearSVM(**arrays["svms"][name]) for name in record["methods"]}
        provenance = Provenance.from_dict(record)
        classes, primary = tuple(record["classes"]), record["primary"]
        platt = {name: PlattScaling(**part) for name, part in arrays.get("platt", {}).items()}
        sizes = [np.shape(svm.bias) for svm in svms.values()]
        sizes += [np.shape(part) for scaling in platt.values() for part in scaling]
        if primary not in svms or any(size != (len(classes),) for size in sizes):
            raise ValueError("its classes or methods do not fit its arrays")
        held = record.get("trained", {})
        return Model(
            provenance,
            codebooks,
            svms,
            classes,
            primary,
            trained={name: Trained.from_dict(entry) for name, entry in held.items()},
            platt=platt,
            exclusive=record.get("exclusive", True),
        )


def load_model(
    folder: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None
) -> Model:
    """Open a model with its network, ready to predict.

    This starts JAX, after which the process must not be forked to predict; see `Model.predict`.

    Args:
        folder: written by ``mpp-jax train`` or ``mpp-jax run``; at an address, it is copied first.
        weights: the network's weight file; None takes the place recorded at training if it still
            exists, else the cache or a download.

    Raises:
        BundleError: no model there, or other weights than it was trained with.
        RemoteError: the address cannot be read.
        WeightsError: the weight file cannot be read or had.
    """
    model = open_model(local_copy(folder))
    made = model.provenance
    weights = made.find_weights(weights)
    network = load_network(made.network, weights, dtype=made.config.dtype)
    made.check_network(network)
    made.check_code()
    return replace(model, network=network)
