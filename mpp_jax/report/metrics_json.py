"""``metrics.json``: what a run leaves for programs, and the check of its schema."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpp_jax.files import write_file

METRICS_KEYS = ("data", "network", "weights_sha256", "config", "results", "seconds", "pictures")
RESULT_KEYS = ("top1", "mean_class_accuracy", "map11", "per_class")
PICTURES_KEYS = ("train", "test", "skipped")


def write_metrics(out_dir: str | Path, metrics: Mapping[str, Any]) -> Path:
    """Write ``metrics.json``: keys sorted, indented, NaN and infinities as ``null``.

    Args:
        out_dir: folder; made if absent.
        metrics: ``{"data", "network", "weights_sha256", "config": {...}, "results": {METHOD:
            {"top1", "mean_class_accuracy", "map11", "per_class": {CLASS: value}}}, "seconds":
            {STAGE: s}, "pictures": {"train", "test", "skipped": [{"path", "reason"}]}}``; it may
            hold ``"waiting": {STAGE: {WHAT: s}}``, the seconds of them spent waiting for something
            (both of all calls that made the run, where it was interrupted and went on),
            and ``"training": {METHOD: ...}``, see `mpp_jax.runs.training.Trained`.
            Accuracies are fractions; a figure that does not apply is None. NumPy and JAX
            numbers and arrays, tuples, paths and dataclasses are turned into plain JSON.

    Returns:
        The path of the file. It replaces an older one in one step.

    Raises:
        ValueError: a key of the schema is missing.
        TypeError: a value has no JSON form.
    """
    plain = checked_metrics(metrics)
    text = json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return write_text(Path(out_dir) / "metrics.json", text + "\n")


def is_metrics(file: Path) -> bool:
    """Return whether a file is what `write_metrics` writes."""
    try:
        held = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(held, dict) and set(METRICS_KEYS) <= held.keys()


def _plain(value: Any, where: str) -> Any:
    """Return ``value`` as dicts, lists, strings, finite numbers and None.

    ``where`` names it in errors.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: _plain(getattr(value, name), f"{where}.{name}") for name in names}
    if isinstance(value, list | tuple | range):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, np.generic | np.ndarray) or hasattr(value, "__array__"):
        return _plain(np.asarray(value).tolist(), where)
    raise TypeError(
        f"{where} is a {type(value).__name__}, which has no JSON form: give numbers, strings, "
        "None, lists, dicts, paths, arrays or dataclasses"
    )


def checked_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics as plain JSON values, see `write_metrics`.

    Raises:
        ValueError: keys that are missing or misshapen, all of them in one message.
        TypeError: a value has no JSON form.
    """
    plain = _plain(metrics, "metrics")
    faults: list[str] = []

    def need(held: Any, where: str, keys: Sequence[str]) -> bool:
        if not isinstance(held, dict):
            faults.append(f"{where} is no dict")
            return False
        faults.extend(f"{where} lacks {key!r}" for key in keys if key not in held)
        return all(key in held for key in keys)

    if need(plain, "metrics", METRICS_KEYS):
        need(plain["seconds"], "metrics['seconds']", ())
        if need(plain["results"], "metrics['results']", ()):
            for name, result in plain["results"].items():
                need(result, f"metrics['results'][{name!r}]", RESULT_KEYS)
        if need(plain["pictures"], "metrics['pictures']", PICTURES_KEYS):
            for i, item in enumerate(plain["pictures"]["skipped"]):
                need(item, f"metrics['pictures']['skipped'][{i}]", ("path", "reason"))
    if faults:
        raise ValueError(f"{'; '.join(faults)}: give each key, None where it does not apply")
    return plain


def write_text(path: Path, text: str) -> Path:
    """Write a file of text whole, making its folder; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # File names that are not valid UTF-8 come as lone surrogates; "\udc80" is JSON's own form.
    write_file(path, text.encode("utf-8", errors="backslashreplace"))
    return path
