"""Folders of finished runs, from scores that are drawn."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mpp_jax import metrics
from mpp_jax.config import Pyramid, Run
from mpp_jax.report.metrics_json import write_metrics
from mpp_jax.report.scores import scores_of_run

CLASSES = ("bus", "cat", "sofa")
METHODS = {"mpp": 1.2, "nfk": 1.0, "avg": 0.5}
"""How well each tells."""


def fake_run(
    folder: Path,
    *,
    data: str = "VOC2007",
    network: str = "toy",
    seed: int = 0,
    scales: Sequence[int] = (0, 1),
    methods: Mapping[str, float] = METHODS,
    classes: Sequence[str] = CLASSES,
    several: bool = True,
    ids: Sequence[str] = tuple(f"{i:06}.jpg" for i in range(60)),
    scores: bool = True,
) -> Path:
    """Write a run's metrics and scores; targets depend on a picture's id alone, noise on the seed.

    Pictures have ``several`` classes, some of them ignored, or exactly one.
    """
    targets = np.stack([_targets(name, len(classes), several) for name in ids])
    noise = np.random.default_rng(seed).normal(size=(len(methods), *targets.shape))
    found, results = {}, {}
    for (method, gain), part in zip(methods.items(), noise, strict=True):
        found[method] = (gain * targets + part).astype(np.float32)
        results[method] = _figures(found[method], targets, classes, several)
    config = replace(Run(Pyramid(tuple(scales)), pooling=tuple(methods)), seed=seed)
    held: dict[str, Any] = {
        **{"data": data, "network": network, "weights_sha256": network, "seconds": {"encode": 1.0}},
        "config": config.to_dict(),
        "results": results,
        "pictures": {"train": 9, "test": len(ids), "skipped": []},
    }
    write_metrics(folder, held)
    if scores:
        scores_of_run(folder).write(found, ids, classes, targets, next(iter(methods)))
    return folder


def _targets(name: str, classes: int, several: bool) -> np.ndarray:
    rng = np.random.default_rng(list(name.encode()))
    if several:
        return rng.choice([-1, 0, 1], classes, p=[0.6, 0.1, 0.3]).astype(np.int8)
    return np.where(np.arange(classes) == rng.integers(classes), 1, -1).astype(np.int8)


def _figures(
    scores: np.ndarray, targets: np.ndarray, classes: Sequence[str], several: bool
) -> dict[str, Any]:
    labels = targets.argmax(axis=1)
    each = (
        metrics.average_precision(scores, targets)
        if several
        else metrics.class_accuracies(scores, labels)
    )
    return {
        "top1": None if several else metrics.top1_accuracy(scores, labels),
        "mean_class_accuracy": None if several else metrics.mean_class_accuracy(scores, labels),
        "map11": metrics.mean_average_precision(scores, targets),
        "per_class": dict(zip(classes, each.tolist(), strict=True)),
    }


def results_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())["results"]
