"""Every pooling variant against its definition, spelled out in float64 NumPy."""

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mpp_jax.config import Encoder
from mpp_jax.describe.dense import Activations, Descriptors
from mpp_jax.pooling import POOLINGS, encode, get_pooling, parse_all, pool, register_pooling
from mpp_jax.pooling.variants import mean_descriptor
from mpp_jax.stats.codebook import Codebook, fit_codebook, project
from mpp_jax.stats.mixture import GMM
from mpp_jax.stats.pca import PCA

C, P, K = 7, 4, 3
COUNTS = (1, 4, 9)
SINGLES = ("fc7", "avg", "nfk", "csf", "mpp")
BOOK = "default.fisher"


def make_codebook(l2: str = "none") -> Codebook:
    """Return unequal weights and variances, a mean far from 0: nothing cancels by luck."""
    rng = np.random.default_rng(0)
    components = np.linalg.qr(rng.normal(size=(C, P)))[0].T
    pca = PCA(
        mean=jnp.asarray(rng.uniform(0.2, 0.6, C), jnp.float32),
        components=jnp.asarray(components, jnp.float32),
        explained_variance=jnp.ones(P),
    )
    gmm = GMM(
        weights=jnp.array([0.2, 0.5, 0.3]),
        means=jnp.asarray(rng.normal(0, 0.3, (K, P)), jnp.float32),
        variances=jnp.asarray(rng.uniform(0.05, 0.4, (K, P)), jnp.float32),
    )
    return Codebook(pca, gmm, l2 != "none", l2 == "both")


CODEBOOK = make_codebook()


def make_scales(batch: int = 2, seed: int = 1) -> tuple[Descriptors, ...]:
    """Return rectified activations, as networks give them; some of the second picture masked."""
    rng = np.random.default_rng(seed)
    scales = []
    for count in COUNTS:
        x = np.maximum(rng.normal(0.3, 0.5, (batch, count, C)), 0)
        mask = np.ones((batch, count), bool)
        if batch > 1 and count > 1:
            mask[1, ::2] = False
        window = rng.uniform(0, 1, (count, 4))
        scales.append(Descriptors(x.astype(np.float32), mask, window))
    return tuple(scales)


SCALES = make_scales()


# ------------------------------------------------------------------------------ the definitions


def l2(v: np.ndarray) -> np.ndarray:
    norm = np.sqrt((v**2).sum())
    return v / norm if norm > 0 else v


def fisher(x: np.ndarray, gmm: GMM) -> np.ndarray:
    """Return G(X) as it is defined, one descriptor and one component at a time."""
    w, mu, var = (np.asarray(a, np.float64) for a in gmm)
    u, v = np.zeros((2, K, P))
    for row in x:
        density = np.array(
            [
                w[k] * np.prod(np.exp(-((row - mu[k]) ** 2) / 2 / var[k]) / np.sqrt(var[k]))
                for k in range(K)
            ]
        )
        q = density / density.sum()
        for k in range(K):
            if q[k] >= 1e-6:
                y = (row - mu[k]) / np.sqrt(var[k])
                u[k] += q[k] * y / (len(x) * np.sqrt(w[k]))
                v[k] += q[k] * (y**2 - 1) / (len(x) * np.sqrt(2 * w[k]))
    return np.concatenate([u.ravel(), v.ravel()])


def reference(name: str, sets: list[np.ndarray], codebook: Codebook) -> np.ndarray:
    """Return one picture's vector from the unmasked activations of its scales."""

    def projected(x: np.ndarray) -> np.ndarray:
        rows = []
        for row in x:
            row = l2(row) if codebook.l2_before else row
            mean, components = (np.asarray(a, np.float64) for a in codebook.pca[:2])
            row = components @ (row - mean)
            rows.append(l2(row) if codebook.l2_after else row)
        return np.array(rows).reshape(-1, P)

    def power(v: np.ndarray) -> np.ndarray:
        return l2(np.sign(v) * np.sqrt(np.abs(v)))

    present = [x for x in sets if len(x)]
    if name == "fc7":
        return l2(sets[0].mean(axis=0)) if len(sets[0]) else np.zeros(C)
    if name == "avg":
        return l2(np.mean([l2(x.mean(axis=0)) for x in present], axis=0))
    if name == "nfk":
        return power(fisher(np.concatenate([projected(x) for x in present]), codebook.gmm))
    vectors = [
        l2(fisher(projected(x), codebook.gmm)) if len(x) else np.zeros(2 * K * P) for x in sets
    ]
    if name == "csf":
        return power(np.concatenate(vectors))
    assert name == "mpp"
    return power(sum(vectors) / len(present))


