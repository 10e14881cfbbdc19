"""What makes two runs equal, in one place: provenance, and the comparisons that rest on it.

A codebook, a store and a model are made *of* something: a network with its weights, training
pictures, settings. Which of these decide

    a codebook      `fit_settings`
    the vectors     `encoding_settings`, beside network, weights and codebooks
    a model         all of them, its `Provenance`

is said here and nowhere else; whoever takes up earlier work compares by these functions.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from mpp_jax.config import Run
from mpp_jax.data import Dataset
from mpp_jax.nets import Network, get_spec
from mpp_jax.pooling import Atom, canonical, parse_all
from mpp_jax.remote.addresses import is_address
from mpp_jax.runs.vectors import atoms_of, code_of, recipes_of
from mpp_jax.stats.codebook import Codebooks
from mpp_jax.storage.bundle import RECORD, BundleError, holds_bundle, read_bundle, write_bundle
from mpp_jax.storage.codebooks import (
    codebook_arrays,
    codebook_record,
    codebooks_digest,
    codebooks_from,
)
from mpp_jax.storage.store import Store, StoreError
from mpp_jax.storage.store_format import differences

CODEBOOK = "mpp-jax-codebook"
"""The kind of a codebook's bundle."""
CODEBOOK_OF_STORE = "codebook"
"""Encodings carry the codebook that made them, so that a model trained on them is complete."""


