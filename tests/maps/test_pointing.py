"""The pointing game: peaks, hits and chance."""

import numpy as np
import pytest

from mpp_jax.maps.pointing import covered_share, inside, peak


def test_the_peak_is_the_middle_of_the_highest_pixels() -> None:
    values = np.zeros((4, 8))
    values[2, 1] = 3.0
    assert peak(values) == (2.5 / 4, 1.5 / 8)
    values[2:4, 1:4] = 5.0  # a plateau
    assert peak(values) == (3.0 / 4, 2.5 / 8)
    assert peak(np.full((3, 5), -2.0)) == (0.5, 0.5)


def test_a_point_hits_any_of_the_boxes() -> None:
    boxes = [(0.0, 0.0, 0.2, 0.3), (0.5, 0.5, 1.0, 0.75)]
    assert inside((0.1, 0.2), boxes)
    assert inside((0.75, 0.7), boxes)
    assert not inside((0.7, 0.75 + 1e-9), boxes)
    assert not inside((0.2, 0.7), boxes)  # y comes first
    assert not inside((0.1, 0.1), [])


def test_the_share_that_boxes_cover_together() -> None:
    assert covered_share([]) == 0.0
    assert covered_share([(0.0, 0.0, 1.0, 1.0)]) == pytest.approx(1.0)
    one, other = (0.0, 0.0, 0.5, 0.4), (0.25, 0.2, 1.0, 0.6)
    assert covered_share([one]) == pytest.approx(0.2)
    assert covered_share([one, other]) == pytest.approx(0.2 + 0.3 - 0.05)
    assert covered_share([one, one, (0.1, 0.1, 0.2, 0.2)]) == pytest.approx(0.2)
    rng = np.random.default_rng(0)
    low, size = rng.uniform(0, 0.6, (5, 2)), rng.uniform(0.05, 0.4, (5, 2))
    boxes = [(*a, *(a + b)) for a, b in zip(low, size, strict=True)]
    points = rng.uniform(size=(20_000, 2))
    share = np.mean([inside((y, x), boxes) for y, x in points])
    assert covered_share(boxes) == pytest.approx(share, abs=0.015)


@pytest.mark.parametrize("bad", [np.zeros(3), np.zeros((0, 4)), np.array([[0.0, np.nan]])])
def test_what_is_no_map_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="confidence must be a finite"):
        peak(bad)
