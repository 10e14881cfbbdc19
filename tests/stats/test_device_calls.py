"""Fits ask little of the host: few programs, few calls, however many steps; no rows come back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpp_jax.stats import fixed_point, seeding
from mpp_jax.stats.chunks import open_data, sample_rows
from mpp_jax.stats.gmm import fit_gmm
from mpp_jax.stats.kmeans import assign_step, fit_kmeans, sum_by_cluster

N, D, K = 2011, 7, 4  # a shape of its own: nothing is compiled yet
RNG = np.random.default_rng(0)
X = (RNG.normal(size=(N, D)) + RNG.integers(0, 3, size=(N, 1))).astype(np.float32)
KEY = jax.random.key(0)

FITS = {
    # Programs at most: each costs a GPU its compilation.
    "gmm": (lambda steps: fit_gmm(KEY, X, K, tolerance=-1.0, max_iterations=steps)[1], 20, 2),
    "kmeans": (lambda steps: fit_kmeans(KEY, X, K, tolerance=-1.0, max_iterations=steps)[1], 14, 1),
}


@pytest.mark.parametrize("fit", FITS)
def test_calls_do_not_depend_on_the_steps(fit, monkeypatch):
    function, programs, loops = FITS[fit]
    calls, compiled, fetched = [], [], []

    def counted(place, name):
        real = getattr(place, name)
        monkeypatch.setattr(place, name, lambda *a, **k: calls.append(name) or real(*a, **k))

    def watched(name):
        real = getattr(np, name)

        def fetch(value, *rest, **options):
            if isinstance(value, jax.Array):
                fetched.append(value.size)
            return real(value, *rest, **options)

        monkeypatch.setattr(np, name, fetch)

    def note(event, duration, **_):
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    counted(fixed_point, "_run_array")
    counted(seeding, "_seed_all")
    watched("asarray")
    watched("array")
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        few = function(2)
        first, begun = len(calls), len(fetched)
        assert 0 < len(compiled) <= programs
        assert first == loops + 1  # the seeds, then each loop
        assert len(fetched) > 0
        compiled.clear()
        many = function(60)  # of the same room for its history
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert int(few.iterations) == 2 < int(many.iterations)
    assert len(calls) == 2 * first
    assert len(fetched) == 2 * begun
    assert not compiled
    assert max(fetched) <= N  # a mask; not even the sample of rows that the seeds are drawn from


def test_a_sample_stays_on_the_device():
    for mask in (None, np.arange(N) % 3 > 0):
        rows = sample_rows(open_data(X, mask), KEY, 100)
        assert isinstance(rows, jax.Array)
        assert rows.shape == (100, D)
    data = open_data(X)
    assert sample_rows(data, KEY, N) is data.x


@pytest.mark.parametrize("clusters", [1, 9])
def test_forms_of_sums_by_cluster(clusters):
    index = RNG.integers(0, clusters, N)
    index[index == 3] = 4  # one is empty
    expected = np.zeros((clusters, D))
    np.add.at(expected, index, X.astype(np.float64))
    sums = {
        form: sum_by_cluster(jnp.asarray(X), jnp.asarray(index), clusters, form=form)
        for form in ("scatter", "product", None)
    }
    np.testing.assert_allclose(sums["scatter"], expected, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(sums["product"], expected, rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(sums[None], sums["scatter"])  # on a CPU


def test_kmeans_with_products(monkeypatch):
    options = {"init": X[:K], "max_iterations": 5, "tolerance": -1.0}
    centres, info = fit_kmeans(KEY, X, K, **options)
    real = sum_by_cluster
    used = []

    def product(*arguments):
        used.append(1)
        return real(*arguments, form="product")

    monkeypatch.setattr("mpp_jax.stats.kmeans.sum_by_cluster", product)
    # Other rows per chunk: a program that is not there yet.
    others, told = fit_kmeans(KEY, X, K, rows=1000, **options)
    assert used
    np.testing.assert_allclose(others, centres, atol=1e-4)
    np.testing.assert_allclose(told.inertia[:6], info.inertia[:6], rtol=1e-5)


def test_steps_are_lowered_for_gpus_without_scatters(monkeypatch):
    """As far as it goes without one: sums are products, which come out the same each time."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((K, D), (N, D), (N,))]
    step = jax.jit(lambda centres, x, mask: assign_step(centres, x, mask))
    text = jax.export.export(step, platforms=["cuda"])(*shapes).mlir_module()
    assert "stablehlo.scatter" not in text
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) == 2
    assert all("HIGHEST" in line for line in products)
