"""The tables of formulations: what they choose, for which device, and that networks follow them."""

import dataclasses
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mpp_jax.describe.dense import describe_pictures
from mpp_jax.nets import random_network
from mpp_jax.nets.caffenet import CAFFENET
from mpp_jax.nets.forms import (
    DIRECT,
    MODES,
    SPLIT,
    Forms,
    Formulation,
    Row,
    candidates,
    choose,
    mode_of,
)
from mpp_jax.nets.forms_table import OTHER, TABLES, device_forms, forms_of, nearest_kind
from mpp_jax.nets.layers import lrn, max_pool
from mpp_jax.nets.network import Network, with_forms
from mpp_jax.nets.spec import LRN, Conv, NetSpec, Pool, Preprocessing, convolutions, kernel_shape

SMALL = NetSpec(
    name="small",
    side=43,
    layers=(
        Conv("conv1", 6, 7, stride=3),
        Pool("pool1", 3, 2),
        LRN("norm1"),
        Conv("conv2", 8, 5, pad=2, groups=2),
        Conv("fc6", 10, 6, dense=True),
        Conv("fc7", 9, 1, dense=True),
    ),
    default_layer="fc7",
    descriptor_layers=("fc6", "fc7"),
    preprocessing=(("native", Preprocessing("RGB", (120.0, 120.0, 120.0))),),
)


def of_caffenet(forms: Forms, positions: int = 2500) -> dict[str, str]:
    """Return the choice of every layer of CaffeNet."""
    return {
        layer.name: str(
            choose(
                forms,
                kernel_shape(layer, channels),
                (layer.stride, layer.stride),
                positions,
                layer.groups,
            )
        )
        for _, layer, channels in convolutions(CAFFENET)
    }


def rule_of_the_cpu(
    kernel: int, stride: int, inputs: int, positions: int, groups: int
) -> Formulation:
    """Return what was measured on a CPU, in other words than the table's."""
    if stride == 1 and kernel == 1:
        return Formulation("matmul")
    if stride == 1 and 6 <= kernel <= 10:
        return Formulation("winograd", 3) if positions > 9 else Formulation("im2col")
    if stride == 1 and inputs >= (96 if kernel <= 3 else 32) and kernel < 6:
        return Formulation("winograd", 3)
    return SPLIT if groups > 1 else DIRECT


@pytest.mark.parametrize("mode", ["float32", "tf32"])
def test_the_cpu_chooses_as_it_was_measured(mode):
    table = forms_of("cpu", "cpu", mode)
    every = itertools.product(range(1, 11), (1, 2, 4), (3, 31, 32, 95, 96), (1, 9, 10), (1, 2))
    for kernel, stride, inputs, positions, groups in every:
        got = choose(table, (kernel, kernel, inputs, 8), (stride, stride), positions, groups)
        assert got == rule_of_the_cpu(kernel, stride, inputs, positions, groups)
    assert choose(table, (6, 5, 64, 8), (1, 1), 4) == DIRECT  # the lines are for square kernels
    assert (table.pool, table.lrn, table.taps, table.batch) == ("axes", "band", 0, "map")
    for dtype in (mode, "bfloat16"):
        assert str(choose(forms_of("cpu", "cpu", dtype), (3, 3, 1, 64), (2, 2), 9, 64)) == "shifts"
    assert choose(forms_of("cpu", "cpu", "bfloat16"), (1, 1, 64, 64), (1, 1), 9) == DIRECT


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_layers_are_never_taken_apart(stride):
    """Hundreds of groups would be hundreds of convolutions."""
    layer = ((5, 5, 1, 672), (stride, stride))
    for platform, kind in (("cpu", "cpu"), ("gpu", "NVIDIA H200"), ("tpu", "TPU")):
        for mode in MODES:
            found = choose(forms_of(platform, kind, mode), *layer, 784, 672)
            kinds = {"cpu": "shifts", "gpu": "fused_shifts", "tpu": "direct"}
            assert found.kind == kinds[platform]
    names = [str(f) for f in candidates(*layer, 672)]
    assert names == ["direct", "shifts", "fused_shifts"]


def test_choices_of_a_gpu():
    fast = of_caffenet(forms_of("gpu", "NVIDIA H200", "bfloat16"))
    assert fast == {
        "conv1": "space_to_depth+barrier",
        "conv2": "split+barrier",
        "conv3": "direct+barrier",
        "conv4": "split+barrier",
        "conv5": "split+barrier",
        "fc6": "im2col",
        "fc7": "matmul",
        "fc8": "matmul",
    }
    tf32 = of_caffenet(forms_of("gpu", "NVIDIA H200", "tf32"))
    assert tf32 == {name: form.removesuffix("+barrier") for name, form in fast.items()}
    exact = of_caffenet(forms_of("gpu", "NVIDIA H200", "float32"), positions=1)
    assert exact == tf32 | {"conv1": "direct"}
    many = choose(forms_of("gpu", "NVIDIA H200", "tf32"), (3, 3, 2, 128), (1, 1), 99, 64)
    assert many == DIRECT  # a convolution for each of 64 groups would not do


