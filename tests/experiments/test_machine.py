"""Where experiments find shared data, and what they say of the machine."""

import ast
import importlib
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import EXPERIMENTS, REPOSITORY

OPTIONAL = {"torch"}
"""Peers that need not be installed."""


def test_shared_data_has_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not depend on the working directory."""
    import machine

    monkeypatch.delenv(machine.SHARED, raising=False)
    monkeypatch.chdir(tmp_path)
    beside = (REPOSITORY.parent / "shared").resolve() / "data" / "no such data"
    with pytest.raises(SystemExit, match="^error: " + re.escape(f"{beside} is not there: ")):
        machine.shared("no such data")
    (tmp_path / "here" / "data" / "scene15").mkdir(parents=True)
    monkeypatch.setenv(machine.SHARED, "here")
    assert machine.shared("scene15") == tmp_path / "here" / "data" / "scene15"


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("scene15", []),
        ("figure5", ["--model", "nowhere"]),
        ("mini_scene15", []),
        ("clutter", ["--network", "squeezenet"]),
    ],
)
def test_missing_data_is_one_line(
    script: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(script)
    monkeypatch.setenv("MPP_JAX_SHARED", str(tmp_path))
    monkeypatch.setattr(module, "keep_freed_memory", lambda: False, raising=False)
    out = str(tmp_path / "out.json")
    monkeypatch.setattr("sys.argv", [f"{script}.py", *arguments, "--out", out])
    with pytest.raises(SystemExit) as error:
        module.main()
    assert re.fullmatch(r"error: \S+ is not there: let MPP_JAX_SHARED name .*", str(error.value))


def test_no_script_looks_for_it_elsewhere() -> None:
    for file in sorted(EXPERIMENTS.glob("*.py")):
        code = file.read_text(encoding="utf-8").split('"""', 2)[2]
        found = re.findall(
            r"MPP_JAX_SHARED\"|os\.environ\[|os\.environ\.get|os\.getenv|\.parents\[|\.\./shared",
            code,
        )
        assert file.name == "machine.py" or not found, f"{file.name}: {found}"


def test_what_a_result_says() -> None:
    import machine

    made = machine.provenance()
    assert made["command"].startswith("python ")
    assert made["cores"] >= 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", made["date"])


def test_every_script_finds_what_it_imports() -> None:
    """A module of the experiments that was renamed is missed where nobody runs the script."""
    missing = []
    for script in sorted(EXPERIMENTS.glob("*.py")):
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            roots = {name.partition(".")[0] for name in names} - OPTIONAL
            missing += [(script.name, root) for root in roots if find_spec(root) is None]
    assert not missing
