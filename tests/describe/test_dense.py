"""Dense activations: geometry, padding, batches, crops, and the number of compilations."""

import itertools
from dataclasses import replace

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import nets_files
from helpers.toy import COLOURS, POSITIONS, SIDES, TOY, memory_dataset, picture, toy_network

from mpp_jax import dense_descriptors
from mpp_jax.config import Pyramid
from mpp_jax.describe.dense import describe_crops, describe_pictures, describe_scale
from mpp_jax.describe.extraction import DescriptorSample, describe_items
from mpp_jax.describe.pyramid import crop_corners, receptive_windows, resize_pictures
from mpp_jax.nets import Network, random_network
from mpp_jax.nets.network import with_forms
from mpp_jax.nets.spec import Conv, NetSpec, Pool
from mpp_jax.nets.squeezenet import SQUEEZENET

RED = COLOURS["red"]
FULLY_CONNECTED = NetSpec(
    name="fully_connected",
    side=35,
    layers=(
        Conv("conv1", 8, 5, stride=2),
        Pool("pool1", 3, 2),
        Conv("conv2", 10, 3, pad=1),
        Conv("fc6", 12, 7, dense=True),
    ),
    default_layer="fc6",
    descriptor_layers=("fc6",),
    preprocessing=TOY.preprocessing,
)


@pytest.fixture(scope="module")
def network() -> Network:
    return toy_network()


def pictures(count: int, seed: int = 0, least: int = 20, most: int = 90) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [picture(rng, RED, *rng.integers(least, most, 2)) for _ in range(count)]


def canvas_of(batch: list[np.ndarray], side: int) -> tuple[np.ndarray, np.ndarray]:
    canvas = np.zeros((len(batch), side, side, 3), np.uint8)
    for row, pixels in enumerate(batch):
        canvas[row, : pixels.shape[0], : pixels.shape[1]] = pixels
    return canvas, np.array([pixels.shape[:2] for pixels in batch])


# ------------------------------------------------------------------------------ geometry


def test_shapes_masks_and_windows(network: Network) -> None:
    canvas, sizes = canvas_of(pictures(3), 96)
    scales = dense_descriptors(network, canvas, sizes, scales=range(3))
    for scale, side, positions in zip(scales, SIDES, POSITIONS, strict=True):
        assert scale.x.shape == (3, positions, 16)
        assert scale.x.dtype == jnp.float32
        assert scale.mask.shape == (3, positions)
        assert bool(scale.mask.all())
        across = int(positions**0.5)
        np.testing.assert_array_equal(scale.window, receptive_windows(across, 8, 35, side))
    assert len(dense_descriptors(network, canvas, sizes, scales=[0, 2])) == 2


def test_descriptors_are_the_networks_on_the_warped_picture(network: Network) -> None:
    (pixels,) = pictures(1)
    (scale,) = dense_descriptors(network, pixels[None], scales=[1], resampling="bicubic")
    warped = jax.image.resize(
        pixels.astype(np.float32), (50, 50, 3), "cubic", antialias=True, precision="highest"
    )
    wanted = jax.jit(Network.descriptors)(network, jnp.clip(warped, 0, 255)[None])
    np.testing.assert_allclose(scale.x[0], wanted.reshape(4, 16), atol=1e-4)


def test_a_window_says_what_a_descriptor_sees(network: Network) -> None:
    """What changes outside of a descriptor's window (and the padding's reach) leaves it alone."""
    pixels = np.full((1, 35, 35, 3), 90, np.uint8)
    (plain,) = dense_descriptors(network, pixels, scales=[0], layer="conv1")
    for row, column in ((3, 20), (25, 34), (0, 0)):
        pixels[:] = 90
        pixels[0, row, column] = 255
        (marked,) = dense_descriptors(network, pixels, scales=[0], layer="conv1")
        changed = np.abs(np.asarray(marked.x - plain.x)[0]).max(axis=1) > 1e-6
        top, left, bottom, right = (np.asarray(plain.window).T * 35).round().astype(int)
        inside = (top <= row) & (row < bottom) & (left <= column) & (column < right)
        assert inside.any()
        assert not (changed & ~inside).any()
        # ReLU may hide a change, but hardly in every channel of half of the positions.
        assert (changed & inside).sum() * 2 >= inside.sum()


def test_unpadded_dense_equals_every_crop() -> None:
    """With padding switched off, the dense map is the network on each window, to rounding."""
    spec = nets_files.unpadded(FULLY_CONNECTED)
    unpadded = random_network(jax.random.key(1), spec)
    pixels = jnp.asarray(picture(np.random.default_rng(0), RED, 59, 59), jnp.float32)[None]
    dense = np.asarray(describe_pictures(unpadded, pixels, ("fc6",))[0])[0]
    layer, across = spec.layer(), spec.positions(59)
    assert (layer.stride, layer.window, across) == (4, 35, 7)
    windows = np.round(receptive_windows(across, layer.stride, layer.window, 59) * 59).astype(int)
    crops = jnp.concatenate([pixels[:, t:b, le:r] for t, le, b, r in windows])
    alone = np.asarray(describe_pictures(unpadded, crops, ("fc6",))[0])[:, 0]
    np.testing.assert_allclose(dense, alone, atol=2e-4 * np.abs(alone).max())