def test_every_line_says_where_it_comes_from():
    for platform, kinds in TABLES.items():
        for kind, modes in kinds.items():
            assert set(modes) == set(MODES)
            for mode, forms in modes.items():
                notes = [forms.note, *(row.note for row in forms.convolutions)]
                if platform == "tpu" or (platform == "gpu" and mode != "bfloat16"):
                    assert all(note.startswith("reasoned: ") for note in notes), (kind, mode)
                assert all(notes), (kind, mode)


@pytest.mark.parametrize(
    ("platform", "kind", "known"),
    [
        ("cpu", "cpu", "cpu"),
        ("gpu", "NVIDIA H200", "NVIDIA H200"),
        ("gpu", "NVIDIA H100 80GB HBM3", "NVIDIA H100"),
        ("gpu", "NVIDIA A100-SXM4-40GB", "NVIDIA H200"),
        ("gpu", "AMD Instinct MI300X", "NVIDIA H200"),
        ("tpu", "TPU v5 lite", "TPU"),
        ("quantum", "Q1", None),
    ],
)
def test_unknown_kinds_take_the_nearest(platform, kind, known):
    assert nearest_kind(platform, kind) == known
    forms = forms_of(platform, kind, "tf32")
    assert forms == (OTHER if known is None else TABLES[platform][known]["tf32"])


def test_modes():
    assert (
        mode_of(jnp.float32, "highest") == mode_of(np.float32, lax.Precision.HIGHEST) == "float32"
    )
    assert mode_of(jnp.float32, "default") == mode_of(jnp.float32, None) == "tf32"
    assert mode_of(jnp.bfloat16, "highest") == mode_of(jnp.float16, "default") == "bfloat16"
    assert device_forms(jnp.float32, "highest") == forms_of(
        jax.devices()[0].platform, jax.devices()[0].device_kind, "float32"
    )


def test_the_first_line_that_fits_wins():
    forms = Forms(
        (
            Row(Formulation("rows"), kernel=(3, 5), positions=(10, None), outputs=(8, 8)),
            Row(Formulation("matmul"), inputs=(4, 4)),  # for 1x1 kernels alone, whatever it says
            Row(Formulation("im2col"), inputs=(4, 4), groups=(1, 1)),
        )
    )
    assert choose(forms, (3, 3, 4, 8), (1, 1), 10) == Formulation("rows")
    assert choose(forms, (3, 3, 4, 9), (1, 1), 10) == Formulation("im2col")
    assert choose(forms, (3, 3, 4, 8), (1, 1), 9) == Formulation("im2col")
    assert choose(forms, (1, 1, 4, 8), (1, 1), 9) == Formulation("matmul")
    assert choose(forms, (3, 3, 4, 8), (1, 1), 9, groups=2) == DIRECT
    assert choose(forms, (3, 3, 5, 8), (1, 1), 9) == DIRECT


# ------------------------------------------------------------------------------ other layers


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("mode", ["floor", "ceil"])
def test_both_forms_of_max_pooling(mode, dtype):
    forms = ("axes", "window")
    for window, stride, n in [(3, 2, 7), (3, 2, 8), (2, 2, 7), (2, 3, 8), (1, 2, 8)]:
        x = jnp.asarray(-np.random.default_rng(n).uniform(1, 2, (2, n, n + 3, 2)), dtype)
        a, b = (
            max_pool(x, Pool("pool", window, stride), mode, form) for form in ("axes", "window")
        )
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype == dtype
    for form in forms:
        with pytest.raises(ValueError, match="2 positions are fewer than pooling 'pool' needs"):
            max_pool(jnp.zeros((1, 5, 2, 1)), Pool("pool", 3, 2), "floor", form)


@pytest.mark.parametrize("layer", [LRN("n"), LRN("n", 3, 0.02, 0.6, 1.5), LRN("n", 4, 0.01)])
def test_both_forms_of_normalisation(layer):
    for channels in (2, 11):
        x = np.random.default_rng(1).normal(0, 60, (2, 3, 4, channels)).astype(np.float32)
        a, b = (jax.jit(lrn, static_argnums=(1, 2))(x, layer, f) for f in ("band", "shifts"))
        np.testing.assert_allclose(a, b, rtol=1e-6)
        half = jnp.asarray(x, jnp.bfloat16)
        a, b = (lrn(half, layer, form) for form in ("band", "shifts"))
        assert a.dtype == b.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(np.float32), b.astype(np.float32), rtol=0.01)


# ------------------------------------------------------------------------------ whole networks

