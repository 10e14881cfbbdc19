"""PCA: a float64 model, scikit-learn, every solver, streams, offsets."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import reference
from sklearn.decomposition import PCA as SklearnPCA

import mpp_jax.stats.pca as module
from mpp_jax.stats import covariance, eigen
from mpp_jax.stats.pca import fit_pca, pca_inverse, pca_transform

N, D, P = 300, 24, 5
MIXING = np.random.default_rng(0).normal(size=(D, D)) * np.linspace(3, 0.1, D)[:, None]


def make(offset=0.0, n=N, seed=1):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, D)) @ MIXING + offset).astype(np.float32)


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("solver", ["eigh", "subspace"])
def test_reference(solver, offset):
    x = make(offset)
    pca = fit_pca(x, P, solver=solver)
    mean, components, variance = reference.pca(x, P)
    assert all(leaf.dtype == jnp.float32 for leaf in pca)
    np.testing.assert_allclose(pca.mean, mean, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(pca.explained_variance, variance, rtol=1e-5)
    # The sign is part of the result.
    np.testing.assert_allclose(pca.components, components, atol=1e-4)


@pytest.mark.parametrize("columns", [10, D])  # D: as accelerators have it
def test_blocks_of_the_covariance(columns, monkeypatch):
    monkeypatch.setattr(covariance, "block_columns", lambda _: columns)
    jax.clear_caches()
    np.testing.assert_allclose(
        fit_pca(make(), P).components, reference.pca(make(), P)[1], atol=1e-4
    )
    jax.clear_caches()


@pytest.mark.parametrize("solver", ["full", "covariance_eigh"])
def test_scikit_learn(solver):
    x = make(3.0)
    theirs = SklearnPCA(P, svd_solver=solver).fit(x.astype(np.float64))
    ours = fit_pca(x, P)
    np.testing.assert_allclose(ours.explained_variance, theirs.explained_variance_, rtol=1e-5)
    y, expected = pca_transform(ours, x), theirs.transform(x.astype(np.float64))
    sign = np.sign(np.sum(np.asarray(y) * expected, axis=0))
    np.testing.assert_allclose(y, expected * sign, atol=1e-3)


def test_randomized():
    x = make(10.0)
    pca = fit_pca(x, P, solver="randomized", key=jax.random.key(0), rows=64)
    exact = reference.pca(x, P)
    np.testing.assert_allclose(pca.explained_variance, exact[2], rtol=1e-4)
    again = fit_pca(x, P, solver="randomized", key=jax.random.key(0), rows=64)
    np.testing.assert_array_equal(pca.components, again.components)
    chunks = fit_pca([x[:100], x[100:]], P, solver="randomized", key=jax.random.key(0), rows=64)
    np.testing.assert_allclose(chunks.components, pca.components, atol=1e-4)


def test_randomized_of_very_wide_rows():
    """More dimensions than rows, none of them squared."""
    x = np.random.default_rng(2).normal(size=(30, 2000)).astype(np.float32)
    x *= np.linspace(3, 0.1, 30)[:, None].astype(np.float32)
    pca = fit_pca(x, 4, solver="randomized", key=jax.random.key(1))
    centred = x.astype(np.float64) - x.mean(0)
    values = np.linalg.svd(centred, compute_uv=False) ** 2 / 29
    np.testing.assert_allclose(pca.explained_variance, values[:4], rtol=1e-3)


def test_whitened_projections_have_unit_covariance():
    x = make(5.0)
    pca = fit_pca(x, P, whiten=True)
    y = np.asarray(pca_transform(pca, x), np.float64)
    np.testing.assert_allclose(np.cov(y, rowvar=False), np.eye(P), atol=1e-4)
    np.testing.assert_allclose(pca.explained_variance, reference.pca(x, P)[2], rtol=1e-5)


@pytest.mark.parametrize("whiten", [False, True])
def test_inverse(whiten):
    x = make(5.0)
    pca = fit_pca(x, D, whiten=whiten)
    np.testing.assert_allclose(pca_inverse(pca, pca_transform(pca, x)), x, atol=2e-3)


@pytest.mark.parametrize("solver", ["eigh", "subspace", "filtered"])
def test_stream_equals_whole(solver):
    x = make(100.0)
    cuts = [0, 1, 70, 70, 200, 300]
    pieces = [x[a:b] for a, b in itertools.pairwise(cuts)]
    whole = fit_pca(x, P, solver=solver)
    sources = {"list": pieces, "generator": (p for p in pieces), "callable": lambda: iter(pieces)}
    for source in sources.values():
        streamed = fit_pca(source, P, solver=solver, rows=64)
        np.testing.assert_allclose(streamed.components, whole.components, atol=1e-5)
        np.testing.assert_allclose(streamed.mean, whole.mean, rtol=1e-6)
        np.testing.assert_allclose(streamed.explained_variance, whole.explained_variance, rtol=1e-5)


def test_generator_finds_its_solver():
    x = make()
    streamed = fit_pca((x[i : i + 50] for i in range(0, N, 50)), P)
    np.testing.assert_allclose(streamed.components, fit_pca(x, P).components, atol=1e-5)


def test_memory_map(tmp_path):
    x = make()
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.testing.assert_array_equal(fit_pca(mapped, P).components, fit_pca(x, P).components)


def test_chunks_do_not_matter():
    x = make(50.0)
    small, large = fit_pca(x, P, rows=37), fit_pca(x, P)
    np.testing.assert_allclose(small.components, large.components, atol=1e-5)


def test_mask():
    x = make()
    keep = np.arange(N) % 3 > 0
    garbage = np.where(keep[:, None], x, np.nan)
    np.testing.assert_allclose(
        fit_pca(garbage, P, mask=keep).components, fit_pca(x[keep], P).components, atol=1e-5
    )


def test_permutation():
    x = make()
    shuffled = np.random.default_rng(3).permutation(x)
    np.testing.assert_allclose(fit_pca(x, P).components, fit_pca(shuffled, P).components, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.int16, np.float64])
def test_dtypes(dtype):
    x = np.asarray(make(2.0) * 10)
    x = jnp.asarray(x, dtype) if dtype == jnp.bfloat16 else x.astype(dtype)
    pca = fit_pca(x, P)
    assert pca.components.dtype == jnp.float32
    wide = np.asarray(x).astype(np.float64)
    np.testing.assert_allclose(pca.components, reference.pca(wide, P)[1], atol=1e-4)
    assert pca_transform(pca, x).dtype == jnp.float32


def test_float64():
    with jax.enable_x64(True):
        x = make().astype(np.float64)
        pca = fit_pca(x, P)
        assert pca.components.dtype == jnp.float64
        np.testing.assert_allclose(pca.components, reference.pca(x, P)[1], atol=1e-10)


def test_what_does_not_converge_falls_back_to_lapack(monkeypatch):
    monkeypatch.setattr(eigen, "RESIDUAL", -1.0)
    rng = np.random.default_rng(4)
    basis = np.linalg.qr(rng.normal(size=(100, 100)))[0]
    values = np.linspace(1.0, 1.1, 100)
    matrix = (basis * values) @ basis.T
    got, vectors = module._top_of_matrix(matrix, 3, "subspace")
    np.testing.assert_allclose(got, values[::-1][:3], rtol=1e-12)
    np.testing.assert_allclose(matrix @ vectors.T, vectors.T * got, atol=1e-12)


def test_krylov_converges_on_its_own():
    rng = np.random.default_rng(5)
    basis = np.linalg.qr(rng.normal(size=(400, 400)))[0]
    values = 100.0 * np.arange(1, 401) ** -1.2
    matrix = (basis * values) @ basis.T
    start = rng.normal(size=(400, 26))
    got, vectors, converged = eigen.top_by_krylov(lambda q: matrix @ q, start, 10, 6, 4)
    assert converged
    np.testing.assert_allclose(got, values[:10], rtol=1e-7)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(10), atol=1e-10)
    residual = np.linalg.norm(matrix @ vectors.T - vectors.T * got, axis=0)
    assert (residual <= eigen.RESIDUAL * got).all()


WIDE, FEW = 160, 8
SPECTRA = {
    "falling": 100.0 * np.arange(1, WIDE + 1) ** -1.2,
    "steep": np.exp(-np.arange(WIDE) / 2.0),
    "one far above": np.r_[1e3, np.arange(1, WIDE) ** -1.0],
    "flat": np.linspace(1.0, 1.1, WIDE),
    "equal ones": np.r_[np.full(5, 9.0), np.full(20, 5.0), np.ones(WIDE - 25)],
    "all equal": np.ones(WIDE),
}


def with_spectrum(values, seed=6):
    """Return rows whose covariance has this spectrum, but for rounding."""
    rng = np.random.default_rng(seed)
    n = 2 * len(values)
    rows = rng.normal(size=(n, len(values)))
    rows = np.linalg.qr(rows - rows.mean(axis=0))[0]
    basis = np.linalg.qr(rng.normal(size=(len(values),) * 2))[0]
    return (rows * np.sqrt((n - 1) * values) @ basis.T + 3.0).astype(np.float32)


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_filtered_is_eigh(spectrum):
    x = with_spectrum(SPECTRA[spectrum])
    exact, found = (fit_pca(x, FEW, solver=solver) for solver in ("eigh", "filtered"))
    np.testing.assert_array_equal(found.mean, exact.mean)
    np.testing.assert_allclose(found.explained_variance, exact.explained_variance, rtol=1e-5)
    v = np.asarray(found.components, np.float64)
    np.testing.assert_allclose(v @ v.T, np.eye(FEW), atol=1e-6)
    largest = np.argmax(np.abs(v), axis=1)
    assert (v[np.arange(FEW), largest] > 0).all()
    if spectrum in ("falling", "steep", "one far above"):
        np.testing.assert_allclose(v, exact.components, atol=1e-4)
    if spectrum == "equal ones":  # the span of the first five is determined, its basis is not
        cosines = np.linalg.svd(v[:5] @ np.asarray(exact.components)[:5].T, compute_uv=False)
        assert cosines.min() > 1 - 1e-6


def test_filtered_converges_by_itself(monkeypatch):
    def refuse(*_):
        raise AssertionError("LAPACK was asked")

    monkeypatch.setattr(module, "top_by_eigh", refuse)
    for name, values in SPECTRA.items():
        x = with_spectrum(values)
        fit_pca([x] if name == "falling" else x, FEW, solver="filtered")  # of a stream too


def test_filtered_of_few_rows_and_of_low_rank():
    rng = np.random.default_rng(7)
    few = rng.normal(size=(9, WIDE)).astype(np.float32)  # eight dimensions
    low = (rng.normal(size=(50, 3)) @ rng.normal(size=(3, WIDE))).astype(np.float32)
    for x, rank in ((few, 8), (low, 3), (np.zeros_like(few), 0)):
        exact, found = (fit_pca(x, FEW, solver=solver) for solver in ("eigh", "filtered"))
        variance = np.asarray(found.explained_variance)
        np.testing.assert_allclose(variance[:rank], exact.explained_variance[:rank], rtol=1e-5)
        assert (variance[rank:] <= 1e-6 * max(variance[0], 1e-30)).all()
        v = np.asarray(found.components)
        np.testing.assert_allclose(v @ v.T, np.eye(FEW), atol=1e-6)


def test_filtered_gives_way_to_lapack(monkeypatch):
    x = with_spectrum(SPECTRA["falling"])
    asked = []
    lapack = eigen.top_by_eigh
    monkeypatch.setattr(module, "top_by_eigh", lambda *a: asked.append(1) or lapack(*a))
    fit_pca(x, WIDE, solver="filtered")  # all dimensions: no block is smaller
    assert len(asked) == 1
    monkeypatch.setattr(module, "top_filtered", partial(eigen.top_filtered, max_rounds=0))
    found = fit_pca(x, FEW, solver="filtered")
    assert len(asked) == 2
    np.testing.assert_allclose(found.components, fit_pca(x, FEW).components, atol=1e-6)


def test_filtered_of_float64():
    with jax.enable_x64(True):
        x = with_spectrum(SPECTRA["steep"]).astype(np.float64)
        exact, found = (fit_pca(x, FEW, solver=solver) for solver in ("eigh", "filtered"))
        assert found.components.dtype == jnp.float64
        np.testing.assert_allclose(found.explained_variance, exact.explained_variance, rtol=1e-8)


def test_filtered_is_lowered_for_gpus():
    """As far as it goes without one; nothing of size D x D is factorised."""
    with jax.enable_x64(True):
        matrix, start = (jax.ShapeDtypeStruct((4096, n), jnp.float64) for n in (4096, 160))
        program = jax.export.export(eigen.top_filtered, platforms=["cuda"])(
            matrix, start, n_components=128, resolution=1e-6
        )
    assert [leaf.shape for leaf in program.out_avals[:2]] == [(128,), (128, 4096)]
    lines = program.mlir_module().splitlines()
    factorised = [line for line in lines if "custom_call" in line and "tensor<4096x" in line]
    assert factorised  # the QR of the block
    assert not any("tensor<4096x4096x" in line for line in factorised)
    products = [line for line in lines if "stablehlo.dot_general" in line]
    assert products
    assert all("HIGHEST" in line for line in products)


def test_the_solver_goes_by_the_backend(monkeypatch):
    assert module._suitable_solver(2000, 16) == "subspace"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert module._suitable_solver(2000, 16) == "filtered"
    assert module._suitable_solver(2000, 500) == "eigh"


def test_wide_rows_pass_in_short_chunks(monkeypatch):
    assert module._rows(4096) == 4096
    assert module._rows(65_536) == 256
    assert module._rows(2**30) == 1
    x = make(n=40)
    cut, stream = [], module.ChunkStream.cut
    monkeypatch.setattr(module, "CHUNK_BYTES", 4 * 8 * x.shape[1])
    monkeypatch.setattr(module.ChunkStream, "cut", lambda *args: cut.append(args) or stream(*args))
    expected = fit_pca(x, P, solver="eigh", rows=40)
    short = fit_pca(iter([x[:15], x[15:]]), P, solver="eigh")
    np.testing.assert_allclose(short.explained_variance, expected.explained_variance, rtol=1e-5)
    assert [rows for _, rows in cut] == [8]


def test_rank_deficient_data():
    x = np.repeat(make(n=3), 20, axis=0)
    for solver in ("eigh", "subspace", "filtered"):
        pca = fit_pca(x, P, solver=solver, whiten=True)
        assert all(np.isfinite(leaf).all() for leaf in pca)
        assert pca.explained_variance[2:].max() < 1e-5 * pca.explained_variance[0]


def test_transform_traces():
    x = make()
    pca = fit_pca(x, P)
    y = jax.jit(pca_transform)(pca, x)
    batched = jax.jit(jax.vmap(pca_transform, in_axes=(None, 0)))(pca, x.reshape(3, 100, D))
    np.testing.assert_allclose(batched.reshape(N, P), y, atol=1e-4)
    np.testing.assert_allclose(pca_transform(pca, x.reshape(3, 100, D)), batched, atol=1e-4)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(pca_transform(pca, x))))(x[:2])
    np.testing.assert_allclose(gradient[0], np.asarray(pca.components).sum(0), atol=1e-5)


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (make()[0], {}, ValueError, "x must be a non-empty array"),
        (make()[:0], {}, ValueError, "x must be a non-empty array"),
        (make()[:1], {"n_components": 1}, ValueError, "needs two at least"),
        (make(), {"n_components": 0}, ValueError, "n_components must be at least 1"),
        (make(), {"n_components": 2.0}, TypeError, "n_components must be an integer"),
        (make(), {"n_components": D + 1}, ValueError, "n_components must be at most"),
        (make(), {"solver": "svd"}, ValueError, "solver must be"),
        (make(), {"solver": "randomized"}, TypeError, "needs a PRNG key"),
        (iter([make()]), {"solver": "gram"}, TypeError, "read several times"),
        (make() * np.nan, {}, ValueError, "NaN or infinity"),
        (make() * 1e20, {}, ValueError, "rescale"),
        (make(), {"mask": np.ones(3)}, ValueError, "mask must have shape"),
        (make(), {"mask": np.zeros(N)}, ValueError, "leaves no row"),
        (make() > 0, {}, TypeError, "real numbers"),
        ([make(), make()[:, :3]], {}, ValueError, "must have 24 columns"),
        ([], {}, ValueError, "holds no row"),
        (3, {}, TypeError, "an iterable of such arrays"),
        ([make()], {"mask": np.ones(N)}, ValueError, "mask goes with an array"),
        ([make() * np.nan], {}, ValueError, "NaN or infinity"),
        (
            (p for p in [make()]),
            {"solver": "randomized", "key": jax.random.key(0)},
            TypeError,
            "generator",
        ),
    ],
)
def test_bad_input(x, options, error, message):
    with pytest.raises(error, match=message):
        fit_pca(x, **{"n_components": P, **options})
