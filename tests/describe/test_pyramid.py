"""Sides, the resize against Pillow and jax.image, crops, windows."""

import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from mpp_jax.describe.pyramid import (
    crop_corners,
    cut_crops,
    receptive_windows,
    resize_pictures,
    resize_taps,
    resize_weights,
    scale_side,
    tap_count,
)
from mpp_jax.numerics import over_pictures

PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
JAX = {"bilinear": "linear", "bicubic": "cubic"}


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """White noise: every filter tap counts."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def on_canvas(picture: np.ndarray, canvas: int, fill: int = 0) -> tuple[jax.Array, jax.Array]:
    height, width = picture.shape[:2]
    pixels = np.full((1, canvas, canvas, 3), fill, np.uint8)
    pixels[0, :height, :width] = picture
    return jnp.asarray(pixels), jnp.array([[height, width]])


def resized(picture: np.ndarray, canvas: int, side: int, resampling: str, fill: int = 0):
    return np.asarray(resize_pictures(*on_canvas(picture, canvas, fill), side, resampling))[0]


def pillow(picture: np.ndarray, side: int, resampling: str) -> np.ndarray:
    """Pillow's own filter in floating point, channel by channel: no rounding in between."""
    planes = [Image.fromarray(picture[..., c].astype(np.float32)) for c in range(3)]
    return np.stack([np.asarray(p.resize((side, side), PILLOW[resampling])) for p in planes], -1)


# ------------------------------------------------------------------------------ sides


def test_sides_of_the_paper() -> None:
    assert [scale_side(227, k) for k in range(7)] == [227, 322, 454, 643, 908, 1285, 1816]
    assert [scale_side(227, k, "round") for k in range(7)] == [227, 321, 454, 642, 908, 1284, 1816]
    assert [scale_side(224, k) for k in range(7)] == [224, 317, 448, 634, 896, 1268, 1792]