# Each of different choices once: the H100 has the H200's, and the modes of a TPU are one.
EVERYWHERE = [
    (platform, kind, mode)
    for platform, kinds in TABLES.items()
    for kind, modes in kinds.items()
    for mode in modes
    if kind != "NVIDIA H100" and (platform == "gpu" or mode == "float32")
]


@pytest.fixture(scope="module")
def network() -> Network:
    return random_network(jax.random.key(0), SMALL)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 61, 47, 3), np.uint8)


@pytest.fixture(scope="module")
def wanted(network: Network, pictures: np.ndarray) -> np.ndarray:
    plain = with_forms(network, Forms())
    return np.asarray(jax.jit(Network.descriptors)(plain, pictures))


@pytest.mark.parametrize(("platform", "kind", "mode"), EVERYWHERE)
def test_networks_by_every_table_give_the_same(platform, kind, mode, network, pictures, wanted):
    ours = with_forms(network, forms_of(platform, kind, mode))
    assert ("prepared" in ours.params["fc6"]) == (platform == "cpu")
    got = np.asarray(jax.jit(Network.descriptors)(ours, pictures))
    assert np.linalg.norm(got - wanted) < 1e-5 * np.linalg.norm(wanted)


def test_networks_in_bfloat16_by_the_table_of_a_gpu(network, pictures, wanted):
    params = jax.tree.map(lambda v: v.astype(jnp.bfloat16), with_forms(network, Forms()).params)
    half = dataclasses.replace(network, params=params)
    forms = forms_of("gpu", "NVIDIA H200", "bfloat16")
    run = jax.jit(Network.descriptors)
    plain, ours = (run(with_forms(half, f), pictures) for f in (Forms(), forms))
    assert plain.dtype == ours.dtype == jnp.bfloat16
    for got in (plain, ours):
        error = np.linalg.norm(np.asarray(got, np.float32) - wanted) / np.linalg.norm(wanted)
        assert error < 0.02


def test_a_barrier_changes_nothing_but_the_program(network, pictures):
    plain, barred = (
        with_forms(network, Forms((Row(DIRECT._replace(barrier=barrier)),)))
        for barrier in (False, True)
    )
    run = jax.jit(Network.descriptors)
    np.testing.assert_allclose(run(barred, pictures), run(plain, pictures), rtol=1e-5, atol=1e-6)
    texts = [run.lower(net, pictures).as_text() for net in (plain, barred)]
    assert [text.count("optimization_barrier") for text in texts] == [0, 4]
    x = jnp.asarray(pictures, jnp.float32)
    gradients = [
        jax.jit(jax.grad(lambda v, n=net: n.descriptors(v).sum()))(x) for net in (plain, barred)
    ]
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-6)
    assert np.abs(gradients[0]).max() > 0


@pytest.mark.parametrize(
    ("platform", "kind", "target"), [("gpu", "NVIDIA H200", "cuda"), ("tpu", "TPU", "tpu")]
)
@pytest.mark.parametrize("mode", MODES)
def test_programs_are_lowered_for_accelerators(platform, kind, target, mode, network, pictures):
    """As far as it goes without one: the program is made for it, though not compiled."""
    forms = forms_of(platform, kind, mode)
    dtype = jnp.bfloat16 if mode == "bfloat16" else jnp.float32
    params = jax.tree.map(lambda v: v.astype(dtype), with_forms(network, Forms()).params)
    precision = "default" if mode == "tf32" else "highest"
    ours = dataclasses.replace(network, params=params, precision=precision, forms=forms)
    program = jax.export.export(describe_pictures, platforms=[target])(ours, pictures, ("fc7",))
    text = program.mlir_module()
    assert program.platforms == (target,)
    assert program.out_avals[0].shape == (2, 4, 9)
    assert "stablehlo.while" not in text  # a batch at once
    barriers = any(row.formulation.barrier for row in forms.convolutions)
    convolutions = len(re.findall(r"= stablehlo\.convolution\(", text))
    assert convolutions >= 3  # each has its own: what puts groups together comes after
    assert text.count("stablehlo.optimization_barrier") == (convolutions if barriers else 0)
    products = re.findall(r"stablehlo\.(?:convolution|dot_general)[^\n]*", text)
    highest = sum("HIGHEST" in line for line in products)
    of_lrn = forms.lrn == "band" and mode != "bfloat16"  # in float32 whatever is asked for
    assert len(products) >= 4
    assert highest == (len(products) if mode == "float32" else int(of_lrn))


def test_the_table_is_part_of_the_program(network, pictures):
    """Another table compiles another program; the same one does not."""
    traces = []

    @jax.jit
    def run(net, x):
        traces.append(net.how)
        return net.descriptors(x)

    for forms in (
        Forms(),
        Forms(lrn="shifts"),
        Forms(),
        dataclasses.replace(Forms(), lrn="shifts"),
    ):
        run(with_forms(network, forms), pictures)
    assert traces == [Forms(), Forms(lrn="shifts")]
