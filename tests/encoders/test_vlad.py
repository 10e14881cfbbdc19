"""VLAD: VLFeat's numbers, a float64 model, and every option."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import reference
from jax.test_util import check_grads

from mpp_jax.encoders.vlad import vlad

encode = jax.jit(vlad, static_argnames="l2")

N, D, K = 50, 6, 5
VARIANTS = [
    *("plain", "normcomp", "sqrt", "sqrt_normcomp", "unnorm", "unnorm_normcomp", "unnorm_sqrt"),
    *("unnorm_sqrt_normcomp", "mass", "mass_normcomp", "unnorm_mass"),
]


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)


@pytest.fixture(scope="module")
def centres() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(K, D)).astype(np.float32)


@pytest.mark.parametrize("variant", VARIANTS)
def test_vlfeat(golden_dir, variant):
    with np.load(golden_dir / "vlad.npz") as z:
        flag = int(z[f"flag_{variant}"])
        options = {"intra": flag & 1, "power": flag & 2, "l2": not flag & 4, "mass": flag & 8}
        got = jax.jit(partial(vlad, **options))(z["X"], z["centers"])
        assert got.dtype == jnp.float32
        assert reference.relative(got, z[f"vlad_{variant}"]) < 2e-6
        if "normcomp" in variant:
            assert not np.asarray(got).reshape(16, 32)[11].any()  # the empty cluster


@pytest.mark.parametrize("variant", ["plain", "unnorm"])
def test_vlfeat_given_assignments(golden_dir, variant):
    with np.load(golden_dir / "vlad.npz") as z:
        got = encode(z["X"], z["centers"], assignment=z["assign_soft"], l2=variant == "plain")
        assert reference.relative(got, z[f"vlad_soft_{variant}"]) < 1e-5


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(
    ("assignment", "neighbours"), [("hard", 1), ("hard", 3), ("soft", 0), ("soft", 2)]
)
def test_reference(x, centres, assignment, neighbours, residual):
    weights = reference.assignments(x, centres, assignment, neighbours, 0.7)
    got = jax.jit(
        partial(
            vlad,
            assignment=assignment,
            neighbours=neighbours,
            sharpness=0.7,
            residual=residual,
            power=True,
        )
    )(x, centres)
    expected = reference.vlad(x, centres, weights, residual=residual, power=True)
    assert reference.relative(got, expected) < 1e-5


def test_far_from_the_origin(x, centres):
    moved, far = np.float32(x + np.float32(3000)), np.float32(centres + np.float32(3000))
    weights = reference.assignments(moved, far)
    assert reference.relative(encode(moved, far), reference.vlad(moved, far, weights)) < 1e-5


def test_permutation(x, centres):
    shuffled = np.random.default_rng(2).permutation(x)
    assert reference.relative(encode(shuffled, centres), encode(x, centres)) < 1e-5


@pytest.mark.parametrize("options", [{}, {"assignment": "soft", "neighbours": 2}])
def test_mask_hides_padding(x, centres, options):
    padded = np.concatenate([x, np.full((3, D), np.nan, np.float32)])
    mask = np.arange(N + 3) < N
    encode = jax.jit(partial(vlad, mass=True, **options))
    assert reference.relative(encode(padded, centres, mask), encode(x, centres)) < 1e-6
    gradient = jax.jit(jax.grad(lambda a: jnp.sum(encode(a, centres, mask) ** 3)))(padded)
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[N:].any()
    assert not np.asarray(encode(padded, centres, mask & False)).any()


def test_vmap(x, centres):
    sets = np.stack([x, 2 * x, x - 1])
    masks = np.random.default_rng(3).random((3, N)) < 0.6
    got = jax.jit(jax.vmap(vlad, in_axes=(0, None, 0)))(sets, centres, masks)
    for vector, rows, keep in zip(got, sets, masks, strict=True):
        weights = reference.assignments(rows[keep], centres)
        assert reference.relative(vector, reference.vlad(rows[keep], centres, weights)) < 1e-5


@pytest.mark.parametrize(
    "options",
    [{"residual": True}, {"assignment": "soft", "neighbours": 0, "intra": True}],
)
def test_gradients(x, centres, options):
    with jax.enable_x64(True):
        few, c = (jnp.asarray(np.asarray(a, np.float64)) for a in (x[:8], centres))
        check_grads(jax.jit(partial(vlad, **options)), (few, c), order=1, modes=("fwd", "rev"))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.int16])
def test_narrow_inputs_compute_in_float32(x, centres, dtype):
    narrow = jnp.asarray(x * 9).astype(dtype)
    wide = np.asarray(narrow.astype(jnp.float32))
    got = encode(narrow, centres)
    assert got.dtype == jnp.float32
    weights = reference.assignments(wide, centres)
    assert reference.relative(got, reference.vlad(wide, centres, weights)) < 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"assignment": "fuzzy"}, "assignment must be"),
        ({"assignment": np.ones((2, 2))}, "assignment must have shape"),
        ({"neighbours": 9}, "neighbours must be"),
        ({"assignment": "hard", "neighbours": 0}, "neighbours must be"),
    ],
)
def test_bad_options(x, centres, options, message):
    with pytest.raises(ValueError, match=message):
        vlad(x, centres, **options)


def test_sets_of_other_shapes_are_refused(x, centres):
    with pytest.raises(ValueError, match="x must have shape"):
        vlad(x[:, :1], centres)
    with pytest.raises(ValueError, match="mask must have shape"):
        vlad(x, centres, np.ones(3))