@hypothesis.given(st.integers(1, 5000), st.integers(0, 40))
def test_sides_are_exact(base: int, k: int) -> None:
    up, near = scale_side(base, k), scale_side(base, k, "round")
    square = base * base * 2**k
    assert (up - 1) ** 2 < square <= up * up
    assert (2 * near - 1) ** 2 <= 4 * square <= (2 * near + 1) ** 2
    if k % 2 == 0:
        assert up == near == base * 2 ** (k // 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((227, -1), "k=-1"),
        ((0, 1), "base=0"),
        ((227, 1, "floor"), "rounding must be ceil or round"),
    ],
)
def test_side_refuses(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scale_side(*arguments)


# ------------------------------------------------------------------------------ resize


@pytest.mark.parametrize("resampling", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("height", "width", "side"),
    [(100, 131, 37), (131, 67, 64), (61, 61, 61), (9, 13, 64), (1, 1, 7), (1, 131, 64), (96, 2, 1)],
)
def test_resize_equals_pillow(height: int, width: int, side: int, resampling: str) -> None:
    picture = noise(height, width, seed=height)
    ours = resized(picture, 131, side, resampling)
    theirs = pillow(picture, side, resampling)
    np.testing.assert_allclose(ours, np.clip(theirs, 0, 255), atol=2e-3)
    # The everyday call, on 8-bit pixels: Pillow rounds after each of its two passes. (It clips
    # there too, so let the cubic not overshoot.)
    picture = picture // 2 + 64
    rounded = Image.fromarray(picture).resize((side, side), PILLOW[resampling])
    difference = np.abs(resized(picture, 131, side, resampling) - np.asarray(rounded))
    assert difference.max() <= 1.2
    assert difference.mean() < 0.5


def test_resize_equals_pillow_on_the_largest_canvas() -> None:
    picture = noise(40, 4096)
    ours = resized(picture, 4096, 227, "bilinear")
    # Positions of thousands of pixels in float32: still far below a grey level.
    np.testing.assert_allclose(ours, pillow(picture, 227, "bilinear"), atol=0.02)


@pytest.mark.parametrize("resampling", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width", "side"), [(90, 47, 30), (31, 40, 77)])
def test_resize_equals_jax_image(height: int, width: int, side: int, resampling: str) -> None:
    picture = noise(height, width)
    theirs = jax.image.resize(
        picture.astype(np.float32),
        (side, side, 3),
        JAX[resampling],
        antialias=True,
        precision="highest",
    )
    ours = resized(picture, 131, side, resampling)
    np.testing.assert_allclose(ours / 255, np.clip(theirs, 0, 255) / 255, atol=1e-4)


@pytest.mark.parametrize("resampling", ["bilinear", "bicubic"])
@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(st.integers(1, 50), st.integers(1, 50), st.sampled_from([11, 50]))
def test_resize_of_any_size(resampling: str, height: int, width: int, side: int) -> None:
    picture = noise(height, width, seed=50 * height + width)
    ours = resized(picture, 50, side, resampling)
    np.testing.assert_allclose(ours, np.clip(pillow(picture, side, resampling), 0, 255), atol=2e-3)


@pytest.mark.parametrize("resampling", ["bilinear", "bicubic"])
def test_resize_does_not_see_the_canvas(resampling: str) -> None:
    picture = noise(37, 50)
    tight = resized(picture, 50, 41, resampling)
    for canvas, fill in ((50, 255), (97, 0), (97, 255)):
        loose = resized(picture, canvas, 41, resampling, fill)
        np.testing.assert_allclose(loose, tight, atol=1e-4)
    # The same canvas size and another filling: no bit differs.
    np.testing.assert_array_equal(
        resized(picture, 97, 41, resampling, 255), resized(picture, 97, 41, resampling, 0)
    )


# One batch of every kind: a pixel, lines, one axis that shrinks and one that grows, exact scale 1.
SIZES = [(1, 1), (1, 50), (50, 1), (23, 50), (50, 23), (50, 50), (7, 31), (49, 2), (23, 23)]


@pytest.mark.parametrize("resampling", ["bilinear", "bicubic"])
@pytest.mark.parametrize("side", [7, 23, 50])
def test_gathered_taps_equal_matrix_products(side: int, resampling: str) -> None:
    canvas = np.full((len(SIZES), 50, 50, 3), 255, np.uint8)  # what lies beside does not count
    for row, (height, width) in enumerate(SIZES):
        canvas[row, :height, :width] = noise(height, width, seed=row)
    pixels, sizes = jnp.asarray(canvas), jnp.array(SIZES)
    taps = tap_count(50, side, resampling)
    products = np.asarray(resize_pictures(pixels, sizes, side, resampling, taps - 1))
    gathered = np.asarray(resize_pictures(pixels, sizes, side, resampling, taps))
    np.testing.assert_allclose(gathered, products, atol=1e-3)
    for row, (height, width) in enumerate(SIZES):
        theirs = pillow(canvas[row, :height, :width], side, resampling)
        np.testing.assert_allclose(gathered[row], np.clip(theirs, 0, 255), atol=2e-3)


def test_axes_take_their_own_form() -> None:
    """A canvas need not be square: here rows are gathered and columns multiplied."""
    canvas = jnp.asarray(np.stack([noise(20, 131), noise(20, 131, seed=1)]))
    sizes = jnp.array([[20, 131], [9, 40]])
    assert (tap_count(20, 32, "bilinear"), tap_count(131, 32, "bilinear")) == (2, 9)
    mixed = resize_pictures(canvas, sizes, 32, "bilinear", 8)
    np.testing.assert_allclose(mixed, resize_pictures(canvas, sizes, 32), atol=1e-3)
    used = {}
    for most in (0, 8, 9):
        text = str(resize_pictures.trace(canvas, sizes, 32, "bilinear", most).jaxpr)
        used[most] = ("gather[" in text, "dot_general[" in text)
    assert used == {0: (False, True), 8: (True, True), 9: (True, False)}


def test_taps_on_the_largest_canvas() -> None:
    """Positions of thousands of pixels in float32: no term is lost at either end."""
    sizes = jnp.array([4096, 4095, 229])
    for side, resampling in ((227, "bilinear"), (322, "bicubic")):
        places, factors = jax.jit(resize_taps, static_argnums=(1, 2, 3))(
            sizes, 4096, side, resampling
        )
        dense = np.zeros((len(sizes), side, 4096), np.float32)
        grid = np.arange(len(sizes))[:, None, None], np.arange(side)[None, :, None]
        np.add.at(dense, (*grid, np.asarray(places)), np.asarray(factors))
        wanted = jax.jit(resize_weights, static_argnums=(1, 2, 3))(sizes, 4096, side, resampling)
        np.testing.assert_allclose(dense, wanted, atol=1e-6)
    with pytest.raises(ValueError, match="bilinear or bicubic, got 'area'"):
        tap_count(8, 4, "area")


def test_resize_weights_are_means() -> None:
    sizes = jnp.array([1, 5, 16])
    for resampling in ("bilinear", "bicubic"):
        weights = jax.jit(resize_weights, static_argnums=(1, 2, 3))(sizes, 16, 9, resampling)
        weights = np.asarray(weights)
        assert weights.shape == (3, 9, 16)
        np.testing.assert_allclose(weights.sum(axis=2), 1, atol=1e-6)
        assert not weights[0, :, 1:].any()
        assert not weights[1, :, 5:].any()
    with pytest.raises(ValueError, match="bilinear or bicubic, got 'nearest'"):
        resize_weights(sizes, 16, 9, "nearest")


def test_a_picture_is_independent_of_its_batch() -> None:
    one, other = noise(20, 31), noise(32, 12, seed=1)
    canvas = np.zeros((3, 32, 32, 3), np.uint8)
    canvas[0, :20, :31], canvas[1, :32, :12], canvas[2, :20, :31] = one, other, one
    sizes = jnp.array([[20, 31], [32, 12], [20, 31]])
    together = np.asarray(resize_pictures(jnp.asarray(canvas), sizes, 25))
    np.testing.assert_array_equal(together[0], together[2])
    for row, picture in enumerate((one, other)):
        np.testing.assert_allclose(together[row], resized(picture, 32, 25, "bilinear"), atol=1e-4)


@pytest.mark.parametrize("batch", [1, 3])
def test_over_pictures_maps_trees(batch: int) -> None:
    x, y = jnp.arange(4.0 * batch).reshape(batch, 4), jnp.ones((batch, 2))
    result = over_pictures(lambda pair: {"s": pair[0].sum(), "d": pair[1] * 2}, (x, y))
    np.testing.assert_array_equal(result["s"], x.sum(axis=1))
    np.testing.assert_array_equal(result["d"], y * 2)


# ------------------------------------------------------------------------------ crops, windows


def test_crop_corners() -> None:
    assert crop_corners(1, 227, 256).tolist() == [[14, 14]]
    assert crop_corners(5, 227, 256).tolist() == [[14, 14], [0, 0], [0, 29], [29, 0], [29, 29]]
    grid = crop_corners(25, 227, 256)
    assert sorted(set(grid[:, 0])) == sorted(set(grid[:, 1])) == [0, 7, 14, 22, 29]
    assert len({tuple(corner) for corner in grid}) == 25
    assert crop_corners(25, 8, 8).tolist() == [[0, 0]] * 25
    with pytest.raises(ValueError, match="count must be 1, 5 or 25 crops, got 10"):
        crop_corners(10, 227, 256)
    with pytest.raises(ValueError, match="crops of 257 pixels do not fit"):
        crop_corners(5, 257, 256)


@pytest.mark.parametrize("count", [1, 5, 25])
def test_crops_are_cut_where_they_say(count: int) -> None:
    pictures = np.stack([noise(20, 20), noise(20, 20, seed=1)])
    plain = np.asarray(cut_crops(jnp.asarray(pictures), 13, count, flip=False))
    both = np.asarray(cut_crops(jnp.asarray(pictures), 13, count, flip=True))
    assert plain.shape == (2, count, 13, 13, 3)
    for i, (y, x) in enumerate(crop_corners(count, 13, 20)):
        np.testing.assert_array_equal(plain[:, i], pictures[:, y : y + 13, x : x + 13])
    np.testing.assert_array_equal(both[:, :count], plain)
    np.testing.assert_array_equal(both[:, count:], plain[:, :, :, ::-1])


def test_receptive_windows_row_by_row() -> None:
    windows = receptive_windows(3, 32, 227, 322)
    assert windows.shape == (9, 4)
    assert windows.dtype == np.float32
    for row in range(3):
        for column in range(3):
            top, left, bottom, right = windows[3 * row + column] * 322
            assert (round(top), round(left)) == (32 * row, 32 * column)
            assert bottom == pytest.approx(min(32 * row + 227, 322), rel=1e-6)
            assert right == pytest.approx(min(32 * column + 227, 322), rel=1e-6)
    assert receptive_windows(1, 32, 227, 227).tolist() == [[0, 0, 1, 1]]
    # Windows of the last position may reach over the edge by padding or ceil mode: cut there.
    assert receptive_windows(4, 4, 11, 20).max() == 1.0
    assert math.isclose(receptive_windows(4, 4, 11, 20)[-1, 0], 0.6, rel_tol=1e-6)
