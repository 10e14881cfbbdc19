"""Every formulation of a convolution against a float64 sum over taps, and XLA's own."""

import itertools
from collections.abc import Iterator
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from mpp_jax.nets.conv import conv2d, output_positions, prepare_kernel
from mpp_jax.nets.forms import DIRECT, SPLIT, Formulation, Mode, candidates, choose
from mpp_jax.nets.forms_table import TABLES
from mpp_jax.nets.winograd import filtering_matrices, transform_kernel, winograd_apply

NONE = ((0, 0), (0, 0))


def arrays(x_shape: tuple[int, ...], k_shape: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in (x_shape, k_shape)]


def reference(
    x: np.ndarray,
    kernel: np.ndarray,
    strides: tuple[int, int] = (1, 1),
    padding: Any = NONE,
    groups: int = 1,
) -> np.ndarray:
    """Compute the definition: a sum over taps, group by group, in float64."""
    x = np.pad(x.astype(np.float64), ((0, 0), *padding, (0, 0)))
    kh, kw, inner, outer = kernel.shape
    rows, columns = (
        (size - k) // step + 1
        for size, k, step in zip(x.shape[1:3], (kh, kw), strides, strict=True)
    )
    y = np.zeros((x.shape[0], rows, columns, outer))
    for g in range(groups):
        source = x[..., g * inner : (g + 1) * inner]
        target = np.s_[g * outer // groups : (g + 1) * outer // groups]
        for u in range(kh):
            for v in range(kw):
                part = source[:, u:, v:][:, :: strides[0], :: strides[1]][:, :rows, :columns]
                y[..., target] += part @ kernel[u, v, :, target].astype(np.float64)
    return y


def run(x: np.ndarray, kernel: np.ndarray, **options: Any) -> np.ndarray:
    program = jax.jit(lambda a, b: conv2d(a, b, precision="highest", **options))
    return np.asarray(program(x, kernel))


def assert_close(ours: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-5) -> None:
    assert ours.shape == wanted.shape
    assert np.abs(ours - wanted).max() <= tolerance * max(np.abs(wanted).max(), 1)


# As networks have them, small: kernel, stride, padding, groups.
LAYERS: list[tuple] = [
    ((1, 1, 6, 5), 1, NONE, 1),
    ((3, 3, 4, 5), 1, ((1, 1), (1, 1)), 1),
    ((3, 3, 2, 6), 1, ((1, 1), (1, 1)), 2),
    ((6, 6, 3, 4), 1, NONE, 1),
    ((5, 5, 2, 4), 1, ((2, 2), (2, 2)), 2),
    ((7, 7, 3, 4), 2, NONE, 1),
    ((9, 9, 3, 4), 4, ((2, 1), (0, 3)), 1),
    ((3, 5, 2, 3), 2, ((0, 1), (2, 0)), 1),
    ((3, 3, 2, 4), 2, ((1, 1), (1, 1)), 2),
    ((2, 2, 3, 4), 3, NONE, 1),  # gaps between the windows
    ((3, 3, 1, 6), 1, ((1, 1), (1, 1)), 6),  # depthwise
    ((5, 5, 1, 4), 2, ((1, 2), (1, 2)), 4),
    ((3, 3, 1, 8), 2, ((0, 1), (0, 1)), 4),  # two outputs a channel
]


def all_formulations(mode: Mode) -> Iterator[tuple]:
    """Yield kernel, stride, padding, groups, formulation."""
    for shape, stride, padding, groups in LAYERS:
        for formulation in candidates(shape, (stride, stride), groups, mode):
            # Large tiles take long to compile; their matrices are tested by themselves below.
            if formulation.tile <= 3:
                yield shape, stride, padding, groups, formulation


@pytest.mark.parametrize(
    ("shape", "stride", "padding", "groups", "formulation"),
    list(all_formulations("float32")),
    ids=str,
)
def test_every_candidate_equals_the_definition(
    shape: tuple, stride: int, padding: Any, groups: int, formulation: Formulation
) -> None:
    x, kernel = arrays((2, 17, 14, shape[2] * groups), shape)
    options: dict[str, Any] = {
        "strides": (stride, stride),
        "padding": padding,
        "groups": groups,
        "formulation": formulation,
    }
    wanted = reference(x, kernel, (stride, stride), padding, groups)
    ours = run(x, kernel, **options)
    assert_close(ours, wanted, 2e-5)
    prepared = prepare_kernel(jnp.asarray(kernel), formulation)
    assert (prepared is not None) == (formulation.kind == "winograd")
    if prepared is not None:
        assert_close(run(x, kernel, **options, prepared=prepared), wanted, 2e-5)
    rows = output_positions(x.shape, kernel.shape, (stride, stride), padding)
    assert rows == wanted.shape[1] * wanted.shape[2]


@pytest.mark.parametrize(
    ("shape", "stride", "padding", "groups"),
    [
        ((1, 1, 6, 5), 1, NONE, 1),
        ((3, 5, 2, 4), 2, ((1, 0), (0, 2)), 2),
        ((5, 5, 2, 4), 1, ((2, 2), (2, 2)), 2),
    ],
    ids=str,
)
def test_every_candidate_in_bfloat16(shape: tuple, stride: int, padding: Any, groups: int) -> None:
    """All of a layer's together: sums in float32, one rounding at the end."""
    x, kernel = (
        jnp.asarray(a, jnp.bfloat16) for a in arrays((1, 15, 13, shape[2] * groups), shape)
    )
    strides = (stride, stride)
    wanted = reference(np.asarray(x), np.asarray(kernel), strides, padding, groups)
    tried = candidates(shape, strides, groups, "bfloat16")
    assert not any(formulation.kind == "winograd" for formulation in tried)
    options: dict[str, Any] = {"strides": strides, "padding": padding, "groups": groups}
    program = jax.jit(lambda a, b: [conv2d(a, b, **options, formulation=f) for f in tried])
    for formulation, ours in zip(tried, program(x, kernel), strict=True):
        assert ours.dtype == jnp.bfloat16, formulation
        error = np.abs(np.asarray(ours, np.float64) - wanted)
        # Half a unit in the last of eight bits, and what float32 sums leave near zero.
        assert (error <= 2**-8 * np.abs(wanted) + 1e-4 * np.abs(wanted).max()).all(), formulation


@hypothesis.settings(max_examples=14, deadline=None, derandomize=True)
@hypothesis.given(st.data())
def test_any_shape(data: st.DataObject) -> None:
    """Kernels need not be square, pictures need not fit tiles or strides."""
    kh, kw = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7))
    sh, sw = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    padding = tuple((data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))) for _ in range(2))
    height, width = kh + data.draw(st.integers(0, 9)), kw + data.draw(st.integers(0, 9))
    c_in, c_out = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    x, kernel = arrays((data.draw(st.integers(1, 2)), height, width, c_in), (kh, kw, c_in, c_out))
    kinds = [Formulation("im2col"), Formulation("rows")]
    if (sh, sw) != (1, 1):
        kinds.append(Formulation("space_to_depth"))
    elif kh == kw and kh > 1:
        kinds.append(Formulation("winograd", data.draw(st.integers(1, 3))))
    formulation = data.draw(st.sampled_from(kinds))
    wanted = reference(x, kernel, (sh, sw), padding)
    ours = run(x, kernel, strides=(sh, sw), padding=padding, formulation=formulation)
    assert_close(ours, wanted, 1e-4)


