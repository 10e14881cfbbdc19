"""Configurations: refusals, round trips through JSON, presets."""

import json
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from mpp_jax.config import Encoder, Pyramid, Run, Svm, preset


def test_defaults_are_the_papers() -> None:
    run = Run()
    assert run.pyramid.scales == (0, 1, 2, 3, 4, 5, 6)
    assert (run.encoder.pca, run.encoder.components, run.encoder.samples) == (128, 256, 256_000)
    assert (run.svm.c, run.svm.tolerance) == (10.0, 1e-3)
    assert run.pooling[0] == "best"
    assert hash(run) == hash(Run())
    assert preset("paper") == run
    with pytest.raises(FrozenInstanceError):
        run.seed = 1  # type: ignore[misc]


def test_author_preset() -> None:
    author = preset("author")
    assert author.pyramid == replace(Pyramid(), rounding="round", resampling="bicubic")
    assert author.encoder == replace(Encoder(), l2="both", skip_first=True)
    assert author.fidelity == "author"
    with pytest.raises(ValueError, match="fidelity must be paper or author, got 'mine'"):
        preset("mine")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "run",
    [
        Run(),
        preset("author"),
        Run(
            Pyramid((1, 3), "fc6", "round", "bicubic", 4),
            Encoder(7, 5, 99, "before", True, 0.5, 3, 0.25),
            Svm(0.5, 0.1, 7),
            ("csf", "mpp+avg"),
            5,
            "bfloat16",
            "author",
            0,
        ),
    ],
)
def test_round_trip(run: Run) -> None:
    text = json.dumps(run.to_dict())
    again = Run.from_dict(json.loads(text))
    assert again == run
    assert hash(again) == hash(run)
    assert json.dumps(again.to_dict()) == text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pyramid(()), "scales must be a tuple of rising whole numbers"),
        (lambda: Pyramid((1, 0)), "scales must be"),
        (lambda: Pyramid((0, 0)), "scales must be"),
        (lambda: Pyramid((-1,)), "scales must be"),
        (lambda: Pyramid([0, 1]), "scales must be a tuple"),
        (lambda: Pyramid((0, 1.5)), "scales must be"),
        (lambda: Pyramid((False, True)), "scales must be"),
        (lambda: Pyramid(batch=-1), "batch must be 0 .* got -1"),
        (lambda: Pyramid(rounding="floor"), "rounding must be ceil or round, got 'floor'"),
        (lambda: Pyramid(resampling="area"), "resampling must be bilinear or bicubic, got 'area'"),
        (lambda: Encoder(pca=0), "pca must be at least 1, got 0"),
        (lambda: Encoder(components=-3), "components must be 0 or more, got -3"),
        (lambda: Encoder(samples=0), "samples must be at least 1"),
        (lambda: Encoder(max_iterations=0), "max_iterations must be at least 1"),
        (lambda: Encoder(l2="after"), "l2 must be none or before or both, got 'after'"),
        (lambda: Encoder(tolerance=-1), r"tolerance must lie in \[0, 1\), got -1"),
        (lambda: Encoder(variance_floor=float("nan")), "variance_floor must lie in"),
        (lambda: Svm(c=0), "c must be positive and finite, got 0"),
        (lambda: Svm(c=float("nan")), "c must be positive"),
        (lambda: Svm(c="many"), "c must be positive and finite, got 'many'; or auto"),
        (lambda: Svm(c="auto", cs=()), r"cs must be positive and finite, got \(\)"),
        (lambda: Svm(cs=(1.0, -1.0)), "cs must be positive"),
        (lambda: Svm(solver="dual"), "solver must be auto or gram or streamed or primal"),
        (lambda: Svm(folds=1), "folds must be at least 2 .* got 1"),
        (lambda: Svm(max_epochs=0), "max_epochs at least 1"),
        (lambda: Svm(tolerance=0), "tolerance must be positive"),
        (lambda: Run(pooling=()), "pooling must name different representations"),
        (lambda: Run(pooling=("mpp", "mpp")), "pooling must name different"),
        (
            lambda: Run(dtype="float16"),
            "dtype must be auto or float32 or tf32 or bfloat16, got 'float16'",
        ),
        (lambda: Run(fidelity="mine"), "fidelity must be paper or author, got 'mine'"),
        (lambda: Run(seed=-1), "seed and cache_bytes must be 0 or more, got -1"),
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "unknown settings of Run: colour"),
        ({"pyramid": {"scale": [0]}}, "unknown settings of Pyramid: scale"),
        ({"encoder": {"pca": 0}}, "pca must be at least 1"),
        ({"svm": 3}, "settings of Svm must be an object, got 3"),
    ],
)
def test_bad_records(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Run.from_dict(Run().to_dict() | change)
