"""Training whatever the size: which way is taken, that all agree, and the memory they take."""

import sys
from dataclasses import replace

import jax
import numpy as np
import pytest
from helpers.large_store import METHOD, made_of, train_measured, write_store
from helpers.svm_reference import primal

from mpp_jax.config import Svm
from mpp_jax.data import DataError
from mpp_jax.memory import available_memory
from mpp_jax.progress import Watcher
from mpp_jax.runs import pipeline, search, solvers
from mpp_jax.runs.solvers import Problem, need, plan_training
from mpp_jax.runs.training import StoredVectors
from mpp_jax.storage.store import Store
from mpp_jax.svm import (
    RowReader,
    accuracy_metric,
    cross_validate_svm,
    fit_platt,
    gram_matrix,
    svm_scores,
)

GB = 10**9
PICTURES, DIMENSION = 150, 600


class Listener(Watcher):
    def __init__(self):
        super().__init__(quiet=True)
        self.said = []

    def say(self, text):
        self.said.append(text)


@pytest.fixture
def store(tmp_path) -> Store:
    return write_store(tmp_path / "store", PICTURES, DIMENSION, shard_size=16, test=20)


@pytest.fixture
def labelled(tmp_path) -> Store:
    """Several labels a picture, and ignored ones."""
    return write_store(tmp_path / "labelled", PICTURES, DIMENSION, shard_size=16, multi_label=True)


@pytest.fixture
def _no_fixed_part(monkeypatch):
    monkeypatch.setattr(solvers, "FIXED_BYTES", 0)
    monkeypatch.setattr(solvers, "BATCH_BYTES", 0)
    monkeypatch.setattr(solvers, "CHUNK_BYTES", 4 * DIMENSION * 10)


# ------------------------------------------------------------------------------ which way


@pytest.mark.parametrize(
    ("problem", "free", "way"),
    [
        (Problem(1_500, 65_536, 15), 8 * GB, "gram"),
        (Problem(5_360, 65_536, 67), 8 * GB, "gram"),
        (Problem(5_360, 65_536, 67), 2.5 * GB, "streamed"),
        (Problem(5_360, 65_536, 67), 1.8 * GB, "primal"),
        (Problem(20_000, 131_072, 100), 15 * GB, "streamed"),
        (Problem(200_000, 64, 10), 128 * GB, "primal"),
        (Problem(200_000, 65_536, 100), 700 * GB, "primal"),
        (Problem(3_000, 64, 10), 100, "primal"),
    ],
)
def test_the_first_that_fits_is_taken(problem, free, way):
    plan = plan_training(problem, Svm(), int(free))
    assert plan.solver == way
    assert plan.reason.startswith(f"solver {way} ({solvers.WAYS[way]}) for {problem.pictures:,} x")
    assert f"{free / GB:.1f} GB free" in plan.reason or free == 100
    assert ("more than there is" in plan.reason) == (free == 100)
    assert "\n" not in plan.reason
    for solver in ("gram", "streamed", "primal"):
        asked = plan_training(problem, Svm(solver=solver), int(free))
        assert asked.solver == solver
        fits = sum(need(solver, problem, Svm())) <= solvers.SHARE * free
        assert ("although it needs" in asked.reason) == (not fits)


def test_two_hundred_thousand_fit_in_four_gigabytes():
    for classes in (10, 100, 200):
        plan = plan_training(Problem(200_000, 4_096, classes), Svm(), 5 * GB)
        assert plan.solver == "primal"
        assert "more than there is" not in plan.reason
        assert need("primal", Problem(200_000, 4_096, classes), Svm()).host < 4 * GB


def test_a_devices_own_memory_holds_the_matrix():
    problem = Problem(20_000, 4_096, 20)  # 8 GB of matrices, 0.3 GB of vectors
    assert plan_training(problem, Svm(), 6 * GB).solver == "primal"
    assert plan_training(problem, Svm(), 6 * GB, 20 * GB).solver == "gram"
    assert plan_training(problem, Svm(), 100 * GB, 4 * GB).solver == "primal"
    plan = plan_training(problem, Svm(), 6 * GB, 20 * GB)
    assert "of the device" in plan.reason
    assert "20.0 GB on the device" in plan.reason


def test_members_of_a_choice_have_a_matrix_each():
    alone, among = Problem(20_000, 4_096, 20), Problem(20_000, 4_096, 20, members=3)
    more = need("gram", among, Svm()).host - need("gram", alone, Svm()).host
    assert more == 3 * 4 * 20_000**2
    assert plan_training(alone, Svm(), 12 * GB).solver == "gram"
    assert plan_training(among, Svm(), 12 * GB).solver == "primal"


