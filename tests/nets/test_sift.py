"""Dense SIFT: against OpenCV, a slow reference, its invariances, and in a network's place."""

import math
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import toy
from helpers.toy_cli import ok, refused
from PIL import Image

import mpp_jax as mpp
from mpp_jax.describe.geometry import format_geometry
from mpp_jax.describe.pyramid import resize_pictures
from mpp_jax.nets import get_spec
from mpp_jax.nets.sift import blur, dense_sift, direction_planes, sift_at, sift_network
from mpp_jax.nets.sift_spec import SIFT_SPEC, Sift
from mpp_jax.weights import verify_weights


def photograph(seed: int, height: int = 120, width: int = 160) -> np.ndarray:
    """Return a grey picture with the statistics of photographs: a 1/f spectrum, and some edges."""
    rng = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]
    amplitude = 1 / np.maximum(np.hypot(fy, fx), 1 / max(height, width))
    phase = np.exp(2j * np.pi * rng.random((height, width)))
    texture = np.fft.ifft2(amplitude * phase).real
    texture /= texture.std()
    y, x = np.mgrid[:height, :width]
    for _ in range(6):
        a, b, c = rng.normal(size=3)
        texture += (a * (y / height - 0.5) + b * (x / width - 0.5) + 0.2 * c > 0) * rng.normal()
    return np.clip(128 + 40 * texture, 0, 255).astype(np.uint8)


def opencv(picture: np.ndarray, centres: list[tuple[int, int]], bin_size: int) -> np.ndarray:
    """Return OpenCV's descriptors (n, 128), 512 times unit length, of upright key points."""
    points = [cv2.KeyPoint(float(x), float(y), 2 * bin_size / 3, 0.0, 1.0, 0) for y, x in centres]
    kept, found = cv2.SIFT_create().compute(picture, points)
    assert len(kept) == len(points)
    return found.astype(np.float64)


def cosines(picture: np.ndarray, bin_size: int, step: int) -> np.ndarray:
    config = Sift(bin_size, step, blur=1.6)
    rows, columns = (config.centres(side) for side in picture.shape)
    ours = np.asarray(dense_sift(picture[None], config), np.float64)[0].reshape(-1, 128)
    theirs = opencv(picture, [(y, x) for y in rows for x in columns], bin_size)
    some = np.linalg.norm(theirs, axis=1) > 0
    assert some.mean() > 0.9
    dots = (ours * theirs).sum(1)[some]
    return dots / (np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1))[some]


@pytest.mark.parametrize("bin_size", [4, 6, 9])
def test_same_as_opencv(bin_size: int) -> None:
    found = np.concatenate([cosines(photograph(seed), bin_size, 7) for seed in range(3)])
    assert found.mean() > 0.9999
    assert found.min() > 0.99


@pytest.mark.parametrize("bin_size", [6, 8, 12])
def test_same_as_opencv_on_photographs(shared_dir: Path, bin_size: int) -> None:
    files = sorted((shared_dir / "data/scene15/test").glob("*/*.jpg"))[::600]
    assert len(files) == 5
    pictures = [np.array(Image.open(file).convert("L")) for file in files]
    found = np.concatenate([cosines(picture, bin_size, 8) for picture in pictures])
    assert found.mean() > 0.9999
    assert found.min() > 0.98


def reference(picture: np.ndarray, y: int, x: int, config: Sift) -> np.ndarray:
    """Return one descriptor (128,) of an unblurred picture, pixel by pixel."""
    bins = np.zeros((4, 4, 8))
    height, width = picture.shape
    for v in range(1, height - 1):
        for u in range(1, width - 1):
            dx = picture[v, u + 1] - picture[v, u - 1]
            dy = picture[v - 1, u] - picture[v + 1, u]
            direction = math.atan2(dy, dx) / (2 * math.pi) * 8 % 8
            du, dv = (u - x) / config.bin_size, (v - y) / config.bin_size
            window = math.exp(-(du**2 + dv**2) / (2 * config.window_size**2))
            for i in range(4):
                for j in range(4):
                    near = max(0, 1 - abs(dv - i + 1.5)) * max(0, 1 - abs(du - j + 1.5))
                    for o in range(8):
                        apart = min((direction - o) % 8, (o - direction) % 8)
                        share = near * window * max(0, 1 - apart)
                        bins[i, j, o] += math.hypot(dx, dy) * share
    v = bins.ravel() / np.linalg.norm(bins)
    v = np.minimum(v, config.clip)
    return v / np.linalg.norm(v)


