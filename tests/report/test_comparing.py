"""Runs compared: groups of seeds, pairs within and across runs, and what is said of odd ones."""

from pathlib import Path

import numpy as np
import pytest
from helpers.fake_runs import CLASSES, METHODS, fake_run, results_of

from mpp_jax.intervals import bootstrap, mean_of
from mpp_jax.report.comparing import compare
from mpp_jax.report.comparison import Deviating
from mpp_jax.report.finished_runs import grouped, read_runs
from mpp_jax.report.scores import read_scores

DRAWS = 200


def tables(*folders: Path, **options):
    return compare(read_runs(folders), draws=DRAWS, **options)


def test_one_run_is_the_bootstrap_of_its_scores(tmp_path):
    out = fake_run(tmp_path / "a")
    (table,) = tables(out)
    held, stated = read_scores(out / "scores.npz"), results_of(out)
    found = bootstrap(held.scores, held.targets, draws=DRAWS)
    assert (table.data, table.figure, table.test_pictures) == ("VOC2007", "map11", 60)
    assert [row.method for row in table.rows] == list(METHODS)
    assert table.baseline is table.rows[0]
    for row in table.rows:
        assert (row.label, row.seeds, row.value.deviation) == ("", (0,), None)
        assert row.value.mean == pytest.approx(stated[row.method]["map11"], abs=1e-12)
        assert row.interval == found[row.method].interval
        assert row.minus(table.baseline) == found[row.method].minus(found["mpp"])
        per_class = [stated[row.method]["per_class"][name] for name in CLASSES]
        np.testing.assert_allclose(row.per_class, per_class, rtol=1e-12)
        low, high = np.quantile(found[row.method].class_draws[:, 1], [0.025, 0.975])
        assert row.class_interval(1) == pytest.approx((row.per_class[1], low, high))
    assert [table.is_best(row) for row in table.rows] == [True, False, False]
    assert table.notes == ()


def test_seeds_are_mean_and_deviation(tmp_path):
    """In whatever order they are named; intervals are of the mean, on the same draws."""
    folders = [fake_run(tmp_path / f"s{seed}", seed=seed) for seed in (2, 0, 1)]
    (table,) = tables(*folders)
    row = table.rows[1]
    values = [results_of(folder)["nfk"]["map11"] for folder in folders]
    assert row.seeds == (0, 1, 2)
    assert row.value.mean == pytest.approx(np.mean(values))
    assert row.value.deviation == pytest.approx(np.std(values, ddof=1))
    parts = []
    for folder in folders:
        held = read_scores(folder / "scores.npz")
        parts.append(bootstrap(held.scores, held.targets, draws=DRAWS))
    assert row.interval == pytest.approx(mean_of([part["nfk"] for part in parts]).interval)
    gains = np.mean([part["nfk"].draws - part["mpp"].draws for part in parts], axis=0)
    gain = row.minus(table.rows[0])
    assert gain[1:] == pytest.approx(tuple(np.quantile(gains, [0.025, 0.975])))


def test_runs_on_the_same_pictures_are_paired(tmp_path):
    """Though they name them in another order; the other run's pictures are found by their ids."""
    ids = [f"{i:06}.jpg" for i in range(60)]
    one = fake_run(tmp_path / "one", ids=ids)
    other = fake_run(tmp_path / "other", ids=ids[::-1], network="big", methods={"vlad": 1.1})
    (table,) = tables(one, other)
    vlad, mpp = table.rows[-1], table.rows[0]
    assert (vlad.name, mpp.name) == ("vlad (big)", "mpp (toy)")
    assert table.short(vlad) == "4 vlad"
    assert vlad.paired(mpp)
    held, theirs = read_scores(one / "scores.npz"), read_scores(other / "scores.npz")
    both = {"mpp": held.scores["mpp"], "vlad": theirs.scores["vlad"][::-1]}
    found = bootstrap(both, held.targets, draws=DRAWS)
    assert vlad.minus(mpp) == pytest.approx(found["vlad"].minus(found["mpp"]))
    assert table.notes == ()


def test_runs_on_other_pictures_are_said_to_be(tmp_path):
    ids = [f"{i:06}.jpg" for i in range(90)]
    one = fake_run(tmp_path / "one", ids=ids[:60])
    other = fake_run(tmp_path / "other", ids=ids[30:], scales=(0, 1, 2))
    (table,) = tables(one, other)
    mpp, theirs = table.rows[0], table.rows[3]
    assert theirs.name == "mpp (scales 1-3)"
    assert not theirs.paired(mpp)
    assert table.test_pictures == 90
    assert theirs.value.mean == pytest.approx(results_of(other)["mpp"]["map11"])
    (note,) = table.notes
    assert note.startswith("Tested on other pictures than mpp (scales 1-2), so not paired")
    # Where no picture is shared the draws are independent: variances add up.
    apart = fake_run(tmp_path / "apart", ids=[f"x{i}" for i in range(60)], scales=(0, 1, 2))
    (table,) = tables(one, apart)
    a, b = table.rows[0].resampled.draws, table.rows[3].resampled.draws
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.25
    assert np.var(a - b) == pytest.approx(np.var(a) + np.var(b), rel=0.35)