def test_folds_are_trained_in_groups_where_memory_is_short():
    problem = Problem(2_000, 100, 50)
    least = need("gram", problem, Svm(c="auto")).host / solvers.SHARE
    assert plan_training(problem, Svm(c="auto"), int(least) + 1).columns == 50
    assert plan_training(problem, Svm(c="auto"), int(least) + GB).columns > 250


# ------------------------------------------------------------------------------ they agree


def test_stored_vectors_are_read_by_rows(store):
    vectors, whole = StoredVectors(store, METHOD, "train"), store.vectors(METHOD, "train")
    assert isinstance(vectors, RowReader)
    assert vectors.shape == whole.shape == (PICTURES, DIMENSION)
    for rows in (slice(0, 150), slice(10, 40), slice(149, 200), slice(15, 16), slice(5, 5)):
        np.testing.assert_array_equal(vectors[rows], whole[rows])


@pytest.mark.usefixtures("_no_fixed_part")
@pytest.mark.parametrize("kind", ["store", "labelled"])
def test_three_ways_agree_within_their_certificates(kind, request):
    store: Store = request.getfixturevalue(kind)
    targets, x = store.targets("train"), store.vectors(METHOD, "train").astype(float)
    assert (targets == 0).any() == (kind == "labelled")
    made, models, infos = made_of(Svm(c=2.0)), {}, {}
    problem = Problem(PICTURES, DIMENSION, 3)
    for way in solvers.WAYS:
        memory = int(need(way, problem, Svm()).host / solvers.SHARE) + 10
        listener = Listener()
        model, info = pipeline.train(store, {}, made, watcher=listener, memory=memory)
        (said,) = listener.said
        assert said.startswith(f"solver {way} (")
        assert model.provenance.config.svm == Svm(c=2.0, solver=way)
        assert model.trained[METHOD].solver == way
        models[way], infos[way] = model.svms[METHOD], info[METHOD]
    for way, svm in models.items():
        info = infos[way]
        assert info.converged.all()
        w, b = (np.asarray(part, np.float64) for part in svm)
        for k in range(3):
            y = targets[:, k]
            truth = primal(w[k], b[k], x, y, 2.0 * (y != 0))
            assert truth == pytest.approx(info.primal_objective[k], rel=1e-9)
            for other in infos.values():
                assert other.dual_objective[k] <= truth
                assert truth <= other.primal_objective[k] * 1.001


def test_the_gram_way_has_the_bytes_of_fit_svm(store):
    from mpp_jax.svm import fit_svm

    model, _ = pipeline.train(store, {}, made_of(Svm()), watcher=Listener())
    svm, _ = fit_svm(store.vectors(METHOD, "train"), store.targets("train"), 10.0)
    np.testing.assert_array_equal(model.svms[METHOD].weights, svm.weights)
    np.testing.assert_array_equal(model.svms[METHOD].bias, svm.bias)


# ------------------------------------------------------------------------------ C, probabilities


def test_c_is_chosen_on_the_training_pictures_alone(store):
    cs = (0.1, 1.0, 10.0)
    svm = Svm(c="auto", cs=cs, folds=3, probabilities=True)
    model, _ = pipeline.train(store, {}, made_of(svm, seed=5), watcher=Listener())
    gram = gram_matrix(store.vectors(METHOD, "train"))
    targets = store.targets("train")
    judged = cross_validate_svm(gram, targets, cs, 3, key=jax.random.key(5), metric=accuracy_metric)
    trained = model.trained[METHOD]
    assert trained.c == judged.best_c
    assert trained.folds is not None
    assert (trained.folds.metric, trained.folds.cs) == ("top1", cs)
    np.testing.assert_array_equal(trained.folds.scores, judged.values)
    np.testing.assert_array_equal(trained.folds.mean, judged.mean)
    chosen = pipeline.train(store, {}, made_of(Svm(c=trained.c)), watcher=Listener())[0]
    np.testing.assert_array_equal(model.svms[METHOD].weights, chosen.svms[METHOD].weights)
    held_out = judged.scores[list(cs).index(trained.c)]
    for ours, wanted in zip(model.platt[METHOD], fit_platt(held_out, targets), strict=True):
        np.testing.assert_array_equal(ours, wanted)
    # What they promise holds of pictures that were not trained on.
    scores = np.asarray(svm_scores(model.svms[METHOD], store.vectors(METHOD, "test")))
    found = model.probabilities(scores)
    assert found is not None
    np.testing.assert_allclose(found.sum(axis=1), 1)
    right = found[np.arange(20), store.labels("test")]
    assert right.mean() > 0.5