def test_squeezenet_dense_equals_crop_inside() -> None:
    """Padding reaches three positions of fire4 into a crop; further inside nothing differs."""
    squeezenet = random_network(jax.random.key(2), SQUEEZENET)
    pixels = jnp.asarray(picture(np.random.default_rng(1), RED, 322, 322), jnp.float32)[None]
    stride, across = SQUEEZENET.layer("fire4").stride, SQUEEZENET.positions(227, "fire4")
    maps = {}
    for name, whole in (("dense", pixels), ("crop", pixels[:, 32:259, 64:291])):
        flat = np.asarray(describe_pictures(squeezenet, whole, ("fire4",))[0])[0]
        side = int(len(flat) ** 0.5)
        maps[name] = flat.reshape(side, side, -1)
    top, left = 32 // stride, 64 // stride
    same = maps["dense"][top : top + across, left : left + across]
    assert same.shape == maps["crop"].shape
    inner = np.s_[3:-4, 3:-4]
    largest = np.abs(maps["crop"]).max()
    np.testing.assert_allclose(same[inner], maps["crop"][inner], atol=1e-5 * largest)
    edge = np.abs(same - maps["crop"])
    assert edge[0].max() > 0.01 * largest  # the padding is there: the test can fail


# ------------------------------------------------------------------------------ padding, batches


def test_padded_canvas_equals_tight_picture(network: Network) -> None:
    (pixels,) = pictures(1)
    tight = dense_descriptors(network, pixels[None], scales=range(2))
    canvas, sizes = canvas_of([pixels], 96)
    canvas[0, pixels.shape[0] :], canvas[0, :, pixels.shape[1] :] = 255, 255
    padded = dense_descriptors(network, canvas, sizes, scales=range(2))
    for a, b in zip(tight, padded, strict=True):
        np.testing.assert_allclose(a.x, b.x, atol=1e-4)


def test_batch_equals_one_by_one(network: Network) -> None:
    batch = pictures(3)
    canvas, sizes = canvas_of(batch, 96)
    together = dense_descriptors(network, canvas, sizes, scales=range(2))
    for row in range(3):
        single = dense_descriptors(
            network, canvas[row : row + 1], sizes[row : row + 1], scales=range(2)
        )
        for a, b in zip(together, single, strict=True):
            np.testing.assert_allclose(a.x[row], b.x[0], atol=1e-5)
    # In a batch of the same size the neighbours do not matter, to the bit.
    order = [2, 0, 1]
    shuffled = dense_descriptors(network, canvas[order], sizes[order], scales=range(2))
    for a, b in zip(together, shuffled, strict=True):
        np.testing.assert_array_equal(a.x[np.array(order)], b.x)


def test_rows_without_picture_are_masked(network: Network) -> None:
    canvas, sizes = canvas_of(pictures(3), 96)
    valid = np.array([True, True, False])
    canvas, sizes = jnp.asarray(canvas), jnp.asarray(sizes)
    (scale,) = describe_scale(network, canvas, sizes, side=50, valid=valid)
    assert np.asarray(scale.mask).tolist() == [[True] * 4, [True] * 4, [False] * 4]


def test_crops_are_those_of_the_256_pixel_picture(network: Network) -> None:
    canvas, sizes = (jnp.asarray(a) for a in canvas_of(pictures(3), 96))
    (ours,) = describe_crops(network, canvas, sizes, count=5, flip=True)
    assert ours.shape == (3, 10, 16)
    warped = np.asarray(resize_pictures(canvas, sizes, 256))
    cut = [warped[1, y : y + 35, x : x + 35] for y, x in crop_corners(5, 35, 256)]
    cut += [crop[:, ::-1] for crop in cut]
    alone = [jax.jit(Network.descriptors)(network, jnp.asarray(c[None]))[0, 0, 0] for c in cut]
    np.testing.assert_allclose(ours[1], np.stack(alone), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": np.zeros((4, 4, 3), np.uint8)}, ValueError, r"images must be \(B, H, W, 3\)"),
        (
            {"images": np.zeros((1, 4, 4, 1), np.uint8)},
            ValueError,
            r"images must be \(B, H, W, 3\)",
        ),
        ({"images": np.zeros((0, 4, 4, 3), np.uint8)}, ValueError, "at least one pixel"),
        ({"images": np.zeros((1, 4, 4, 3), np.float32)}, TypeError, "uint8 RGB.*float32"),
        ({"sizes": [[4, 4], [4, 4]]}, ValueError, r"sizes must be \(B, 2\) = \(1, 2\)"),
        ({"sizes": [[4, 5]]}, ValueError, "sizes must lie in 1..*the canvas"),
        ({"sizes": [[0, 4]]}, ValueError, "sizes must lie in 1.."),
        ({"scales": [1, 0]}, ValueError, "scales must be .*rising"),
        ({"scales": []}, ValueError, "scales must be"),
        ({"layer": "fc7"}, ValueError, "'toy' has no layer 'fc7'"),
        ({"layer": "pool1"}, ValueError, "'pool1'.*has no descriptors"),
        ({"resampling": "area"}, ValueError, "resampling must be bilinear or bicubic"),
        ({"rounding": "up"}, ValueError, "rounding must be ceil or round"),
    ],
)
def test_bad_input(network: Network, change: dict, error: type, message: str) -> None:
    given = {"images": np.zeros((1, 4, 4, 3), np.uint8), "scales": [0]} | change
    with pytest.raises(error, match=message):
        dense_descriptors(network, given.pop("images"), **given)


