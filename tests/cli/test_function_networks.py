"""A function of the user's as the network, through every command."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.toy_cli import cli, ok, refused, tiny

from mpp_jax.nets import NETWORKS
from mpp_jax.storage.store import Store

PLUGIN = """
import jax
import mpp_jax as mpp
from jax import lax
from mpp_jax.nets import FunctionNet, Map


def maps(params, x):
    how = lax.conv_dimension_numbers(x.shape, params["conv"].shape, ("NHWC", "HWIO", "NHWC"))
    y = lax.conv_general_dilated(x / 255, params["conv"], (4, 4), "VALID", dimension_numbers=how)
    return {{"low": {activation}(y), "high": jax.numpy.tanh(y @ params["top"])}}


@mpp.register_network
def mine():
    like = lambda: {{"conv": jax.numpy.ones((5, 5, 3, 6)), "top": jax.numpy.ones((6, 8))}}
    mean = {{"averaged": ("high",), "averaged_stride": 8}}
    return FunctionNet("mine", 32, maps, like=like, maps=(Map("low", 4, 8), Map("high")), **mean)
"""


@pytest.fixture(autouse=True)
def _registry():
    yield
    NETWORKS.pop("mine", None)


def plugin(folder: Path, activation: str = "jax.nn.relu") -> Path:
    """Write the user's file, as in a new process."""
    NETWORKS.pop("mine", None)
    folder.mkdir(exist_ok=True)
    (folder / "my_network.py").write_text(PLUGIN.format(activation=activation))
    return folder / "my_network.py"


def test_a_function_goes_through_the_whole_chain(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights, data, out = tmp_path / "w.npz", tiny(tmp_path / "data"), tmp_path / "out"
    arrays = {"conv": rng.normal(size=(5, 5, 3, 6)), "top": rng.normal(size=(6, 8))}
    np.savez(weights, **{name: x.astype(np.float32) for name, x in arrays.items()})
    mine = ("--network", "mine", "--weights", weights)
    run = ["run", data, "--out", out, *mine, "--scales", "1-2", "--pca", "4", "--components", "2"]
    run += ["--pooling", "mpp(low),avg", "--cache", tmp_path / "cache", "--maps", "0"]
    ok(*run, "--plugin", plugin(tmp_path / "a"))
    results = json.loads((out / "metrics.json").read_text())["results"]
    assert set(results) == {"mpp(low)", "avg"}
    assert Store.open(out / "encodings").vectors("mpp(low)", "test").shape[1] == 2 * 2 * 4
    assert (out / "report.html").exists()
    ok(*run, "--plugin", plugin(tmp_path / "a"))  # all is there
    picture = data / "test" / "red" / "00.png"
    found = ok("predict", out / "model", picture, "--plugin", plugin(tmp_path / "a"), "--json")
    assert json.loads(found.stdout)[0]["error"] is None
    seen = ("confidence", out / "model", picture, "--out", tmp_path / "maps")
    ok(*seen, "--plugin", plugin(tmp_path / "a"))
    assert list((tmp_path / "maps").iterdir())
    rows = ok("geometry", "mine", "--scales", "1-2", "--json", "--plugin", plugin(tmp_path / "a"))
    assert [row["positions"] for row in json.loads(rows.stdout)] == [1, 9]
    # The function's own source is part of what makes two runs equal.
    edited = ("--plugin", plugin(tmp_path / "b", activation="jax.nn.silu"))
    assert "code.network mine was" in refused(*run, *edited)


def test_a_function_that_cannot_be_probed_is_one_line(tmp_path: Path) -> None:
    place = plugin(tmp_path / "a")
    text = place.read_text()
    place.write_text(text.replace("tanh(y", "tanh((y - y.mean((1, 2), keepdims=True))"))
    result = cli("geometry", "mine", "--plugin", place)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "my_network.py fails: ValueError: map 'high'" in line
    assert "state stride and window" in line
