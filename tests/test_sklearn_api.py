"""The scikit-learn faces: its own conformance checks, and a pipeline of the two."""

import warnings

import numpy as np
import pandas
import pytest
from helpers.svm_reference import problem
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator

from mpp_jax.sklearn_api import EXPECTED_FAILED_CHECKS, FisherVectorEncoder, LinearSVMClassifier

X, LABELS = problem(n=90, d=60)
NAMES = np.array(["beach", "forest", "street"])[LABELS]


def conforms(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the checks provoke them on purpose
        results = check_estimator(
            estimator, expected_failed_checks=EXPECTED_FAILED_CHECKS[type(estimator)], on_fail=None
        )
    failed = [(r["check_name"], r["exception"]) for r in results if r["status"] == "failed"]
    assert not failed
    assert sum(r["status"] == "passed" for r in results) > 40


def test_classifier_conforms():
    conforms(LinearSVMClassifier())


@pytest.mark.slow
def test_encoder_conforms():
    conforms(FisherVectorEncoder(n_components=2))


def test_encoder_conforms_in_the_quick_checks():
    """Those that fit once at most; the slow test runs all."""
    wanted = {
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_estimators_empty_data_messages",
        "check_estimators_unfitted",
    }
    ran = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for estimator, check in estimator_checks_generator(FisherVectorEncoder(n_components=2)):
            if check.func.__name__ in wanted:
                check(estimator)
                ran.add(check.func.__name__)
    assert ran == wanted


def test_classifier_agrees_with_liblinear():
    ours = LinearSVMClassifier(C=3.0, tolerance=1e-5).fit(X, NAMES)
    peer = LinearSVC(loss="hinge", C=3.0, dual=True, tol=1e-7, max_iter=100_000).fit(X, NAMES)
    np.testing.assert_array_equal(ours.classes_, peer.classes_)
    np.testing.assert_allclose(ours.decision_function(X), peer.decision_function(X), atol=1e-2)
    assert np.mean(ours.predict(X) == peer.predict(X)) > 0.98
    assert ours.coef_.shape == (3, 60)
    two = NAMES != "beach"
    binary = LinearSVMClassifier().fit(X[two], NAMES[two])
    assert binary.coef_.shape == (1, 60)
    assert binary.decision_function(X).shape == (90,)
    assert set(binary.predict(X)) == {"forest", "street"}


def test_class_and_sample_weights_multiply():
    weights = {"beach": 2.0, "forest": 1.0, "street": 0.5}
    by_class = LinearSVMClassifier(0.03, class_weight=weights, tolerance=1e-6).fit(X, NAMES)
    by_sample = LinearSVMClassifier(0.03, tolerance=1e-6).fit(
        X, NAMES, sample_weight=[weights[name] for name in NAMES]
    )
    np.testing.assert_allclose(by_class.coef_, by_sample.coef_, atol=1e-6)
    none = LinearSVMClassifier(0.03, tolerance=1e-6).fit(X, NAMES)
    assert np.abs(by_class.coef_ - none.coef_).max() > 1e-3


def test_classifier_warns_when_it_runs_out():
    with pytest.warns(ConvergenceWarning, match="relative duality gap"):
        LinearSVMClassifier(C=100.0, tolerance=1e-9, max_iterations=20).fit(X, NAMES)


def descriptor_sets(n=24, seed=0):
    """Two classes of sets of 3 to 9 descriptors that differ in spread only, not in mean."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    sets = [(1 + k) * rng.standard_normal((rng.integers(3, 10), 4)) for k in labels]
    return sets, labels


@pytest.fixture(scope="module")
def pipeline():
    encoder = FisherVectorEncoder(2, pca_components=3, max_iterations=5)
    return make_pipeline(encoder, LinearSVMClassifier(C=1.0)).fit(*descriptor_sets())


def test_pipeline_of_both(pipeline):
    sets, labels = descriptor_sets(seed=1)
    assert pipeline[0].transform(sets).shape == (24, 2 * 2 * 3)
    assert pipeline.score(sets, labels) > 0.7  # an average of descriptors would be at chance


def test_classifier_in_model_selection():
    search = GridSearchCV(LinearSVMClassifier(), {"C": [0.1, 1.0]}, cv=3).fit(X, NAMES)
    assert search.best_params_["C"] in (0.1, 1.0)
    assert cross_val_score(clone(search.best_estimator_), X, NAMES, cv=3).mean() > 0.5


def test_sets_alone_and_together_encode_alike(pipeline):
    sets, _ = descriptor_sets()
    encoder = pipeline[0]
    together = encoder.transform(sets)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for i in (0, 5, 23):
        np.testing.assert_allclose(encoder.transform([sets[i]])[0], together[i], atol=1e-5)
    same_length = np.stack([s[:3] for s in sets])  # a three-dimensional array
    np.testing.assert_allclose(
        encoder.transform(same_length), encoder.transform(list(same_length)), atol=1e-6
    )
    plain = encoder.set_params(improved=False).transform(sets)
    encoder.set_params(improved=True)
    assert np.abs(np.linalg.norm(plain, axis=1) - 1).max() > 0.1


def test_encoder_mistakes_are_named(pipeline):
    sets, _ = descriptor_sets()
    encoder = FisherVectorEncoder(2, max_iterations=5)
    with pytest.raises(ValueError, match="different dimensions"):
        encoder.fit([sets[0], sets[1][:, :2]])
    with pytest.raises(ValueError, match=r"X\[1\] is an empty"):
        encoder.fit([sets[0], sets[1][:0]])
    with pytest.raises(ValueError, match=r"X\[0\] holds NaN"):
        encoder.fit([np.full((3, 4), np.nan)])
    with pytest.raises(ValueError, match="too few for n_components=200"):
        FisherVectorEncoder(200).fit(sets[:2])
    with pytest.raises(ValueError, match=r"3 features.*expecting 4"):
        pipeline[0].transform([s[:, :3] for s in sets])


def test_sets_in_whatever_people_have(pipeline):
    """Object arrays, Series, generators, frames as sets: all the same vectors."""
    sets, _ = descriptor_sets()
    encoder = pipeline[0]
    wanted = encoder.transform(sets)
    objects = np.empty(len(sets), object)
    objects[:] = sets
    series = pandas.Series(sets, index=[f"p{i}" for i in range(len(sets))])
    frames = [pandas.DataFrame(s) for s in sets]
    for given in (objects, series, (s for s in sets), iter(sets), frames, tuple(sets)):
        np.testing.assert_array_equal(encoder.transform(given), wanted)
    again = clone(encoder)
    np.testing.assert_array_equal(again.fit_transform(s for s in sets), wanted)
    np.testing.assert_array_equal(clone(encoder).fit(series).transform(objects), wanted)


def test_names_of_features_and_pandas_output(pipeline):
    sets, _ = descriptor_sets()
    encoder = clone(pipeline[0]).set_output(transform="pandas").fit(sets)
    frame = encoder.transform(sets)
    assert list(frame.columns) == [f"fishervectorencoder{i}" for i in range(12)]
    assert list(encoder.get_feature_names_out()) == list(frame.columns)
    np.testing.assert_array_equal(frame.to_numpy(), pipeline[0].transform(sets))
    assert frame.shape == encoder.fit_transform(iter(sets)).shape
