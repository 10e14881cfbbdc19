"""Run folders read back, and those that are none."""

import json
import shutil

import numpy as np
import pytest
from helpers.fake_runs import CLASSES, METHODS, fake_run

from mpp_jax.cli.seeds import mean_metrics
from mpp_jax.report.comparing import compare
from mpp_jax.report.finished_runs import RunError, ranges, read_runs


def test_a_run_is_read_back(tmp_path):
    out = fake_run(tmp_path / "one", seed=3)
    (run,) = read_runs([out])
    assert (run.data, run.seed, run.methods, run.classes) == ("VOC2007", 3, (*METHODS,), CLASSES)
    assert run.multi_label
    assert run.setting["network"] == "toy"
    assert run.setting["pyramid.scales"] == "1-2"
    assert "seed" not in run.setting


def test_a_folder_of_seeds_stands_for_its_runs(tmp_path):
    for seed in (0, 4):
        fake_run(tmp_path / f"seed-{seed}", seed=seed)
    whole = json.loads((tmp_path / "seed-0/metrics.json").read_text()) | {"seeds": [0, 4]}
    (tmp_path / "metrics.json").write_text(json.dumps(whole))
    assert [run.folder.name for run in read_runs([tmp_path])] == ["seed-0", "seed-4"]
    with pytest.raises(RunError, match="seed-0: is named twice"):
        read_runs([tmp_path, tmp_path / "seed-0"])
    shutil.rmtree(tmp_path / "seed-4")
    with pytest.raises(RunError, match="seed-4: is not there"):
        read_runs([tmp_path])


def test_folders_that_are_no_runs(tmp_path):
    def message(name):
        with pytest.raises(RunError) as raised:
            read_runs([tmp_path / name])
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert "none: is not there; give what --out" in message("none")
    (tmp_path / "file").write_text("x")
    assert "file: is no folder" in message("file")
    (tmp_path / "empty").mkdir()
    assert "no run's folder (it has no metrics.json)" in message("empty")
    (tmp_path / "begun/encodings").mkdir(parents=True)
    assert "the run is not finished" in message("begun")
    fake_run(tmp_path / "whole")
    whole = json.loads((tmp_path / "whole/metrics.json").read_text())
    odd = json.dumps(whole | {"seeds": 3})
    for name, text in {"torn": "{", "other": "[1]", "bare": "{}", "odd": odd}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(text)
        assert f"{name}/metrics.json: cannot be read" in message(name)


def test_scores_of_another_evaluation_are_refused(tmp_path):
    one, other = (fake_run(tmp_path / str(seed), seed=seed) for seed in (0, 1))
    shutil.copy(other / "scores.npz", one / "scores.npz")
    with pytest.raises(RunError, match=r"scores.npz: is of another evaluation than metrics.json"):
        read_runs([one])
    np.savez(one / "scores.npz", format=np.array("x"))
    with pytest.raises(RunError, match=r"scores.npz: no scores that can be read"):
        read_runs([one])


def test_ranges():
    assert ranges([1, 2, 3, 5, 7, 8]) == "1-3,5,7-8"
    assert ranges([4]) == "4"


def test_best_has_that_name_where_seeds_chose_differently(tmp_path):
    chosen = {0: "mpp", 1: "avg+mpp", 2: "mpp"}
    folders = []
    for seed, name in chosen.items():
        folders.append(fake_run(tmp_path / str(seed), seed=seed, methods={"fc7": 1.0, name: 1.2}))
        file = folders[-1] / "metrics.json"
        held = json.loads(file.read_text())
        held["config"]["pooling"] = ["best", "fc7"]
        held["training"] = {"fc7": {"candidates": None}, name: {"candidates": {"mpp": {}}}}
        file.write_text(json.dumps(held))
    runs = read_runs(folders)
    assert [run.methods for run in runs] == [("best", "fc7")] * 3
    assert [run.chosen for run in runs] == [*chosen.values()]
    whole = mean_metrics(runs)
    each = [json.loads((f / "metrics.json").read_text())["results"] for f in folders]
    mean = np.mean([held[n]["map11"] for held, n in zip(each, chosen.values(), strict=True)])
    assert whole["results"]["best"]["map11"] == pytest.approx(mean)
    (table,) = compare(runs, draws=10)
    assert [row.method for row in table.rows] == ["best", "fc7"]
    assert "By seed, best is mpp (0), avg+mpp (1), mpp (2)." in table.notes
    assert [run.methods for run in read_runs(folders[::2])] == [("mpp", "fc7")] * 2
