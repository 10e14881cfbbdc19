"""The benchmark of a device, with the toy network: what it measures, goes on with, and tunes."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest
from helpers.toy import toy_network
from helpers.toy_run import know_toy

from mpp_jax.describe.dense import dense_descriptors
from mpp_jax.nets import Network, random_network
from mpp_jax.nets.caffenet import CAFFENET
from mpp_jax.nets.caffenet_mini import CAFFENET_MINI
from mpp_jax.nets.forms import Forms, Formulation, choose
from mpp_jax.nets.forms_table import forms_of
from mpp_jax.nets.network import plain, with_forms
from mpp_jax.nets.spec import map_size
from mpp_jax.weights.forms_file import read_forms

Bench = Callable[..., dict[str, Any]]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    """Return a function that runs the benchmark in a tiny form, and returns its file."""
    import bench_device
    import device_work

    know_toy(monkeypatch)
    tiny = device_work.Setting(
        network="toy",
        scales=(0,),
        batch=2,
        canvas=48,
        picture=(31, 40),
        batches=1,
        pca=(60, 16, 4),
        gmm=(80, 4, 2),
        svm=(24, 16, 2),
        matmul=32,
        repeats=1,
    )
    monkeypatch.setattr(bench_device, "keep_freed_memory", lambda: False)

    def run(
        *arguments: str, scales: tuple[int, ...] = (0,), out: Path = tmp_path / "out.json"
    ) -> dict[str, Any]:
        monkeypatch.setattr(device_work, "QUICK", replace(tiny, scales=scales))
        usual = ["bench_device.py", "--quick", "--seconds=1e9", f"--out={out}"]
        monkeypatch.setattr("sys.argv", [*usual, *arguments])
        bench_device.main()
        return json.loads(out.read_text()) if out.exists() else {}

    return run


def test_parts(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--part=matmul", "--part=dense", "--part=encode", "--dtype=float32"]
    record = bench(*options, scales=(0, 1))
    names = ["matmul/float32", "dense/float32/35", "dense/float32/50", "dense/float32/all"]
    names += ["encode/float32"]
    assert list(record["units"]) == names
    for name, figures in record["units"].items():
        assert figures["first"] > 0, name
        assert figures["seconds"] > 0, name
    whole = record["units"]["dense/float32/all"]
    assert whole["pictures_a_second"] == pytest.approx(2 / whole["seconds"])
    share = whole["gflop_a_picture"] * 2 / whole["seconds"] / 1e3
    peak = record["units"]["matmul/float32"]["tflops"]
    assert whole["share"] == pytest.approx(share / peak)
    assert record["made"]["device"] == jax.devices()[0].device_kind
    shown = capsys.readouterr().out
    assert "formulations of" in shown
    assert re.search(r"^dense/float32/all +\d", shown, re.MULTILINE)
    # The same command has nothing left to do; --again begins anew, as far as the time goes.
    assert bench(*options, scales=(0, 1))["units"] == record["units"]
    again = bench(*options[::3], "--again", scales=(0, 1))["units"]
    assert set(again) == set(names)
    assert again["matmul/float32"] != record["units"]["matmul/float32"]
    left = bench(*options[1::2], "--again", "--seconds=-1", scales=(0, 1))["units"]
    assert set(left) == {name for name in names if not name.startswith("dense")}
    assert "3 left, the same command goes on: dense/float32/35" in capsys.readouterr().out


@pytest.mark.slow
def test_fits(bench: Bench) -> None:
    units = bench("--part=fits")["units"]
    assert list(units) == ["fits/pca", "fits/gmm", "fits/svm"]
    assert units["fits/svm"]["largest_relative_gap"] <= 1e-3
    assert units["fits/pca"]["explained_variance"] > 0
    assert units["fits/gmm"]["iterations"] > 0


def test_what_it_refuses(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench("--part=dens")
    assert "--part must be one of matmul, dense" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"--part must be one of conv1, fire2\.squeeze"):
        bench("--tune", "--part=conv9")
    (tmp_path / "other.json").write_text('{"setting": {}, "units": {}}')
    with pytest.raises(SystemExit, match=r"other\.json is of other settings; give another --out"):
        bench("--part=matmul", out=tmp_path / "other.json")


def test_what_fails_is_named_and_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import device_work

    def refuse(*_: Any) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: too much\nof it")

    options = ("--part=matmul", "--dtype=float32", "--dtype=bfloat16")
    with monkeypatch.context() as broken:
        broken.setattr(device_work, "first_and_steady", refuse)
        with pytest.raises(SystemExit, match="not measured: matmul/float32, matmul/bfloat16"):
            bench(*options)
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["units"]["matmul/float32"] == {"error": "RESOURCE_EXHAUSTED: too much"}
    assert bench(*options)["units"]["matmul/float32"]["seconds"] > 0


@pytest.mark.slow
def test_a_profile(bench: Bench, tmp_path: Path) -> None:
    assert bench(f"--profile={tmp_path / 'trace'}") == {}
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))
    assert "HloModule" in (tmp_path / "trace" / "program_35.txt").read_text()


@pytest.mark.torch
@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-5), ("bfloat16", 0.02)])
def test_torch_computes_the_same(dtype: str, error: float) -> None:
    import torch
    from bench_dense import torch_forward

    network = random_network(jax.random.key(0), CAFFENET_MINI)
    x = np.random.default_rng(0).uniform(0, 255, (2, 227, 227, 3)).astype(np.float32)
    wanted = np.asarray(jax.jit(Network.descriptors)(plain(network), x)).transpose(0, 3, 1, 2)
    pixels = torch.from_numpy(np.array(network.preprocess(x).transpose(0, 3, 1, 2)))
    forward = torch_forward(network, "fc7", lambda t: t.to(getattr(torch, dtype)))
    ours = forward(pixels.to(getattr(torch, dtype))).float().numpy()
    assert np.linalg.norm(ours - wanted) < error * np.linalg.norm(wanted)
    with pytest.raises(ValueError, match="'fire2' is none that torch is compared by"):
        torch_forward(toy_network(), "fire2")


# ------------------------------------------------------------------------------ tuning


def test_a_tuned_table(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of stand-in times, in which what is tried later is faster; every candidate is traced."""
    import device_tune

    tried: list[Any] = []

    def timed(setting: Any, run: Callable[[], Any], count: int) -> float:
        tried.append(jax.eval_shape(run))
        return 1 / len(tried)

    monkeypatch.setattr(device_tune, "timed", timed)
    options = ("--tune", "--dtype=bfloat16")
    first = bench(*options, "--part=conv1", "--part=resize")
    record = bench(*options)
    assert list(first["units"]) == ["bfloat16/35/conv1", "bfloat16/35/resize"]
    layers = ["conv1", "fire2.squeeze1x1", "fire2.expand1x1", "fire2.expand3x3", "pool1"]
    assert {name.removeprefix("bfloat16/35/") for name in record["units"]} == {
        *layers,
        *("resize", "batch", "whole"),
    }
    assert first["units"].items() <= record["units"].items()
    tables = read_forms(tmp_path / "out.json")
    forms = tables[jax.devices()[0].device_kind]["bfloat16"]
    assert (forms.pool, forms.batch, forms.taps) == ("window", "whole", 3)
    assert "pool measured (window" in forms.note
    deep = choose(forms, (5, 5, 3, 8), (2, 2), 16**2)
    assert deep == Formulation("rows", barrier=True)
    assert choose(forms, (3, 3, 6, 8), (1, 1), 8**2) == Formulation("rows", barrier=True)
    assert choose(forms, (3, 3, 7, 8), (1, 1), 8**2) == Formulation("direct")  # as the package's
    # The table is one that networks can be computed by, to the same numbers.
    network = toy_network()
    picture = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), np.uint8)
    for ours, theirs in zip(
        *(dense_descriptors(with_forms(network, f), picture, scales=[0]) for f in (forms, None)),
        strict=True,
    ):
        np.testing.assert_allclose(ours.x, theirs.x, rtol=1e-4, atol=1e-4)


