"""This package's own form of a network: a folder with an orbax checkpoint and ``network.json``.

The arrays are as the network uses them: HWIO kernels that take RGB, the mean and scale of the
input, a mean picture where there is one, all NumPy leaves. ``network.json`` holds what is not an
array::

    {"format": "mpp-jax network", "version": 2, "network": NAME, "structure": [layer, ...],
     "weights_sha256": of the file it came from, "files": {path below "arrays": SHA-256},
     "seal": SHA-256 of these entries}

A damaged checkpoint is found by the digests of its files before orbax is asked to read it, and a
damaged ``network.json`` by its seal.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from mpp_jax.checkpoint import CheckpointError, declared_arrays, restore_arrays, save_arrays
from mpp_jax.files import folder_digests, is_full, replaced_folder, seal
from mpp_jax.nets.network import Network
from mpp_jax.nets.spec import LRN, NetSpec, Preprocessing
from mpp_jax.weights.fit import rules
from mpp_jax.weights.source import FileLayer, SourceWeights, WeightsError, summary
from mpp_jax.weights.structure import described

FORMAT, VERSION = "mpp-jax network", 2
MAX_JSON_BYTES = 1 << 20
JSON_NAME, ARRAYS_NAME = "network.json", "arrays"
MAX_IMAGE_SIDE = 4096


def looks_native(path: Path) -> bool:
    """Return whether a path is a folder of this form; one that may not be looked at is none."""
    return os.path.isfile(path / JSON_NAME)


def save_network(network: Network, folder: str | os.PathLike[str]) -> Path:
    """Write a network; an existing one at the same place is replaced once the new one is whole.

    Args:
        network: what to write; parameters are stored as float32.
        folder: where.

    Returns:
        The folder.

    Raises:
        WeightsError: the place holds something that is no network, or cannot be written.
        OSError: the disk is full.
    """
    target = Path(folder).absolute()
    if target.exists() and not looks_native(target):
        raise WeightsError(f"{target} exists and is no network; give another place")
    arrays = _arrays_of(network)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "network": network.spec.name,
        "structure": [dataclasses.asdict(layer) for layer in described(network.spec)],
        "weights_sha256": network.weights_sha256,
    }
    try:
        with replaced_folder(target) as fresh:
            save_arrays(fresh / ARRAYS_NAME, arrays)
            header["files"] = folder_digests(fresh / ARRAYS_NAME)
            header["seal"] = seal(header)
            (fresh / JSON_NAME).write_text(json.dumps(header, indent=1) + "\n")
    except OSError as error:
        if is_full(error):
            raise
        raise WeightsError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def stored_network(folder: Path) -> str:
    """Return the name of the network that a folder holds.

    Raises:
        WeightsError: ``network.json`` is damaged.
        OSError: it cannot be read.
    """
    name: str = _header(folder / JSON_NAME)["network"]
    return name


def read_native(folder: Path, spec: NetSpec) -> tuple[SourceWeights, str]:
    """Read a network folder.

    Args:
        folder: where.
        spec: the wanted network.

    Returns:
        Its arrays, and the SHA-256 of the weight file that they came from.

    Raises:
        WeightsError: damaged, or another network's.
    """
    header = _header(folder / JSON_NAME)
    if header["network"] != spec.name:
        raise WeightsError(f"the folder holds network {header['network']!r}, not {spec.name!r}")
    _check_files(folder / ARRAYS_NAME, header["files"])
    arrays = _restore(folder / ARRAYS_NAME, spec)
    mean, scale = arrays.pop("mean"), arrays.pop("scale")
    image = arrays.pop("mean_image", None)
    if not (np.isfinite(mean).all() and np.isfinite(scale).all() and (scale > 0).all()):
        raise WeightsError("mean or scale is not finite and positive")
    if image is not None and not np.isfinite(image).all():
        raise WeightsError("the mean picture is not finite")
    red, green, blue = (float(v) for v in mean)
    preprocessing = Preprocessing("RGB", (red, green, blue), 1.0, tuple(1.0 / scale.astype(float)))
    structure = tuple(_layer(entry) for entry in header["structure"])
    source = SourceWeights("native", "native", arrays, preprocessing, image, structure)
    return source, header["weights_sha256"]


def _arrays_of(network: Network) -> dict[str, np.ndarray]:
    """Return all arrays by name, flat: ``conv1/kernel``, ..., ``mean``, ``scale``."""
    arrays = {}
    for rule in rules(network.spec, "native"):
        node: Any = network.params
        for key in rule.path:
            node = node[key]
        arrays[rule.name] = np.asarray(node, np.float32)
    arrays["mean"], arrays["scale"] = np.asarray(network.mean), np.asarray(network.scale)
    if network.mean_image is not None:
        arrays["mean_image"] = np.asarray(network.mean_image)
    return arrays


def _check_files(folder: Path, recorded: dict[str, Any]) -> None:
    found = folder_digests(folder) if folder.is_dir() else {}
    for name in sorted({*found, *recorded}):
        if name not in recorded:
            raise WeightsError(f"the checkpoint has a file {name!r} that was not saved with it")
        if name not in found:
            raise WeightsError(f"the checkpoint is incomplete: {name!r} is missing")
        if found[name] != recorded[name]:
            raise WeightsError(f"the checkpoint is damaged: {name!r} was changed after saving")


def _header(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise WeightsError(f"{JSON_NAME} is too long")
    try:
        header = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{JSON_NAME} is damaged: no JSON") from error
    texts = ("network", "weights_sha256")
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise WeightsError(f"{JSON_NAME} is not of this package")
    if header.get("version") != VERSION:
        raise WeightsError(f"{JSON_NAME} has version {header.get('version')!r}, known is {VERSION}")
    ok = all(isinstance(header.get(key), str) for key in texts)
    ok = ok and isinstance(header.get("structure"), list)
    if not ok or not isinstance(header.get("files"), dict):
        raise WeightsError(f"{JSON_NAME} is damaged: entries are missing")
    if header.get("seal") != seal(header):
        raise WeightsError(f"{JSON_NAME} is damaged: it was changed after saving")
    return header


def _layer(entry: Any) -> FileLayer:
    try:
        fields = dict(entry)
        if fields.get("lrn") is not None:
            fields["lrn"] = LRN(**fields["lrn"])
            if not all(isinstance(v, int | float) for v in dataclasses.astuple(fields["lrn"])[1:]):
                raise ValueError("constants are no numbers")
        return FileLayer(**fields)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{JSON_NAME} is damaged: a layer is not described") from error


def _restore(folder: Path, spec: NetSpec) -> dict[str, np.ndarray]:
    """Read the arrays, after their declared names, shapes and dtypes were found harmless."""
    wanted = {rule.name: rule.shape for rule in rules(spec, "native")}
    wanted |= {"mean": (3,), "scale": (3,)}
    try:
        declared = declared_arrays(folder)
    except CheckpointError as error:
        raise WeightsError("the checkpoint is damaged: its metadata cannot be read") from error
    shape, _ = declared.get("mean_image", ((1, 1, 3), None))
    if len(shape) == 3 and shape[2] == 3 and max(shape) <= MAX_IMAGE_SIDE:
        wanted |= {"mean_image": shape} if "mean_image" in declared else {}
    # What else is missing the audit finds: a network may end below its last layer.
    errors = [f"{name!r} is missing" for name in ("mean", "scale") if name not in declared]
    errors += [f"{name!r} is not known" for name in declared if name not in wanted]
    errors += [
        f"{name!r} is {dtype} of shape {shape}, wanted float32 of {wanted[name]}"
        for name, (shape, dtype) in declared.items()
        if name in wanted and (shape != wanted[name] or dtype != np.float32)
    ]
    if errors:
        raise WeightsError(f"the checkpoint does not fit {spec.name!r}: {summary(errors)}", errors)
    try:
        arrays = restore_arrays(folder)
    except CheckpointError as error:
        raise WeightsError("the checkpoint is damaged: its arrays cannot be read") from error
    for name, (shape, dtype) in declared.items():
        if name not in arrays or arrays[name].shape != shape or arrays[name].dtype != dtype:
            raise WeightsError(f"the checkpoint is damaged: {name!r} is not what it declares")
    return arrays
