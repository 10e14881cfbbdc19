"""The tiny pictures and network of `fault_injection.py`, and processes that may be killed."""

import contextlib
import math
import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil
from PIL import Image
from tqdm import tqdm

from mpp_jax.nets import NETWORKS, random_network
from mpp_jax.nets.spec import Conv, Fire, NetSpec, Pool, Preprocessing

TINY = NetSpec(
    name="tiny",
    side=35,
    layers=(Conv("conv1", 8, 5, stride=2), Pool("pool1", 3, 2), Fire("fire2", 6, 8, 8)),
    default_layer="fire2",
    descriptor_layers=("fire2",),
    preprocessing=(("native", Preprocessing("RGB", (124.0, 117.0, 104.0), std=(58.0,) * 3)),),
    pooling="ceil",
)
COLOURS = {"blue": (40, 60, 200), "green": (50, 190, 70), "red": (210, 60, 50)}
SHARD = 4
TRAIN, TEST = 5, 3
"""Pictures of a class."""
PATIENCE = 900
"""Seconds after which a command hangs; on a busy machine it may take minutes."""
POLL = {False: 0.02, True: 0.1}
"""Least seconds between looks at a command, and at one with what it started."""
PRELOAD = [
    *("mpp_jax.cli.stages", "mpp_jax.cli.opening", "mpp_jax.cli.queries", "mpp_jax.checkpoint"),
    *("mpp_jax.sklearn_api", "click.testing", "machine"),
]
"""Modules that are imported before processes are forked; none of them starts JAX."""


# --- the pictures and the network


def write_inputs(root: Path, seed: int) -> tuple[Path, Path]:
    """Write pictures and weights; return the folder and the file."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", TRAIN), ("test", TEST)):
        for name, colour in COLOURS.items():
            folder = root / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                noise = rng.normal(0, 30, (*rng.integers(30, 90, 2), 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    network = random_network(jax.random.key(seed), TINY)
    leaves = jax.tree_util.tree_flatten_with_path(network.params)[0]
    arrays: dict[str, Any] = {"/".join(k.key for k in path): np.asarray(x) for path, x in leaves}
    np.savez(root / "tiny.npz", **arrays)
    return root / "data", root / "tiny.npz"


# --- child processes


def prepare(compiled: Path, keep: bool) -> None:
    """Make this process know the network, write small shards and share compiled programs."""
    from mpp_jax.runs import pipeline

    NETWORKS[TINY.name] = TINY
    pipeline.SHARD_SIZE = SHARD  # type: ignore[misc]
    jax.config.update("jax_compilation_cache_dir", str(compiled))
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    tqdm.set_lock(threading.RLock())  # the one for processes would be reported as leaked
    # A process that may be killed only reads what others have compiled.
    least = 0.0 if keep else 1e9
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
    os.environ |= {  # for workers
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(least),
    }


def job(arguments: Sequence[str], compiled: Path, log: Path, keep: bool) -> None:
    """Be one command; what it says goes to a file."""
    from mpp_jax.cli.app import main

    with log.open("ab") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    prepare(compiled, keep)
    main(list(arguments))


def answer(pipe: Any, compiled: Path) -> None:
    """Give one command after another in this process: (status, stdout, stderr) of each."""
    from click.testing import CliRunner

    from mpp_jax.cli.app import main

    prepare(compiled, keep=True)
    while (arguments := pipe.recv()) is not None:
        result = CliRunner().invoke(main, arguments)
        unforeseen = result.exception if not isinstance(result.exception, SystemExit) else None
        status = 70 if unforeseen is not None else result.exit_code
        pipe.send((status, result.stdout, result.stderr + (repr(unforeseen) if unforeseen else "")))


def workers_of(process: Any) -> list[int]:
    """Wait for the workers that Ray runs for a command; return their numbers, none if it ends."""
    while process.is_alive():
        with contextlib.suppress(psutil.Error):
            family = psutil.Process(process.pid).children(recursive=True)
            workers = [each.pid for each in family if each.name().startswith("ray::Worker")]
            if workers:
                return workers
        time.sleep(0.02)
    return []


def spent(process: Any, family: bool) -> float:
    """Return the seconds that a command has computed; 0 where it has ended.

    Unlike the time of the clock it does not depend on what else the machine does.

    Args:
        process: the command's.
        family: whether the processes that it started count, which takes longer to look up.
    """
    total = 0.0
    with contextlib.suppress(psutil.Error):
        one = psutil.Process(process.pid)
        for each in (one, *(one.children(recursive=True) if family else ())):
            with contextlib.suppress(psutil.Error):
                times = each.cpu_times()
                total += times.user + times.system
    return total


def wait_for(process: Any, seconds: float, family: bool) -> float:
    """Wait until a command has computed some seconds, see `spent`, or ends; return the seconds."""
    total, least = 0.0, POLL[family]
    while process.is_alive() and total < seconds:
        # Rarely at first: looking takes time, too, and nothing computes on more than a few cores.
        process.join(max(least, (seconds - total) / 4) if seconds < math.inf else least)
        total = max(total, spent(process, family))
    return total


class Commands:
    """Processes that run commands, forked from one that has imported everything."""

    def __init__(self, root: Path, compiled: Path | None = None) -> None:
        """Start nothing yet.

        Args:
            root: for what commands say.
            compiled: for compiled programs; None for a folder below ``root``.
        """
        self._compiled, self._log = (compiled or root / "compiled").absolute(), root / "log"
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)
        self._worker: Any = None

    def programs(self) -> int:
        """Return the number of files of compiled programs."""
        return sum(1 for _ in self._compiled.iterdir()) if self._compiled.is_dir() else 0

    def start(self, arguments: Sequence[str], keep: bool = False) -> Any:
        """Start a command in a process of its own."""
        self._log.write_bytes(b"")
        given = (list(arguments), self._compiled, self._log, keep)
        process = self._context.Process(target=job, args=given)
        process.start()
        return process

    def end(self, process: Any) -> tuple[int, str]:
        """Wait for a command; return its exit status and what it said. 124 where it hangs."""
        process.join(PATIENCE)
        hangs = process.is_alive()
        if hangs:
            process.kill()
            process.join()
        return 124 if hangs else process.exitcode, self._log.read_text(errors="replace")

    def ask(self, arguments: Sequence[str]) -> tuple[int, str, str]:
        """Give a command to the process that lives on; return status, stdout and stderr."""
        if self._worker is None:
            self._pipe, theirs = self._context.Pipe()
            given = (theirs, self._compiled)
            self._worker = self._context.Process(target=answer, args=given, daemon=True)
            self._worker.start()
            theirs.close()
        self._pipe.send(list(arguments))
        try:
            if self._pipe.poll(PATIENCE):
                return self._pipe.recv()
            status, why = 124, "hangs"
        except EOFError:
            status, why = 70, "the process died"
        self.close()
        return status, "", why

    def close(self) -> None:
        """End the process that lives on."""
        if self._worker is not None:
            self._worker.kill()
            self._worker.join()
            self._pipe.close()
            self._worker = None
