"""Heat maps over pictures."""

import numpy as np
import pytest
from PIL import ImageFont

from mpp_jax.maps.overlays import OPACITY, fitted, heat_colours, overlay, panels, shown_range

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (30, 50, 3)).astype(np.uint8)


def test_nothing_is_drawn_where_there_is_no_confidence() -> None:
    values = np.zeros((30, 50))
    values[:, 25:] = np.linspace(0.1, 2, 25)
    values[:, :5] = -3
    drawn = overlay(PICTURE, values, 0.0, 2.0)
    np.testing.assert_array_equal(drawn[:, :25], PICTURE[:, :25])
    assert (drawn[:, 30:] != PICTURE[:, 30:]).any(axis=2).all()
    assert drawn.dtype == np.uint8
    # The heat is as opaque as it gets, over grey.
    ground = (1 - OPACITY) * PICTURE[:, -1] + OPACITY * PICTURE[:, -1].mean(1, keepdims=True)
    wanted = (1 - OPACITY) * ground + OPACITY * heat_colours(np.array(1.0))
    np.testing.assert_allclose(drawn[:, -1], wanted, atol=0.51)


def test_more_confidence_is_lighter() -> None:
    luma = heat_colours(np.linspace(0, 1, 101)) @ [0.299, 0.587, 0.114]
    assert (np.diff(luma) > 0).all()


def test_flat_maps_and_ranges() -> None:
    assert shown_range(np.array([[[-1.0, 3.0]], [[2.0, 0.0]]])) == (0.0, 3.0)
    assert shown_range(np.array([[[-1.0, -3.0]]])) == (-3.0, -1.0)
    np.testing.assert_array_equal(overlay(PICTURE, np.full((30, 50), 2.0), 2.0, 2.0), PICTURE)


def test_panels_side_by_side() -> None:
    maps = np.zeros((2, 30, 120))
    maps[1, :, 60:] = 1
    picture = np.full((30, 120, 3), 90, np.uint8)
    sheet = np.asarray(panels(picture, maps, ["first", "a name that is much too long for it"]))
    assert sheet.shape[1] == 3 * 120 + 2 * 8
    assert sheet.shape[0] > 40
    np.testing.assert_array_equal(sheet[:30, :120], picture)
    np.testing.assert_array_equal(sheet[:30, 128:248], picture)
    np.testing.assert_array_equal(sheet[:30, 256:316], picture[:, :60])
    np.testing.assert_array_equal(sheet[:30, 316:], overlay(picture, maps[1], 0, 1)[:, 60:])
    below = sheet[30:]
    assert (below[:, :128] == 255).all()  # the picture itself has no caption
    for left in (128, 256):
        assert (below[:, left : left + 120] < 128).any()
    assert (below[:, 248:256] == 255).all()  # nothing runs over


def test_captions_are_shortened() -> None:
    font = ImageFont.load_default(size=12)
    assert fitted("short", font, 200) == "short"
    cut = fitted("a rather long caption", font, 60)
    assert cut.endswith("...")
    assert font.getlength(cut) <= 60


def test_refusals() -> None:
    with pytest.raises(ValueError, match="values must be"):
        overlay(PICTURE, np.zeros((30, 49)), 0, 1)
    with pytest.raises(ValueError, match="captions"):
        panels(PICTURE, np.zeros((2, 30, 50)), ["one"])
