"""The benchmark of JPEG files to vectors on disk, with the toy network."""

import argparse
from pathlib import Path
from typing import Any

import pytest
from helpers import toy

pytestmark = pytest.mark.usefixtures("toy_known")

SMALL = {"pictures": 4, "rounds": 1, "many": 20, "scales": 2}
FITTED = {"pca": 4, "components": 2, "samples": 60}


def test_both_parts_measure_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench_encode

    # The yardstick of the other benchmarks is a second of work.
    monkeypatch.setattr("timing.SIDE", 64)
    args = argparse.Namespace(**SMALL, **FITTED)
    for name in ("speed", "memory"):
        (tmp_path / name).mkdir()
    found: dict[str, Any] = bench_encode.speed(args, toy.toy_network(), tmp_path / "speed")
    assert set(found["seconds"]) == {"extraction", "encoding", "whole"}
    for run, seconds in found["seconds"].items():
        assert found["pictures_per_second"][run] == pytest.approx(4 / seconds)
    stores = sorted((tmp_path / "speed").glob("store-*/manifest.json"))
    assert len(stores) == 2  # each round into a new one
    kept = bench_encode.memory(args, toy.toy_network(), tmp_path / "memory")
    assert kept["pictures"] == 20
    assert 0 < kept["peak_mib_after_a_tenth"] <= kept["peak_mib_at_the_end"]
