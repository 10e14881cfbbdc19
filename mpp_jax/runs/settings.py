"""The job: pictures, network and settings of a run, checked before any work is done."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mpp_jax.config import AUTO, Run, Svm
from mpp_jax.data import DataError, Dataset
from mpp_jax.data.features import Features
from mpp_jax.describe.disk_cache import DiskCache
from mpp_jax.describe.extraction import ActivationSource, Extractor
from mpp_jax.files import write_file
from mpp_jax.nets import Network
from mpp_jax.nets.dtypes import dtype_name, resolve_dtype
from mpp_jax.pooling import canonical, check_methods, members
from mpp_jax.pooling.notation import BEST
from mpp_jax.runs.provenance import CODEBOOK, Provenance
from mpp_jax.runs.ray_engine import Cluster
from mpp_jax.runs.sizing import settled_components, without_choices
from mpp_jax.runs.vectors import atoms_of, recipes_of
from mpp_jax.storage.bundle import check_place

CONFIG = "config.json"
SECONDS = "seconds.json"
"""Seconds by stage over all calls of a run (`mpp_jax.progress.Watcher.keep_in`)."""


@dataclass(frozen=True)
class Extras:
    """What a job may be given besides pictures, network and settings.

    Attributes:
        features: representations from files, by name.
        cache: folder of stored activations, or None.
        cluster: whose workers describe and encode; None for this process.
        memory: GB that training may take; None for what is free.
    """

    features: Mapping[str, Features] = field(default_factory=dict)
    cache: Path | None = None
    cluster: Cluster | None = None
    memory: float | None = None


NOTHING = Extras()


@dataclass(frozen=True)
class Job:
    """Everything that a command works on.

    Attributes:
        data: pictures.
        network: the network.
        config: settings, as the user gave them.
        out: folder for what is made.
        weights: path of the network's weight file, where one was given.
        extras: features and stored activations.
    """

    data: Dataset
    network: Network
    config: Run
    out: Path
    weights: str | None = None
    extras: Extras = NOTHING

    def settled(self) -> "Job":
        """Return the job with layer, representations and dtype as its network has them.

        An automatic number of Gaussians becomes that which suits the training pictures.

        Raises:
            ValueError: settings that would fail only after hours.
        """
        spec, given = self.network.spec, self.config
        layer = spec.layer(given.pyramid.layer).name
        names = tuple(dict.fromkeys((*given.features, *self.extras.features)))
        pooling = tuple(canonical(name, spec, layer, names) for name in given.pooling)
        dtype: Any = dtype_name(self.network.dtype, self.network.precision)
        if given.dtype != "auto" and resolve_dtype(given.dtype) != dtype:
            raise ValueError(
                f"dtype: {given.dtype} is in the settings and the network was loaded in {dtype}; "
                "load it in the same"
            )
        components = settled_components(
            given.encoder.components, len(self.data.split("train")), self.out, self.out / CODEBOOK
        )
        config = replace(
            given,
            pyramid=replace(given.pyramid, layer=layer),
            encoder=replace(given.encoder, components=components),
            pooling=tuple(dict.fromkeys(pooling)),
            features=names,
            dtype=dtype,
        )
        check_methods(atoms_of(config), codebooks=None, scales=config.pyramid.scales)
        return replace(self, config=config)

    @property
    def made(self) -> Provenance:
        """What its codebooks, encodings and models are made of."""
        return Provenance.of(self.data, self.network, self.config, self.weights)

    @property
    def activations(self) -> ActivationSource:
        """What computes the activations: the network, or a folder where they are kept."""
        if self.extras.cache is None:
            return Extractor(self.network, self.config.pyramid)
        return DiskCache(self.extras.cache, self.network, self.config.pyramid)


def check_features(
    data: Dataset, config: Run, features: Mapping[str, Features]
) -> dict[str, Features]:
    """Return the features that the representations stack with, or raise where they are not there.

    Raises:
        DataError: they lack a picture.
        ValueError: none of that name.
    """
    names = [atom.name for atom in atoms_of(config) if atom.external]
    for name in names:
        if name not in features:
            raise ValueError(f"features: {name!r} was not given; add --features {name}=FILE")
        features[name].check(data)
    return {name: features[name] for name in names}


def check_finetune(job: Job) -> None:
    """Raise where a codebook is to be trained further without what that needs.

    Raises:
        ValueError: activations are not kept, which each epoch reads, or there is no mixture.
    """
    if not job.config.encoder.finetune:
        return
    if job.extras.cache is None:
        raise ValueError(
            "finetune: each epoch reads the activations again; keep them with --cache FOLDER"
        )
    if not any(recipe.mixture for _, recipe in recipes_of(job.config).values()):
        names = ", ".join(job.config.pooling)
        raise ValueError(f"finetune: {names} read no Gaussian mixture that could be trained")


def check_contrast(classes: Sequence[str], targets: np.ndarray) -> None:
    """Raise unless every class has training pictures that are not of it; targets are (N, L)."""
    for name, column in zip(classes, targets.T, strict=True):
        if not (column < 0).any():
            raise DataError(
                f"class {name!r} is that of every training picture; "
                "a classifier needs pictures of other classes as well"
            )


def check_folds(
    classes: Sequence[str], targets: np.ndarray, svm: Svm, methods: Sequence[str]
) -> None:
    """Raise where a class is too small to be held out in folds; targets are (N, L).

    Raises:
        DataError: the class is named.
    """
    reasons = {
        "--c auto": svm.c == AUTO,
        "--probabilities": svm.probabilities,
        f"--pooling {BEST}": any(map(members, methods)),
    }
    asked = " and ".join(name for name, wanted in reasons.items() if wanted)
    if not asked:
        return
    for sign, what in ((1, ""), (-1, " of other classes")):
        for name, column in zip(classes, targets.T, strict=True):
            count = int((np.sign(column) == sign).sum())
            if count < 2:
                raise DataError(
                    f"class {name!r} has too few training pictures{what} for folds ({asked}): "
                    f"{count}, wanted are 2 or more; add some, leave the class out, or train "
                    "without folds"
                )
    if len(targets) < svm.folds:
        raise DataError(
            f"{len(targets)} training pictures are too few for {svm.folds} folds ({asked}); give "
            "--folds with a smaller number"
        )


def check_evaluable(job: Job) -> None:
    """Raise where a run would have nothing to evaluate in the end.

    Raises:
        DataError: no test picture, a class that every training picture has, or one that is too
            small for the folds that are asked for.
    """
    if not job.data.split("test"):
        raise DataError(
            f"{job.data.name}: no test picture, so there is nothing to evaluate; add some, "
            "or use the commands fit, encode and train"
        )
    targets = job.data.targets("train")
    check_contrast(job.data.classes, targets)
    classes, svm = job.data.classes, job.config.svm
    methods, _ = without_choices(job.config.pooling, classes, targets, svm.folds)
    check_folds(classes, targets, svm, methods)  # training says which are left out


def check_run_folder(out: Path) -> None:
    """Raise unless ``out`` is absent, empty, or the folder of an earlier run.

    Raises:
        ValueError: it holds something else.
    """
    check_place(out)
    ours = any((out / part).is_dir() for part in ("codebook", "encodings"))
    # Hidden names are what a killed run may leave behind, and these files are written first.
    first = (CONFIG, SECONDS)
    theirs = out.is_dir() and any(p.name[0] != "." and p.name not in first for p in out.iterdir())
    if theirs and not ours:
        raise ValueError(f"{out}: not empty, and no earlier run; give a new folder")


def write_config(folder: Path, made: Provenance) -> None:
    """Write ``config.json``, with which ``mpp-jax run --config`` repeats what made a folder."""
    held = {
        "network": made.network,
        "weights_sha256": made.weights_sha256,
        "config": made.config.to_dict(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / CONFIG, (json.dumps(held, indent=1) + "\n").encode())
