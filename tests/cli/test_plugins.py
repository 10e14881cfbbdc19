"""Users' code belongs to what makes two runs equal, and is loaded as Python loads modules."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.toy_cli import cli, ok, refused
from helpers.toy_run import OPTIONS, Finished, know_toy

from mpp_jax.describe.dense import dense_descriptors
from mpp_jax.files import seal
from mpp_jax.pooling import POOLINGS, load_plugin, pool, register_pooling
from mpp_jax.storage.store import Store

TOP = """
from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import mpp_jax as mpp
from {helper} import scaled


@dataclasses.dataclass
class Settings:
    count: int = {count}


@mpp.register_pooling("top", codebook=None)
def top(evidence, codebook):
    x = jnp.where(evidence.mask[-1][:, None], evidence.x[-1], 0)
    best = jnp.sort(x, axis=0)[-Settings().count :].mean(axis=0)
    return mpp.l2_normalize(scaled(best))
"""
HELPER = "def scaled(x):\n    return x{power}\n"


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    know_toy(monkeypatch)
    before = dict(POOLINGS)
    yield
    POOLINGS.clear()
    POOLINGS.update(before)


def plugin(folder: Path, helper: str, count: int = 3, power: str = "") -> Path:
    """A plug-in with a module beside it; its own name, for modules are imported once a process."""
    folder.mkdir(exist_ok=True)
    (folder / f"{helper}.py").write_text(HELPER.format(power=power))
    (folder / "top.py").write_text(TOP.format(helper=helper, count=count))
    POOLINGS.pop("top", None)  # as in a new process
    return folder / "top.py"


def test_an_edited_plugin_is_noticed_everywhere(done: Finished, tmp_path: Path) -> None:
    first = plugin(tmp_path / "a", "helper_a")
    out = tmp_path / "out"
    run = ["run", done.data, "--out", out, *OPTIONS, "--weights", done.weights]
    run += ["--pooling", "top,avg"]
    ok(*run, "--plugin", first)
    before = Store.open(out / "encodings").vectors("top", "test")
    picture = done.data / "test" / "red" / "00.png"
    ok("predict", out / "model", picture, "--plugin", plugin(tmp_path / "a", "helper_a"))
    ok(*run, "--plugin", plugin(tmp_path / "a", "helper_a"))  # unchanged: goes on

    def other() -> Path:
        return plugin(tmp_path / "b", "helper_b", count=1)

    assert "code.top was" in refused(*run, "--plugin", other())
    message = "made with another version of the plug-in that has 'top'"
    assert message in refused("predict", out / "model", picture, "--plugin", other())
    assert message in refused("search", out / "encodings", picture, "--plugin", other())
    train = ("train", out / "encodings", "--out", tmp_path / "model", "--plugin")
    assert message in refused(*train, other())
    # Elsewhere the new code runs, in the same process too.
    run[3] = tmp_path / "new"
    ok(*run, "--plugin", other())
    after = Store.open(tmp_path / "new" / "encodings").vectors("top", "test")
    assert np.abs(after - before).max() > 1e-3


def test_what_lies_beside_a_plugin_counts_as_well(done: Finished, tmp_path: Path) -> None:
    load_plugin(plugin(tmp_path / "a", "helper_c"))
    codes = [POOLINGS["top"].code]
    load_plugin(plugin(tmp_path / "b", "helper_d", power=" ** 2"))
    codes.append(POOLINGS["top"].code)
    assert len({*codes, ""}) == 3


def test_runs_without_users_code_say_nothing_of_code() -> None:
    assert {pooling.code for pooling in POOLINGS.values()} == {""}


def test_a_cell_may_be_run_again(done: Finished) -> None:
    """In a notebook: one's own variant is replaced, others' only on request."""
    images = np.full((1, 40, 40, 3), 90, np.uint8)
    images[0, :20] = 30
    scales = dense_descriptors(done.network, images, scales=(0, 1))
    vectors = []
    for power in (1, 3):

        def cell(evidence, codebook, power=power):
            x = evidence.x[-1].mean(axis=0) ** power
            return x / (x**2).sum() ** 0.5

        register_pooling("cell", codebook=None)(cell)
        vectors.append(np.asarray(pool("cell", scales)))
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
    with pytest.raises(ValueError, match=r"there is a variant 'avg' already; .*replace=True"):
        register_pooling("avg", codebook=None)(cell)
    register_pooling("avg", codebook=None, replace=True)(cell)
    np.testing.assert_array_equal(np.asarray(pool("avg", scales)), vectors[1])


def test_a_users_network_is_part_of_it(done: Finished, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done.out / "model", out)
    record = json.loads((out / "record.json").read_text())
    assert list(record["code"]) == ["network toy"]
    record["code"]["network toy"] = "0" * 64
    (out / "record.json").write_text(json.dumps(record | {"seal": seal(record)}))
    picture = done.data / "test" / "red" / "00.png"
    assert "another version of the plug-in that has 'network toy'" in refused(
        "predict", out, picture, "--weights", done.weights
    )
    assert cli("predict", done.out / "model", picture).exit_code == 0
