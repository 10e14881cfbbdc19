"""Compiled programs are kept between commands: counted, private, and believed only when whole."""

import json
import os
import random
import stat
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import jax
import pytest
from helpers import REPOSITORY, TESTS
from helpers.toy_run import finished_run

from mpp_jax.cli import compilation
from mpp_jax.cli.compilation import (
    MOST_BYTES,
    SEALS,
    VARIABLE,
    check,
    exposed,
    processor_kind,
    programs_kept,
    seal,
)

ROOT = getattr(os, "geteuid", lambda: 1)() == 0
COUNTING = """
import atexit, json, sys
from collections import Counter
import jax.monitoring
counts = Counter()
jax.monitoring.register_event_listener(lambda event, **_: counts.update([event.split("/")[-1]]))
atexit.register(lambda: print(json.dumps(counts), file=sys.stderr))
from helpers import toy
from mpp_jax.cli.app import main
from mpp_jax.nets import NETWORKS
NETWORKS["toy"] = toy.TOY
main(sys.argv[1:])
"""


def start(words: Sequence[object], **environment: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    kept = {k: v for k, v in os.environ.items() if k not in (VARIABLE, "JAX_COMPILATION_CACHE_DIR")}
    return subprocess.Popen(
        [sys.executable, "-c", COUNTING, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=kept | {"PYTHONPATH": paths} | environment,
    )


def ended(process: subprocess.Popen[str]) -> tuple[str, dict[str, int]]:
    """What a process printed; programs asked for, taken and newly kept. It said nothing else."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert len(errors.splitlines()) == 1, errors  # --quiet
    counts = json.loads(errors)
    names = ("compile_requests_use_cache", "cache_hits", "cache_misses")
    return output, {name.split("_")[-1]: counts.get(name, 0) for name in names}


def damage(folder: Path) -> int:
    """Truncate every second file but the seals, and turn a bit in the others."""
    rng = random.Random(0)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEALS)
    for i, path in enumerate(files):
        content = bytearray(path.read_bytes())
        if i % 2:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content if i % 2 else content[: len(content) // 2])
    return len(files)


def test_the_second_command_compiles_nothing(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    done = finished_run(tmp_path_factory)
    pictures = sorted((done.data / "test").rglob("*.png"))[:2]
    predict = ("predict", done.out / "model", *pictures, "--method", "avg", "--json", "--quiet")
    cache = {"MPP_JAX_CACHE": str(tmp_path / "cache")}  # where it is by itself
    printed, first = ended(start(predict, **cache))
    asked = first["misses"]
    assert asked > 5
    assert first == {"cache": asked, "hits": 0, "misses": asked}
    folder = tmp_path / "cache" / "compiled" / processor_kind()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(json.loads((folder / SEALS).read_text())) == asked
    assert ended(start(predict, **cache)) == (printed, {"cache": asked, "hits": asked, "misses": 0})
    # Nothing damaged is believed, nor does it stay; two at once do not disturb each other.
    assert damage(folder) == asked
    for output, counts in map(ended, [start(predict, **cache) for _ in range(2)]):
        assert (output, counts["cache"]) == (printed, asked)
    assert len(check(folder)) == asked


# ------------------------------------------------------------------------------ where they are kept


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What a command would say; JAX's settings are looked at and not changed."""
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("MPP_JAX_CACHE", str(tmp_path / "cache"))
    return []


def place(said: list[str]) -> Path | None:
    return compilation._place(said.append)


def test_the_folder_is_private_and_of_this_processor(said: list[str], tmp_path: Path) -> None:
    before = os.umask(0)  # whatever the user's own habit
    try:
        folder = place(said)
    finally:
        os.umask(before)
    assert folder is None  # for others may write to what lies above it
    [line] = said
    assert line == (
        f"compiled programs are not kept: others may write to {tmp_path / 'cache' / 'compiled'}; "
        f"let {VARIABLE} name a private folder, or off"
    )
    above = (tmp_path / "cache", tmp_path / "cache" / "compiled")
    for folder in above:
        folder.chmod(0o755)
    assert place(said) == above[1] / processor_kind()
    assert stat.S_IMODE((above[1] / processor_kind()).stat().st_mode) == 0o700
    assert said == [line]


def test_what_others_could_write_to_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "above" / "folder"
    folder.mkdir(parents=True, mode=0o700)
    assert exposed(folder) is None
    for mode in (0o770, 0o707, 0o720, 0o1777):  # no sticky bit helps the folder itself
        folder.chmod(mode)
        assert exposed(folder) == f"others may write to {folder}"
    folder.chmod(0o700)
    for mode, open_ in ((0o777, True), (0o757, True), (0o1777, False), (0o755, False)):
        folder.parent.chmod(mode)
        assert (exposed(folder) == f"others may write to {folder.parent}") == open_


@pytest.mark.skipif(not ROOT, reason="only root gives files away")
def test_what_is_anothers_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "above" / "folder"
    folder.mkdir(parents=True, mode=0o700)
    for one in (folder, folder.parent):
        os.chown(one, 1234, 1234)
        assert exposed(folder) == f"{one} is another user's"
        os.chown(one, 0, 0)
    # A group of several may swap what lies in its folder; a group of one is the user.
    folder.parent.chmod(0o775)
    assert exposed(folder) is None
    os.chown(folder.parent, 0, 100)
    assert exposed(folder) == f"others may write to {folder.parent}"


def test_commands_go_on_without_a_place(
    said: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("no folder")
    assert place(said) is None
    monkeypatch.setenv("MPP_JAX_CACHE", "~no-such-user/cache")
    assert place(said) is None
    assert said == []  # nothing that was asked for
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache" / "programs"))
    assert place(said) is None
    assert said.pop().startswith(f"{VARIABLE}={tmp_path}/cache/programs: compiled programs are not")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "own"))
    assert place(said) == tmp_path / "own" / processor_kind()
    monkeypatch.setenv(VARIABLE, "OFF")
    assert place(said) is None
    assert said == []


def test_a_setting_of_ones_own_is_left_alone(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "__version_info__", (0, 10, 1))  # prints an error for each program
    assert place(said) is None
    monkeypatch.undo()
    monkeypatch.delenv(VARIABLE)
    jax.config.update("jax_compilation_cache_dir", "/mine")
    try:
        with programs_kept(said.append):
            assert jax.config.jax_compilation_cache_dir == "/mine"
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
    assert said == []


# -------------------------------------------------------------------------------- what is believed


def write(folder: Path, **files: bytes) -> None:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_cache", "-cache")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


def names(folder: Path) -> set[str]:
    return set(compilation._files(folder))


def test_only_sealed_programs_are_believed(tmp_path: Path) -> None:
    write(tmp_path, a_cache=b"a", b_cache=b"b", tuned__1=b"1", tuned__2=b"2")
    assert check(tmp_path) == {}
    assert names(tmp_path) == {"tuned/1", "tuned/2"}  # a compiler may be writing there
    write(tmp_path, a_cache=b"a", b_cache=b"b")
    seal(tmp_path, {}, set())
    believed = check(tmp_path)
    assert set(believed) == names(tmp_path) == {"a-cache", "b-cache", "tuned/1", "tuned/2"}
    write(tmp_path, b_cache=b"x", c_cache=b"c", tuned__1=b"x", tuned__3=b"3")
    believed = check(tmp_path)
    assert set(believed) == {"a-cache", "tuned/2"}
    assert names(tmp_path) == {"a-cache", "tuned/2", "tuned/3"}
    # What takes the place of something damaged is sealed as it is then.
    write(tmp_path, b_cache=b"new")
    seal(tmp_path, believed, set())
    assert set(check(tmp_path)) == {"a-cache", "b-cache", "tuned/2", "tuned/3"}
    for broken in (b"{", b"[1]", b"\xff", b'{"a-cache": 3}'):
        (tmp_path / SEALS).write_bytes(broken)
        assert check(tmp_path) == {}
        write(tmp_path, a_cache=b"a")
    assert check(tmp_path) == {}


def test_what_jax_could_not_read_or_write_goes(tmp_path: Path) -> None:
    write(tmp_path, **{"jit_f-12_cache": b"half", "jit_f_g-12_cache": b"whole", "other": b""})

    def complain(text: str) -> set[str]:
        with compilation._failures() as failed:
            warnings.warn(text, stacklevel=1)
        return failed

    with pytest.warns(UserWarning, match="another"):
        assert complain("another") == set()
    warnings.simplefilter("default")
    for doing in ("reading", "writing"):
        text = f"Error {doing} persistent compilation cache entry for 'jit_f': OSError: ..."
        failed = complain(text)
        assert failed == {"jit_f"}
    seal(tmp_path, {}, failed)
    assert set(check(tmp_path)) == {"jit_f_g-12-cache", "other"}


def test_the_oldest_go_when_there_is_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MOST_BYTES == 1 << 28
    monkeypatch.setattr(compilation, "MOST_BYTES", 25)
    for age, name in enumerate(("new_cache", "tuned__middle", "old_cache")):
        write(tmp_path, **{name: b"0123456789"})
        path = tmp_path / name.replace("__", "/").replace("_cache", "-cache")
        os.utime(path, (10_000 - age, 10_000 - age))
    seal(tmp_path, {}, set())
    assert names(tmp_path) == set(check(tmp_path)) == {"new-cache", "tuned/middle"}