def test_the_first_layer_of_caffenet_from_space_to_depth() -> None:
    """Only the 363 weights that there are count among 3 x 3 x 48; the last rows are not read."""
    x, kernel = arrays((2, 46, 45, 3), (11, 11, 3, 4))
    ours = run(x, kernel, strides=(4, 4), formulation=Formulation("space_to_depth"))
    assert ours.shape == (2, 9, 9, 4)
    assert_close(ours, reference(x, kernel, (4, 4)))


@pytest.mark.parametrize("groups", [1, 2])
def test_the_choice_is_one_of_the_candidates(groups: int) -> None:
    layers = [
        ((1, 1, 64, 16), 1),
        ((3, 3, 48, 192), 1),
        ((7, 7, 3, 96), 2),
        ((11, 11, 3, 96), 4),
        ((6, 6, 256, 4096), 1),
        ((5, 5, 48, 256), 1),
    ]
    for (platform, kinds), positions in itertools.product(TABLES.items(), (1, 9, 2500)):
        for ((kh, kw, c_in, c_out), stride), (mode, table) in itertools.product(
            layers, itertools.chain.from_iterable(modes.items() for modes in kinds.values())
        ):
            shape, strides = (kh, kw, c_in, c_out), (stride, stride)
            chosen = choose(table, shape, strides, positions, groups)
            # The products of a CPU are float32's whatever precision is asked for.
            computed: Mode = "float32" if (platform, mode) == ("cpu", "tf32") else mode
            possible = candidates(shape, strides, groups, computed)
            assert chosen._replace(barrier=False) in possible
    x, kernel = arrays((1, 9, 9, 2 * groups), (6, 6, 2, 4))
    chosen_here = run(x, kernel, groups=groups)
    assert_close(chosen_here, reference(x, kernel, groups=groups))


@pytest.mark.parametrize(("m", "r"), [(1, 1), (2, 3), (4, 3), (3, 6), (5, 6), (1, 7), (6, 5)])
def test_filtering_matrices_are_the_identity_they_claim(m: int, r: int) -> None:
    """A^T [(G g) * (B^T d)] is the correlation of d with g, exactly, in float64."""
    a_t, g, b_t = filtering_matrices(m, r)
    n = m + r - 1
    assert (a_t.shape, g.shape, b_t.shape) == ((m, n), (n, r), (n, n))
    rng = np.random.default_rng(0)
    taps, tile = rng.normal(size=r), rng.normal(size=n)
    wanted = [tile[i : i + r] @ taps for i in range(m)]
    np.testing.assert_allclose(a_t @ ((g @ taps) * (b_t @ tile)), wanted, atol=1e-9)


def test_winograd_refuses_inaccurate_tiles() -> None:
    with pytest.raises(ValueError, match=r"F\(8, 6\) needs 12 interpolation points.*smaller tile"):
        filtering_matrices(8, 6)


def test_winograd_of_a_plain_kernel() -> None:
    x, kernel = arrays((2, 10, 8, 3), (6, 6, 3, 4))
    transformed = jax.jit(transform_kernel, static_argnums=1)(kernel, 3)
    whole = jax.jit(winograd_apply, static_argnums=(2, 3, 4))(x, transformed, 6, 3, "highest")
    assert_close(np.asarray(whole), reference(x, kernel), 2e-5)
    assert (str(Formulation("winograd", 3)), str(DIRECT)) == ("winograd-3", "direct")
    assert str(SPLIT._replace(barrier=True)) == "split+barrier"
