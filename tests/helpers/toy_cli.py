"""The command line in process, for tests."""

from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from helpers import toy
from mpp_jax.cli.app import main

EASY = ["--network", "toy", "--scales", "1-3", "--pooling", "avg,fc7"]
"""Options of a run without codebook."""


def cli(*arguments: Any) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.stderr
    return result


def ok(*arguments: Any) -> Result:
    result = cli(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


def refused(*arguments: Any) -> str:
    """The one line of a user's error."""
    result = cli(*arguments, "--quiet")
    assert result.exit_code == 2
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def tiny(root: Path, **changes: Any) -> Path:
    return toy.write_folder(root, **({"train": 2, "test": 1, "largest": 40} | changes))
