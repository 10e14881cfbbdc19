"""caffenet_mini: CaffeNet's geometry, the packaged weights, and the script that makes them."""

import dataclasses
import json
import socket
import sys
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EXPERIMENTS
from safetensors.numpy import load_file, save_file

from mpp_jax.describe.geometry import geometry_table
from mpp_jax.files import file_digest
from mpp_jax.nets import NETWORKS, random_network
from mpp_jax.nets import spec as s
from mpp_jax.nets.caffenet_mini import CAFFENET_MINI, narrow
from mpp_jax.weights import WeightsError, list_weights, verify_weights
from mpp_jax.weights.load import load_network, packaged_file
from mpp_jax.weights.quantised import dequantise, quantise

FILE = packaged_file("caffenet_mini")


@pytest.fixture(scope="module")
def experiments():
    """Give the folder of the scripts, as Python finds it when one of them is started."""
    sys.path.insert(0, str(EXPERIMENTS))
    yield EXPERIMENTS
    sys.path.remove(str(EXPERIMENTS))


@pytest.fixture(scope="module")
def formula(experiments):
    import formula_pictures

    return formula_pictures


@pytest.fixture(scope="module")
def textures(experiments):
    import formula_textures

    return formula_textures


@pytest.fixture(scope="module")
def training(experiments):
    import mini_training

    return mini_training


@pytest.fixture(scope="module")
def pretrain(experiments):
    import pretrain_mini

    return pretrain_mini


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """Take away imported networks and the network connection."""

    def refuse(*_):
        raise AssertionError("the network was asked for")

    monkeypatch.setenv("MPP_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def pictures(formula):
    return np.stack([formula.draw_picture(5, recipe, 0, 227) for recipe in range(8)])


# --- the description ----------------------------------------------------------------------------


@pytest.mark.parametrize("layer", CAFFENET_MINI.descriptor_layers)
def test_geometry_is_caffenets(layer):
    mini, full = (NETWORKS[name].layer(layer) for name in ("caffenet_mini", "caffenet"))
    assert (mini.window, mini.stride) == (full.window, full.stride)
    assert geometry_table("caffenet_mini", layer=layer) == geometry_table("caffenet", layer=layer)


def test_table_one():
    table = geometry_table("caffenet_mini")
    assert [row["positions"] for row in table] == [1, 9, 64, 196, 484, 1156, 2500]
    assert table[-1]["cumulative"] == 4410


def test_only_widths_differ():
    full = NETWORKS["caffenet"].layers
    for mini, layer in zip(CAFFENET_MINI.layers, full, strict=False):
        if isinstance(layer, s.Conv):
            assert dataclasses.replace(mini, features=layer.features) == layer
        else:
            assert mini == layer
    assert CAFFENET_MINI.layer_names == tuple(layer.name for layer in full[:-1])


def test_a_width_that_does_not_come_out_whole_is_refused():
    with pytest.raises(ValueError, match=r"width: conv1 of 96 channels .* has no 1/7"):
        narrow(NETWORKS["caffenet"].layers, Fraction(1, 7), 64)
    with pytest.raises(ValueError, match="width: conv2 of 256 channels in 2 groups"):
        narrow((s.Conv("conv2", 256, 5, groups=2),), Fraction(3, 256), 64)


# --- eight bits ---------------------------------------------------------------------------------


def test_rounding_is_off_by_half_a_step_at_most():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 6)).astype(np.float32)
    kernel[..., 2] = 0
    q, scale = quantise(kernel)
    assert (q.dtype, q.shape, scale.shape) == (np.int8, kernel.shape, (6,))
    assert np.abs(q).max() == 127
    back = dequantise({"conv/kernel": q, "conv/kernel_scale": scale, "conv/bias": scale})
    assert list(back) == ["conv/kernel", "conv/bias"]
    assert back["conv/kernel"].dtype == np.float32
    error = np.abs(back["conv/kernel"] - kernel)
    assert (error <= 0.5001 * scale[None, None, None, :]).all()
    assert (back["conv/kernel"][..., 2] == 0).all()


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (np.ones(3, np.float32), r"shape \(3,\), wanted float32 of \(6,\)"),
        (np.ones(6), "is float64 of shape"),
        (np.array([1, 1, 1, 1, 1, np.nan], np.float32), "not finite and positive"),
        (-np.ones(6, np.float32), "not finite and positive"),
    ],
)
def test_bad_scales_are_refused(scale, message):
    with pytest.raises(WeightsError, match=message):
        dequantise({"k": np.ones((2, 6), np.int8), "k_scale": scale})


