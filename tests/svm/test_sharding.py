"""Vectors sharded over eight simulated devices, by rows or by columns, train the same machines."""

import os
import subprocess
import sys

from helpers import REPOSITORY

SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from mpp_jax.svm import fit_svm, gram_matrix, one_vs_rest_targets, svm_scores

jax.config.update("jax_numpy_rank_promotion", "raise")
assert jax.device_count() == 8
x = np.random.default_rng(0).standard_normal((64, 96)).astype(np.float32)
x /= np.linalg.norm(x, axis=1, keepdims=True)
y = one_vs_rest_targets(np.arange(64) % 3)
svm, info = fit_svm(x, y, tolerance=1e-6)
mesh = Mesh(np.array(jax.devices()), ("data",))
for spec in (P("data", None), P(None, "data")):
    spread = jax.device_put(jnp.asarray(x), NamedSharding(mesh, spec))
    assert len(spread.sharding.device_set) == 8
    np.testing.assert_allclose(gram_matrix(spread), x @ x.T, atol=1e-6)
    many, certificate = fit_svm(spread, y, tolerance=1e-6)
    assert certificate.converged.all()
    np.testing.assert_allclose(
        certificate.primal_objective, info.primal_objective, rtol=2e-6
    )
    np.testing.assert_allclose(svm_scores(many, spread), svm_scores(svm, x), atol=2e-3)
print("sharded = whole")
"""


def test_eight_devices():
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
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
