"""k-means: a float64 model, scikit-learn, seeding, empty clusters, streams."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import reference
from sklearn.cluster import KMeans

from mpp_jax.stats.kmeans import SPLIT, fit_kmeans, nearest, split_widest
from mpp_jax.stats.seeding import kmeans_plus_plus

N, D, K = 400, 6, 5
KEY = jax.random.key(0)
TRUE = np.random.default_rng(0).normal(size=(K, D)) * 4
LABEL = np.random.default_rng(1).integers(0, K, N)
X = (TRUE[LABEL] + np.random.default_rng(2).normal(size=(N, D))).astype(np.float32)


@pytest.mark.parametrize("steps", [1, 3])
def test_reference(steps):
    centres, info = fit_kmeans(KEY, X, K, init=X[:K], tolerance=-1.0, max_iterations=steps)
    expected = X[:K].astype(np.float64)
    for _ in range(steps):
        expected = reference.lloyd_step(X.astype(np.float64), expected)
    assert int(info.iterations) == steps
    np.testing.assert_allclose(centres, expected, atol=1e-4)
    _, distance = reference.nearest(X, expected)
    assert float(info.inertia[steps]) == pytest.approx(distance.min(1).mean(), rel=1e-5)


def test_scikit_learn():
    centres, info = fit_kmeans(KEY, X, K, init=X[:K], tolerance=0.0)
    theirs = KMeans(K, init=X[:K], n_init=1, tol=0, max_iter=300).fit(X)
    assert bool(info.converged)
    np.testing.assert_allclose(centres, theirs.cluster_centers_, atol=1e-4)
    assert float(info.inertia[info.iterations]) * N == pytest.approx(theirs.inertia_, rel=1e-5)
    np.testing.assert_array_equal(info.counts, np.bincount(theirs.labels_))


def test_inertia_never_grows():
    _, info = fit_kmeans(KEY, X, 12)
    inertia = np.asarray(info.inertia)
    done = inertia[: int(info.iterations) + 1]
    assert np.isnan(inertia[len(done) :]).all()
    assert (np.diff(done) <= 1e-5 * done[0]).all()


def test_finds_separated_clusters():
    centres, _ = fit_kmeans(KEY, X, K)
    distance = np.linalg.norm(np.asarray(centres)[:, None] - TRUE[None], axis=2)
    assert sorted(distance.argmin(1)) == list(range(K))
    assert distance.min(1).max() < 0.5


def test_restarts_keep_the_best():
    keys = jax.random.split(KEY, 2)
    best, info = fit_kmeans(keys[0], X, 12, restarts=4)
    _, single = fit_kmeans(keys[1], X, 12)
    final = float(info.inertia[info.iterations])
    _, distance = reference.nearest(X, best)
    assert final == pytest.approx(distance.min(1).mean(), rel=1e-5)
    assert final <= float(single.inertia[single.iterations]) * 1.05


def test_same_key_same_bytes():
    np.testing.assert_array_equal(fit_kmeans(KEY, X, K)[0], fit_kmeans(KEY, X, K)[0])


_seeds = jax.jit(kmeans_plus_plus, static_argnames=("n_clusters", "candidates"))


@pytest.mark.parametrize("candidates", [0, 1])
def test_seeds_are_distinct_rows(candidates):
    seeds = np.asarray(_seeds(KEY, X, 12, candidates=candidates))
    rows = {tuple(row) for row in X}
    assert all(tuple(seed) in rows for seed in seeds)
    assert len({tuple(seed) for seed in seeds}) == 12


def test_seeding_follows_the_squared_distance():
    """Of the points 0, 1, 3: given a first seed at 0, the others come with odds 1 to 9."""
    points = jnp.asarray([[0.0], [1.0], [3.0]])
    keys = jax.random.split(KEY, 4000)
    draw = jax.jit(jax.vmap(lambda key: kmeans_plus_plus(key, points, 2, candidates=1)))
    seeds = np.asarray(draw(keys))[:, :, 0]
    second = seeds[seeds[:, 0] == 0, 1]
    assert 1200 < len(second) < 1470
    assert np.mean(second == 3) == pytest.approx(0.9, abs=0.03)
    assert not (second == 0).any()


def test_greedy_seeding_is_better():
    keys = jax.random.split(KEY, 40)

    def mean_inertia(candidates):
        seeds = [np.asarray(_seeds(key, X, 12, candidates=candidates)) for key in keys]
        return np.mean([reference.nearest(X, s)[1].min(1).mean() for s in seeds])

    assert mean_inertia(0) < mean_inertia(1)


def test_duplicates_leave_no_nan():
    x = np.repeat(X[:4], N // 4, axis=0)
    centres, info = fit_kmeans(KEY, x, 12, max_iterations=20)
    assert np.isfinite(centres).all()
    assert float(info.inertia[info.iterations]) == pytest.approx(0, abs=1e-4)
    assert int(info.reseeded[-1]) == 0
    assert bool(info.converged)
    assert int(np.asarray(info.counts).sum()) == N


@pytest.mark.parametrize("restarts", [1, 2])
def test_empty_cluster_is_reseeded(restarts):
    start = np.concatenate([X[:3], np.full((2, D), 1e3, np.float32)])
    if restarts == 1:
        centres, info = fit_kmeans(KEY, X, K, init=start)
        assert int(info.reseeded[0]) == 2
    else:
        centres, info = fit_kmeans(KEY, X, K, init="random", restarts=restarts)
    assert (np.asarray(info.counts) > 0).all()
    assert np.abs(np.asarray(centres)).max() < 100


def test_split_widest_keeps_the_moments():
    rng = np.random.default_rng(3)
    weights = np.array([0.3, 0.5, 0.0, 0.2], np.float32)
    means, variances = (rng.random((4, 3)).astype(np.float32) for _ in range(2))
    variances[1] = [0.1, 9.0, 0.2]
    args = (jnp.asarray(a) for a in (weights, means, variances, weights == 0))
    w, m, v, still = (np.asarray(a) for a in jax.jit(split_widest)(*args))
    assert not still.any()
    np.testing.assert_allclose(w, [0.3, 0.25, 0.25, 0.2])
    np.testing.assert_allclose(np.abs(m[1] - m[2]), [0, 2 * SPLIT * 3, 0], atol=1e-6)

    def moments(w, m, v):
        mean = (w[:, None] * m).sum(0)
        return mean, (w[:, None] * (v + (m - mean) ** 2)).sum(0)

    for got, expected in zip(moments(w, m, v), moments(weights, means, variances), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_split_without_any_width():
    one = jnp.asarray([1.0, 0.0])
    flat = jnp.zeros((2, 2))
    *_, still = jax.jit(split_widest)(one, flat, flat, one == 0)
    assert np.asarray(still).tolist() == [False, True]


@pytest.mark.parametrize("offset", [1e3, 1e5])
def test_far_from_the_origin(offset):
    moved = X + np.float32(offset)
    init = moved[:K]
    centres, _ = fit_kmeans(KEY, moved, K, init=init, tolerance=-1.0, max_iterations=3)
    expected = init.astype(np.float64)
    for _ in range(3):
        expected = reference.lloyd_step(moved.astype(np.float64), expected)
    np.testing.assert_allclose(np.asarray(centres, np.float64), expected, atol=offset * 2e-7 + 1e-4)


def test_nearest_takes_the_first_on_ties():
    index, square = jax.jit(nearest)(jnp.zeros((1, 2)), jnp.asarray([[3.0, 0], [0, 1.0], [1.0, 0]]))
    assert int(index[0]) == 1
    assert float(square[0]) == 1


def test_stream_and_chunks_equal_whole():
    whole, info = fit_kmeans(KEY, X, K)
    cuts = [0, 10, 10, 150, 400]
    pieces = [X[a:b] for a, b in itertools.pairwise(cuts)]
    for data, rows in ((X, 64), (pieces, 64), (lambda: iter(pieces), 128)):
        centres, other = fit_kmeans(KEY, data, K, rows=rows)
        np.testing.assert_allclose(centres, whole, atol=1e-5)
        assert int(other.iterations) == int(info.iterations)


def test_mask():
    keep = np.arange(N) % 4 > 0
    garbage = np.where(keep[:, None], X, np.inf)
    masked, _ = fit_kmeans(KEY, garbage, K, mask=keep)
    np.testing.assert_allclose(masked, fit_kmeans(KEY, X[keep], K)[0], atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.int8])
def test_narrow_inputs_compute_in_float32(dtype):
    x = jnp.asarray(X * 5).astype(dtype)
    wide = np.asarray(x.astype(jnp.float32))
    centres, _ = fit_kmeans(KEY, x, K, init=wide[:K], tolerance=-1.0, max_iterations=1)
    assert centres.dtype == jnp.float32
    expected = reference.lloyd_step(wide.astype(np.float64), wide[:K])
    np.testing.assert_allclose(centres, expected, rtol=1e-4, atol=1e-4)


def test_permutation():
    shuffled = np.random.default_rng(4).permutation(X)
    options = {"init": X[:K], "tolerance": -1.0, "max_iterations": 3}
    np.testing.assert_allclose(
        fit_kmeans(KEY, shuffled, K, **options)[0], fit_kmeans(KEY, X, K, **options)[0], atol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"x": X[:3]}, ValueError, "fewer than n_clusters"),
        ({"init": "best"}, ValueError, "init must be"),
        ({"init": X[:2]}, ValueError, "init must have 5 rows"),
        ({"init": X[:K, :2]}, ValueError, "init must have 6 columns"),
        ({"init": X[:K], "restarts": 2}, ValueError, "restarts=1"),
        ({"init_rows": 2}, ValueError, "init_rows must be at least"),
        ({"max_iterations": 0}, ValueError, "max_iterations must be at least 1"),
        ({"x": (X for _ in range(1))}, TypeError, "generator"),
        ({"x": X * np.nan}, ValueError, "NaN or infinity"),
        ({"key": 0}, TypeError, "key must be a PRNG key"),
    ],
)
def test_bad_input(options, error, message):
    with pytest.raises(error, match=message):
        fit_kmeans(**{"key": KEY, "x": X, "n_clusters": K, **options})