@pytest.fixture
def tune() -> ModuleType:
    import device_tune

    return device_tune


def test_lines_hold_halfway_to_the_next_scale(tune: ModuleType) -> None:
    import device_work

    setting = device_work.Setting()
    conv3 = next(made for name, _, made in tune.layers_of(setting) if name == "conv3")
    slow, fast = {"direct": 1.0, "im2col": 2.0}, {"direct": 2.0, "im2col": 1.0}
    near = {"direct": 1.02, "im2col": 1.0, "rows": None}  # within 3%: as the package has it
    rows = tune.convolution_rows(setting, Forms(), conv3, {0: fast, 1: slow, 2: near, 6: fast})
    sizes = [map_size(CAFFENET, setting.side(k), "conv3") for k in (0, 1, 2, 6)]
    ends = [sizes[0] * sizes[1], sizes[2] * sizes[3]]
    assert [(str(row.formulation), row.positions) for row in rows] == [
        ("im2col", (1, ends[0])),
        ("direct", (ends[0] + 1, ends[1])),
        ("im2col", (ends[1] + 1, None)),
    ]
    assert "im2col 1 ms, direct 2 ms" in rows[0].note
    forms = Forms(tuple(rows))
    chosen = [str(choose(forms, (3, 3, 256, 384), (1, 1), size**2)) for size in sizes]
    assert chosen == ["im2col", "direct", "direct", "im2col"]


def test_barriers_the_other_way(tune: ModuleType) -> None:
    fast, plain_table = (
        tune.other_barriers(forms_of(*device))
        for device in (("gpu", "NVIDIA H200", "bfloat16"), ("cpu", "cpu", "float32"))
    )
    shapes = {(11, 3, 4, 1): "space_to_depth", (3, 256, 1, 1): "direct", (5, 48, 1, 2): "split"}
    for (kernel, inputs, stride, groups), name in shapes.items():
        shape, strides = (kernel, kernel, inputs, 384), (stride, stride)
        assert str(choose(fast, shape, strides, 900, groups)) == name
    assert str(choose(fast, (6, 6, 256, 4096), (1, 1), 900)) == "im2col"
    assert str(choose(plain_table, (11, 11, 3, 96), (4, 4), 900)) == "direct+barrier"


def test_choices_of_times(tune: ModuleType) -> None:
    times = {"a": 2.0, "b": 1.0, "c": None}
    assert (tune.fastest(times), tune.fastest({"c": None}), tune.fastest({})) == ("b", None, None)
    assert tune.kept(times, "a") == "b"
    assert tune.kept(times | {"a": 1.02}, "a") == "a"
    assert tune.kept(times, "c") == "b"
    assert tune.totals([times, {"a": 1.0, "b": None, "c": 3.0}]) == {"a": 3.0, "b": None, "c": None}
    gains = [(2, 1.0), (9, 3.0), (4, 1.5)]
    figures = [{"products": 2.0, "taps": taps, "count": count} for count, taps in gains]
    assert tune.most_taps(figures) == 4
    assert tune.most_taps(figures[1:2]) == 0
