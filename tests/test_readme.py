"""The README is run: every block of code, every command that its text names, its drawing.

Shell blocks that set something up are what ``.ci/run`` runs (the test command) or are checked for
what they would install; commands of ours in them are run in process, with options added that make
them small: the toy network instead of the one named, few pictures, few scales. Python blocks are
run as they stand, in a folder that holds what they name. A block of a kind that is not known here
is a failure, not a gap.
"""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import pytest
import test_house as house
from helpers import REPOSITORY, toy
from helpers.toy_cli import ok
from helpers.toy_run import know_toy
from PIL import Image
from safetensors.numpy import save_file

from mpp_jax.cli.app import main
from mpp_jax.data.clutter import Clutter
from mpp_jax.nets import NETWORKS, get_spec
from mpp_jax.pooling import POOLINGS, load_plugin

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SMALL = {
    "demo": ["--scenes", "10", "--scales", "1-3"],
    "run": ["--scales", "1-2", "--pca", "4", "--components", "2", "--limit-per-class", "2"],
}
"""Options added to a command; the last of its kind wins."""


class Block(NamedTuple):
    """A fenced block: its language, its lines, and the line of text before it."""

    kind: str
    code: str
    before: str

    @property
    def file(self) -> str | None:
        """The name under which the reader is told to save it."""
        saved = re.findall(r"[Ss]ave this as `(\S+)`", self.before)
        return saved[-1] if saved else None


def blocks() -> list[Block]:
    """Return the blocks in order; fails where fences do not pair up."""
    parts = re.split(r"^```(.*)\n", README, flags=re.MULTILINE)
    assert len(parts) % 4 == 1, "a fence of README.md is not closed"
    found = []
    for i in range(0, len(parts) - 1, 4):
        before, kind, code, closing = parts[i : i + 4]
        assert closing == "", f"a block is closed by ```{closing}"
        paragraph = before.strip().split("\n\n")[-1]
        found.append(Block(kind, code, " ".join(paragraph.split())))
    return found


BLOCKS = blocks()
TEST_COMMAND = README.split("## Run the tests")[1].split("```")[1].removeprefix("sh\n")


@pytest.fixture(autouse=True)
def _registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Know the toy network; forget what blocks register."""
    know_toy(monkeypatch)
    monkeypatch.setattr("mpp_jax.cli.demo.Clutter", partial(Clutter, sides=(64, 96)))
    before = dict(NETWORKS), dict(POOLINGS)
    yield
    for registry, content in zip((NETWORKS, POOLINGS), before, strict=True):
        registry.clear()
        registry.update(content)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what the README's reader is supposed to have."""
    place = tmp_path_factory.mktemp("reader")
    toy.write_folder(place / "PICTURES", train=2, test=2, largest=40)
    toy.write_weights(place / "toy.safetensors")
    Image.new("RGB", (40, 30), (90, 60, 30)).save(place / "kitchen.jpg")
    for block in BLOCKS:
        if block.file is not None:
            (place / block.file).write_text(block.code, encoding="utf-8")
    return place


