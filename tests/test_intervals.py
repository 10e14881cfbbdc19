"""The bootstrap against lists resampled one by one and judged by the metrics themselves."""

import numpy as np
import pytest

from mpp_jax import metrics
from mpp_jax.intervals import FIGURES, Interval, _weights, bootstrap, mean_of


def judged(figure, scores, targets, classes):
    """The figure of a list of pictures, by `mpp_jax.metrics`; and that of each chosen class."""
    if figure in ("map11", "map_area"):
        kind = "11point" if figure == "map11" else "area"
        each = metrics.average_precision(scores[:, classes], targets[:, classes], kind)
        return metrics.mean_average_precision(scores[:, classes], targets[:, classes], kind), each
    labels = targets.argmax(axis=1)
    each = metrics.class_accuracies(scores, labels)[classes]
    mine = np.isin(labels, classes)
    if not mine.any():
        return np.nan, each
    if figure == "mean_class_accuracy":
        return np.nanmean(each), each
    return metrics.top1_accuracy(scores[mine], labels[mine]), each


def samples(figure, seed, pictures=40, classes=4):
    """Scores of two methods with many ties, and targets: some ignored, a class with no positive."""
    rng = np.random.default_rng(seed)
    if figure in ("map11", "map_area"):
        targets = rng.choice([-1, 0, 1], (pictures, classes), p=[0.75, 0.1, 0.15])
        targets[:, 1] = np.minimum(targets[:, 1], 0)
    else:
        targets = 2 * np.eye(classes, dtype=int)[rng.choice([0, 0, 2, 3], pictures)] - 1
    one = rng.integers(0, 6, (pictures, classes)).astype(np.float32)
    return {"one": one, "other": one + rng.integers(0, 3, one.shape)}, targets


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("classes", [None, [1, 2]])
def test_draws_are_the_figures_of_resampled_lists(figure, classes):
    scores, targets = samples(figure, seed=len(figure))
    chosen = [0, 1, 2, 3] if classes is None else classes
    found = bootstrap(scores, targets, figure, classes=classes, draws=30, seed=5)
    weights = np.concatenate([*_weights(len(targets), 30, 5)], axis=1)
    assert (weights.sum(axis=0) == len(targets)).all()
    for name, values in scores.items():
        for d, counts in enumerate(weights.T):
            rows = np.repeat(np.arange(len(targets)), counts)
            whole, each = judged(figure, values[rows], targets[rows], chosen)
            mine = found[name].value if d == 0 else found[name].draws[d - 1]
            per_class = found[name].per_class if d == 0 else found[name].class_draws[d - 1]
            # Without draws there is not one rounding between them.
            np.testing.assert_allclose(mine, whole, rtol=1e-13 if d else 0)
            np.testing.assert_allclose(per_class[chosen], each, rtol=1e-13 if d else 0)
            assert np.isnan(np.delete(per_class, chosen)).all()


@pytest.mark.parametrize("figure", FIGURES)
def test_intervals_are_quantiles_and_differences_are_paired(figure):
    scores, targets = samples(figure, seed=1)
    found = bootstrap(scores, targets, figure, draws=300)
    one, other = found["one"], found["other"]
    low, high = np.quantile(one.draws, [0.025, 0.975])
    assert one.interval == pytest.approx((one.value, low, high))
    assert low <= one.value <= high
    gain = other.minus(one)
    assert gain.value == other.value - one.value
    wanted = np.quantile(other.draws - one.draws, [0.025, 0.975])
    np.testing.assert_allclose(gain[1:], wanted, rtol=1e-12)
    assert one.minus(one) == (0, 0, 0)
    again = bootstrap({"one": scores["one"]}, targets, figure, draws=300)
    np.testing.assert_array_equal(again["one"].draws, one.draws)
    assert not np.array_equal(
        bootstrap(scores, targets, figure, draws=300, seed=1)["one"].draws, one.draws
    )


