"""Confidence maps against a slow reference, one descriptor and one pixel at a time."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import reference as ref

from mpp_jax import confidence_maps
from mpp_jax.describe.dense import Descriptors
from mpp_jax.describe.pyramid import receptive_windows
from mpp_jax.maps.accumulation import accumulate_scores, votes
from mpp_jax.maps.confidence import descriptor_scores
from mpp_jax.stats.codebook import Codebook
from mpp_jax.stats.mixture import GMM
from mpp_jax.stats.pca import PCA
from mpp_jax.svm import LinearSVM

CHANNELS, REDUCED, COMPONENTS, CLASSES = 6, 4, 3, 3
GRIDS = ((1, 30), (3, 52))
"""(positions, side) of the scales; windows of 32 pixels every 10, some beyond the edge."""
SIZES = ((9, 14), (13, 6))
METHODS = ("mpp", "nfk", "csf", "avg", "mpp+avg", "csf+sp", "mpp-entropy")


def make_scales(seed: int = 0, batch: int = len(SIZES)) -> tuple[Descriptors, ...]:
    rng = np.random.default_rng(seed)
    scales = []
    for positions, side in GRIDS:
        x = rng.normal(size=(batch, positions**2, CHANNELS)).astype(np.float32)
        window = jnp.asarray(receptive_windows(positions, 10, 32, side))
        scales.append(Descriptors(jnp.asarray(x), jnp.ones(x.shape[:2], bool), window))
    return tuple(scales)


def make_codebook(seed: int = 1, *, before: bool = True) -> Codebook:
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(CHANNELS, CHANNELS)))
    pca = PCA(rng.normal(size=CHANNELS) / 9, basis[:REDUCED], np.ones(REDUCED))
    weights = rng.dirichlet(np.full(COMPONENTS, 5.0))
    gmm = GMM(
        weights,
        rng.normal(size=(COMPONENTS, REDUCED)) / 4,
        rng.uniform(0.05, 0.4, (COMPONENTS, REDUCED)),
    )
    pca, gmm = (type(t)(*(jnp.asarray(leaf, jnp.float32) for leaf in t)) for t in (pca, gmm))
    return Codebook(pca, gmm, l2_before=before)


def dimension(method: str) -> int:
    fisher = 2 * COMPONENTS * REDUCED
    csf = len(GRIDS) * fisher
    sizes = {"avg": CHANNELS, "csf": csf, "mpp": fisher, "nfk": fisher, "mpp-entropy": fisher}
    return 4 * csf if method == "csf+sp" else sum(sizes[part] for part in method.split("+"))


def make_svm(method: str, seed: int = 2) -> LinearSVM:
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(CLASSES, dimension(method))).astype(np.float32)
    return LinearSVM(jnp.asarray(weights), jnp.asarray([-0.3, 0.1, -0.8], jnp.float32))


def vector(method: str, x: np.ndarray, k: int, window: np.ndarray, book: Codebook) -> np.ndarray:
    """The representation of one descriptor at scale k, in float64."""
    if "+sp" in method:
        alone = vector(method.removesuffix("+sp"), x, k, window, book)
        centre = (window[0] + window[2]) / 2
        cells = [(0, 1), (0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1)]
        inside = [low <= min(centre, 1 - 1e-6) < high for low, high in cells]
        return ref.l2(np.concatenate([alone * here for here in inside]))
    if "+" in method:
        parts = [vector(part, x, k, window, book) for part in method.split("+")]
        return np.concatenate(parts) / np.sqrt(len(parts))
    if method == "avg":
        return ref.l2(x)
    unit = ref.l2(x) if book.l2_before else x
    y = (unit - np.asarray(book.pca.mean)) @ np.asarray(book.pca.components, np.float64).T
    alone = ref.power_l2(ref.l2(ref.fisher_vector(y[None], book.gmm)))
    blocks = [alone if k == i else np.zeros_like(alone) for i in range(len(GRIDS))]
    return np.concatenate(blocks) if method == "csf" else alone


class Voice(NamedTuple):
    """What one descriptor says, and where."""

    scores: np.ndarray
    window: np.ndarray


def voices(
    method: str, scales: tuple[Descriptors, ...], svm: LinearSVM, book: Codebook, row: int
) -> list[Voice]:
    weights, bias = (np.asarray(leaf, np.float64) for leaf in svm)
    found = []
    for k, d in enumerate(scales):
        for x, window in zip(np.asarray(d.x[row], np.float64), np.asarray(d.window), strict=True):
            v = vector(method, x, k, window, book)
            found.append(Voice(weights @ v + bias, window.astype(np.float64)))
    return found


def slow_map(said: list[Voice], size: tuple[int, int], reading: str) -> np.ndarray:
    height, width = size
    result = np.zeros((CLASSES, height, width))
    for scores, (top, left, bottom, right) in said:
        best = int(scores.argmax())
        value = scores if reading == "sum" else np.eye(CLASSES)[best] * (scores[best] > 0)
        for y in range(height):
            for x in range(width):
                tall = min(y + 1, bottom * height) - max(y, top * height)
                wide = min(x + 1, right * width) - max(x, left * width)
                result[:, y, x] += value * max(tall, 0) * max(wide, 0)
    return result


def check(method: str, reading: str, bias: bool, before: bool = True) -> None:
    scales, book, svm = make_scales(), make_codebook(before=before), make_svm(method)
    maps = np.asarray(
        confidence_maps(
            scales, svm, book, SIZES, method=method, reading=reading, bias=bias, side=16
        )
    )
    assert maps.shape == (2, CLASSES, 16, 16)
    assert maps.dtype == np.float32
    used = svm if bias else svm._replace(bias=0 * svm.bias)
    for row, (height, width) in enumerate(SIZES):
        wanted = slow_map(voices(method, scales, used, book, row), (height, width), reading)
        found = maps[row, :, :height, :width]
        np.testing.assert_allclose(found, wanted, atol=2e-4 * np.abs(wanted).max())
        outside = maps[row].copy()
        outside[:, :height, :width] = 0
        assert not outside.any()


@pytest.mark.parametrize("method", METHODS)
def test_same_as_slow_reference(method: str) -> None:
    check(method, "sum", bias=False)


@pytest.mark.parametrize(("reading", "bias"), [("vote", False), ("vote", True), ("sum", True)])
def test_readings_and_bias(reading: str, bias: bool) -> None:
    check("mpp", reading, bias, before=False)


def test_votes_go_to_the_largest_positive_score() -> None:
    scores = jnp.asarray([[1.0, 2.0, -1.0], [-3.0, -1.0, -2.0], [0.5, 0.2, 0.1]])
    np.testing.assert_array_equal(votes(scores), [[0, 1, 0], [0, 0, 0], [1, 0, 0]])


def test_batch_is_loop_to_the_bit_and_empty_rows_are_zero() -> None:
    scales, book, svm = make_scales(batch=3), make_codebook(), make_svm("mpp")
    present = jnp.asarray([True, True, False])
    scales = tuple(
        d._replace(mask=jnp.broadcast_to(present[:, None], d.mask.shape)) for d in scales
    )
    sizes = [(8, 12), (12, 7), (1, 1)]
    together = np.asarray(confidence_maps(scales, svm, book, sizes, side=12))
    for row in range(3):
        alone = tuple(Descriptors(d.x[row, None], d.mask[row, None], d.window) for d in scales)
        found = confidence_maps(alone, svm, book, [sizes[row]], side=12)
        np.testing.assert_array_equal(together[row], np.asarray(found)[0])
    assert together[1].any()
    assert not together[2].any()


def test_chosen_classes_are_rows_of_all_and_votes_are_among_all() -> None:
    scales, book, svm = make_scales(), make_codebook(), make_svm("mpp")
    for reading in ("sum", "vote"):
        whole, some = (
            np.asarray(confidence_maps(scales, svm, book, SIZES, reading=reading, classes=classes))
            for classes in (None, (2, 0))
        )
        np.testing.assert_allclose(some, whole[:, [2, 0]], atol=1e-5)
        assert some.any()


def test_a_descriptor_counts_where_its_window_is() -> None:
    """Class 0 wants channel 0, which only the descriptor in row 0, column 2 has."""
    x = jnp.zeros((1, 9, CHANNELS)).at[0, 2, 0].set(5.0)
    window = receptive_windows(3, 10, 20, 40)
    d = Descriptors(x, jnp.ones((1, 9), bool), jnp.asarray(window))
    svm = LinearSVM(jnp.eye(CLASSES, CHANNELS), jnp.zeros(CLASSES))
    maps = np.asarray(confidence_maps([d], svm, None, [(20, 60)], method="avg", side=64))
    wanted = np.zeros((64, 64))
    wanted[:10, 30:60] = 1  # rows 0 to 1/2 of 20, columns 1/2 to 1 of 60
    np.testing.assert_allclose(maps[0, 0], wanted, atol=1e-6)
    assert not maps[0, 1:].any()


def test_mass_does_not_depend_on_the_maps_size() -> None:
    scales, book, svm = make_scales(batch=1), make_codebook(), make_svm("mpp")
    masses = [
        np.asarray(confidence_maps(scales, svm, book, [size], side=40)).sum((2, 3))[0]
        / (size[0] * size[1])
        for size in [(40, 31), (7, 11), (1, 1)]
    ]
    said = voices("mpp", scales, svm._replace(bias=0 * svm.bias), make_codebook(), 0)
    areas = [(w[2] - w[0]) * (w[3] - w[1]) for _, w in said]
    wanted = sum(a * v.scores for a, v in zip(areas, said, strict=True))
    for mass in masses:
        np.testing.assert_allclose(mass, wanted, rtol=1e-3)


def test_scales_that_the_encoder_skips_add_nothing() -> None:
    scales, book, svm = make_scales(), make_codebook(), make_svm("mpp")
    skipped = confidence_maps(scales, svm, book, SIZES, first=1, bias=True)
    without = confidence_maps(scales[1:], svm, book, SIZES, scales=(1,), bias=True)
    np.testing.assert_allclose(skipped, without, atol=1e-5)


def test_one_program_for_pictures_of_all_sizes_and_classes() -> None:
    scales, book, svm = make_scales(), make_codebook(), make_svm("mpp")
    confidence_maps(scales, svm, book, SIZES, classes=(0,), side=16)
    before = descriptor_scores._cache_size(), accumulate_scores._cache_size()
    confidence_maps(make_scales(5), svm, book, [(3, 16), (2, 2)], classes=(2,), side=16)
    assert (descriptor_scores._cache_size(), accumulate_scores._cache_size()) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reading": "mean"}, "reading must be sum or vote"),
        ({"method": "ap10"}, "reads crops"),
        ({"method": "fc7"}, "one descriptor of the whole picture"),
        ({"method": "nothing"}, "no variant"),
        ({"method": "csf"}, "machines were trained on"),
        ({"method": "mpp(pool5)"}, "needs those of at least one scale"),
        ({"classes": (3,)}, "classes must lie in 0..2"),
        ({"classes": ()}, "at least one"),
        ({"classes": ("a",)}, "classes must be numbers"),
        ({"sizes": [(4, 4)]}, "sizes must be"),
        ({"sizes": [(4, 0), (4, 4)]}, "sizes must be"),
        ({"side": 13}, "side must be at least 14"),
        ({"scales": (0,)}, "scales must number"),
        ({"codebook": None}, "needs the codebook"),
    ],
)
def test_refusals(changes: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = {"codebook": make_codebook(), "sizes": SIZES, **changes}
    with pytest.raises(ValueError, match=words):
        confidence_maps(make_scales(), make_svm("mpp"), **arguments)


def test_crops_in_a_stack_are_passed_over() -> None:
    """mpp+ap10: the map is that of mpp, at the weight that it has in the stack."""
    scales, book, svm = make_scales(), make_codebook(), make_svm("mpp+avg")
    stacked = confidence_maps(scales, svm, book, SIZES, method="mpp+ap10")
    alone = svm._replace(weights=svm.weights[:, : dimension("mpp")])
    plain = confidence_maps(scales, alone, book, SIZES, method="mpp")
    np.testing.assert_allclose(stacked, plain / np.sqrt(2), atol=1e-5)