@pytest.fixture
def place(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return that folder, and work there."""
    monkeypatch.setenv("MPP_JAX_CACHE", str(prepared / "no cache"))
    monkeypatch.chdir(prepared)
    return prepared


def commands(code: str) -> list[list[str]]:
    """Return the commands of a shell block, joined by && or one a line, as words."""
    lines = re.sub(r"&&\n", "&& ", code.strip()).splitlines()
    return [shlex.split(part) for line in lines for part in line.split("&&")]


def our(words: list[str]) -> list[str] | None:
    """Return the arguments of a command of ours, None for another program."""
    return words[1:] if Path(words[0]).name == "mpp-jax" else None


def run_small(words: list[str]) -> None:
    """Run a command of ours with the toy network and other options that make it small."""
    name = words[0]
    assert name in SMALL, f"mpp-jax {name}: say in SMALL what makes it small"
    if "--network" in words:
        get_spec(words[words.index("--network") + 1])  # it exists
    ok(*words, *SMALL[name], "--network", "toy", "--weights", "toy.safetensors")


def check_installs(words: list[str]) -> None:
    """Check what a pip command would install: this package, with extras that it has."""
    assert words[1] == "install"
    [target] = [word for word in words[2:] if not word.startswith("-")]
    found = re.fullmatch(r"\.(?:\[([a-z0-9,]+)\])?", target)
    assert found is not None, f"pip install {target}"
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set((found[1] or "").split(",")) <= {"", *project["optional-dependencies"]}


def test_ci_runs_the_test_command() -> None:
    """The script that checks every commit takes its command from here."""
    script = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    [extract] = re.findall(r"^command=\$\((sed .*)\)$", script, re.MULTILINE)
    taken = subprocess.run(
        ["bash", "-c", extract], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert taken.stdout == TEST_COMMAND


@pytest.mark.parametrize("block", BLOCKS, ids=[f"{i}-{b.kind}" for i, b in enumerate(BLOCKS)])
def test_block(block: Block, place: Path) -> None:
    if block.kind == "sh" and block.code == TEST_COMMAND:
        check_tools(commands(block.code))
    elif block.kind == "sh":
        run_shell(block)
    elif block.kind == "python" and block.file is not None:
        assert load_plugin(place / block.file)
    elif block.kind == "python":
        run_python(block, place)
    elif block.kind == "text":
        check_house(block.code)
    else:
        pytest.fail(f"README.md has a block of a kind that no test runs: {block.kind!r}")


def check_tools(found: list[list[str]]) -> None:
    """Check the test command without running it: this very session may be what it runs."""
    names = [Path(words[0]).name for words in found]
    assert names == ["python3", "pip", "ruff", "ruff", "mypy", "pytest"]
    assert found[0][1:3] == ["-m", "venv"]
    assert all(words[0].startswith(f"{found[0][3]}/bin/") for words in found[1:])
    check_installs(found[1])


def run_shell(block: Block) -> None:
    ran = 0
    for words in commands(block.code):
        arguments = our(words)
        if arguments is not None:
            run_small(arguments)
            ran += 1
        elif words[:3] == ["python3", "-m", "venv"]:
            assert f"{words[3]}/bin/mpp-jax" in block.code
        else:
            assert Path(words[0]).name == "pip", f"no test runs {words[0]}"
            check_installs(words)
    assert ran, "a shell block without a command of ours"


def run_python(block: Block, place: Path) -> None:
    """Run a block of the reader's program; the model that it opens is the demonstration's."""
    [demo] = [b for b in BLOCKS if b.kind == "sh" and "mpp-jax demo" in b.code]
    if not (place / "runs" / "demo" / "model").exists():
        run_shell(demo)
    names: dict[str, object] = {}
    exec(compile(block.code, "README.md", "exec"), names)
    vectors = np.asarray(names["vectors"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def check_house(drawing: str) -> None:
    """Compare the drawn rooms and their marks with those that the imports are tested for."""
    drawn: list[str] = []
    for line in drawing.splitlines():
        found = re.match(r"(\S+(?: \S+)*)(?: {2,}(P) | {2,})", line)
        assert found is not None, line
        rooms = found[1].removesuffix(" P").split()
        drawn += rooms
        if found[2] or found[1].endswith(" P"):
            assert rooms[0] in house.PURE, f"{rooms[0]} is marked as pure"
        else:
            assert len(rooms) > 1 or rooms[0] not in house.PURE, f"{rooms[0]} lacks its mark"
    assert tuple(drawn) == house.ROOMS


def test_own_network(place: Path) -> None:
    """The command that the text gives for the network of the reader's file."""
    [text] = re.findall(r"`(mpp-jax run\s[^`]*--plugin my_network\.py[^`]*)`", README)
    assert "`conv1/kernel` (5, 5, 3, 16), `conv1/bias` (16,)" in " ".join(README.split())
    shapes = {"conv1": (5, 5, 3, 16), "fc2": (7, 7, 16, 32)}
    rng = np.random.default_rng(0)
    arrays = {f"{layer}/kernel": rng.standard_normal(shape) for layer, shape in shapes.items()}
    arrays |= {f"{layer}/bias": np.ones(shape[-1]) for layer, shape in shapes.items()}
    floats = {name: array.astype(np.float32) for name, array in arrays.items()}
    save_file(floats, place / "FILE.safetensors")
    words = ["FILE.safetensors" if word == "FILE" else word for word in shlex.split(text)[1:]]
    ok(*words, "--scales", "1", "--components", "2", "--limit-per-class", "2", "--pooling", "avg")
    assert (place / "DIR" / "report.html").exists()


def test_commands_in_the_text_exist() -> None:
    """Every command and option that is named between backticks is one of ours."""
    prose = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`(mpp-jax [^`]*)`", prose)]
    assert len(spans) > 8
    context = click.Context(main)
    for span in spans:
        words = span.replace("[", " ").replace("]", " ").split()[1:]
        command: click.Command | None = main
        while isinstance(command, click.Group):
            command = command.get_command(context, words.pop(0))
        assert command is not None, span
        known = {name for param in command.params for name in param.opts}
        assert {word for word in words if word.startswith("--")} <= known, span
    for extras in re.findall(r"'\.\[([a-z0-9,]+)\]'", prose):
        check_installs(["pip", "install", f".[{extras}]"])


def test_links_lead_somewhere() -> None:
    """Also those of the experiments' own page."""
    for page in (REPOSITORY / "README.md", REPOSITORY / "experiments" / "README.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
