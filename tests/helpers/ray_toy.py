"""The toy network for workers in other processes, which die or fail where a file says so.

`write_plugin` writes a plug-in into a folder; files beside it are orders for whoever is about to
write a shard: ``die-N`` (once, at shard N), ``fail`` (every time), ``slow`` (every time).
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from helpers import REPOSITORY, TESTS, toy
from mpp_jax.nets import NETWORKS
from mpp_jax.runs import pipeline
from mpp_jax.storage.store_shard import ShardWriter

TOYS = 4
"""Pictures of a shard: 24 make six."""


def write_plugin(folder: Path) -> Path:
    """Write the plug-in, and return its file."""
    folder.mkdir(exist_ok=True)
    plugin = folder / "ray_plugin.py"
    plugin.write_text(
        "from mpp_jax import register_network\n"
        "from helpers import ray_toy\n"
        f"ray_toy.obey({str(folder)!r})\n"
    )
    return plugin


def obey(folder: str) -> None:
    """Be a process of the toy network that follows the orders in a folder."""
    orders = Path(folder)
    NETWORKS["toy"] = toy.TOY
    pipeline.SHARD_SIZE = TOYS
    write = ShardWriter.write

    def written(self: ShardWriter) -> None:
        die = orders / f"die-{self.task.shard}"
        if die.exists():
            die.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if (orders / "fail").exists():
            raise ValueError("the disk of the worker fails")
        if (orders / "slow").exists():
            (orders / f"pid-{os.getpid()}").touch()
            time.sleep(3)  # longer than Ray takes to end the workers of a command that died
        write(self)

    ShardWriter.write = written  # type: ignore[method-assign]


def environment() -> dict[str, str]:
    """Return the variables of a process that finds this module, with a secret of the tests' own."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(TESTS)]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": uuid.UUID(int=os.getpid()).hex * 2,
    }


def start(*arguments: Any, **variables: str) -> "subprocess.Popen[str]":
    """Start the program in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "mpp_jax", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment() | variables,
    )
