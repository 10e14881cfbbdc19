"""The demonstration: generated scenes or one's own folder, to a report with confidence maps."""

import json
import webbrowser
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers import toy
from helpers.report_page import Page
from helpers.toy_cli import ok, refused, tiny
from helpers.toy_run import Finished, know_toy, quiet

from mpp_jax.cli.demo import MAPS, POOLING, REMARK, demo_data
from mpp_jax.data import Item
from mpp_jax.data.clutter import CLASSES, Clutter
from mpp_jax.report.map_examples import local_method, map_gallery, spread_over_classes
from mpp_jax.runs.model import Model, load_model


@pytest.fixture(autouse=True)
def _toy_network(monkeypatch: pytest.MonkeyPatch) -> None:
    know_toy(monkeypatch)
    # Small scenes, on the canvas of the toy pictures: no further programs are compiled.
    monkeypatch.setattr("mpp_jax.cli.demo.Clutter", partial(Clutter, sides=(64, 96)))

    def opened(*arguments: object) -> None:
        raise AssertionError(f"the demo opened {arguments}")

    monkeypatch.setattr(webbrowser, "open", opened)


@pytest.fixture
def model(done: Finished) -> Model:
    return load_model(done.out / "model", done.weights)


def test_the_page_says_what_the_packaged_network_does_not_show() -> None:
    assert demo_data(10, 0, True, quiet()).notes == (REMARK,)
    assert demo_data(10, 0, False, quiet()).notes == ()


def test_on_generated_scenes(tmp_path: Path) -> None:
    weights, out = toy.write_weights(tmp_path / "toy.safetensors"), tmp_path / "out"
    chosen = ["--network", "toy", "--weights", weights, "--scales", "1-3"]
    result = ok("demo", "--out", out, "--scenes", 20, *chosen)
    assert result.stdout.splitlines()[-1] == f"report: {out / 'report.html'}"
    assert "20 training and 20 test scenes of 10 classes" in result.stderr

    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["data"], metrics["network"]) == ("clutter", "toy")
    assert len(metrics["weights_sha256"]) == 64
    candidates = {
        name: held["candidates"]
        for name, held in metrics["training"].items()
        if held.get("candidates")
    }
    [chosen_one] = candidates
    assert len(candidates[chosen_one]) == 7
    assert set(metrics["results"]) == {chosen_one, *POOLING[1:]}
    assert metrics["pictures"] == {"train": 20, "test": 20, "skipped": []}
    assert "confidence maps" in metrics["seconds"]

    page = Page(out / "report.html")
    assert [row[0] for row in page.rows("classes")[1:-1]] == list(CLASSES)
    local = [name for name in metrics["results"] if not {"ap10", "fc7"} & set(name.split("+"))]
    best = max(local, key=lambda name: metrics["results"][name]["map11"])
    assert f"Where the evidence of {best} lies" in page.section("maps")
    assert "have it in a box of their class" in page.section("maps")
    rows = [held for tag, held in page.tags if tag == "div" and held.get("class") == "maprow"]
    assert len(rows) == MAPS
    assert len(page.of("span", class_="box")) >= 2 * MAPS
    assert "toy" in page.section("configuration")
    assert metrics["weights_sha256"] in page.section("configuration")

    # Given again it goes on where it stopped, which here is at the end.
    again = ok("demo", "--out", out, "--scenes", 20, *chosen, "--quiet")
    assert again.stderr == ""
    assert json.loads((out / "metrics.json").read_text())["results"] == metrics["results"]
    # Other scenes do not go into the same folder.
    assert "holds" in refused("demo", "--out", out, "--scenes", 20, *chosen, "--seed", 1)


