"""Settings of a run as its network and folder allow them: checked before any work is done."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mpp_jax.cli.console import Output
from mpp_jax.config import Run
from mpp_jax.data import Dataset
from mpp_jax.data.features import Features
from mpp_jax.describe.disk_cache import ActivationCache
from mpp_jax.describe.memory_cache import Describe, describe_with
from mpp_jax.nets import Network
from mpp_jax.pooling import canonical, check_methods
from mpp_jax.runs import pipeline
from mpp_jax.runs.model import Provenance, load_codebooks
from mpp_jax.runs.vectors import atoms_of
from mpp_jax.storage.bundle import check_place, holds_bundle
from mpp_jax.storage.store_format import MANIFEST, differences


@dataclass(frozen=True)
class Extras:
    """What a command may be given besides pictures, network and settings.

    Attributes:
        features: representations from files, by name.
        cache: folder of stored activations, or None.
    """

    features: Mapping[str, Features] = field(default_factory=dict)
    cache: Path | None = None


NOTHING = Extras()


def settled(network: Network, config: Run, extras: Extras = NOTHING) -> Run:
    """Return the settings with layer and representations named as this network names them.

    Raises:
        ValueError: settings that would fail only after hours.
    """
    layer = network.spec.layer(config.pyramid.layer).name
    names = tuple(dict.fromkeys((*config.features, *extras.features)))
    pooling = tuple(canonical(name, network.spec, layer, names) for name in config.pooling)
    config = replace(
        config,
        pyramid=replace(config.pyramid, layer=layer),
        pooling=tuple(dict.fromkeys(pooling)),
        features=names,
    )
    check_methods(atoms_of(config), codebooks=None, scales=config.pyramid.scales)
    return config


def describe_for(network: Network, config: Run, extras: Extras, output: Output) -> Describe:
    """Return what computes the activations: the network, or a folder where they are kept."""
    if extras.cache is None:
        return describe_with(network, config)
    output.say(f"activations: kept in and taken from {extras.cache}")
    return ActivationCache(extras.cache, network, config).describe


def provenance_of(data: Dataset, network: Network, config: Run, weights: str | None) -> Provenance:
    """Return the provenance of a run whose weights were given as a path, or not at all."""
    place = None if weights is None else str(Path(weights).resolve())
    return pipeline.provenance(data, network, config, place)


def check_run_folder(out: Path) -> None:
    """Raise unless ``out`` is absent, empty, or the folder of an earlier run."""
    check_place(out)
    ours = any((out / part).is_dir() for part in ("codebook", "encodings"))
    # Hidden names are what a killed run may leave behind.
    if out.is_dir() and any(p.name[0] != "." for p in out.iterdir()) and not ours:
        raise ValueError(f"{out}: not empty, and no earlier run; give a new folder")


def check_same_run(out: Path, made: Provenance) -> None:
    """Raise where finished encodings would lose the codebook that they were made with."""
    if holds_bundle(out / "codebook") and (out / "encodings" / MANIFEST).exists():
        _, old = load_codebooks(out / "codebook")
        found = differences(fit_settings(old), fit_settings(made))
        if found:
            raise ValueError(
                f"{out}: holds a run of other settings: {'; '.join(found)}; "
                "give a new folder or remove this one"
            )


def fit_settings(made: Provenance) -> dict[str, Any]:
    """Everything that decides a codebook, as JSON values."""
    settings = made.config.to_dict()
    pyramid = settings["pyramid"] | {"scales": list(made.config.pyramid.scales)}
    encoder = {key: value for key, value in settings["encoder"].items() if key != "skip_first"}
    return {
        "network": made.network,
        "weights_sha256": made.weights_sha256,
        "training pictures' sha256": made.pictures_sha256,
        "seed": made.config.seed,
        "dtype": made.config.dtype,
        "codebooks": sorted(pipeline.recipes(made.config)),
        **pyramid,
        **encoder,
    }
