"""Exit statuses: interruption, what the machine refuses, faults of the program, closed pipes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers.toy_cli import EASY, cli, refused, tiny
from helpers.toy_run import Finished

from mpp_jax.cli import stages
from mpp_jax.cli.app import main

pytestmark = pytest.mark.usefixtures("toy_known")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny(tmp_path / "data")


def test_interruption_is_130(
    done: Finished, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stages.pipeline, "encode_dataset", interrupt)
    result = cli("run", data, "--out", tmp_path / "out", *EASY, "--weights", done.weights)
    assert result.exit_code == 130
    assert "interrupted; what was done is kept" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "error: out of memory; use fewer --scales"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), "9 bytes"),
        (PermissionError(13, "Permission denied", "/x"), "Permission denied: '/x'"),
        (ValueError(), "error: ValueError"),
        (OSError(28, "No space left on device", "/x"), "no space left on the disk at /x; what was"),
        (ValueError("RESOURCE_EXHAUSTED: No space left on device"), "no space left on the disk;"),
        (RuntimeError("Unable to initialize backend 'cuda'"), "JAX finds no device"),
    ],
)
def test_what_the_machine_refuses(
    done: Finished,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    message: str,
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(stages.pipeline, "encode_dataset", fail)
    run = ("run", data, "--out", tmp_path / "out", *EASY, "--weights", done.weights)
    assert message in refused(*run)
    monkeypatch.setenv("MPP_JAX_TRACEBACK", "1")
    result = CliRunner().invoke(main, [str(a) for a in run])
    assert result.exception is error


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyError("x"), RecursionError("deep")])
def test_faults_of_the_program_have_a_status_of_their_own(
    done: Finished, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """1 would say that the work is done, with some pictures skipped."""

    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(stages.pipeline, "encode_dataset", fail)
    run = ("run", data, "--out", tmp_path / "out", *EASY, "--weights", done.weights, "--quiet")
    result = cli(*run)
    assert result.exit_code == 70
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {type(error).__name__}: ")
    assert "MPP_JAX_TRACEBACK=1" in line
    monkeypatch.setenv("MPP_JAX_TRACEBACK", "1")
    assert CliRunner().invoke(main, [str(a) for a in run]).exception is error


def test_termination_is_143(
    done: Finished, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminate(*arguments: Any, **options: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)

    monkeypatch.setattr(stages.pipeline, "encode_dataset", terminate)
    before = signal.getsignal(signal.SIGTERM)
    result = cli("run", data, "--out", tmp_path / "out", *EASY, "--weights", done.weights)
    assert result.exit_code == 143
    assert "interrupted; what was done is kept" in result.stderr.splitlines()[-1]
    assert signal.getsignal(signal.SIGTERM) is before


PROGRAM = """
import os, signal, sys, time
from mpp_jax.cli.errors import faces_user

@faces_user
def command():
    {body}
    return 0

command()
"""


def program(body: str, **options: Any) -> subprocess.CompletedProcess[str]:
    code = PROGRAM.format(body=body)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, **options
    )


def test_an_interrupt_while_modules_are_imported_is_not_swallowed(tmp_path: Path) -> None:
    """JAX's import has callbacks that swallow exceptions: the process ends there and then."""
    lines = ("import os, signal", "try: os.kill(os.getpid(), signal.SIGINT)")
    lines += ("except KeyboardInterrupt: pass",)
    (tmp_path / "swallows.py").write_text("\n".join(lines))
    done = program("import swallows", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 130
    assert done.stderr.splitlines() == ["interrupted; what was done is kept, run the command again"]


def test_the_second_signal_is_obeyed_at_once() -> None:
    body = (
        "try: os.kill(os.getpid(), signal.SIGTERM)\n"
        "    except KeyboardInterrupt: os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"
    )
    done = program(body, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_in_a_garbage_collectors_callback_is_not_lost(name: str, status: int) -> None:
    """JAX has such a callback; what is raised there is printed and forgotten."""
    body = (
        "import gc; sent = []\n"
        "    def send(*_):\n"
        f"        if not sent: sent.append(1); os.kill(os.getpid(), signal.{name})\n"
        "    gc.callbacks.append(send); gc.collect(); time.sleep(20)"
    )
    done = program(body, timeout=50)
    assert (done.returncode, done.stderr.splitlines()) == (
        status,
        ["interrupted; what was done is kept, run the command again"],
    )


def test_names_that_a_terminal_cannot_show_are_escaped() -> None:
    body = r"print('\u732b'); print('caf\udce9')"
    done = program(body, env=os.environ | {"PYTHONIOENCODING": "cp1252"})
    assert (done.returncode, done.stdout) == (0, "\\u732b\ncaf\\udce9\n")


def test_a_reader_that_has_enough_ends_the_command_quietly() -> None:
    code = PROGRAM.format(body="print('x\\n' * 10**6)")
    done = subprocess.run(
        f'{sys.executable} -c "$CODE" | head -1; exit ${{PIPESTATUS[0]}}',
        shell=True,
        executable="/bin/bash",
        env=os.environ | {"CODE": code},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (141, "x\n", "")