def test_eight_bits_without_a_scale_are_refused(tmp_path):
    arrays = load_file(FILE)
    del arrays["fc7/kernel_scale"]
    save_file(arrays, tmp_path / "lost.safetensors")
    with pytest.raises(WeightsError, match="'fc7/kernel' has dtype int8"):
        load_network("caffenet_mini", tmp_path / "lost.safetensors")


# --- the packaged file --------------------------------------------------------------------------


def test_the_package_holds_it():
    assert FILE.stat().st_size <= 3_000_000
    row = next(row for row in list_weights() if row["name"] == "caffenet_mini")
    assert (row["state"], row["path"]) == ("packaged", str(FILE))
    found = verify_weights(FILE)
    assert found.networks == ("caffenet_mini",)
    assert found.problem is None


def test_it_loads_without_a_download(elsewhere):
    network = load_network("caffenet_mini")
    assert network.weights_sha256 == file_digest(FILE)
    stored = load_file(FILE)
    for layer, leaves in network.params.items():
        kernel = stored[f"{layer}/kernel"] * stored[f"{layer}/kernel_scale"]
        np.testing.assert_array_equal(leaves["kernel"], kernel)
        np.testing.assert_array_equal(leaves["bias"], stored[f"{layer}/bias"])
    np.testing.assert_array_equal(network.mean, np.full(3, 127.5, np.float32))
    np.testing.assert_array_equal(network.scale, np.full(3, 1 / 64, np.float32))


def test_what_is_imported_comes_before_it(elsewhere):
    from mpp_jax.weights import import_weights

    folder, audit = import_weights(FILE, "caffenet_mini")
    assert "caffenet_mini from safetensors" in str(audit)
    ours, again = load_network("caffenet_mini", FILE), load_network("caffenet_mini")
    assert folder.is_dir()
    jax.tree.map(np.testing.assert_array_equal, ours, again)


def test_descriptors_are_alive(elsewhere, pictures):
    network = load_network("caffenet_mini")
    named = jax.jit(lambda x: network.activations(x))(jnp.asarray(pictures))
    for name in ("pool5", "fc6", "fc7"):
        x = np.asarray(named[name]).reshape(len(pictures), -1)
        assert np.isfinite(x).all()
        assert x.min() >= 0
        assert 0.05 < np.mean(x > 0) < 0.95, name
        singular = np.linalg.svd(x - x.mean(0), compute_uv=False)
        share = singular**2 / np.sum(singular**2)
        # exp(entropy): 7 at most, among 8 pictures about their mean
        assert np.exp(-np.sum(share * np.log(share + 1e-12))) > 3.5, name
    channels = np.asarray(named["fc7"]).reshape(len(pictures), -1)
    assert np.mean(channels.max(axis=0) > 0) > 0.7


# --- the pictures -------------------------------------------------------------------------------


def test_pictures_follow_from_their_numbers(formula):
    first = formula.draw_picture(1, 2, 3, 64)
    assert (first.shape, first.dtype) == ((64, 64, 3), np.uint8)
    np.testing.assert_array_equal(first, formula.draw_picture(1, 2, 3, 64))
    for other in ((0, 2, 3), (1, 0, 3), (1, 2, 0)):
        assert np.mean(first != formula.draw_picture(*other, 64)) > 0.5


@pytest.mark.parametrize("layout", ["texture", "leaves", "horizon", "room", "street"])
def test_every_layout_draws(formula, layout):
    import formula_recipes

    plan = dataclasses.replace(formula.make_recipe(np.random.default_rng(0)), layout=layout)
    for skyline in formula_recipes.SKYLINES:
        objects = dataclasses.replace(plan.objects, skyline=skyline, count=30)
        own = dataclasses.replace(plan, objects=objects, depth=0.4, haze=0.5)
        picture = formula.render(own, np.random.default_rng(1), 48)
        assert picture.std() > 10


