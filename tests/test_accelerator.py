"""What only an accelerator can show: its numbers beside the CPU's, its memory, its own programs.

    pytest -m accelerator

The other tests run there as well (`helpers.tolerance`).
"""

import dataclasses
import logging
import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import toy

import mpp_jax as mpp
from mpp_jax.config import Pyramid
from mpp_jax.data import Batch, Item
from mpp_jax.describe.batches import over_batches
from mpp_jax.describe.dense import describe_scale
from mpp_jax.describe.planning import measured_peak, plan
from mpp_jax.nets import random_network
from mpp_jax.nets.caffenet import CAFFENET
from mpp_jax.nets.dtypes import has_tf32
from mpp_jax.nets.forms import Forms
from mpp_jax.nets.forms_table import forms_of
from mpp_jax.nets.network import Network, with_forms

pytestmark = pytest.mark.accelerator
CPU = jax.devices("cpu")[0]
SCALES = (0, 1, 2)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 300, 240, 3), np.uint8)


@pytest.fixture(scope="module")
def caffenet() -> Network:
    """Random weights; a CPU's own formulation of fc6 would need them transformed."""
    return with_forms(random_network(jax.random.key(0), CAFFENET), Forms())


def described(network: Network, pictures: np.ndarray) -> list[np.ndarray]:
    found = mpp.dense_descriptors(network, pictures, scales=SCALES)
    return [np.asarray(one.x, np.float32) for one in found]


@pytest.fixture(scope="module")
def wanted(caffenet, pictures) -> list[np.ndarray]:
    with jax.default_device(CPU):
        return described(caffenet, pictures)


def error(got: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    return max(
        float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(got, wanted, strict=True)
    )


@pytest.mark.parametrize("mode", ["float32", "tf32", "bfloat16"])
def test_networks_by_the_devices_own_table(accelerator, mode, caffenet, pictures, wanted):
    """float32 to rounding; TF32 has 10 bits of mantissa, bfloat16 7."""
    if mode == "tf32" and not has_tf32(accelerator):
        pytest.skip(f"{accelerator.device_kind} has no TF32")
    network = caffenet
    if mode == "bfloat16":
        half = jax.tree.map(lambda v: v.astype(jnp.bfloat16), network.params)
        network = dataclasses.replace(network, params=half)
    if mode == "tf32":
        network = dataclasses.replace(network, precision="default")
    bound = {"float32": 1e-5, "tf32": 5e-3, "bfloat16": 3e-2}[mode]
    forms = forms_of(accelerator.platform, accelerator.device_kind, mode)
    for ours in (network, with_forms(network, forms)):
        assert error(described(ours, pictures), wanted) < bound


def test_what_is_called_float32_is_float32(accelerator):
    """No product falls back to TF32 or bfloat16, whatever the session's default is."""
    network = with_forms(toy.toy_network(), Forms())
    pictures = np.random.default_rng(1).integers(0, 256, (3, 60, 60, 3), np.uint8)
    with jax.default_device(CPU):
        exact = described(network, pictures)
    for precision in ("default", "highest"):
        with jax.default_matmul_precision(precision):
            assert error(described(network, pictures), exact) < 1e-5


def test_fits_agree_with_those_of_the_cpu(accelerator):
    rng = np.random.default_rng(2)
    x = (rng.normal(size=(4000, 96)) * np.geomspace(8, 0.1, 96)).astype(np.float32)
    x[:2000] += 4 * rng.normal(size=96)
    y = np.where(np.arange(4000)[:, None] % 3 == np.arange(3), 1, -1)

    def fits():
        pca = mpp.fit_pca(x, n_components=16)
        projected = mpp.pca_transform(pca, x)
        gmm, _ = mpp.fit_gmm(jax.random.key(0), projected, n_components=8)
        svm, info = mpp.fit_svm(x[:600], y[:600], c=1.0)
        fisher = mpp.fisher_vector(projected[:500], gmm)
        return jax.tree.map(np.asarray, (pca, gmm, fisher, svm, info.relative_gap))

    with jax.default_device(CPU):
        pca, gmm, fisher, svm, _ = fits()
    got_pca, got_gmm, got_fisher, got_svm, gap = fits()
    np.testing.assert_allclose(got_pca.explained_variance, pca.explained_variance, rtol=1e-5)
    np.testing.assert_allclose(abs(np.sum(got_pca.components * pca.components, 1)), 1, rtol=1e-5)
    np.testing.assert_allclose(got_gmm.means, gmm.means, atol=0.02)  # EM enlarges roundings
    cosine = got_fisher @ fisher / np.linalg.norm(fisher) / np.linalg.norm(got_fisher)
    assert cosine > 0.999
    assert gap.max() <= 1e-3
    ours, theirs = (x @ s.weights.T + s.bias for s in (got_svm, svm))
    assert np.mean((ours > 0) == (theirs > 0)) > 0.995


def test_the_same_twice(accelerator, caffenet, pictures):
    first, second = (described(caffenet, pictures) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_planner_knows_the_devices_memory(accelerator, caffenet):
    stats = accelerator.memory_stats()
    assert stats, f"{accelerator.device_kind} does not say how much memory it has"
    chosen = plan(caffenet, Pyramid(tuple(range(7))))
    assert 0 < chosen.free <= stats["bytes_limit"]
    assert chosen.batch >= 1
    assert chosen.nbytes <= chosen.free or chosen.batch == 1
    assert measured_peak(caffenet) > 1e11  # operations a second


def test_a_scale_in_parts_is_the_scale(accelerator, caffenet):
    """Batches of another size may be computed by another algorithm: equal within rounding."""
    rng = np.random.default_rng(3)
    canvas = jnp.asarray(rng.integers(0, 256, (5, 240, 240, 3), np.uint8))
    sizes = jnp.full((5, 2), 240)
    for side in (227, 322):
        whole = np.asarray(describe_scale(caffenet, canvas, sizes, side=side)[0].x)
        for most in (1, 2, 3):
            parts = np.asarray(describe_scale(caffenet, canvas, sizes, side=side, most=most)[0].x)
            assert error([parts], [whole]) < 1e-5


def describe_many() -> None:
    """Describe 64 pictures at 1,285 pixels, all in one batch to begin with."""
    logging.basicConfig(stream=sys.stdout)
    network = random_network(jax.random.key(0), CAFFENET)
    picture = np.zeros((400, 400, 3), np.uint8)
    items = [Item(str(n), (), "test", read=picture.copy) for n in range(64)]
    one_scale = jax.jit(partial(describe_scale, side=1285))

    def function(network: Network, batch: Batch) -> tuple[np.ndarray, jax.Array]:
        return batch.index, one_scale(network, batch.canvas, batch.sizes)[0].x

    found = over_batches(function, network, items, Pyramid((5,), batch=64))
    index = np.concatenate([index for index, _ in found])
    print("all described:", sorted(index[index >= 0].tolist()) == list(range(64)))


def test_too_large_a_batch_is_halved(accelerator):
    """In a process that may have 6 GB: 64 pictures of 1,285 pixels do not fit."""
    limit = accelerator.memory_stats()["bytes_limit"]
    fraction = min(0.75, 6e9 / limit)
    environment = {**os.environ, "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{fraction:.4f}"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "from now on" in done.stdout
    assert "all described: True" in done.stdout


if __name__ == "__main__":
    describe_many()