def test_top1_interval_is_the_binomial_one():
    """Right or wrong only: the spread of a share p of N is sqrt(p (1 - p) / N)."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    scores = np.eye(2)[np.where(rng.random(400) < 0.8, labels, 1 - labels)]
    found = bootstrap({"a": scores}, labels, "top1", draws=4000)["a"]
    spread = np.sqrt(found.value * (1 - found.value) / 400)
    assert found.draws.std() == pytest.approx(spread, rel=0.05)
    assert found.interval.high - found.interval.low == pytest.approx(2 * 1.96 * spread, rel=0.08)


def test_draws_by_blocks_are_the_same_draws(monkeypatch):
    scores, targets = samples("map11", seed=2)
    whole = bootstrap(scores, targets, draws=50)["one"].draws
    monkeypatch.setattr("mpp_jax.intervals._BLOCK", 7 * len(targets))
    np.testing.assert_array_equal(bootstrap(scores, targets, draws=50)["one"].draws, whole)


def test_draws_without_a_figure_are_left_out():
    targets = np.array([[1], [-1]])
    found = bootstrap({"a": np.array([[1.0], [0.0]])}, targets, draws=200)["a"]
    assert np.isnan(found.draws).any()  # twice the picture without the class
    assert found.interval == (1, 1, 1)
    nothing = bootstrap({"a": np.zeros((2, 1))}, -np.ones((2, 1)), draws=3)["a"].interval
    assert isinstance(nothing, Interval)
    assert np.isnan(nothing).all()


@pytest.mark.parametrize("figure", FIGURES)
def test_pictures_that_others_were_tested_on_count_for_nothing(figure):
    """The union of two test sets is resampled; each method is judged on those of its own."""
    scores, targets = samples(figure, seed=3)
    mine = np.arange(len(targets)) % 3 > 0
    found = bootstrap(scores, np.where(mine[:, None], targets, 0), figure, draws=20)["one"]
    chosen = list(range(targets.shape[1]))
    for d, counts in enumerate(np.concatenate([*_weights(len(targets), 20, 0)], axis=1).T):
        rows = np.repeat(np.arange(len(targets)), counts * mine)
        whole, _ = judged(figure, scores["one"][rows], targets[rows], chosen)
        np.testing.assert_allclose(found.draws[d - 1] if d else found.value, whole, rtol=1e-13)


def test_mean_of_seeds_is_the_mean_of_every_draw():
    scores, targets = samples("map11", seed=4)
    one, other = bootstrap(scores, targets, draws=50).values()
    both = mean_of([one, other])
    assert both.value == (one.value + other.value) / 2
    np.testing.assert_allclose(both.draws, (one.draws + other.draws) / 2)
    np.testing.assert_allclose(both.class_draws, (one.class_draws + other.class_draws) / 2)
    assert np.isnan(both.per_class[1])
    assert mean_of([one]).interval == one.interval


@pytest.mark.parametrize(
    ("scores", "targets", "options", "message"),
    [
        ({"a": np.zeros((3, 2))}, np.ones((3, 2)), {"figure": "f1"}, "figure must be one of top1"),
        ({"a": np.zeros((3, 2))}, np.ones((3, 2)), {"draws": 0}, "draws must be at least 1"),
        ({"a": np.zeros((3, 2))}, np.ones((3, 2)), {"classes": [2]}, r"numbers in 0\.\.1"),
        ({"a": np.zeros((3, 2))}, np.ones((3, 2)), {"figure": "top1"}, "exactly one class"),
        ({"a": np.zeros((3, 2))}, np.full((3, 2), 2), {}, "must be -1, 0"),
        ({"a": np.zeros((3, 2))}, np.array([0, 1, 2]), {}, r"whole numbers in 0\.\.1"),
        ({"a": np.zeros((3, 2))}, np.ones((2, 2)), {}, r"scores\['a'\] must be \(N, L\)"),
        ({"a": np.zeros((3, 2))}, np.ones((3, 3)), {}, "want one shape"),
        ({"a": np.full((3, 2), np.nan)}, np.ones((3, 2)), {}, "holds NaN"),
        ({}, np.ones((3, 2)), {}, "no method"),
    ],
)
def test_mistakes_are_named(scores, targets, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(scores, targets, **options)