@pytest.mark.parametrize(
    "config",
    [
        Sift(3, 5, blur=0.0),
        Sift(3, 4, blur=0.0, window_size=math.inf),
        Sift(3, 6, blur=0.0, window_size=0.7, clip=1.0),
    ],
    ids=str,
)
def test_same_as_slow_reference(config: Sift) -> None:
    picture = photograph(5, 19, 24).astype(np.float64)
    ours = np.asarray(dense_sift(picture[None].astype(np.float32), config))[0]
    for p, y in enumerate(config.centres(19)):
        for q, x in enumerate(config.centres(24)):
            np.testing.assert_allclose(ours[p, q], reference(picture, y, x, config), atol=2e-6)
    assert ours.shape == (len(config.centres(19)), len(config.centres(24)), 128)


def test_directions_are_counter_clockwise_from_right() -> None:
    y, x = np.mgrid[:9, :9].astype(np.float32)
    for o in range(8):
        angle = o * math.pi / 4
        ramp = math.cos(angle) * x - math.sin(angle) * y
        planes = np.asarray(direction_planes(jnp.asarray(ramp)))[:, 1:-1, 1:-1]
        np.testing.assert_allclose(planes[o], 2.0, atol=1e-5)
        np.testing.assert_allclose(np.delete(planes, o, axis=0), 0.0, atol=1e-5)


def test_blur_is_opencvs() -> None:
    picture = photograph(1).astype(np.float32)
    jitted = jax.jit(blur, static_argnums=1)
    theirs = cv2.GaussianBlur(picture, (13, 13), 1.52, borderType=cv2.BORDER_REFLECT_101)
    np.testing.assert_allclose(np.asarray(jitted(picture, 1.52)), theirs, atol=1e-3)
    np.testing.assert_array_equal(np.asarray(blur(jnp.asarray(picture), 0.0)), picture)
    np.testing.assert_allclose(
        np.asarray(jitted(np.full((5, 5), 7.0, np.float32), 3.0)), 7.0, rtol=1e-6
    )


def test_batch_is_loop_to_the_bit() -> None:
    pictures = np.stack([photograph(seed, 60, 80) for seed in range(3)])
    together = np.asarray(dense_sift(pictures))
    alone = np.concatenate([np.asarray(dense_sift(picture[None])) for picture in pictures])
    np.testing.assert_array_equal(together, alone)


def test_shift_moves_descriptors_along_the_grid() -> None:
    picture = photograph(2, 110, 130)
    config = Sift(4, 6)
    whole = np.asarray(dense_sift(picture[None], config))[0]
    moved = np.asarray(dense_sift(picture[None, 12:, 18:], config))[0]
    # Away from the border, where the picture is cut off.
    np.testing.assert_allclose(moved[1:-1, 1:-1], whole[3:-1, 4:-1], atol=1e-5)


def test_brightness_and_contrast_do_not_matter() -> None:
    picture = photograph(3, 60, 80).astype(np.float32)
    plain = np.asarray(dense_sift(picture[None]))
    other = np.asarray(dense_sift(0.013 * picture[None] - 4))
    np.testing.assert_allclose(other, plain, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(plain, axis=-1), 1.0, rtol=1e-5)


def test_grey_colour_and_integers_agree() -> None:
    picture = photograph(4, 50, 60)
    colour = np.repeat(picture[None, ..., None], 3, axis=3)
    plain = np.asarray(dense_sift(picture[None]))
    np.testing.assert_allclose(np.asarray(dense_sift(colour)), plain, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(dense_sift(picture[None].astype(np.float32))), plain)


def test_flat_pictures_are_zero_and_gradients_finite() -> None:
    flat = jnp.full((1, 40, 40), 9.0)
    assert not np.asarray(dense_sift(flat)).any()
    half = flat.at[:, :, 25:].set(20.0)
    config = Sift(3, 4)
    rows = config.centres(40)

    def loss(picture: jax.Array) -> jax.Array:
        return jnp.sum(sift_at(picture, rows, rows, config)[..., :64] ** 3)

    slope = jax.jit(jax.grad(loss))
    for picture in (flat[0], half[0], jnp.asarray(photograph(6, 40, 40), jnp.float32)):
        gradient = slope(picture)
        assert bool(jnp.isfinite(gradient).all())
    assert bool(jnp.any(gradient != 0))