def unmasked(scales: tuple[Descriptors, ...], row: int) -> list[np.ndarray]:
    return [np.asarray(s.x[row], np.float64)[np.asarray(s.mask[row])] for s in scales]


def encoded(
    scales: tuple[Descriptors, ...], codebook: Codebook = CODEBOOK, first: int = 0
) -> dict[str, np.ndarray]:
    """Encode with all single variants in one program."""
    sources = {"default": Activations(scales, {})}
    numbers = (("default", tuple(range(len(scales)))),)
    arrays = encode(sources, {BOOK: codebook}, parse_all(SINGLES), numbers, first)
    return {name: np.asarray(vectors) for name, vectors in arrays.items()}


@pytest.mark.parametrize("normalised", ["none", "before", "both"])
def test_every_variant_equals_its_definition(normalised: str) -> None:
    codebook = make_codebook(normalised)
    ours = encoded(SCALES, codebook)
    for name, row in itertools.product(SINGLES, range(2)):
        wanted = reference(name, unmasked(SCALES, row), codebook)
        np.testing.assert_allclose(ours[name][row], wanted, atol=2e-5, err_msg=f"{name} {row}")
        assert np.linalg.norm(ours[name][row]) == pytest.approx(1, abs=1e-5)
        assert ours[name].dtype == np.float32
    sizes = {name: ours[name].shape[1] for name in SINGLES}
    assert sizes == {"fc7": C, "avg": C, "nfk": 24, "csf": 72, "mpp": 24}


def test_variants_differ() -> None:
    """Otherwise one function under five names would pass."""
    ours = encoded(SCALES)
    for a, b in itertools.combinations(("nfk", "mpp"), 2):
        assert np.abs(ours[a] - ours[b]).max() > 0.01
    assert np.abs(ours["fc7"] - ours["avg"]).max() > 0.01


def without(scales: tuple[Descriptors, ...], *empty: int) -> tuple[Descriptors, ...]:
    return tuple(
        s._replace(mask=np.zeros_like(s.mask)) if i in empty else s for i, s in enumerate(scales)
    )


@pytest.mark.parametrize("empty", [(1,), (0, 2)])
def test_scales_without_descriptors_are_left_out(empty: tuple[int, ...]) -> None:
    scales = without(SCALES, *empty)
    ours = encoded(scales)
    for name in SINGLES:
        wanted = reference(name, unmasked(scales, 0), CODEBOOK)
        np.testing.assert_allclose(ours[name][0], wanted, atol=2e-5, err_msg=name)
    # As if the scale were not there at all; CSF keeps its place.
    fewer = encoded(tuple(s for i, s in enumerate(SCALES) if i not in empty))
    for name in ("avg", "nfk", "mpp"):
        np.testing.assert_allclose(ours[name], fewer[name], atol=1e-6, err_msg=name)
    nothing = encoded(without(SCALES, 0, 1, 2))
    for name in SINGLES:
        assert not nothing[name].any(), name


def test_one_scale_makes_all_fisher_variants_equal() -> None:
    ours = encoded(SCALES[2:])
    np.testing.assert_allclose(ours["nfk"], ours["mpp"], atol=1e-6)
    np.testing.assert_allclose(ours["csf"], ours["mpp"], atol=1e-6)
    np.testing.assert_allclose(ours["fc7"], ours["avg"], atol=1e-6)


def test_first_scale_may_be_left_out_of_the_fisher_vectors() -> None:
    whole, later = encoded(SCALES), encoded(SCALES[1:])
    skipping = encoded(SCALES, first=1)
    for name in ("nfk", "csf", "mpp"):
        np.testing.assert_allclose(skipping[name], later[name], atol=1e-6)
    for name in ("fc7", "avg"):
        np.testing.assert_allclose(skipping[name], whole[name], atol=1e-6)