KINDS = ["noise", "oriented", "ring", "waves", "tiles", "spots", "fractal"]


@pytest.mark.parametrize("kind", KINDS)
def test_textures_fill_their_range(textures, kind):
    assert tuple(KINDS) == textures.TEXTURES
    rng = np.random.default_rng(3)
    for _ in range(5):
        texture = dataclasses.replace(textures.make_texture(rng), kind=kind)
        field = textures.texture_field(texture, rng)
        assert (field.shape, field.dtype) == ((textures.TILE,) * 2, np.float32)
        assert field.min() >= 0
        assert field.max() <= 1
        assert field.std() > 0.02


def test_textures_have_no_seam(textures):
    texture = textures.Texture("noise", 4.0, 0.0, 0.3, 2.0, 1.0, np.zeros((2, 6)))
    field = textures.texture_field(texture, np.random.default_rng(0))
    inside = np.abs(np.diff(field, axis=1)).mean()
    assert np.abs(field[:, 0] - field[:, -1]).mean() < 2 * inside


def test_a_pool_is_the_pictures_themselves(formula, tmp_path):
    pool = formula.picture_pool(tmp_path, 4, 3, 2, 32)
    assert pool.shape == (3, 2, 32, 32, 3)
    np.testing.assert_array_equal(pool[2, 1], formula.draw_picture(4, 2, 1, 32))


# --- the training -------------------------------------------------------------------------------


SMALL = (
    s.Conv("conv1", 8, 5, stride=2),
    s.Pool("pool1", 3, 2),
    s.LRN("norm1"),
    s.Conv("conv2", 12, 3, pad=1, groups=2),
)


def test_folding_changes_nothing(training):
    params = training.init_params(jax.random.key(0), SMALL)
    draw = jax.random.normal(jax.random.key(1), (2, 8))
    params["conv1"] |= {"g": 1 + 0.3 * draw[0], "b": draw[1]}
    x = jax.random.normal(jax.random.key(2), (4, 31, 31, 3))
    y, stats = training.forward(params, x, SMALL)
    folded = training.fold(params, stats, SMALL)
    np.testing.assert_allclose(training.run_folded(folded, x, SMALL), y, rtol=1e-3, atol=1e-4)
    # and the network itself computes the same from them
    spec = s.NetSpec("small", 31, SMALL, "conv2", ("conv2",), CAFFENET_MINI.preprocessing)
    network = random_network(jax.random.key(0), spec)
    plain = dataclasses.replace(network, params=folded, mean=jnp.zeros(3), scale=jnp.ones(3))
    np.testing.assert_allclose(plain.activations(x)["conv2"], y, rtol=1e-3, atol=1e-4)


def test_space_to_depth_is_the_same_convolution(training):
    from mpp_jax.nets.conv import conv2d
    from mpp_jax.nets.forms import DIRECT

    x = jax.random.normal(jax.random.key(0), (2, 35, 27, 3))
    kernel = jax.random.normal(jax.random.key(1), (11, 11, 3, 4))
    ours = training._convolve(x, kernel, s.Conv("conv1", 4, 11, stride=4))
    wanted = conv2d(x, kernel, strides=(4, 4), formulation=DIRECT)
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4)


def test_loss_is_its_definition(training):
    u = np.random.default_rng(0).normal(size=(6, 5))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    total, right = 0.0, 0
    for i in range(6):
        j = (i + 3) % 6
        others = [np.exp(u[i] @ u[k] / 0.3) for k in range(6) if k != i]
        total -= np.log(np.exp(u[i] @ u[j] / 0.3) / sum(others)) / 6
        right += int(np.argmax([u[i] @ u[k] if k != i else -9 for k in range(6)]) == j)
    loss, share = training.contrast(jnp.asarray(u, jnp.float32), 0.3)
    assert float(loss) == pytest.approx(total, rel=1e-5)
    assert float(share) == pytest.approx(right / 6)


