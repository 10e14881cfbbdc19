"""`run --seeds`: each seed a whole run, activations computed once, mean and deviation."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.report_page import Page
from helpers.toy_cli import cli, ok, refused
from helpers.toy_run import OPTIONS, Finished, assert_same_run

from mpp_jax.cli import stages
from mpp_jax.describe import disk_cache
from mpp_jax.describe.extraction import Extractor

SEEDS = [*OPTIONS, "--pooling", "mpp,avg"]
pytestmark = pytest.mark.usefixtures("toy_known")


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pictures that the network has seen, in order."""
    seen: list[str] = []
    before = Extractor.describe

    def describe(self, items, wants, on_skip):  # type: ignore[no-untyped-def]
        seen.extend(item.id for item in items)
        return before(self, items, wants, on_skip)

    monkeypatch.setattr(Extractor, "describe", describe)
    return seen


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("seeds") / "out"


@pytest.fixture
def three(done: Finished, seeds: Path, described: list[str]) -> Path:
    """A folder of seeds 0 and 4, made once."""
    if not seeds.exists():
        arguments = ["run", done.data, "--out", seeds, *SEEDS, "--weights", done.weights]
        result = ok(*arguments, "--seeds", "0,4")
        assert result.stdout.splitlines()[-2:] == [
            f"metrics: {seeds / 'metrics.json'}",
            f"report: {seeds / 'report.html'}",
        ]
        assert "mpp     0, 4" in result.stderr
        # Once each, though a codebook is fitted and vectors are encoded, twice.
        assert sorted(described) == sorted(item.id for item in done.dataset.items)
    return seeds


def test_each_seed_is_the_run_of_that_seed(done: Finished, three: Path, tmp_path: Path) -> None:
    ok(
        *("run", done.data, "--out", tmp_path / "one", *SEEDS, "--weights", done.weights),
        *("--seed", 4),
    )
    assert_same_run(three / "seed-4", tmp_path / "one")
    ours, theirs = metrics(three / "seed-4"), metrics(tmp_path / "one")
    for key in ("config", "pictures", "training"):
        assert ours[key] == theirs[key]


def test_mean_and_deviation(three: Path) -> None:
    whole, parts = metrics(three), [metrics(three / f"seed-{seed}") for seed in (0, 4)]
    assert whole["seeds"] == [0, 4]
    for method in ("mpp", "avg"):
        for key in ("top1", "mean_class_accuracy", "map11"):
            values = [part["results"][method][key] for part in parts]
            assert whole["results"][method][key] == pytest.approx(np.mean(values))
            assert whole["deviation"][method][key] == pytest.approx(np.std(values, ddof=1))
        each = [part["results"][method]["per_class"] for part in parts]
        for name, value in whole["results"][method]["per_class"].items():
            assert value == pytest.approx(np.mean([one[name] for one in each]))
    # DATA has its own split, and avg no codebook.
    apart = whole["deviation"]["avg"]
    assert [apart[key] for key in ("top1", "mean_class_accuracy", "map11")] == [0, 0, 0]
    assert set(apart["per_class"].values()) == {0}
    texts = Page(three / "report.html").of("td")
    assert any("± 0.00" in text for text in texts)
    assert Page(three / "report.html").of("a", href="seed-4/report.html") == ["Seed 4"]