# ------------------------------------------------------------------------------ stacks, crops, own


def test_pool_and_stacks() -> None:
    ours = encoded(SCALES)
    np.testing.assert_allclose(pool("mpp", SCALES, CODEBOOK), ours["mpp"], atol=1e-6)
    stack = np.asarray(pool("mpp+avg", SCALES, CODEBOOK))
    wanted = np.concatenate([ours["mpp"], ours["avg"]], axis=1) / np.sqrt(2)
    np.testing.assert_allclose(stack, wanted, atol=1e-6)
    np.testing.assert_allclose(pool("avg", list(SCALES)), ours["avg"], atol=1e-6)
    assert [a.name for a in parse_all(["mpp+avg", "fc7", "avg+nfk"])] == [
        "mpp",
        "avg",
        "fc7",
        "nfk",
    ]


def test_crops_are_averaged_before_l2() -> None:
    crops = np.maximum(np.random.default_rng(3).normal(size=(2, 10, C)), 0).astype(np.float32)
    for name in ("ap1", "ap10", "ap50"):
        ours = pool(name, (), crops=crops)
        wanted = np.stack([l2(c.astype(np.float64).mean(axis=0)) for c in crops])
        np.testing.assert_allclose(ours, wanted, atol=1e-6)
    np.testing.assert_array_equal(
        pool("ap10(pool5)", (), crops=crops), pool("ap10", (), crops=crops)
    )
    both = pool("ap10+avg", SCALES, crops=crops)
    assert both.shape == (2, 2 * C)
    assert [(get_pooling(n).crops, get_pooling(n).flip) for n in ("ap1", "ap10", "ap50")] == [
        (1, False),
        (5, True),
        (25, True),
    ]


@pytest.fixture
def own_variant() -> Iterator[str]:
    @register_pooling("test-max", codebook=None)
    def largest(evidence, codebook):
        # Masked rows must be left out by the variant itself.
        pairs = zip(evidence.x, evidence.mask, strict=True)
        valid = [jnp.where(mask[:, None], x, 0) for x, mask in pairs]
        return jnp.max(jnp.concatenate(valid), axis=0)

    yield "test-max"
    del POOLINGS["test-max"]


def test_a_variant_of_ones_own(own_variant: str) -> None:
    ours = pool(own_variant, SCALES)
    for row in range(2):
        wanted = np.concatenate(unmasked(SCALES, row)).max(axis=0)
        np.testing.assert_allclose(ours[row], wanted, rtol=1e-6)
    stack = pool(f"{own_variant}+avg", SCALES)
    assert stack.shape == (2, 2 * C)
    # The name is its place's: nobody else takes it unasked.
    with pytest.raises(ValueError, match="there is a variant 'test-max' already"):
        register_pooling(own_variant, codebook=None)(len)


