"""The loop on a method that can be checked by hand: half of the way to the mean at each step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpp_jax.stats import fixed_point
from mpp_jax.stats.chunks import open_data
from mpp_jax.stats.fixed_point import HISTORY, Method, history_size, run
from mpp_jax.stats.gmm import fit_gmm
from mpp_jax.stats.kmeans import fit_kmeans

X = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
MEAN = X.mean(0)
STARTS = jnp.asarray([[1.0, 2.0, 3.0], [0.1, 0.1, 0.1], [-4.0, 0.0, 0.0]])


def measure(params, x, mask):
    point, _ = params
    return jnp.sum(mask), jnp.sum((x - point[None, :]) * mask[:, None], axis=0)


def distance(stats):
    return jnp.sum(jnp.square(stats[1] / stats[0]))


def step(point, stats, tolerance):
    return point + stats[1] / stats[0] / 2, {"far": jnp.sum(point > 1, dtype=jnp.int32)}


def settled(old, new, events, tolerance):
    return (events["far"] == 0) & (old.value - new.value < tolerance)


HALVING = Method(measure, distance, step, settled, best=jnp.argmin)


def halve(starts, data, tolerance=1e-4, steps=50):
    return run(HALVING, starts, jnp.float32(tolerance), data, steps)


@pytest.mark.parametrize("start", range(3))
def test_steps_values_and_events(start):
    state = halve(STARTS[start : start + 1], open_data(X))
    done = int(state.history.iterations)
    away = np.asarray(STARTS[start]) - MEAN
    expected = (away**2).sum() / 4.0 ** np.arange(done + 1)
    np.testing.assert_allclose(state.history.values[: done + 1], expected, rtol=1e-3, atol=1e-9)
    assert not np.asarray(state.history.values[done + 1 :]).any()
    assert np.isnan(state.history.trimmed(50).values[done + 1 :]).all()
    np.testing.assert_allclose(state.point, MEAN + away / 2.0**done, atol=1e-5)
    assert bool(state.history.converged)
    assert expected[done - 1] - expected[done] < 1e-4 < expected[done - 2] - expected[done - 1]
    points = MEAN + away / 2.0 ** np.arange(done)[:, None]
    np.testing.assert_array_equal(state.history.events["far"][:done], (points > 1).sum(1))
    assert not np.asarray(state.history.events["far"][done:]).any()


def test_array_chunks_and_streams_agree():
    pieces = [X[:7], X[7:60], X[60:]]
    whole = halve(STARTS, open_data(X))
    for data in (open_data(X, rows=16), open_data(pieces, rows=16)):
        other = halve(STARTS, data)
        for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("data", [open_data(X), open_data([X[:50], X[50:]])])
def test_the_best_restart_is_kept(data):
    alone = [halve(STARTS[r : r + 1], data, steps=2) for r in range(3)]
    best = halve(STARTS, data, steps=2)
    chosen = alone[int(np.argmin([float(a.history.values[2]) for a in alone]))]
    for a, b in zip(jax.tree.leaves(best), jax.tree.leaves(chosen), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("data", [open_data(X), open_data([X])])
def test_steps_run_out(data):
    state = halve(STARTS[:1], data, tolerance=-1.0, steps=5)
    assert int(state.history.iterations) == 5
    assert not bool(state.history.converged)
    assert state.history.values.shape == (HISTORY + 1,)
    short = state.history.trimmed(5)
    assert (short.values.shape, short.events["far"].shape) == ((6,), (5,))


def test_room_for_histories():
    assert [history_size(n) for n in (1, HISTORY, HISTORY + 1)] == [HISTORY, HISTORY, 2 * HISTORY]


def test_one_program_for_all_settings():
    """Tolerances, floors and step counts that share a history size share a program."""
    fixed_point._run_array.clear_cache()
    start = X[:4]
    for steps, tolerance in ((3, 1e-4), (100, 1e-2)):
        options = {"max_iterations": steps, "tolerance": tolerance}
        fit_kmeans(jax.random.key(0), X, 4, init=start, **options)
    assert fixed_point._run_array._cache_size() == 1
    for steps, floor in ((3, 0.1), (100, 0.2)):
        options = {"max_iterations": steps, "variance_floor": floor, "smallest_share": floor}
        fit_gmm(jax.random.key(0), X, 4, init="random", **options)
    assert fixed_point._run_array._cache_size() == 2
