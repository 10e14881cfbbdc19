"""Data sharded over one to eight simulated devices give the answer of one."""

import os
import subprocess
import sys

from helpers import REPOSITORY

SCRIPT = """
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from mpp_jax.encoders.fisher import fisher_from_statistics, fisher_statistics, fisher_vector
from mpp_jax.stats.gmm import fit_gmm
from mpp_jax.stats.kmeans import fit_kmeans
from mpp_jax.stats.mixture import bic
from mpp_jax.stats.pca import fit_pca

jax.config.update("jax_numpy_rank_promotion", "raise")
assert jax.device_count() == 8
rng = np.random.default_rng(0)
x = (rng.normal(size=(640, 6)) + 5 * rng.integers(0, 3, size=(640, 1))).astype(np.float32)
keep = rng.random(640) < 0.8
key = jax.random.key(0)


# Steps enlarge the roundings of their sums; two of the principal axes have nearly equal variances.
FITTED = 1e-4


def close(a, b, what, atol=2e-5):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=atol, err_msg=what)


flat = Mesh(np.array(jax.devices()), ("data",))
grid = Mesh(np.array(jax.devices()).reshape(2, 4), ("host", "data"))
layouts = [NamedSharding(flat, P("data")), NamedSharding(grid, P(("host", "data"), None))]
options = {"max_iterations": 4, "tolerance": -1.0}
one = {
    "kmeans": fit_kmeans(key, x, 4, mask=keep, max_iterations=5)[0],
    "gmm": fit_gmm(key, x, 4, mask=keep, **options),
    "pca": fit_pca(x, 2),
}
gmm = one["gmm"][0]
spread, crossed = (jax.device_put(x, layout) for layout in layouts)
assert all(len(a.sharding.device_set) == 8 for a in (spread, crossed))
many = {
    "kmeans": fit_kmeans(key, spread, 4, mask=keep, max_iterations=5, rows=32)[0],
    "gmm": fit_gmm(key, spread, 4, mask=keep, rows=50, **options),
    "pca": fit_pca(spread, 2),
}
for what, answer in many.items():
    close(answer, one[what], what, FITTED)
assert abs(bic(spread, gmm) - bic(x, gmm)) < 1e-2
# Over both axes of a grid of devices, and two restarts at once.
whole, parts = (fit_gmm(key, a, 4, init="random", restarts=2, **options) for a in (x, crossed))
close(parts, whole, "grid and restarts", FITTED)

# Over fewer devices than there are.
for count in (1, 2, 5):
    few = Mesh(np.array(jax.devices()[:count]), ("data",))
    some = jax.device_put(x, NamedSharding(few, P("data")))
    assert len(some.sharding.device_set) == count
    close(fit_gmm(key, some, 4, mask=keep, init=gmm, **options)[0],
          fit_gmm(key, x, 4, mask=keep, init=gmm, **options)[0], f"{count} devices", FITTED)

# A set whose descriptors lie on different devices, and a batch of sets on different devices.
close(jax.jit(fisher_vector)(spread, gmm), fisher_vector(x, gmm), "fisher")
sets = jax.device_put(x.reshape(8, 80, 6), layouts[0])
vectors = jax.jit(jax.vmap(fisher_vector, in_axes=(0, None)))(sets, gmm)
assert len(vectors.sharding.device_set) == 8
close(vectors[3], fisher_vector(x[240:320], gmm), "batch")
statistics = jax.vmap(fisher_statistics, in_axes=(0, None))(sets, gmm)
total = jax.tree.map(lambda leaf: leaf.sum(0), statistics)
close(fisher_from_statistics(total, gmm), fisher_vector(x, gmm), "sum of statistics")

# One value that is none, on any device, is refused; under the mask it does no harm.
tall = rng.normal(size=(40_000, 4)).astype(np.float32)
for row in (0, 20_000, 39_999):
    for value in (np.nan, np.inf, -np.inf):
        bad = tall.copy()
        bad[row, 2] = value
        bad = jax.device_put(bad, layouts[0])
        try:
            fit_pca(bad, 2)
        except ValueError as error:
            assert "x holds NaN or infinity" in str(error)
        else:
            raise AssertionError(f"{value} in row {row} was not seen")
    assert np.isfinite(fit_pca(bad, 2, mask=np.arange(40_000) != row).mean).all()
print("sharded = whole")
"""


def test_eight_devices():
    flags = "--xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "sharded = whole" in run.stdout
