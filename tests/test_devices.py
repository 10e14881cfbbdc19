"""What is spread over eight simulated devices is what one computes, for any number of pictures."""

import os
import subprocess
import sys

import jax
import pytest
from helpers import REPOSITORY

from mpp_jax.devices import current_mesh, default_count, device_count, on_mesh, using_devices

SCRIPT = """
import dataclasses, jax, jax.numpy as jnp, numpy as np, sys
sys.path.insert(0, "tests")
from pathlib import Path
from helpers.toy import TOY, memory_dataset, toy_network, write_folder, write_weights
from helpers.toy_cli import ok, refused
from mpp_jax import fit_codebook
from mpp_jax.config import Encoder, Pyramid, Run
from mpp_jax.describe import batches, extraction, planning
from mpp_jax.describe.extraction import describe_items
from mpp_jax.describe.dense import describe_pictures
from mpp_jax.devices import current_mesh, on_mesh, using_devices
from mpp_jax.nets import NETWORKS
from mpp_jax.nets.network import with_forms
from mpp_jax.runs.vectors import atoms_of, count_items, encode_items
from mpp_jax.storage.store import Store
from mpp_jax.svm.gram import exact_gram_matrix, gram_matrix

jax.config.update("jax_numpy_rank_promotion", "raise")
assert jax.device_count() == 8
rng = np.random.default_rng(0)
key = jax.random.key(0)


def close(a, b, atol, what):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=atol, err_msg=what)


# Rows that do not divide evenly; groups and axes so far apart that no rounding moves them.
x = rng.normal(size=(1003, 12)) * 2.0 ** -np.arange(12) + 5 * rng.integers(0, 3, size=(1003, 1))
x = x.astype(np.float32)
config = Encoder(pca=3, components=3, l2="both", max_iterations=3)
book, info = fit_codebook(key, x, config)
with using_devices(8):
    many, told = fit_codebook(key, x, config)
assert many.pca.mean.sharding.device_set == book.pca.mean.sharding.device_set
close(many, book, 1e-4, "codebook")
assert told.samples == info.samples == 1003
assert abs(told.explained - info.explained) < 1e-5

# Pictures with scales and crops, in batches of any size.
network = toy_network()
pictures = [rng.integers(0, 256, (40, 30 + i, 3)).astype(np.uint8) for i in range(11)]
items = memory_dataset(pictures).items
pooling = ("mpp", "ap10")
run = Run(Pyramid((0, 1)), Encoder(pca=4, components=2), pooling=pooling)
atoms = atoms_of(run)
books = {}
for atom in atoms:
    if atom.codebook is not None:
        rows = rng.normal(size=(64, 16)).astype(np.float32) * 10
        books[atom.codebook] = fit_codebook(key, rows, run.encoder)[0]


def collect(batches):
    found = {}
    for index, vectors in batches:
        for name, rows in vectors.items():
            found.setdefault(name, {}).update(zip(index.tolist(), rows, strict=True))
    return {name: np.stack([rows[i] for i in range(len(items))]) for name, rows in found.items()}


one = collect(encode_items(network, items, books, run, atoms))
assert all(np.linalg.norm(rows, axis=1).min() > 0.9 for rows in one.values())
with using_devices(8):
    close(collect(encode_items(network, items, books, run, atoms)), one, 1e-5, "encoded")
    x = next(describe_items(network, items, run.pyramid)).sources["default"].scales[0].x
    assert {shard.data.shape[0] for shard in x.addressable_shards} == {len(x) // 8} == {1}

# As accelerators do it: batches at once, and statistics alone.
at_once = with_forms(network, dataclasses.replace(network.how, batch="whole"))
fisher = [atom for atom in atoms if atom.name == "mpp"]
with using_devices(3):
    found = collect(count_items(at_once, items, books, run, fisher))
    close(found["mpp"], one["mpp"], 1e-5, "counted")
    with on_mesh(current_mesh()):
        trace = jax.make_jaxpr(lambda x: describe_pictures(at_once, x, ("fire2",)))
        assert "shard_map" in str(trace(jnp.zeros((6, 35, 35, 3))))

# The same where a device's memory holds one picture's maps: parts of its share, one by one.
planning.free_bytes = lambda: 0
extraction.crops_at_once = lambda *_: 7  # of 20 of two pictures; a CPU takes them one by one
fewer = dataclasses.replace(run, pyramid=Pyramid((0, 1), batch=2))
with using_devices(3):
    assert batches.planned(at_once, fewer.pyramid).parts == ((0, 1), (1, 1))
    found = collect(count_items(at_once, items, books, fewer, fisher))
    close(found["mpp"], one["mpp"], 1e-5, "counted in parts")
    close(collect(encode_items(at_once, items, books, fewer, atoms)), one, 1e-5, "in parts")
assert {count for *_, pyramid, count in batches._PLANS if pyramid.batch == 2} == {3}

# A Gram matrix whose columns do not divide evenly, in float32 and float64.
v = rng.standard_normal((64, 101)).astype(np.float32)
for given in ([v[:10], v[10:]], jnp.asarray(v)):
    with using_devices(8):
        gram = gram_matrix(given, block_columns=5)
    np.testing.assert_array_equal(gram, np.asarray(gram).T)
    close(gram, v @ v.T, 1e-4, "gram")
with using_devices(8):
    exact = exact_gram_matrix(v)
assert exact.dtype == np.float64
np.testing.assert_allclose(exact, v.astype(np.float64) @ v.T.astype(np.float64), atol=1e-12)

# The commands: eight devices with activations kept on disk, and one.
NETWORKS["toy"] = TOY
root = Path(sys.argv[1])
data = write_folder(root / "data", train=3, test=1)
given = ("--weights", write_weights(root / "toy.safetensors"), "--pooling", "mpp,fc7")
sizes = ("--network", "toy", "--scales", "1-2", "--pca", 4, "--components", 2, "--samples", 100)
many = ("--cache", root / "cache", "--devices", 8)
said = ok("fit", data, *given, *sizes, *many, "--out", root / "book").stderr
assert said.splitlines()[0] == "spread over 8 devices", said
given = (data, *given, "--codebook", root / "book", "--out")
ok("encode", *given, root / "eight", *many)
assert "devices" not in ok("encode", *given, root / "one").stderr
eight, alone = (Store.open(root / place) for place in ("eight", "one"))
for method in ("mpp", "fc7"):
    # The cache rounds to float16.
    close(eight.vectors(method, "train"), alone.vectors(method, "train"), 2e-3, method)
assert "between 1 and 8" in refused("encode", *given, root / "one", "--devices", 9)
print("spread = one")
"""


def simulated(command, count=8):
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
        "JAX_PLATFORMS": "cpu",
    }
    return subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def test_eight_devices(tmp_path):
    run = simulated(["-c", SCRIPT, str(tmp_path)])
    assert run.returncode == 0, run.stderr[-3000:]
    assert "spread = one" in run.stdout


def test_the_commands_take_all_accelerators_and_one_cpu(monkeypatch):
    assert default_count() == device_count() == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    with using_devices() as count:
        assert count == device_count() == 4
        with using_devices(2):
            assert device_count() == 2
        assert device_count() == 4
    assert device_count() == 1


@pytest.mark.parametrize("count", [0, 3])
def test_devices_that_are_not_there(count):
    with (
        pytest.raises(ValueError, match=rf"between 1 and 1, got {count}; XLA_FLAGS"),
        using_devices(count),
    ):
        pass


def test_one_device_is_no_mesh():
    with using_devices(1), on_mesh(current_mesh()):
        assert current_mesh() is None
        assert jax.sharding.get_abstract_mesh().empty
