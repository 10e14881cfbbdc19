"""The Gram-matrix SVM against VLFeat, liblinear, slow references, and itself in other ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.svm_reference import primal, problem, reference_objective
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from mpp_jax.svm import (
    LinearSVM,
    dual,
    fit_svm,
    fit_svm_gram,
    gram_matrix,
    one_vs_rest_targets,
    svm_from_dual,
    svm_scores,
)
from mpp_jax.svm.options import loss_weights

LOSSES = ("hinge", "squared_hinge", "logistic")
X, LABELS = problem()
Y = one_vs_rest_targets(LABELS)
GRAM = np.asarray(gram_matrix(X))


def primal_of(svm, y, u, loss="hinge", bias=1.0, x=X):
    w, b = np.asarray(svm.weights, np.float64), np.asarray(svm.bias, np.float64)
    x = x.astype(np.float64)
    classes = range(y.shape[1])
    return np.array([primal(w[k], b[k], x, y[:, k], u[:, k], loss, bias) for k in classes])


# ------------------------------------------------------------------------------------- goldens


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_vlfeat(golden_dir, case):
    golden = np.load(golden_dir / "svm.npz")
    x, y = golden["X"], golden["y"].astype(int)
    c, bias = float(golden[f"{case}_C"]), float(golden[f"{case}_bias_multiplier"])
    svm, info = fit_svm(x, y, c, bias_multiplier=bias, tolerance=1e-6)
    assert info.converged.all()
    scale = float(golden[f"{case}_lambda"])
    assert scale * info.primal_objective[0] == pytest.approx(golden[f"{case}_objective"], rel=2e-6)
    assert scale * info.dual_objective[0] == pytest.approx(golden[f"{case}_dual"], rel=2e-6)
    for suffix in ("", "_liblinear"):
        w = golden[f"{case}_w{suffix}"]
        assert np.linalg.norm(svm.weights[0] - w) < 2e-3 * np.linalg.norm(w)
        assert svm.bias[0] == pytest.approx(golden[f"{case}_b{suffix}"], abs=2e-3)


@pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.ConvergenceWarning")
@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
@pytest.mark.parametrize(("c", "bias"), [(0.1, 1.0), (10.0, 1.0), (1.0, 5.0)])
def test_objective_within_a_thousandth_of_liblinear(loss, c, bias):
    svm, info = fit_svm(X, Y, c, bias_multiplier=bias, loss=loss)
    assert info.converged.all()
    assert (info.relative_gap <= 1e-3).all()
    u = loss_weights(Y.astype(float), c)
    ours = primal_of(svm, Y, u, loss, bias)
    np.testing.assert_allclose(ours, info.primal_objective, rtol=2e-5)  # the weights hold it
    for k in range(Y.shape[1]):
        peer = LinearSVC(
            loss=loss, C=c, intercept_scaling=bias, dual=True, tol=1e-8, max_iter=100_000
        ).fit(X.astype(np.float64), Y[:, k])
        best = primal(peer.coef_[0], peer.intercept_[0], X, Y[:, k], u[:, k], loss, bias)
        assert ours[k] <= best * (1 + 1e-3)
        assert info.dual_objective[k] <= best * (1 + 1e-6)  # the certificate is one


# --------------------------------------------------------------------------- options, references


CASES = {
    "plain": {},
    "c per class": {"c": [0.3, 1.0, 7.0]},
    "no bias": {"bias_multiplier": 0.0},
    "balanced": {"class_weight": "balanced"},
    "class weights": {"class_weight": [[1.0, 3.0], [0.5, 2.0], [2.0, 0.1]]},
    "sample weights": {"sample_weight": np.linspace(0, 2, len(X))},
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("case", CASES)
def test_every_option_reaches_the_reference_objective(loss, case):
    options = {"c": 2.0, "bias_multiplier": 1.5, **CASES[case]}
    y = Y.astype(np.float64)
    y[::7, 0] = 0  # some ignored
    _, info = fit_svm_gram(GRAM, y, loss=loss, tolerance=1e-5, **options)
    assert info.converged.all()
    u = loss_weights(y, options["c"], options.get("class_weight"), options.get("sample_weight"))
    for k in range(y.shape[1]):
        best = reference_objective(X, y[:, k], u[:, k], loss, options["bias_multiplier"])
        assert info.primal_objective[k] == pytest.approx(best, rel=2e-5)
        assert info.dual_objective[k] == pytest.approx(best, rel=2e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_ignoring_is_leaving_out(loss):
    y = Y.copy()
    y[:20, 1] = 0
    coefficients, info = fit_svm_gram(GRAM, y, 3.0, loss=loss, tolerance=1e-6)
    assert (coefficients[:20, 1] == 0).all()
    kept = GRAM[20:, 20:]
    _, alone = fit_svm_gram(kept, Y[20:, 1], 3.0, loss=loss, tolerance=1e-6)
    assert info.primal_objective[1] == pytest.approx(alone.primal_objective[0], rel=2e-6)


def test_order_of_rows_and_classes_does_not_matter():
    rng = np.random.default_rng(1)
    rows, classes = rng.permutation(len(X)), np.array([2, 0, 1])
    _, info = fit_svm(X, Y, 3.0, tolerance=1e-6)
    svm, moved = fit_svm(X[rows], Y[rows][:, classes], 3.0, tolerance=1e-6)
    np.testing.assert_allclose(moved.primal_objective, info.primal_objective[classes], rtol=2e-6)
    assert svm.weights.shape == (3, X.shape[1])


def test_one_class_alone_is_that_column():
    _, together = fit_svm_gram(GRAM, Y, 3.0, tolerance=1e-6)
    _, alone = fit_svm_gram(GRAM, Y[:, 1], 3.0, tolerance=1e-6)
    assert alone.primal_objective[0] == pytest.approx(together.primal_objective[1], rel=2e-6)


def test_stacked_representations_add_their_gram_matrices():
    a, b = X[:, :70], X[:, 70:]
    coefficients, _ = fit_svm_gram(gram_matrix(a) + gram_matrix(b), Y, 3.0, tolerance=1e-5)
    svm = svm_from_dual(coefficients, np.concatenate([a, b], axis=1))
    _, info = fit_svm(X, Y, 3.0, tolerance=1e-5)
    u = loss_weights(Y.astype(float), 3.0)
    np.testing.assert_allclose(primal_of(svm, Y, u), info.primal_objective, rtol=3e-5)


def test_warm_start_needs_no_iteration():
    coefficients, cold = fit_svm_gram(GRAM, Y, 3.0)
    again, warm = fit_svm_gram(GRAM, Y, 3.0, initial=coefficients)
    assert (cold.iterations > 0).all()
    assert (warm.iterations == 0).all()
    np.testing.assert_array_equal(again, coefficients)


def test_same_input_same_bytes():
    one, two = (fit_svm(X, Y, 3.0)[0] for _ in range(2))
    assert np.asarray(one.weights).tobytes() == np.asarray(two.weights).tobytes()
    assert np.asarray(one.bias).tobytes() == np.asarray(two.bias).tobytes()


def test_running_out_of_iterations_is_told():
    _, info = fit_svm_gram(GRAM, Y, 100.0, tolerance=1e-12, max_iterations=20)
    assert not info.converged.any()
    assert (info.relative_gap > 1e-12).all()
    assert (info.iterations == 20).all()


def test_one_program_serves_every_c_and_tolerance():
    dual._solve.clear_cache()
    for c, tolerance in ((1.0, 1e-3), (2.0, 1e-4)):
        fit_svm_gram(GRAM, Y, c, tolerance=tolerance, class_weight="balanced")
    assert dual._solve._cache_size() == 1


def test_the_session_stays_in_float32():
    fit_svm_gram(GRAM, Y)
    assert jnp.ones(1).dtype == jnp.float32
    svm, _ = fit_svm(X, Y)
    assert svm.weights.dtype == svm.bias.dtype == jnp.float32
    assert svm_scores(svm, X).dtype == jnp.float32


def test_hard_margin_needs_more_than_float32():
    """C = 1e4 on separable data: the gap is certified to 1e-6 although scores cancel."""
    _, info = fit_svm_gram(GRAM, Y, 1e4, tolerance=1e-6)
    assert info.converged.all()
    best = [reference_objective(X, Y[:, k], np.full(len(X), 1e4)) for k in range(3)]
    np.testing.assert_allclose(info.primal_objective, best, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from(
        ["duplicates", "zeros", "constant", "outlier", "offset", "tiny", "one feature"]
    ),
    st.sampled_from(LOSSES),
    st.sampled_from([1e-3, 1.0, 100.0]),
)
def test_nasty_data_still_get_a_true_certificate(seed, kind, loss, c):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((12, 4)).astype(np.float32)
    if kind == "duplicates":
        x = x[rng.integers(0, 3, 12)]
    elif kind == "zeros":
        x[:] = 0
    elif kind == "constant":
        x[:] = x[:1]
    elif kind == "outlier":
        x[3] *= 100
    elif kind == "offset":
        x += 5
    elif kind == "tiny":
        x *= 1e-12
    else:
        x[:, 1:] = 0
    y = rng.choice([-1, 0, 1], (12, 2))
    y[:2] = [[1, 1], [-1, -1]]
    svm, info = fit_svm(x, y, c, loss=loss)
    assert info.converged.all()
    u = loss_weights(y.astype(float), c)
    truth = primal_of(svm, y, u, loss, x=x)
    # The weights and the Gram matrix are float32: margins are good to 1e-6, and, at norms of 10 to
    # 400, to less.
    margin = 1e-6 * c * len(x)
    rounding = 2e-2 if kind in ("outlier", "offset") else 1e-4
    assert (truth >= info.dual_objective * (1 - rounding) - margin).all()
    assert (truth <= info.primal_objective * (1 + rounding) + margin).all()


# ------------------------------------------------------------------------------------------ scores


def test_scores_of_arrays_maps_and_blocks(tmp_path):
    svm, _ = fit_svm(X, Y, 3.0)
    wanted = X.astype(np.float64) @ np.asarray(svm.weights, np.float64).T + np.asarray(svm.bias)
    np.save(tmp_path / "x.npy", X)
    for vectors in (X, jnp.asarray(X), np.load(tmp_path / "x.npy", mmap_mode="r"), [X[:7], X[7:]]):
        np.testing.assert_allclose(svm_scores(svm, vectors), wanted, atol=2e-6)


def test_scores_refuse_other_encodings():
    svm = LinearSVM(np.ones((2, 5), np.float32), np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=r"6 dimensions.*trained on 5"):
        svm_scores(svm, np.ones((3, 6)))
    bad = np.ones((3, 5))
    bad[1, 2] = np.nan
    with pytest.raises(ValueError, match="not: 1"):
        svm_scores(svm, bad)


# ------------------------------------------------------------------------------------------ errors


def nan_at(row):
    x = X.copy()
    x[row, 3] = np.nan
    return x


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vectors": X[0]}, "vectors must be"),
        ({"vectors": X[:0]}, "empty"),
        ({"vectors": nan_at(17)}, r"vectors must be finite.*not: 17"),
        ({"vectors": X * 1e30}, "vectors must be finite"),
        ({"targets": Y[:-1]}, "targets must be .N, L. with N = 60"),
        ({"targets": Y * 2}, r"targets must be -1, 0 .ignored. or \+1, got"),
        ({"targets": np.abs(Y)}, "no negative"),
        ({"targets": np.where(LABELS[:, None] == 1, 0, Y)}, r"\[1\] have no positive"),
        ({"c": 0.0}, "c must be positive"),
        ({"c": -1.0}, "c must be positive"),
        ({"c": np.inf}, "c must be positive"),
        ({"c": [1.0, 2.0]}, "one per class"),
        ({"loss": "absolute"}, "loss must be one of"),
        ({"bias_multiplier": -1.0}, "bias_multiplier"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"class_weight": "even"}, "class_weight"),
        ({"class_weight": [1.0, 2.0]}, "class_weight"),
        ({"sample_weight": np.ones(3)}, "sample_weight"),
        ({"sample_weight": -np.ones(len(X))}, "sample_weight"),
        ({"sample_weight": LABELS != 2}, r"sample_weight is zero for all .*\[2\]"),
        ({"initial": np.zeros((2, 2))}, "initial"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_svm(**{"vectors": X, "targets": Y, **arguments})


def test_gram_mistakes_are_named():
    with pytest.raises(ValueError, match="square"):
        fit_svm_gram(GRAM[:, :5], Y)
    broken = GRAM.copy()
    broken[4, 4] = np.inf
    with pytest.raises(ValueError, match=r"gram must be finite.*not: 4"):
        fit_svm_gram(broken, Y)


@pytest.mark.parametrize(
    ("labels", "classes"), [([0.5, 1.0], None), ([0, 3], 3), ([-1, 1], None), ([0, 0], None)]
)
def test_labels_are_checked(labels, classes):
    with pytest.raises(ValueError, match=r"labels|classes"):
        one_vs_rest_targets(labels, classes)


def test_targets_from_labels():
    np.testing.assert_array_equal(one_vs_rest_targets([1, 0], 3), [[-1, 1, -1], [1, -1, -1]])
    assert jax.tree.leaves(one_vs_rest_targets([0, 1]))[0].dtype == np.int8
