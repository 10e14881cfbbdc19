"""SqueezeNet with its real weights: every activation against float64 NumPy, and photographs."""

import jax
import numpy as np
import pytest
from helpers import nets_reference as ref
from PIL import Image

from mpp_jax.weights.load import load_network

FIRES = {2: (96, 16, 64), 3: (128, 16, 64), 4: (128, 32, 128), 5: (256, 32, 128)} | {
    6: (256, 48, 192),
    7: (384, 48, 192),
    8: (384, 64, 256),
    9: (512, 64, 256),
}
activations = jax.jit(lambda network, x: network.activations(x))


@pytest.fixture(scope="module")
def weight_file(shared_dir):
    return shared_dir / "data" / "squeezenet" / "compressed_SqueezeNet.net"


@pytest.fixture(scope="module")
def network(weight_file):
    return load_network("squeezenet", weight_file)


@pytest.fixture(scope="module")
def blobs(weight_file):
    names, shapes = ["conv1"], [(96, 3, 7, 7)]
    for i, (channels, squeeze, expand) in FIRES.items():
        names += [f"fire{i}/{part}" for part in ("squeeze1x1", "expand1x1", "expand3x3")]
        shapes += [(squeeze, channels, 1, 1), (expand, squeeze, 1, 1), (expand, squeeze, 3, 3)]
    layers = ref.decode_deep_compression(weight_file.read_bytes(), [*shapes, (1000, 512, 1, 1)])
    return dict(zip([*names, "conv_final"], layers, strict=True))


@pytest.mark.parametrize(
    ("ceil", "height", "width"), [(True, 227, 227), (True, 130, 113), (False, 130, 113)]
)
def test_activations_equal_the_float64_forward_pass(weight_file, blobs, ceil, height, width):
    network = load_network("squeezenet", weight_file, pooling="ceil" if ceil else "floor")
    x = np.random.default_rng(3).uniform(0, 255, (1, height, width, 3)).astype(np.float32)
    ours = activations(network, x)
    theirs = ref.squeezenet(x[0], blobs, ceil)
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        got, want = np.asarray(ours[name][0]), value.transpose(1, 2, 0)
        assert got.shape == want.shape, name
        assert np.linalg.norm(got - want) < 1e-5 * np.linalg.norm(want), name


def test_descriptors_are_window_means_of_the_last_fire_module(network):
    x = np.random.default_rng(5).uniform(0, 255, (2, 260, 292, 3)).astype(np.float32)
    maps, got = jax.jit(lambda n, v: (n.activations(v, "fire9")["fire9"], n.descriptors(v)))(
        network, x
    )
    maps = np.asarray(maps, np.float64)
    assert got.shape == (2, network.spec.positions(260), network.spec.positions(292), 512)
    assert got.dtype == np.float32
    for i in range(got.shape[1]):
        for j in range(got.shape[2]):
            mean = maps[:, 2 * i : 2 * i + 13, 2 * j : 2 * j + 13].mean(axis=(1, 2))
            np.testing.assert_allclose(got[:, i, j], mean, rtol=1e-5, atol=1e-5 * mean.max())


PLAUSIBLE = {
    # ImageNet: promontory, sandbar, seashore, lakeside, breakwater, dam, sea lion, grey whale ...
    "coast": {972, 973, 974, 975, 976, 977, 978, 979, 147, 150, 460, 628, 510, 437, 449, 625, 554},
    # alp, cliff, valley, volcano, lakeside, mountain tent, ski, geyser
    "mountain": {970, 972, 974, 975, 976, 979, 980, 672, 795, 349, 350, 978},
    # quilt, studio couch, four-poster, window shade, wardrobe, dining table, pillow ...
    "bedroom": {750, 831, 564, 905, 894, 532, 721, 846, 904, 765, 861, 896, 520, 431, 789, 553},
    # microwave, dishwasher, refrigerator, stove, washer, plate rack, toaster, espresso maker ...
    "kitchen": {651, 534, 760, 827, 897, 729, 859, 550, 521, 567, 532, 713, 896, 505, 495, 861},
}


def test_photographs_get_sensible_imagenet_classes(network, shared_dir):
    hits, strangers = [], []
    for scene, classes in PLAUSIBLE.items():
        folder = shared_dir / "data" / "scene15" / "test" / scene
        for path in sorted(folder.iterdir())[:60:4]:
            picture = Image.open(path).convert("RGB").resize((227, 227))
            scores = activations(network, np.asarray(picture, np.float32)[None])["pool_final"]
            best = set(np.argsort(-np.asarray(scores)[0, 0, 0])[:5].tolist())
            hits.append(bool(best & classes))
            strangers.append(bool(best & PLAUSIBLE["kitchen" if scene == "coast" else "coast"]))
    assert np.mean(hits) >= 0.8
    assert np.mean(strangers) <= 0.4  # a network that always answers the same would hit here too