def test_wavelets_do_not_see_even_light(training):
    kernels = training.wavelets(36, 8, 11)
    grey = [i for i in range(36) if np.allclose(kernels[..., 0, i], kernels[..., 1, i])]
    assert len(grey) == 28
    assert np.abs(kernels[..., grey].sum(axis=(0, 1, 2))).max() < 1e-4
    np.testing.assert_allclose(kernels.std(axis=(0, 1, 2)), np.sqrt(2 / 363), rtol=0.3)


def test_batches_continue_where_they_stopped(training, formula, tmp_path):
    pool = formula.picture_pool(tmp_path, 0, 6, 2, 32)
    options = {"pairs": 3, "side": 16, "least": 0.3, "kind": "mixed"}
    whole = list(training.batches(pool, [7], 0, 5, **options))
    rest = list(training.batches(pool, [7], 3, 5, **options))
    assert len(whole) == 5
    assert whole[0].shape == (6, 16, 16, 3)
    np.testing.assert_array_equal(np.stack(whole[3:]), np.stack(rest))
    assert (whole[0] != whole[1]).any()


def test_mean_cells(training):
    x = jnp.arange(2 * 16 * 3.0).reshape(2, 4, 4, 3)
    cells = training.mean_cells(x, 2)
    assert cells.shape == (2, 2, 2, 3)
    np.testing.assert_allclose(cells[1, 0, 1], x[1, :2, 2:].mean(axis=(0, 1)))
    np.testing.assert_array_equal(training.mean_cells(x, 4), x)


def test_views_of_a_kind(training):
    # Recipe r, variant v is one even grey, so that a view tells where it was cut.
    pool = np.arange(8, dtype=np.uint8).reshape(4, 2, 1, 1, 1) * np.ones((1, 1, 8, 8, 3), np.uint8)
    for kind, same in (("crops", {True}), ("variants", {False}), ("mixed", {True, False})):
        found = set()
        for batch in training.batches(pool, [0], 0, 6, 4, 8, 0.5, kind):
            colour = batch[:, 4, 4, 0]
            assert (colour[:4] // 2 == colour[4:] // 2).all()
            found |= set((colour[:4] == colour[4:]).tolist())
        assert found == same


@pytest.mark.slow
def test_quick_pretraining(pretrain, tmp_path, capsys):
    """Weights from pictures in seconds; the loss falls; a second call finds everything done."""
    path = pretrain.pretrain(pretrain.QUICK, tmp_path / "one")
    assert path == tmp_path / "one" / "caffenet_mini.safetensors"
    assert f"weights: {path}" in capsys.readouterr().out
    assert load_network("caffenet_mini", path).weights_sha256 == file_digest(path)
    lines = [json.loads(line) for line in (tmp_path / "one" / "log.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines} == {"trunk", "wide", "top"}
    for stage in ("trunk", "top"):
        losses = [line["loss"] for line in lines if line["stage"] == stage]
        assert losses[-1] < losses[0], stage
    before = file_digest(path)
    assert file_digest(pretrain.pretrain(pretrain.QUICK, tmp_path / "one")) == before
    other = dataclasses.replace(pretrain.QUICK, rate=1.0, steps=1)
    with pytest.raises(ValueError, match="was made with another steps, rate"):
        pretrain.pretrain(other, tmp_path / "one")


def test_settings_that_cannot_be(pretrain, capsys):
    with pytest.raises(SystemExit) as stopped:
        pretrain.main(["--out", "nowhere", "--quick", "--recipes", "3"])
    assert stopped.value.code == 2
    assert "need as many recipes and top_recipes, not 3 and 8" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        pretrain.main(["--out", "nowhere", "--kind", "none"])
    assert "kind: take one of variants, mixed, crops" in capsys.readouterr().err


@pytest.mark.slow
def test_same_seed_same_weights(pretrain, tmp_path):
    one, two = (load_file(pretrain.pretrain(pretrain.QUICK, tmp_path / n)) for n in ("one", "two"))
    assert one.keys() == two.keys()
    for key, value in one.items():
        np.testing.assert_array_equal(value, two[key])
