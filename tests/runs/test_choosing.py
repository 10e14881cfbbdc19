"""The stack that does best on the training pictures is chosen, by folds, and recorded."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.toy_cli import EASY, ok, refused, tiny
from helpers.toy_run import Finished, quiet

from mpp_jax.config import AUTO, Svm
from mpp_jax.numerics import stack_unit_vectors
from mpp_jax.pooling import candidates, canonical, members, parse
from mpp_jax.report.finished_runs import read_runs
from mpp_jax.runs import pipeline
from mpp_jax.runs.choosing import choose, preferred, stacked_gram
from mpp_jax.runs.model import open_model
from mpp_jax.runs.solvers import Plan
from mpp_jax.runs.training import Folds, Trained
from mpp_jax.svm import accuracy_metric, cross_validate_svm, gram_matrix

pytestmark = pytest.mark.usefixtures("toy_known")
KEY = jax.random.key(3)


def test_what_is_chosen_among():
    names = ["ap10", "avg", "mpp", "ap10+avg", "ap10+mpp", "avg+mpp", "ap10+avg+mpp"]
    found = candidates("best", (), "fc7")
    assert list(found) == names
    assert all(found[name] == parse(name) for name in names)
    assert parse("best") == parse("ap10+avg+mpp")
    assert list(candidates("best(mpp, mpp(pool5)+sp)", (), "fc7")) == [
        *("mpp", "mpp(pool5)+sp", "mpp+mpp(pool5)+sp")
    ]
    assert members("mpp+avg") == ()
    assert candidates("mpp", (), "fc7") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("best(mpp)", "name two to 5 different representations"),
        ("best(mpp,mpp)", "name two to 5"),
        ("best(fc7,ap10,ap50,avg,nfk,mpp)", "name two to 5"),
        ("best(fc7,best)", "name two to 5"),
        ("best+mpp", "no variant .best."),
        ("best(mpp,mpp+avg)", "stacks a representation with itself"),
        ("best(mpp,other)", "no variant"),
    ],
)
def test_no_choice(text, message, done: Finished):
    with pytest.raises(ValueError, match=message):
        canonical(text, done.network.spec, "fire2")


def test_names_are_settled(done: Finished):
    spec = done.network.spec
    assert canonical(" BEST", spec, "fire2") == "best"
    assert canonical("best(ap10,avg,mpp(Fire2))", spec, "fire2") == "best"
    assert canonical("best(fc7,mpp(conv1))", spec, "fire2") == "best(fc7,mpp(conv1))"


def test_the_gram_matrix_of_a_stack():
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(9, d)).astype(np.float32) for d in (4, 7, 5)]
    parts = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts]
    parts[0][2] = parts[1][4] = 0
    for part in parts:
        part[6] = 0  # in all of them
    wanted = gram_matrix(stack_unit_vectors(parts))
    got = stacked_gram([gram_matrix(part) for part in parts])
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    np.testing.assert_array_equal(stacked_gram([wanted]), wanted)


@pytest.mark.parametrize(("solver", "c"), [("gram", 10.0), ("gram", AUTO), ("primal", 10.0)])
def test_the_best_on_held_out_folds(done: Finished, solver, c):
    store, made = done.store, done.model.provenance
    targets = store.targets("train")
    svm = Svm(c=c, folds=3, cs=(0.1, 10.0))
    config = replace(made.config, svm=svm)
    plan = Plan(solver, "as asked", 3 * targets.shape[1], 1 << 20)
    found = choose(store, "best(fc7,avg,mpp)", targets, config, plan, KEY, quiet())
    assert len(found.candidates) == 7
    cs = svm.cs if c == AUTO else (c,)
    for name, folds in found.candidates.items():
        vectors = store.vectors(name, "train")
        wanted = cross_validate_svm(
            gram_matrix(vectors), targets, cs, 3, key=KEY, metric=accuracy_metric
        )
        assert folds.cs == cs
        np.testing.assert_allclose(folds.mean, wanted.mean, atol=0.07)  # a picture of a fold
        if solver == "gram":
            np.testing.assert_allclose(folds.mean, wanted.mean)
    # A standard error of three folds' differences, spelled out.
    rows = {name: np.array(f.scores[np.argmax(f.mean)]) for name, f in found.candidates.items()}
    gains = {name: row - rows["fc7"] for name, row in rows.items() if name != "fc7"}
    sure = [n for n, g in gains.items() if g.mean() > 1.001 * np.std(g, ddof=1) / np.sqrt(3)]
    assert found.name == max(["fc7", *sure], key=lambda name: rows[name].mean())


def folds(*rows: Sequence[float | None], cs: tuple[float, ...] = (1.0,)) -> Folds:
    """What one representation does on each fold, a row for each C."""
    means = [np.mean([value for value in row if value is not None]) for row in rows]
    return Folds("top1", cs, tuple(map(tuple, rows)), tuple(map(float, means)))


def test_the_first_stands_unless_another_is_surely_better():
    first = folds([0.8, 0.9, 0.8, 0.9])
    one_picture = folds([0.8, 0.9, 0.8, 1.0])  # +0.025, with a standard error of 0.025
    two = folds([0.9, 0.9, 0.8, 1.0])  # +0.05, and 0.029
    torn = folds([1.0, 0.7, 1.0, 0.8])  # +0.025, and 0.103
    assert one_picture.gain(first) == pytest.approx((0.025, 0.025))
    assert two.gain(first) == pytest.approx((0.05, 0.05 / np.sqrt(3)))
    assert torn.gain(first)[1] == pytest.approx(np.sqrt(0.0425) / 2)
    assert preferred({"ap10": first, "mpp": one_picture}) == "ap10"
    assert preferred({"ap10": first, "mpp": torn}) == "ap10"
    assert preferred({"ap10": first, "mpp": one_picture, "ap10+mpp": two}) == "ap10+mpp"
    assert preferred({"ap10": two, "mpp": first}) == "ap10"
    assert preferred({"ap10": first, "avg": two, "mpp": two}) == "avg"  # the first of equals
    # What is highest is torn, but another one is surely better.
    higher = folds([1.0, 0.8, 1.0, 0.84])  # +0.06, and 0.101
    assert preferred({"ap10": first, "avg": two, "mpp": higher}) == "avg"


def test_why_the_highest_was_not_taken_is_said():
    first, second = folds([0.8, 0.9, 0.8, 0.9]), folds([0.8, 0.9, 0.8, 1.0])
    trained = Trained("gram", 10.0, 0.0, candidates={"ap10": first, "mpp": second})
    note = "what is higher is not surely better than the first"
    assert trained.summary("ap10").endswith(f"ap10 85.00, mpp 87.50 ({note})")
    assert note not in trained.summary("mpp")  # as models of before may have it


def test_each_at_its_best_c_on_the_folds_that_both_have():
    first = folds([0.1, 0.1, 0.1], [0.5, None, 0.7], cs=(1.0, 10.0))
    other = folds([0.9, 0.6, 0.9], [0.2, 0.2, 0.2], cs=(1.0, 10.0))
    assert other.gain(first) == pytest.approx((0.3, 0.1))
    assert preferred({"ap10": first, "mpp": other}) == "mpp"
    # One fold: nobody knows how sure it is, and the highest is taken.
    lonely = {"ap10": folds([0.5, None]), "mpp": folds([0.6, None])}
    assert preferred(lonely) == "mpp"


def test_a_run_trains_and_tests_the_chosen_one(done: Finished, tmp_path: Path):
    data, out = tiny(tmp_path / "data", train=6), tmp_path / "out"
    options = ("--weights", done.weights, "--pooling", "best(fc7,avg),fc7", "--folds", "3")
    result = ok("run", data, "--out", out, *EASY, *options)
    metrics = json.loads((out / "metrics.json").read_text())
    chosen = next(iter(metrics["results"]))
    assert set(metrics["results"]) == {chosen, "fc7"}
    entry = metrics["training"][chosen]
    assert set(entry["candidates"]) == {"fc7", "avg", "fc7+avg"}
    judged = {n: Folds.from_dict(entry["candidates"][n]) for n in ("fc7", "avg", "fc7+avg")}
    assert chosen == preferred(judged)
    assert metrics["config"]["pooling"] == ["best(fc7,avg)", "fc7"]
    said = "chosen by the mean top-1 of 3 held-out folds, %: fc7 "
    assert said in result.stderr
    page = (out / "report.html").read_text()
    assert said in page
    assert "chosen among 3 stacks on held-out training pictures" in page
    model = open_model(out / "model")
    assert model.primary == chosen
    assert json.loads(json.dumps(model.trained[chosen].to_dict())) == entry
    again = ok("run", data, "--out", out, *EASY, *options)
    assert "train" in again.stderr
    assert json.loads((out / "metrics.json").read_text())["results"] == metrics["results"]
    ok("train", out / "encodings", "--out", tmp_path / "model", "--pooling", "best(avg,fc7)")
    picture = next(data.rglob("*.png"))
    assert chosen == open_model(out / "model").method()
    assert "red" in ok("predict", out / "model", picture).stdout


def test_two_choices_that_come_to_the_same(
    done: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It is there once, and what the first of them chose among is kept."""
    both = []

    def choose_first(store, asked, *given):
        found = choose(store, asked, *given)
        both.append(found.candidates)
        return found._replace(name="fc7")

    monkeypatch.setattr(pipeline, "choose", choose_first)
    store, asked = done.out / "encodings", "best(fc7,avg),best(fc7,mpp)"
    train = ["train", store, "--pooling", asked, "--folds", 3, "--out", tmp_path / "model"]
    said = ok(*train).stderr
    model = open_model(tmp_path / "model")
    assert list(model.svms) == ["fc7"]
    assert model.trained["fc7"].candidates == both[0] != both[1]
    assert "%: fc7 " in said
    ok("evaluate", tmp_path / "model", store, "--out", tmp_path / "results")
    [run] = read_runs([tmp_path / "results"])
    assert run.methods == ("fc7",)


def test_too_few_pictures_for_folds(done: Finished, tmp_path: Path):
    data = tiny(tmp_path / "data", train=1)
    options = ("--weights", done.weights, "--pooling", "best(fc7,avg)")
    text = refused("run", data, "--out", tmp_path / "out", *EASY, *options)
    assert "too few training pictures for folds (--pooling best)" in text
