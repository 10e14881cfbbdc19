"""Intervals of a report's figures, and what it says of methods above the primary one."""

import numpy as np
import pytest
from scipy.stats import binomtest

from mpp_jax.intervals import Interval, bootstrap
from mpp_jax.metrics import mean_average_precision
from mpp_jax.report.certainty import (
    Certainty,
    certainties,
    lead_of,
    shown_lead,
    verdict,
    wilson_interval,
)


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (2666, 2985), (1, 1)])
def test_wilson_interval(right: int, n: int) -> None:
    wanted = binomtest(right, n).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(wilson_interval(right / n, n), wanted, atol=1e-7)


def test_wilson_interval_refuses() -> None:
    with pytest.raises(ValueError, match="n > 0"):
        wilson_interval(0.5, 0)
    with pytest.raises(ValueError, match="p <= 1"):
        wilson_interval(1.5, 3)


def test_leads_of_accuracies_are_those_of_the_bootstrap() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    truth = np.eye(4)[labels]
    scores = {name: truth + s * rng.normal(size=(400, 4)) for name, s in (("a", 0.5), ("b", 0.6))}
    found = certainties("a", labels, scores)
    drawn = bootstrap(scores, labels, "top1")
    wanted = drawn["b"].minus(drawn["a"])
    lead = found["b"].lead
    assert lead is not None
    assert lead.value == pytest.approx(wanted.value)
    np.testing.assert_allclose([lead.low, lead.high], [wanted.low, wanted.high], atol=0.006)
    assert found["a"].lead is None
    right = float((scores["a"].argmax(axis=1) == labels).mean())
    assert found["a"].interval == wilson_interval(right, 400)


def test_precision_of_several_labels() -> None:
    rng = np.random.default_rng(1)
    targets = np.where(rng.random((60, 3)) < 0.3, 1, -1)
    targets[0, 0] = 0
    scores = {"a": targets + rng.normal(size=(60, 3)), "b": targets + 4 * rng.normal(size=(60, 3))}
    found = certainties("b", targets, scores)
    for name, held in found.items():
        assert held.interval is not None
        low, high = held.interval
        assert 0 <= low < mean_average_precision(scores[name], targets, "11point") < high <= 1
    drawn = bootstrap(scores, targets, "map11")
    assert found["a"].lead == drawn["a"].minus(drawn["b"])
    assert found["b"].lead is None


def test_no_intervals_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert certainties("a", np.zeros(0, int), {"a": np.zeros((0, 2))}) == {}
    assert certainties("a", -np.ones((3, 2)), {"a": np.zeros((3, 2))}) == {}
    monkeypatch.setattr("mpp_jax.report.certainty.WORK", 6 * 100)
    assert certainties("a", np.eye(3, 2), {"a": np.zeros((3, 2))}) == {}  # it would take too long


def test_a_lead_of_all_or_nothing() -> None:
    assert lead_of(0, 0, 5) == Interval(0, 0, 0)
    assert lead_of(5, 0, 5) == Interval(1, 1, 1)


def test_what_is_said() -> None:
    def lead(low: float, value: float, high: float) -> Certainty:
        return Certainty(None, Interval(value, low, high))

    certainty = {
        "mpp": Certainty(),
        "sure": lead(0.01, 0.02, 0.03),
        "perhaps": lead(-0.01, 0.01, 0.03),
        "even": lead(-0.02, -0.01, 0.01),
        "below": lead(-0.5, -0.4, -0.3),
    }
    assert verdict("mpp", certainty) == (
        "Surely above mpp: sure by +2.0 (+1.0 to +3.0). Above mpp, which may be chance: perhaps by "
        "+1.0 (−1.0 to +3.0). Surely below it: below by −40.0 (−50.0 to −30.0)."
    )
    few = {name: certainty[name] for name in ("mpp", "even")}
    assert verdict("mpp", few) == "No other representation here is above mpp."
    assert verdict("mpp", {"mpp": Certainty()}) == ""
    assert shown_lead(None) == "–"
