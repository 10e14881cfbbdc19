"""The mini-batched machine reaches the Gram machine's objective, and certifies it."""

import jax
import numpy as np
import pytest
from helpers.svm_reference import primal, problem

from mpp_jax.svm import fit_svm, fit_svm_primal, one_vs_rest_targets, svm_scores
from mpp_jax.svm import primal as module
from mpp_jax.svm.options import loss_weights

X, LABELS = problem(n=500, d=300, classes=4)
Y = one_vs_rest_targets(LABELS)
KEY = jax.random.key(0)


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge", "logistic"])
@pytest.mark.parametrize("c", [1.0, 10.0])
def test_within_a_hundredth_of_the_dual(loss, c):
    _, exact = fit_svm(X, Y, c, loss=loss, tolerance=1e-5)
    svm, info = fit_svm_primal(X, Y, c, loss=loss, key=KEY)
    assert info.certificate.converged.all()
    assert (info.certificate.relative_gap <= 1e-2).all()
    w, b = (np.asarray(v, np.float64) for v in svm)
    truth = [primal(w[k], b[k], X, Y[:, k], np.full(500, c), loss) for k in range(4)]
    np.testing.assert_allclose(truth, info.certificate.primal_objective, rtol=1e-5)
    assert (truth <= exact.dual_objective * 1.01).all()
    assert (info.certificate.dual_objective <= exact.primal_objective * (1 + 1e-6)).all()
    np.testing.assert_allclose(info.history[-1], info.certificate.primal_objective)


def test_options_and_a_tight_tolerance():
    y = Y.copy()
    y[::5, 0] = 0
    options = {
        "bias_multiplier": 2.0,
        "class_weight": "balanced",
        "sample_weight": np.linspace(0, 2, 500),
    }
    _, exact = fit_svm(X, y, 2.0, tolerance=1e-6, **options)
    svm, info = fit_svm_primal(
        X, y, 2.0, key=KEY, tolerance=3e-4, max_epochs=300, batch_size=96, **options
    )
    assert info.certificate.converged.all()
    u = loss_weights(y.astype(float), 2.0, "balanced", options["sample_weight"])
    w, b = (np.asarray(v, np.float64) for v in svm)
    truth = [primal(w[k], b[k], X, y[:, k], u[:, k], bias=2.0) for k in range(4)]
    np.testing.assert_allclose(truth, exact.primal_objective, rtol=3.1e-4)


def test_maps_and_blocks_give_the_arrays_weights(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    wanted, _ = fit_svm_primal(X, Y, key=KEY, max_epochs=2)
    for vectors in (mapped, [mapped[:99], X[99:100], mapped[100:]], jax.numpy.asarray(X)):
        svm, _ = fit_svm_primal(vectors, Y, key=KEY, max_epochs=2)
        np.testing.assert_array_equal(svm.weights, wanted.weights)
    other, _ = fit_svm_primal(X, Y, key=jax.random.key(1), max_epochs=2)
    assert (np.asarray(other.weights) != np.asarray(wanted.weights)).any()
    assert svm_scores(wanted, X).shape == (500, 4)


def test_bounded_memory_and_one_program():
    """Never more than a batch of rows leaves the source at once; the last batch is padded."""

    class Watched(list):
        pass

    widest = []
    read = module._row_reader(Watched([X[:100], X[100:]]))
    rows = np.array([0, 499, 99, 100, 3])
    np.testing.assert_array_equal(read(rows), X[rows])
    for batch, real in module._batches(np.arange(500), 128):
        widest.append(len(batch))
        assert real.sum() == min(128, 500 - batch[0])
    assert set(widest) == {128}
    module._improve_batch.clear_cache()
    fit_svm_primal(X, Y, key=KEY, max_epochs=1)
    fit_svm_primal(X, Y, 2.0, key=KEY, max_epochs=1, bias_multiplier=3.0)
    assert module._improve_batch._cache_size() == 1


def test_epochs_are_reported_and_running_out_is_told():
    seen = []
    _, info = fit_svm_primal(
        X, Y, 100.0, key=KEY, max_epochs=2, tolerance=1e-5, on_epoch=lambda e, g: seen.append(e)
    )
    assert seen == [1, 2]
    assert not info.certificate.converged.any()
    assert info.history.shape == (2, 4)
    assert (info.certificate.iterations == 2).all()


def test_mistakes_are_named():
    bad = X.copy()
    bad[[7, 300]] = np.nan
    with pytest.raises(ValueError, match="vectors must be finite"):
        fit_svm_primal(bad, Y, key=KEY)
    with pytest.raises(ValueError, match="batch_size"):
        fit_svm_primal(X, Y, key=KEY, batch_size=0)
    with pytest.raises(ValueError, match="targets"):
        fit_svm_primal(X, Y[:3], key=KEY)

    class Stream:
        def __iter__(self):
            return iter([X])

    with pytest.raises(TypeError, match="read in any order"):
        fit_svm_primal(Stream(), Y, key=KEY)
