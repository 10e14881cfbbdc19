"""The cost of number formats, with the toy network; TF32 as it is emulated."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import toy
from helpers.toy_run import know_toy

from mpp_jax.data import Dataset, Item
from mpp_jax.metrics import mean_average_precision
from mpp_jax.nets import layers
from mpp_jax.nets.forms import DIRECT


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    know_toy(monkeypatch)


def test_every_format_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dtype_cost

    data = toy.write_folder(tmp_path / "data", train=2, test=1, largest=40)
    weights, out = toy.write_weights(tmp_path / "toy.safetensors"), tmp_path / "out.json"
    options = {"data": data, "network": "toy", "weights": weights, "pca": 4, "components": 2}
    options |= {"scales": 1, "out": out}
    words = [f"--{name}={value}" for name, value in options.items()]
    monkeypatch.setattr("sys.argv", ["dtype_cost.py", *words])
    usual = layers.conv2d
    dtype_cost.main()
    assert layers.conv2d is usual
    record = json.loads(out.read_text())
    assert record["emulated"] == ["tf32", "bfloat16"]
    assert record["figure"] == "top1"
    assert list(record["seconds"]) == ["float32", "tf32", "bfloat16"]
    rows: dict[tuple[str, ...], dict[str, Any]] = {
        (row["dtype"], row["codebook"], row["method"]): row for row in record["results"]
    }
    ways = [("shared", "mpp"), ("shared", "avg"), ("crossed", "mpp"), ("crossed", "avg")]
    each = {(dtype, *way) for dtype in ("tf32", "bfloat16") for way in (*ways, ("own", "mpp"))}
    assert set(rows) == each | {("float32", "shared", "mpp"), ("float32", "shared", "avg")}
    for key in each:
        assert rows[key]["low"] <= rows[key]["difference"] <= rows[key]["high"]
        assert ("cosine" in rows[key]) == (key[1] != "crossed")
    for method in ("mpp", "avg"):
        near, far = (rows[d, "shared", method]["cosine"] for d in ("tf32", "bfloat16"))
        assert 1 + 1e-6 > near["mean"] > far["mean"] > 0.9  # tf32 is nearer to float32
        assert near["smallest"] <= near["hundredth"] <= 1 + 1e-6
    assert rows["tf32", "shared", "mpp"]["cosine"]["smallest"] < 1 - 1e-6  # and is not float32


def test_products_round_their_inputs_to_tf32() -> None:
    import dtype_cost

    # 1 + 2^-10 is of TF32; half of the next step rounds to even, more than half rounds up.
    x = np.array([1 + 2**-10, 1 + 2**-11, 1 + 2**-11 + 2**-20, 2**-100], np.float32)
    want = np.array([1 + 2**-10, 1, 1 + 2**-10, 2**-100], np.float32)
    one = jnp.ones((1, 1, 1, 1))
    how = {"strides": (1, 1), "padding": ((0, 0), (0, 0)), "groups": 1}
    usual = layers.conv2d
    with dtype_cost.emulated(["tf32"]):
        for pictures, kernel in ((x, one), (np.ones(4, np.float32), None)):
            maps = jnp.asarray(pictures)[:, None, None, None]
            if kernel is None:  # the same numbers as kernels
                outputs = layers.conv2d(
                    maps[:1], jnp.asarray(x)[None, None, None, :], precision="default", **how
                ).ravel()
            else:
                outputs = layers.conv2d(maps, kernel, precision="default", **how).ravel()
            np.testing.assert_array_equal(outputs, want)
        exact = layers.conv2d(jnp.asarray(x)[:, None, None, None], one, precision="highest", **how)
    np.testing.assert_array_equal(exact.ravel(), x)
    assert layers.conv2d is usual


def test_bfloat16_by_float32_is_what_xla_makes_of_it() -> None:
    """Products of bfloat16 are exact in float32; what is added and rounded is the same."""
    import dtype_cost

    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.bfloat16)  # noqa: E731
    how = {"strides": (1, 1), "padding": ((1, 1), (1, 1)), "precision": "default"}
    how |= {"formulation": DIRECT, "prepared": None}
    for channels, groups in ((8, 1), (8, 2), (64, 1)):
        x, kernel = draw(2, 9, 9, channels), draw(3, 3, channels // groups, 6)
        want = layers.conv2d(x, kernel, groups=groups, **how)
        with dtype_cost.emulated(["bfloat16"]):
            got = layers.conv2d(x, kernel, groups=groups, **how)
            single = layers.conv2d(
                x.astype("float32"), kernel.astype("float32"), **how | {"groups": groups}
            )
        assert got.dtype == jnp.bfloat16
        exact = np.asarray(single, np.float64)
        # A unit in the last place of 8 bits; what XLA adds may round on the way.
        ulp = 2.0 ** (np.floor(np.log2(np.abs(exact))) - 7)
        assert np.all(np.abs(np.asarray(got, np.float64) - exact) <= 0.5001 * ulp)
        np.testing.assert_allclose(
            np.asarray(want, np.float32), np.asarray(got, np.float32), rtol=2**-7, atol=0.1
        )


def test_some_classes_of_many() -> None:
    import dtype_cost

    labels = [((0,), ()), ((1, 2), ()), ((2,), (1,)), ((0, 2), ()), ((2, 3), (0,)), ((), (2,))]
    items = tuple(
        Item(f"{split}{i}", shown, split, ignored=unclear)
        for split in ("train", "test")
        for i, (shown, unclear) in enumerate(labels)
    )
    whole = Dataset("several", ("ant", "bus", "cat", "dog"), items, multi_label=True)
    data = dtype_cost.narrowed(whole, ("bus", "cat"), None)
    assert data.classes == ("bus", "cat")
    for split in ("train", "test"):
        names = [f"{split}{i}" for i in (1, 2, 3, 4)]  # the others show neither
        assert [item.id for item in data.split(split)] == names
        want = [[1, 1], [0, 1], [-1, 1], [-1, 1]]
        np.testing.assert_array_equal(data.targets(split), want)
    fewer = dtype_cost.narrowed(whole, ("bus", "cat"), 1)
    assert 1 <= len(fewer.split("test")) <= 2
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(2, 4, 2))
    found = dtype_cost.lab.paired_bootstrap(one, other, data)
    figures = [mean_average_precision(s, data.targets("test")) for s in (one, other)]
    assert found["difference"] == pytest.approx(figures[0] - figures[1])
    assert found["low"] <= found["difference"] <= found["high"]
    assert dtype_cost.lab.paired_bootstrap(one, one, data) == {"difference": 0, "low": 0, "high": 0}