def test_installed_packages_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point is loaded once a name is not known, and not before."""
    loaded = []

    class Entry:
        def load(self) -> None:
            loaded.append(True)
            register_pooling("test-installed", codebook=None)(lambda evidence, codebook: None)

    def entry_points(group: str) -> list[Entry]:
        assert group == "mpp_jax.pooling"
        return [Entry()]

    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
    monkeypatch.delitem(POOLINGS, "test-installed", raising=False)
    assert get_pooling("mpp").name == "mpp"
    assert not loaded
    try:
        assert get_pooling("test-installed").codebook is None
    finally:
        POOLINGS.pop("test-installed", None)
    assert loaded == [True]


@pytest.mark.parametrize(
    "name", ["", "a+b", "a,b", "a/b", "a b", "a(b)", "Upper", "ä", "2d", "sp", "sp2x2", "mpp-sp3x1"]
)
def test_names_that_cannot_be_registered(name: str) -> None:
    with pytest.raises(ValueError, match="name must be words of a-z"):
        register_pooling(name)


def test_settings_that_cannot_be_registered() -> None:
    with pytest.raises(ValueError, match="crops must be 0, 1, 5 or 25, got 10"):
        register_pooling("free", crops=10)
    with pytest.raises(ValueError, match="needs a codebook with a mixture"):
        register_pooling("counted", codebook=None, reads="statistics")
    with pytest.raises(ValueError, match="must be 'activations' or 'statistics', got 'x'"):
        register_pooling("counted", reads="x")
    with pytest.raises(ValueError, match="codebook must be None for a variant that reads crops"):
        register_pooling("free", crops=5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("map", SCALES, CODEBOOK), "no variant 'map'; there are ap1, ap10"),
        (("mpp", SCALES), "'mpp' needs the codebook 'default.fisher'"),
        (("avg+nfk", SCALES), "'nfk' needs the codebook"),
        (("mop", SCALES, CODEBOOK), "'mop' needs the codebook 'default.pca500-k100'"),
        (("fv5", SCALES, CODEBOOK), "'fv5' reads scale 5, which is not among 1, 2, 3"),
        (("mpp(pool5)", SCALES, CODEBOOK), "at least one scale of 'pool5', got none"),
        (("mpp+mpp", SCALES, CODEBOOK), "stacks a representation with itself"),
        (("ap10", SCALES), "crops: 'ap10' needs the activations"),
        (("mpp", (), CODEBOOK), "descriptors: 'mpp' needs those of at least one scale"),
    ],
)
def test_pool_refuses(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pool(*arguments)


def test_pool_refuses_numbers_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"scales must number 3 sets of descriptors, got \(0,\)"):
        pool("mpp", SCALES, CODEBOOK, scales=(0,))
    with pytest.raises(ValueError, match="'fv2' reads scale 2, which is not among 1, 3, 4"):
        pool("fv2", SCALES, CODEBOOK, scales=(0, 2, 3))


def test_mean_descriptor_ignores_what_is_masked() -> None:
    x = jnp.array([[1.0, 2.0], [jnp.nan, jnp.inf], [3.0, 6.0]])
    np.testing.assert_array_equal(mean_descriptor(x, jnp.array([True, False, True])), [2.0, 4.0])
    np.testing.assert_array_equal(mean_descriptor(x, jnp.zeros(3, bool)), [0.0, 0.0])


# ------------------------------------------------------------------------------ the codebook


@pytest.mark.parametrize("normalised", ["none", "both"])
def test_fitted_codebook(normalised: str) -> None:
    """PCA axes, spread and mixture of the projected sample, as the parts alone would have them."""
    rng = np.random.default_rng(8)
    x = np.maximum(rng.normal(0.5, 1, (400, C)) * np.arange(1, C + 1), 0).astype(np.float32)
    config = Encoder(pca=P, components=K, samples=400, l2=normalised)
    codebook, info = fit_codebook(jax.random.key(0), x, config)
    assert (codebook.l2_before, codebook.l2_after) == (normalised != "none", normalised == "both")
    given = x.astype(np.float64)
    if codebook.l2_before:
        given = np.stack([l2(row) for row in given])
    variances, axes = np.linalg.eigh(np.cov(given.T))
    ours = np.asarray(codebook.pca.components)
    np.testing.assert_allclose(np.abs(ours @ axes[:, ::-1][:, :P]), np.eye(P), atol=2e-3)
    assert info.explained == pytest.approx(variances[::-1][:P].sum() / variances.sum(), rel=1e-4)
    assert info.samples == 400
    y = np.asarray(project(codebook, jnp.asarray(x)))
    wanted = (given - given.mean(axis=0)) @ ours.T
    if codebook.l2_after:
        wanted = np.stack([l2(row) for row in wanted])
    np.testing.assert_allclose(y, wanted, atol=2e-4 * np.abs(wanted).max())
    assert float(codebook.gmm.weights.sum()) == pytest.approx(1, abs=1e-5)
    again, _ = fit_codebook(jax.random.key(0), x, config)
    for a, b in zip(jax.tree.leaves(codebook), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((2, C)), "2 descriptors of 7 dimensions cannot fit --pca 4 and --components 3"),
        (np.ones((50, 3)), "50 descriptors of 3 dimensions cannot fit --pca 4"),
        (np.ones(50), r"x must be \(N, C\) descriptors, got shape \(50,\)"),
        (np.full((50, C), np.nan), "NaN or infinity: the network overflows"),
    ],
)
def test_codebook_refuses(x: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_codebook(jax.random.key(0), x.astype(np.float32), Encoder(pca=P, components=K))
