"""The command line of the pooling lab: plugins, the paper's notation, features, the cache."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import REPOSITORY
from helpers.toy_cli import cli, ok, refused, tiny
from helpers.toy_run import OPTIONS, Finished, know_toy

from mpp_jax.pooling import POOLINGS, checks, load_plugin, protocol
from mpp_jax.storage.store import Store

README = REPOSITORY / "README.md"


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    know_toy(monkeypatch)
    monkeypatch.setattr(protocol, "POOLINGS", POOLINGS)
    before = dict(POOLINGS)
    yield
    POOLINGS.clear()
    POOLINGS.update(before)


def worked_example(place: Path) -> Path:
    """The variant that the README adds, as a file."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (code,) = [block for block in blocks if "register_pooling" in block]
    place.write_text(code)
    return place


def test_readmes_variant(done: Finished, tmp_path: Path) -> None:
    """Its lines are a plugin; the variant passes every check and goes through the whole chain."""
    plugin = worked_example(tmp_path / "my_pooling.py")
    names = load_plugin(plugin)
    assert len(names) == 1
    checks.check_all(names)
    del POOLINGS[names[0]]
    own, out = names[0], tmp_path / "out"
    arguments = ["run", done.data, "--out", out, *OPTIONS, "--weights", done.weights]
    ok(*arguments, "--plugin", plugin, "--pooling", f"{own}+mpp,mpp")
    results = json.loads((out / "metrics.json").read_text())["results"]
    assert set(results) == {f"{own}+mpp", "mpp"}
    picture = done.data / "test" / "red" / "00.png"
    del POOLINGS[own]
    assert f"no variant '{own}'" in refused("predict", out / "model", picture)
    result = ok("predict", out / "model", picture, "--plugin", plugin, "--json")
    assert json.loads(result.stdout)[0]["error"] is None


def test_protocols_example_is_a_plugin(tmp_path: Path) -> None:
    text = protocol.__doc__ or ""
    code = text[text.index("    import jax.numpy") :].split("\n\nA file with")[0]
    plugin = tmp_path / "top.py"
    plugin.write_text("\n".join(line.removeprefix("    ") for line in code.splitlines()) + "\n")
    assert load_plugin(plugin) == ("top",)
    checks.check_all(["top"])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (None, "is no Python file"),
        ("x = 1", "registers no variant"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError"),
        ("import mpp_jax\nmpp_jax.register_pooling('mpp')(len)", "variant 'mpp' already"),
    ],
)
def test_bad_plugins(done: Finished, tmp_path: Path, code: str | None, message: str) -> None:
    plugin = tmp_path / "plugin.py"
    if code is not None:
        plugin.write_text(code)
    out = tmp_path / "out"
    line = refused("run", done.data, "--out", out, *OPTIONS, "--plugin", plugin)
    assert message in line
    assert not out.exists()


def test_papers_notation(done: Finished, tmp_path: Path) -> None:
    """Layers, grids and stacks on the command line name the results."""
    out = tmp_path / "out"
    pooling = "MPP(Toy-Fire2,Conv1)+SP, MPP(Fire2), mpp+sp2x2,nfk(conv1)+avg, IFK"
    ok(
        *("run", done.data, "--out", out, *OPTIONS, "--weights", done.weights),
        *("--pooling", pooling),
    )
    results = json.loads((out / "metrics.json").read_text())["results"]
    names = ["mpp(fire2,conv1)+sp", "mpp", "mpp+sp2x2", "nfk(conv1)+avg", "nfk(sift)"]
    assert sorted(results) == sorted(names)
    store = Store.open(out / "encodings")
    size = 2 * 4 * 6
    assert [store.dimension(name) for name in names] == [8 * size, size, 4 * size, size + 16, size]
    np.testing.assert_allclose(
        store.vectors("mpp", "test"), done.store.vectors("mpp", "test"), atol=1e-5
    )
    # Trained and asked for again, in the paper's spelling.
    ok("train", out / "encodings", "--out", tmp_path / "model", "--pooling", "MPP(fire2,CONV1)+SP")
    picture = done.data / "test" / "red" / "00.png"
    for method in ("MPP(Toy-Fire2,Conv1)+SP", "mpp(fire2,conv1)+sp"):
        result = ok("predict", tmp_path / "model", picture, "--method", method, "--json")
        assert json.loads(result.stdout)[0]["error"] is None


def test_layers_need_their_codebook(done: Finished, tmp_path: Path) -> None:
    encode = ("encode", done.data, "--codebook", done.out / "codebook", "--out", tmp_path / "s")
    line = refused(*encode, "--pooling", "mpp(conv1)")
    assert "needs the codebook 'conv1.fisher' (there: default.fisher)" in line
    assert "'toy' has no descriptors of layer 'fc7'" in refused(*encode, "--pooling", "mpp(fc7)")
    assert "cannot read" in refused(*encode, "--pooling", "mpp((conv1)")
    book = tmp_path / "book"
    ok(
        "fit",
        done.data,
        "--out",
        book,
        *OPTIONS,
        "--weights",
        done.weights,
        "--pooling",
        "mpp(conv1)",
    )
    ok(
        *("encode", done.data, "--codebook", book, "--out", tmp_path / "s"),
        *("--pooling", "mpp(conv1)"),
    )
    assert Store.open(tmp_path / "s").methods == ("mpp(conv1)",)


def test_features_and_cache(tmp_path: Path, done: Finished) -> None:
    data = tiny(tmp_path / "data")
    ids = [str(p.relative_to(data).as_posix()) for p in sorted(data.rglob("*.png"))]
    np.savez(tmp_path / "f.npz", ids=np.array(ids), vectors=np.eye(len(ids)))
    run = ("run", data, "--network", "toy", "--weights", done.weights, "--scales", "1-2")
    extra = ("--features", f"DSFL={tmp_path / 'f.npz'}", "--cache", tmp_path / "cache")
    result = ok(*run, "--out", tmp_path / "out", "--pooling", "avg+dsfl,avg", *extra)
    assert f"activations: kept in and taken from {tmp_path / 'cache'}" in result.stderr
    assert list((tmp_path / "cache").glob("*/key.json"))
    methods = json.loads((tmp_path / "out" / "metrics.json").read_text())["results"]
    assert set(methods) == {"avg+dsfl", "avg"}
    assert "add --features dsfl=FILE" in refused(
        *("encode", data, "--codebook", tmp_path / "out" / "encodings" / "codebook"),
        *("--out", tmp_path / "s"),
    )
    for text in ("dsfl", "=x", f"a={tmp_path / 'f.npz'}"):
        twice = ("--features", text) * (2 if text[0] == "a" else 1)
        assert "write NAME=FILE" in refused(*run, "--out", tmp_path / "x", *twice)
    assert "no variant 'dsfl'" in refused(*run, "--out", tmp_path / "x", "--pooling", "avg+dsfl")


def test_help_lists_what_there_is() -> None:
    text = " ".join(cli("run", "--help").output.split())
    for word in ("--plugin FILE", "--features NAME=FILE", "--cache FOLDER", "MPP(Alex-FC7,Pool5)"):
        assert word in text