# ------------------------------------------------------------------------------ accelerators


def test_a_batch_at_once_is_its_pictures_one_by_one(network: Network) -> None:
    """What accelerators do, on the CPU: no map over pictures, and resizes by gathering."""
    alone, spec = network, network.spec
    assert alone.how.batch == "map" or jax.default_backend() != "cpu"
    forms = replace(alone.how, batch="whole", taps=8)
    together = with_forms(alone, forms)
    canvas, sizes = canvas_of(pictures(3), 96)
    layers = (spec.default_layer, spec.descriptor_layers[0])
    results = [
        describe_scale(net, jnp.asarray(canvas), jnp.asarray(sizes), side=50, layers=layers)
        for net in (with_forms(alone, replace(forms, batch="map", taps=0)), together)
    ]
    for one, other in zip(*results, strict=True):
        assert one.x.shape == other.x.shape
        np.testing.assert_allclose(other.x, one.x, rtol=1e-4, atol=1e-4)
    loops = [
        str(jax.make_jaxpr(lambda x, n=net: describe_pictures(n, x, layers))(canvas)).count("scan[")
        for net in (with_forms(alone, replace(forms, batch="map")), together)
    ]
    assert loops == [1, 0]


# ------------------------------------------------------------------------------ compilations


def test_a_hundred_sizes_compile_one_program_a_scale(network: Network) -> None:
    """Nothing compiles once each canvas has been met, and the network never again."""
    many = pictures(100, seed=3, least=2, most=300)  # canvases of 256 and 320 pixels
    pyramid = Pyramid(scales=(0, 1, 2), batch=3)
    dataset = memory_dataset(many[:2] + [many[0]] * 3 + many)
    describe_pictures.clear_cache()
    compiled: list[str] = []

    def count(event: str, duration: float, **_: object) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        marks = []
        sample = DescriptorSample(len(dataset.items), 500, 0)
        seen = 0
        for described in describe_items(network, dataset.items, pyramid):
            sample.add(described.index, described.sources["default"].scales)
            seen += int((described.index >= 0).sum())
            marks.append((seen, len(compiled)))
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert seen == len(dataset.items)
    assert sample.finish().shape == (500, 16)
    assert compiled, "no compile event was seen at all: the counter is blind"
    assert describe_pictures._cache_size() == 3  # one a scale
    half = next(total for done, total in marks if done >= seen // 2)
    assert marks[-1][1] == half, "something compiled in the second half"


# ------------------------------------------------------------------------------ the sample


def test_sample_is_the_same_in_any_batches(network: Network) -> None:
    items = memory_dataset(pictures(7)).items
    samples = []
    for batch, quota in itertools.product((1, 3), (40, 10**6)):
        sample = DescriptorSample(len(items), quota, seed=4)
        for described in describe_items(network, items, Pyramid((0, 1, 2), batch=batch)):
            sample.add(described.index, described.sources["default"].scales)
        samples.append(sample.finish())
    assert samples[0].shape == (40, 16)
    assert samples[1].shape == (7 * sum(POSITIONS), 16)
    np.testing.assert_allclose(samples[0], samples[2], atol=1e-5)
    np.testing.assert_allclose(samples[1], samples[3], atol=1e-5)
    # Without a limit it is every descriptor; with one, a part of them without repetition.
    rows = {row.tobytes() for row in samples[1]}
    chosen = [row.tobytes() for row in samples[0]]
    assert set(chosen) <= rows
    assert len(set(chosen)) == 40


def test_sample_shares_evenly_and_depends_on_the_seed(network: Network) -> None:
    items = memory_dataset(pictures(4)).items
    described = list(describe_items(network, items, Pyramid((0, 1, 2), batch=1)))
    chosen = {}
    for seed in (0, 1):
        sample = DescriptorSample(4, 20, seed)
        for batch in described:
            sample.add(batch.index, batch.sources["default"].scales)
        chosen[seed] = sample.finish()
    assert chosen[0].shape == (20, 16)
    assert not np.array_equal(chosen[0], chosen[1])
    everything = [
        np.concatenate([np.asarray(s.x[0]) for s in d.sources["default"].scales]) for d in described
    ]
    for i, own in enumerate(everything):
        part = chosen[0][5 * i : 5 * i + 5]
        assert all(any(np.array_equal(row, other) for other in own) for row in part)
    with pytest.raises(ValueError, match="no training picture could be decoded"):
        DescriptorSample(4, 20, 0).finish()