def test_on_ones_own_folder(done: Finished, tmp_path: Path) -> None:
    data, out = tiny(tmp_path / "data", train=4, test=3, largest=90), tmp_path / "out"
    chosen = ["--network", "toy", "--weights", done.weights, "--scales", "1-3"]
    ok("demo", "--data", data, "--out", out, *chosen, "--limit-per-class", 3)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["data"] == "data"
    assert (metrics["pictures"]["train"], metrics["pictures"]["test"]) == (9, 9)
    assert metrics["results"]["mpp"]["top1"] is not None
    page = Page(out / "report.html")
    text = page.section("maps")
    assert "have it in a box" not in text
    assert not page.of("span", class_="box")
    shown = page.of("span", class_="file")
    assert any(name.startswith("test/red") for name in shown)


# ------------------------------------------------------------------------------ the examples


def items(labels: list[tuple[int, ...]]) -> list[Item]:
    return [Item(f"{i:02d}", held, "test") for i, held in enumerate(labels)]


def test_examples_are_spread_over_classes_and_over_the_set() -> None:
    every = items([(i % 3,) for i in range(30)])
    chosen = spread_over_classes(every, 3, 6)
    assert [item.labels[0] for item in chosen] == [0, 1, 2, 0, 1, 2]
    assert len({item.id for item in chosen}) == 6
    numbers = [int(item.id) for item in chosen[:3]]
    assert numbers == [0, 10, 20]
    # Too few pictures, none of a class, several labels.
    few = items([(0, 2), (2,), ()])
    assert [item.id for item in spread_over_classes(few, 3, 8)] == ["00", "01"]
    assert spread_over_classes([], 3, 4) == []
    assert [item.labels[0] for item in spread_over_classes(every, 3, 2)] == [0, 1]
    wide = items([(i % 9,) for i in range(18)])
    assert [item.labels for item in spread_over_classes(wide, 9, 3)] == [(0,), (3,), (6,)]


def test_maps_show_what_a_picture_holds_and_the_best_of_the_rest(
    done: Finished, model: Model
) -> None:
    gallery = map_gallery(model, done.dataset, 4, reading="vote", watcher=quiet())
    assert (gallery.method, gallery.reading, gallery.reason) == ("mpp", "vote", "")
    assert len(gallery.examples) == 4
    by_id = {item.id: item for item in done.dataset.items}
    scored = model.predict([str(done.data / entry.id) for entry in gallery.examples])
    for row, entry in enumerate(gallery.examples):
        (label,) = by_id[entry.id].labels
        assert entry.present == {model.classes[label]}
        held, other = entry.overlays
        assert held.name == model.classes[label]
        assert held.score == pytest.approx(scored.scores[row, label], abs=1e-4)
        rest = np.delete(scored.scores[row], label)
        assert other.score == pytest.approx(rest.max(), abs=1e-4)
        for shown in entry.overlays:
            assert shown.pixels.shape == entry.pixels.shape
            assert max(shown.pixels.shape) <= 240
            assert 0 < shown.peak[0] < 1
            assert 0 < shown.peak[1] < 1
        assert (held.pixels != entry.pixels).any()
        assert entry.boxes is None


def test_a_method_without_maps_is_passed_over(model: Model) -> None:
    assert local_method(replace(model, primary="ap10")) == "mpp"
    results = {name: {"top1": 0.5, "map11": 0.5} for name in model.svms}
    best = results | {"ap10": {"top1": 1.0, "map11": 1.0}, "nfk": {"top1": 0.9, "map11": 0.1}}
    assert local_method(model, best) == "nfk"
    several = {name: {**entry, "top1": None} for name, entry in best.items()}
    assert local_method(model, several | {"csf": {"top1": None, "map11": 0.7}}) == "csf"
    only = replace(model, primary="ap10", svms={"ap10": model.svms["ap10"]})
    assert local_method(only) is None


def test_a_run_without_local_methods_says_so(done: Finished, model: Model) -> None:
    only = replace(model, primary="ap10", svms={"ap10": model.svms["ap10"]})
    gallery = map_gallery(only, done.dataset, 4, watcher=quiet())
    assert gallery.examples == ()
    assert gallery.reason.startswith("None: the representations of this run read crops")