def test_folds_without_a_gram_matrix(labelled):
    svm = Svm(c="auto", cs=(0.1, 1.0), folds=3, probabilities=True, solver="primal")
    model, _ = pipeline.train(labelled, {}, made_of(svm), watcher=Listener())
    whole, _ = pipeline.train(
        labelled, {}, made_of(replace(svm, solver="gram")), watcher=Listener()
    )
    ours, theirs = model.trained[METHOD], whole.trained[METHOD]
    assert ours.folds is not None
    assert theirs.folds is not None
    assert ours.folds.metric == theirs.folds.metric == "map11"
    np.testing.assert_allclose(ours.folds.scores, theirs.folds.scores, atol=0.1)
    scores = np.asarray(svm_scores(whole.svms[METHOD], labelled.vectors(METHOD, "train")))
    found, wanted = model.probabilities(scores), whole.probabilities(scores)
    assert found is not None
    assert wanted is not None
    np.testing.assert_allclose(found, wanted, atol=0.1)
    assert (np.abs(found.sum(axis=1) - 1) > 0.01).any()  # classes do not exclude each other


def test_sets_that_are_too_small_for_folds(store):
    items = store.items("train")
    of_first = np.flatnonzero(items.only_labels() == 0)
    store.all_items = items[np.delete(np.arange(len(items)), of_first[1:])]
    for svm, asked in ((Svm(c="auto"), "--c auto"), (Svm(probabilities=True), "--probabilities")):
        message = f"'class 0' has too few .* for folds .{asked}.: 1, wanted"
        with pytest.raises(DataError, match=message):
            pipeline.train(store, {}, made_of(svm), watcher=Listener())
    store.all_items = items[:6]
    with pytest.raises(DataError, match="6 training pictures are too few for 7 folds"):
        pipeline.train(store, {}, made_of(Svm(c="auto", folds=7)), watcher=Listener())


# ------------------------------------------------------------------------------ memory


def test_nothing_but_training_by_a_gram_matrix_holds_all_vectors(store, monkeypatch):
    whole = store.vectors(METHOD, "test")

    def refuse(*arguments):
        raise AssertionError("all vectors at once")

    monkeypatch.setattr(Store, "vectors", refuse)
    for way in ("streamed", "primal"):
        svm = Svm(c=1.0, solver=way)
        model, _ = pipeline.train(store, {}, made_of(svm), watcher=Listener())
    scores = pipeline.score(model, store, watcher=Listener())
    assert scores[METHOD].shape == (20, 3)
    found = search.nearest(search.StoredVectors(store, METHOD), whole[:4], top=1)
    assert [round(one.similarity, 5) for (one,) in found] == [1, 1, 1, 1]
    assert [one.entry.id for (one,) in found] == store.items("test").ids[:4]


linux = pytest.mark.skipif(sys.platform != "linux", reason="peaks are in kilobytes on Linux")


@linux
@pytest.mark.slow
def test_two_hundred_thousand_pictures(tmp_path):
    """Their Gram matrix alone would take 160 GB."""
    write_store(tmp_path / "store", 200_000, 32, classes=10, shard_size=8192)
    measured = train_measured(tmp_path / "store", c=0.1)
    assert available_memory() < 500 * GB
    assert measured.solver == "primal"
    assert measured.converged
    assert measured.gap <= 1e-3
    assert measured.peak < 4 * GB
    assert measured.peak < need("primal", Problem(200_000, 32, 10), Svm()).host


@linux
@pytest.mark.slow
@pytest.mark.parametrize(
    ("memory", "asked", "way"),
    [(3.0, "auto", "gram"), (1.6, "auto", "streamed"), (1.6, "primal", "primal")],
)
def test_wide_vectors(tmp_path, memory, asked, way):
    """3,000 vectors of 65,536 dimensions are 0.8 GB, their Gram matrix 0.04 GB."""
    write_store(tmp_path / "store", 3_000, 65_536, classes=5, shard_size=256)
    measured = train_measured(tmp_path / "store", int(memory * GB), c=1.0, solver=asked)
    assert measured.solver == way
    assert measured.converged
    assert measured.peak < memory * GB
    assert measured.peak < need(way, Problem(3_000, 65_536, 5), Svm()).host