def test_activations_on_disk(
    done: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a single run: computed once, kept as float16."""
    asked: list[int] = []
    describe = disk_cache.describe_items

    def counted(network: Any, items: Any, *rest: Any, **options: Any) -> Any:
        asked.append(len(items))
        return describe(network, items, *rest, **options)

    monkeypatch.setattr(disk_cache, "describe_items", counted)
    arguments = ["run", done.data, "--out", tmp_path / "out", *SEEDS, "--weights", done.weights]
    ok(*arguments, "--seeds", 2, "--cache", tmp_path / "kept", "--quiet")
    assert sum(asked) == len(done.dataset.items)
    assert metrics(tmp_path / "out")["seeds"] == [0, 1]


def test_given_again_it_describes_nothing(
    done: Finished, three: Path, described: list[str]
) -> None:
    before = metrics(three)["results"]
    described.clear()
    arguments = ["run", done.data, "--out", three, *SEEDS, "--weights", done.weights]
    ok(*arguments, "--seeds", "0,4", "--quiet")
    assert described == []
    assert metrics(three)["results"] == before


def test_interrupted_it_goes_on(
    done: Finished, three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    arguments = ["run", done.data, "--out", out, *SEEDS, "--weights", done.weights]
    arguments += ["--seeds", "0,4"]
    train = stages.pipeline.train
    calls = []

    def interrupted(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(stages.pipeline, "train", interrupted)
        assert cli(*arguments).exit_code == 130
    assert not (out / "metrics.json").exists()
    assert "the run is not finished" in refused("compare", out, "--out", tmp_path / "c")
    ok(*arguments)
    for seed in (0, 4):
        assert_same_run(out / f"seed-{seed}", three / f"seed-{seed}")
    assert metrics(out)["results"] == metrics(three)["results"]


def test_too_little_memory_is_said(
    done: Finished, three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it costs; what comes out is the same."""
    monkeypatch.setattr("mpp_jax.cli.seeds.available_memory", lambda: 50_000)
    arguments = ["run", done.data, "--out", tmp_path / "out", *SEEDS, "--weights", done.weights]
    said = ok(*arguments, "--seeds", "0,4").stderr
    (line,) = [line for line in said.splitlines() if line.startswith("activations of 24 pictures")]
    # 2,430 bytes each, of which half of the memory holds 10.
    assert "those of 14 are computed again for every seed" in line
    assert "--cache FOLDER" in line
    for seed in (0, 4):
        assert_same_run(tmp_path / f"out/seed-{seed}", three / f"seed-{seed}")


def test_places_and_options_that_do_not_fit(done: Finished, three: Path, tmp_path: Path) -> None:
    weights = ["--weights", done.weights]
    run = ["run", done.data, *SEEDS, *weights, "--out"]
    assert "give --seed or --seeds, not both" in refused(
        *run, tmp_path / "x", "--seeds", 2, "--seed", 1
    )
    for text in ("0", "", "a", "1,1", "-1", "0,"):
        result = cli(*run, tmp_path / "x", "--seeds", text)
        assert result.exit_code == 2
        assert "--seeds" in result.stderr
    assert not (tmp_path / "x").exists()
    assert "is no folder of several seeds" in refused(*run, done.out, "--seeds", 2)
    assert "not empty, and no earlier run" in refused(*run, three)


def test_compare_takes_all_seeds(done: Finished, three: Path, tmp_path: Path) -> None:
    """Beside another run on the same pictures; a row is a method of a setting."""
    result = ok("compare", three, done.out, "--out", tmp_path / "c", "--draws", 100)
    assert result.stdout.splitlines() == [
        f"comparison: {tmp_path / 'c' / name}"
        for name in (
            *("comparison.html", "rows.csv", "classes.csv", "differences.csv"),
            *("comparison.md", "comparison.tex"),
        )
    ]
    lines = (tmp_path / "c/rows.csv").read_text().splitlines()
    assert [line.split(",")[2] for line in lines[1:3]] == ["mpp", "avg"]
    quiet = ok(
        *("compare", three, "--out", tmp_path / "c", "--draws", 100, "--quiet"),
        *("--figure", "map_area", "--classes", "red, blue", "--baseline", "AVG"),
    )
    assert quiet.stderr == ""
    text = (tmp_path / "c/rows.csv").read_text()
    assert text.splitlines()[1].split(",")[1] == "map_area"
    shutil.copytree(three / "seed-0", tmp_path / "old")
    (tmp_path / "old/scores.npz").unlink()
    said = ok("compare", tmp_path / "old", "--out", tmp_path / "d", "--draws", 100).stderr
    assert "Without intervals and differences, for want of a scores.npz" in said
    assert "no run's folder" in refused("compare", done.data, "--out", tmp_path / "e")
    assert "has no class 'dog'" in refused(
        "compare", three, "--out", tmp_path / "e", "--classes", "dog"
    )
    assert not (tmp_path / "e").exists()