@dataclass(frozen=True)
class Provenance:
    """Where a codebook or model comes from; a mismatch is refused.

    Attributes:
        network: its name.
        weights_sha256: of the network's weight file.
        weights_file: path or address it was read from (a hint for the next time), or None.
        dataset: name of the pictures.
        pictures_sha256: of the list of training pictures.
        config: settings of the run.
        code: SHA-256 of users' own variants and network, by name; empty without any.
    """

    network: str
    weights_sha256: str
    weights_file: str | None
    dataset: str
    pictures_sha256: str
    config: Run
    code: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, data: Dataset, network: Network, config: Run, weights: str | None = None) -> Self:
        """Return what a codebook or model of these pictures, network and settings is stamped with.

        Args:
            data: pictures.
            network: the network.
            config: settings.
            weights: path or address of the weight file, where one was given.

        Raises:
            ValueError: a dtype that is not decided.
        """
        place = weights
        if weights is not None and not is_address(weights):
            place = str(Path(weights).resolve())
        return cls(
            network.spec.name,
            network.weights_sha256,
            place,
            data.name,
            names_digest(item.id for item in data.split("train")),
            _decided(config),
            code_of(config, network.spec),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        values = {**self.__dict__, "config": self.config.to_dict()}
        return {name: value for name, value in values.items() if name != "code" or value}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Self:
        """Read what `to_dict` wrote, ignoring other keys.

        Raises:
            KeyError, TypeError, ValueError: entries that are missing or out of range.
        """
        names = cls.__dataclass_fields__
        values = {name: record[name] for name in names if name in record}
        return cls(**{**values, "config": Run.from_dict(record["config"])})

    def find_weights(self, weights: str | os.PathLike[str] | None) -> Any:
        """Return ``weights``, or where there are none the recorded file if it still exists."""
        hint = self.weights_file
        if weights is not None or hint is None:
            return weights
        return hint if is_address(hint) or Path(hint).exists() else None

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

    def check_code(self) -> None:
        """Raise unless users' variants and network are those that it was made with.

        Raises:
            BundleError: a plug-in was edited since.
        """
        spec = get_spec(self.network)
        for name, digest in code_of(self.config, spec).items():
            if self.code.get(name) != digest:
                raise BundleError(
                    f"made with another version of the plug-in that has {name!r}; give that "
                    "version with --plugin, or run again into a new folder"
                )


def names_digest(names: Iterable[str]) -> str:
    """Return the SHA-256 of a list of pictures by name, as `Provenance.pictures_sha256` is."""
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()


# ------------------------------------------------------------------- what decides which result


def _decided(config: Run) -> Run:
    """Return settings that may be recorded, or raise."""
    if config.dtype == "auto":
        raise ValueError("dtype: 'auto' is decided by Job.settled; settle the job or name a dtype")
    return config


def fit_settings(made: Provenance) -> dict[str, Any]:
    """Return everything that decides a codebook, as JSON values."""
    settings = made.config.to_dict()
    pyramid = settings["pyramid"] | {"scales": list(made.config.pyramid.scales)}
    encoder = {key: value for key, value in settings["encoder"].items() if key != "skip_first"}
    fitted = {atom.variant for atom in atoms_of(made.config) if atom.codebook is not None}
    code = {k: v for k, v in made.code.items() if k in fitted or k.startswith("network ")}
    return {
        "network": made.network,
        "weights_sha256": made.weights_sha256,
        "training pictures' sha256": made.pictures_sha256,
        "seed": made.config.seed,
        "dtype": made.config.dtype,
        "codebooks": sorted(recipes_of(made.config)),
        **pyramid,
        **encoder,
        **({"code": code} if code else {}),
    }


def encoding_settings(config: Run, code: Mapping[str, str]) -> dict[str, Any]:
    """Return what decides the vectors besides network, weights and codebooks, as JSON values.

    Args:
        config: settings.
        code: of users' variants and network, see `Provenance.code`.

    Raises:
        ValueError: a dtype that is not decided.
    """
    settings = _decided(config).to_dict()
    return {
        "pyramid": settings["pyramid"] | {"scales": list(config.pyramid.scales)},
        "skip_first": config.encoder.skip_first,
        "dtype": config.dtype,
        **({"code": dict(code)} if code else {}),
    }


def atoms_digest(codebooks: Codebooks, atoms: Sequence[Atom]) -> str | None:
    """Return the SHA-256 of the codebooks that the atoms read; None where they read none."""
    return codebooks_digest(codebooks, (atom.codebook for atom in atoms))


# ------------------------------------------------------------------------ taking up earlier work


def check_store(store: Store, codebooks: Codebooks, made: Provenance) -> None:
    """Raise unless a store was encoded with this codebook, network, weights and settings.

    Raises:
        StoreError: what differs is named.
        BundleError: a plug-in was edited since.
    """
    made.check_code()
    wanted = {
        "network": made.network,
        "weights_sha256": made.weights_sha256,
        "store_dtype": made.config.store_dtype,
        **encoding_settings(made.config, made.code),
    }
    found = {key: store.manifest[key] for key in ("network", "weights_sha256")} | store.config
    found["store_dtype"] = store.dtype
    features = found.pop("features", {})
    found.pop("activations", None)  # rounded or not: it matters within a store
    # A model may have been trained on some of the methods, and so of the code, alone.
    code = found.pop("code", {})
    found |= {"code": {k: v for k, v in code.items() if k in made.code}} if made.code else {}
    digest = store.manifest["codebook_sha256"]
    if digest is not None:
        found["codebook_sha256"] = digest
        atoms = parse_all(list(store.methods), features, made.config.pyramid.layer)
        wanted["codebook_sha256"] = atoms_digest(codebooks, atoms)
    other = differences(wanted, found)
    if other:
        raise StoreError(f"{store.path}: encoded with other settings: {'; '.join(other)}")


def open_codebooks_of(store: Store) -> tuple[Codebooks, Provenance]:
    """Return the codebooks that a store carries, after checking that they are the store's own.

    Raises:
        StoreError: it carries none, or others.
        BundleError: they cannot be read.
    """
    folder = store.path / CODEBOOK_OF_STORE
    if not holds_bundle(folder):
        raise StoreError(
            f"{store.path}: its codebook is missing; give the same encode command again"
        )
    codebooks, made = load_codebooks(folder)
    check_store(store, codebooks, made)
    return codebooks, made


# ------------------------------------------------------------------------------ codebook folders


def save_codebooks(
    folder: Path,
    codebooks: Codebooks,
    provenance: Provenance,
    skipped: Sequence[tuple[str, str]] = (),
    pictures: Mapping[str, str | None] | None = None,
    *,
    broken: Mapping[str, str] = MappingProxyType({}),
    labels: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write a codebook folder; none at all says that these settings need none.

    Args:
        folder: its place.
        codebooks: by key.
        provenance: what they were made of.
        skipped: (id, reason) of the training pictures that could not be read for them.
        pictures: digests of those that could be, by id (`mpp_jax.runs.fitted_on`); None where
            codebooks are copied beside what was made with them.
        broken: digests of those that could not be, by id, as far as they are known.
        labels: classes of the pictures, by id, where codebooks were trained by them.

    Raises:
        BundleError: the place is taken by something else.
    """
    record = provenance.to_dict() | {"codebooks": codebook_record(codebooks)}
    if skipped:
        record["skipped"] = [
            {"path": name, "reason": reason} | ({"sha256": broken[name]} if name in broken else {})
            for name, reason in skipped
        ]
    if pictures is not None:
        record["pictures"] = dict(pictures)
    if labels is not None:
        record["labels"] = {name: [*classes] for name, classes in labels.items()}
    write_bundle(folder, CODEBOOK, codebook_arrays(codebooks), record)


def load_codebooks(folder: Path) -> tuple[Codebooks, Provenance]:
    """Read a codebook folder; return the codebooks by key, and what they were made of.

    Raises:
        BundleError: it cannot be read.
    """
    arrays, record = read_bundle(folder, CODEBOOK)
    with damage_reported(folder):
        return codebooks_from(arrays, record), Provenance.from_dict(record)


@contextmanager
def damage_reported(folder: Path) -> Iterator[None]:
    """Turn what a record with missing or misshapen entries raises into one `BundleError`."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no entry {error}" if isinstance(error, KeyError) else str(error)
        raise BundleError(f"{folder / RECORD}: damaged ({reason}); make it anew") from error