@pytest.mark.parametrize(
    ("pictures", "config", "error", "words"),
    [
        (np.zeros((40, 40)), None, ValueError, "pictures must be"),
        (np.zeros((1, 40, 40, 4)), None, ValueError, "pictures must be"),
        (np.zeros((1, 32, 90)), None, ValueError, "at least 33 pixels"),
        (np.zeros((0, 40, 40)), None, ValueError, "at least 33 pixels"),
        (np.zeros((1, 40, 40), bool), None, TypeError, "uint8 or float"),
    ],
)
def test_refusals(pictures: np.ndarray, config: Any, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        dense_sift(pictures, config)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bin_size": 0}, "bin_size"),
        ({"step": 2.5}, "step"),
        ({"blur": -1.0}, "blur"),
        ({"window_size": 0.0}, "window_size"),
        ({"clip": 0.0}, "clip"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Sift(**settings)


# --------------------------------------------------------------------- in a network's place


def test_takes_a_networks_place() -> None:
    network = mpp.load_network("sift")
    canvas = np.zeros((2, 130, 160, 3), np.uint8)
    sizes = [(130, 150), (90, 160)]
    for i, (height, width) in enumerate(sizes):
        canvas[i, :height, :width] = photograph(i, height, width)[..., None]
    scales = mpp.dense_descriptors(network, canvas, sizes, scales=(0, 1))
    assert [d.x.shape for d in scales] == [(2, 25**2, 128), (2, 37**2, 128)]
    for d, side in zip(scales, (227, 322), strict=True):
        np.testing.assert_allclose(d.window[0], [0, 0, 33 / side, 33 / side], rtol=1e-6)
        np.testing.assert_allclose(d.window[1, 1], 8 / side, rtol=1e-6)
    resized = resize_pictures(jnp.asarray(canvas), jnp.asarray(sizes), 227)
    by_hand = np.asarray(dense_sift(resized)).reshape(2, -1, 128)
    np.testing.assert_allclose(scales[0].x, by_hand, atol=1e-6)
    finer = mpp.dense_descriptors(network, canvas, sizes, scales=(0,), layer="bin4step16")
    assert finer[0].x.shape == (2, 14**2, 128)


def test_geometry_and_identity(tmp_path: Path) -> None:
    spec = get_spec("sift")
    assert spec == SIFT_SPEC
    assert (spec.positions(227), spec.positions(33), spec.positions(32)) == (25, 1, 0)
    layer = spec.layer("bin6step4")
    assert (layer.channels, layer.window, layer.stride) == (128, 25, 4)
    assert "sift bin8step8: 128 channels" in format_geometry("sift", range(2))
    assert len(sift_network().weights_sha256) == 64
    assert jax.tree.structure(sift_network()) == jax.tree.structure(sift_network())
    for name in ("bin0step4", "bin8", "fc7"):
        with pytest.raises(ValueError, match="bin size and step"):
            spec.layer(name)
    with pytest.raises(ValueError, match="without weights"):
        mpp.load_network("sift", "some.file")
    with pytest.raises(ValueError, match="float32"):
        mpp.load_network("sift", dtype=jnp.bfloat16)
    with pytest.raises(ValueError, match="without weights"):
        verify_weights(tmp_path / "some.file", "sift")


def test_whole_run_with_sift(tmp_path: Path) -> None:
    data = toy.write_folder(tmp_path / "data", train=3, test=1, largest=60)
    options = ["--scales", "1", "--layer", "bin16step32", "--pca", "8", "--components", "2"]
    out = tmp_path / "out"
    ok("run", data, "--out", out, "--network", "sift", *options, "--pooling", "mpp,avg")
    picture = next((data / "test").rglob("*.png"))
    assert "green" in ok("predict", out / "model", picture).stdout
    line = refused("run", data, "--out", tmp_path / "b", "--network", "sift", "--weights", "x.npz")
    assert "without weights" in line
