"""How many pictures go to a device at once, at each scale, and how fast it may be."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import toy
from helpers.devices import say_memory

from mpp_jax.cli import stages
from mpp_jax.cli.console import Console
from mpp_jax.config import Encoder, Pyramid, Run
from mpp_jax.describe import batches, planning
from mpp_jax.describe.counting import count_scale
from mpp_jax.describe.dense import describe_crops, describe_scale
from mpp_jax.describe.planning import (
    forecast,
    kept_bytes,
    measured_peak,
    passes,
    picture_flop,
    plan,
    scale_bytes,
)
from mpp_jax.describe.pyramid import scale_side
from mpp_jax.describe.wants import Wanted
from mpp_jax.nets.caffenet import CAFFENET
from mpp_jax.nets.network import with_forms
from mpp_jax.nets.registry import get_spec
from mpp_jax.nets.sift import sift_network
from mpp_jax.numerics import in_parts
from mpp_jax.runs.settings import Job
from mpp_jax.runs.vectors import fitting_wants
from mpp_jax.stats.codebook import Codebook
from mpp_jax.stats.mixture import GMM
from mpp_jax.stats.pca import PCA

PYRAMID = Pyramid((0, 1, 2), "fire2")


def test_a_cpu_takes_one_picture_at_a_time():
    network = toy.toy_network()
    assert plan(network, Pyramid((0, 1))).batch == 1
    assert plan(network, Pyramid((0, 1), batch=5)).batch == 5


def test_what_a_scale_takes():
    network = toy.toy_network()
    # conv1 on 70 pixels gives 33 x 33 x 8 numbers, larger than all neighbours but the picture.
    assert scale_bytes(network, PYRAMID, 2) == 2 * 4 * (70 * 70 * 3 + 33 * 33 * 8)
    assert scale_bytes(network, PYRAMID, 0) == 2 * 4 * (35 * 35 * 3 + 16 * 16 * 8)
    # fire2's maps have 8, 11 and 16 positions a side, of 16 channels.
    positions = sum(network.spec.positions(side, "fire2") ** 2 for side in (35, 50, 70))
    assert kept_bytes(network, PYRAMID) == 4 * (16 * positions + 70 * 70 * 3)


def test_as_many_as_fit_at_each_scale(monkeypatch):
    network = toy.toy_network()
    kept = kept_bytes(network, PYRAMID)
    small, middle, large = (scale_bytes(network, PYRAMID, k) for k in range(3))
    for room, batch, parts in (
        (16 * kept + 16 * large, 16, (16, 16, 16)),
        (16 * kept + 16 * large - 1, 16, (16, 16, 8)),
        (16 * kept + 8 * middle, 16, (16, 8, 4)),
        (16 * kept + large, 16, (4, 1, 1)),
        (16 * kept + large - 1, 8, None),
        (kept + large, 1, (1, 1, 1)),
        (10, 1, (1, 1, 1)),
    ):
        say_memory(monkeypatch, 2 * room)
        found = plan(network, PYRAMID)
        assert (found.batch, found.free) == (batch, 2 * room)
        if parts is not None:
            assert found.parts == tuple(enumerate(parts))
            assert found.crops == min(160, max(1, (room - batch * kept) // small))
            most = max(n * each for n, each in zip(parts, (small, middle, large), strict=True))
            assert found.nbytes == batch * kept + most
            assert found.nbytes <= room or batch == 1
    asked = plan(network, Pyramid((0, 1, 2), "fire2", batch=24))
    assert asked.batch == 24  # as was asked for
    say_memory(monkeypatch, 2 * (24 * kept + 7 * large))
    asked = plan(network, Pyramid((0, 1, 2), "fire2", batch=24))
    assert dict(asked.parts)[2] == 6  # four parts of 24
    assert "batches of 24 (at once " in str(asked)
    assert "6 at scale 3); about 0.0 GiB at a time of 0.0 GiB" in str(asked)


def test_dense_sift_has_no_layers():
    network = sift_network()
    assert scale_bytes(network, Pyramid((0, 2)), 2) >= 2 * 4 * scale_side(network.spec.side, 2) ** 2
    assert plan(network, Pyramid((0, 2))).batch == 1
    assert picture_flop(network.spec, network.spec.default_layer, 227) == 0


def test_the_largest_scale_of_caffenet_fits_many():
    network = SimpleNamespace(spec=get_spec("caffenet"), dtype=np.dtype("float32"))
    pyramid = Pyramid(tuple(range(7)))
    each, kept = scale_bytes(network, pyramid, 6), kept_bytes(network, pyramid)
    assert kept == 4410 * 4096 * 4 + 1816**2 * 3 * 4
    assert 0.1 < (each + kept) / 2**30 < 0.75  # 12 GiB hold 16 of them


def test_operations_are_counted_directly():
    sides = [scale_side(CAFFENET.side, k) for k in range(7)]
    flop = [picture_flop(CAFFENET, "fc7", side) for side in sides]
    assert sum(flop) / 1e9 == pytest.approx(668, abs=1)
    # Fire modules: a 1x1 squeeze to 6, then 8 of 1x1 and 8 of 3x3, on 8 x 8 positions.
    conv1 = 2 * 16**2 * 25 * 3 * 8
    fire = 2 * 8**2 * (8 * 6 + 6 * 8 + 9 * 6 * 8)
    assert picture_flop(toy.TOY, "fire2", 35) == conv1 + fire


def test_a_forecast_counts_every_pass_once(monkeypatch):
    """Layers of one scale come from one pass, up to the last of them; crops are passes too."""
    network = toy.toy_network()
    wants = {
        "default": Wanted((0, 1)),
        "conv1": Wanted((1, 2), ((5, True),)),
        "sift": Wanted((0, 1, 2)),
    }
    assert passes(network.spec, PYRAMID, wants) == [
        (35, 1, "fire2"),
        (50, 1, "fire2"),
        (70, 1, "conv1"),
        (35, 10, "conv1"),
    ]
    whole = sum(picture_flop(toy.TOY, "fire2", side) for side in (35, 50))
    part = picture_flop(toy.TOY, "conv1", 70) + 10 * picture_flop(toy.TOY, "conv1", 35)
    monkeypatch.setattr(planning, "measured_peak", lambda _: 1000 * (whole + part))
    line = forecast(network, PYRAMID, wants)
    assert line.startswith("4 passes of the network over a picture, a program each; 0.0 GFLOP, at ")
    assert line.endswith("about 1e+03 pictures/s at best")
    monkeypatch.setattr(planning, "measured_peak", lambda _: None)  # too little memory
    assert forecast(network, PYRAMID, wants).endswith("a program each")


def test_what_is_no_list_of_layers_has_no_rate(monkeypatch):
    monkeypatch.setattr(planning, "measured_peak", None)  # not asked
    sift = sift_network()
    wants = {"sift": Wanted((0,))}
    assert forecast(sift, Pyramid((0,)), wants).startswith("0 passes")
    assert forecast(sift, Pyramid((0,)), {"default": Wanted((0,))}).startswith("1 passes")


def test_the_peak_is_that_of_products(monkeypatch):
    """Eight of them, the fastest of some repeats; no answer is no error."""
    ticks = iter([0.0, 8.0, 8.0, 12.0])
    monkeypatch.setattr(planning.time, "perf_counter", lambda: next(ticks))
    found = measured_peak(toy.toy_network(), side=64, repeats=2)
    assert found == 2 * 8 * 64**3 / 4.0

    def exhausted(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(planning.jnp, "ones", exhausted)
    assert measured_peak(toy.toy_network(), side=64) is None


@pytest.mark.parametrize(
    ("most", "rows"), [(None, 7), (1, 1), (2, 2), (3, 3), (4, 4), (6, 4), (7, 7), (9, 7)]
)
def test_a_batch_in_parts_is_the_batch(most, rows):
    sizes = []

    def function(part):
        x, label = part
        sizes.append(len(x))
        return {"sum": x.sum(axis=1), "twice": label * 2}

    x = jnp.arange(28.0).reshape(7, 4)
    found = in_parts(function, (x, jnp.arange(7)), most)
    np.testing.assert_array_equal(found["sum"], x.sum(axis=1))
    np.testing.assert_array_equal(found["twice"], 2 * np.arange(7))
    assert set(sizes) == {rows}


def test_a_scale_in_parts_is_the_scale():
    rng = np.random.default_rng(0)
    alone = toy.toy_network()
    network = with_forms(alone, replace(alone.how, batch="whole"))
    canvas = jnp.asarray(rng.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8))
    sizes = jnp.asarray([[64, 64], [40, 60], [64, 30], [50, 50]])
    valid = jnp.asarray([True, True, False, True])
    pca = PCA(jnp.zeros(16), jnp.eye(16)[:4], jnp.ones(4))
    means = jnp.asarray(rng.standard_normal((3, 4)), jnp.float32)
    book = {"book": Codebook(pca, GMM(jnp.ones(3) / 3, means, jnp.ones((3, 4))))}
    wanted = {"side": 50, "layers": ("fire2",)}
    counted = {"side": 50, "layers": (("book", "fire2"),)}
    want = describe_scale(network, canvas, sizes, **wanted)[0].x
    sums = count_scale(network, canvas, sizes, valid, book, **counted)
    crops = describe_crops(network, canvas, sizes, count=5, flip=True)[0]
    for most in (1, 2, 3):
        found = describe_scale(network, canvas, sizes, **wanted, most=most)[0].x
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
        cut = describe_crops(network, canvas, sizes, count=5, flip=True, most=most)[0]
        np.testing.assert_allclose(cut, crops, rtol=1e-4, atol=1e-5)
        got = count_scale(network, canvas, sizes, valid, book, **counted, most=most)
        for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(sums), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


def test_commands_say_the_plan_on_accelerators(monkeypatch, tmp_path, capsys):
    network, data = toy.toy_network(), toy.memory_dataset([np.zeros((40, 40, 3), np.uint8)])
    config = Run(Pyramid((0, 1, 2)), Encoder(pca=4, components=2), pooling=("mpp", "ap10"))
    job = Job(data, network, config, tmp_path).settled()
    stages.watched(job, Console())
    assert "plan" not in capsys.readouterr().err  # batches of one on a CPU, of no interest
    say_memory(monkeypatch, 2**30)
    monkeypatch.setattr(batches, "_PLANS", {})  # as a process that begins on an accelerator
    monkeypatch.setattr(planning, "measured_peak", lambda _: 1e12)
    stages.watched(job, Console())
    said = capsys.readouterr().err
    assert "plan: batches of 16; about 0.0 GiB at a time of 1.0 GiB that are free" in said
    assert "forecast: 4 passes of the network over a picture, a program each; 0.0 GFLOP, " in said
    assert "pictures/s at best" in said
    stages.watched(job, Console(), fitting_wants(job.config))
    assert "forecast: 3 passes" in capsys.readouterr().err  # no crops