def test_seeds_that_draw_their_pictures_are_said_to(tmp_path):
    ids = [f"{i:06}.jpg" for i in range(70)]
    folders = [fake_run(tmp_path / f"s{s}", seed=s, ids=ids[10 * s :]) for s in (0, 1)]
    (table,) = tables(*folders)
    assert "The seeds have different test pictures" in table.notes[0]
    assert table.rows[0].paired(table.rows[1])
    assert table.rows[0].value.deviation > 0


def test_figures_of_single_classes(tmp_path):
    one = fake_run(tmp_path / "one", several=False, data="scenes")
    stated = results_of(one)["mpp"]
    (table,) = tables(one)
    assert table.figure == "top1"
    assert table.rows[0].value.mean == stated["top1"]
    (table,) = tables(one, figure="mean_class_accuracy", classes=["cat", "bus"], baseline="avg")
    assert table.classes == ("cat", "bus")
    wanted = np.mean([stated["per_class"][name] for name in ("cat", "bus")])
    assert table.rows[0].value.mean == pytest.approx(wanted)
    assert table.baseline.method == "avg"
    (table,) = tables(one, figure="map_area")
    assert table.rows[0].value.mean > 0.5


def test_old_runs_have_figures_only(tmp_path):
    old = fake_run(tmp_path / "old", scores=False, scales=(0,))
    new = fake_run(tmp_path / "new")
    (table,) = tables(old, new)
    bare, full = table.rows[0], table.rows[3]
    assert bare.value.mean == pytest.approx(results_of(old)["mpp"]["map11"])
    assert (bare.interval, bare.minus(full), bare.class_interval(0)) == (None, None, None)
    assert full.interval is not None
    assert f"Without intervals and differences, for want of a scores.npz: {old}." in table.notes[0]
    (chosen,) = tables(old, classes=["cat"])
    assert chosen.rows[0].value.mean == results_of(old)["mpp"]["per_class"]["cat"]
    (area,) = tables(old, figure="map_area")
    assert area.rows[0].value == Deviating(None, None)
    assert np.isnan(area.rows[0].per_class).all()


def test_data_sets_stand_apart_and_settings_have_one_name(tmp_path):
    folders = [
        fake_run(tmp_path / f"{data}{network}", data=data, network=network, several=several)
        for data, several in (("VOC2007", True), ("scenes", False))
        for network in ("toy", "big")
    ]
    voc, scenes = tables(*folders)
    assert (voc.figure, scenes.figure) == ("map11", "top1")
    assert [row.label for row in voc.rows] == [row.label for row in scenes.rows]
    # The same settings and seed once more is another run.
    twice = [fake_run(tmp_path / name) for name in ("x", "y")]
    groups = grouped(read_runs(twice))["VOC2007"]
    assert [group.label for group in groups] == [str(folder) for folder in twice]


def test_baseline_and_classes_that_some_lack(tmp_path):
    one = fake_run(tmp_path / "one")
    other = fake_run(tmp_path / "other", data="more", classes=("bus", "dog"), methods={"avg": 1})
    first, second = tables(one, other, baseline="nfk")
    assert (first.baseline.method, second.baseline.method) == ("nfk", "avg")
    assert second.notes == ("No run on this data has nfk; differences are to avg.",)
    changed = fake_run(tmp_path / "c", classes=("bus", "cat", "eel"), network="big")
    (table,) = tables(one, changed)
    assert table.classes == (*CLASSES, "eel")
    assert np.isnan(table.rows[0].per_class[3])
    assert any("have different classes" in note for note in table.notes)
    assert any("labelled otherwise" in note for note in table.notes)


def test_methods_that_not_all_seeds_have_are_left_out(tmp_path):
    one = fake_run(tmp_path / "0")
    other = fake_run(tmp_path / "1", seed=1, methods={"mpp": 1.2, "vlad": 1.0})
    (table,) = tables(one, other)
    assert [row.method for row in table.rows] == ["mpp"]
    assert table.notes == ("Not in all seeds, left out: avg, nfk, vlad.",)
    alone = fake_run(tmp_path / "2", seed=1, methods={"vlad": 1.0})
    with pytest.raises(ValueError, match="its runs of several seeds have no method in common"):
        tables(one, alone)


def test_a_class_without_test_pictures_is_named(tmp_path):
    whole = read_scores(fake_run(tmp_path / "whole") / "scores.npz")
    without = [name for name, row in zip(whole.ids, whole.targets, strict=True) if row[1] <= 0]
    (table,) = tables(fake_run(tmp_path / "one", ids=without))
    assert table.notes == ("In no mean, for want of test pictures: cat.",)
    assert np.isnan(table.rows[0].per_class[1])
    assert table.rows[0].value.mean == pytest.approx(np.nanmean(table.rows[0].per_class))


def test_mistakes_are_named(tmp_path):
    one = fake_run(tmp_path / "one")
    single = fake_run(tmp_path / "single", several=False)
    with pytest.raises(ValueError, match="VOC2007: its pictures have several classes, so top1"):
        tables(one, figure="top1")
    with pytest.raises(ValueError, match="one: has no class 'dog'; VOC2007 has classes 'bus'"):
        tables(one, classes=["bus", "dog"])
    with pytest.raises(ValueError, match="baseline: no run has 'ap10'; they have mpp, nfk, avg"):
        tables(one, baseline="ap10")
    with pytest.raises(ValueError, match="one class in some runs and several in others"):
        tables(one, single)
