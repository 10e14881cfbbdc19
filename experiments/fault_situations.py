"""The jobs that are disturbed, and one try: disturbed, given again until done, compared."""

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fault_disturbances import (
    AGAIN,
    ANEW,
    DONE,
    Disturbance,
    FullDisk,
    Kill,
    KillWorkers,
    RemovedInput,
    error_of,
)
from fault_folders import Row, compare, leftovers
from fault_processes import TINY, Commands, wait_for

from mpp_jax.files import STALE_SECONDS
from mpp_jax.progress import Watcher

SETTINGS = [
    *("--scales", "1-2", "--pca", "4", "--components", "2", "--samples", "200"),
    *("--network", TINY.name, "--quiet"),
]
METHODS = ("--pooling", "mpp,avg")
RAY = ("--engine", "ray", "--workers", "2")
REPEATED = 3 / 4
"""Share of the commands given again that are disturbed, too."""


NO_RAY = "Ray cannot start on this machine"
START_TRIES = 20
"""Starts of Ray on a busy machine, where it gives its processes half a minute to come up."""


def commands_of(data: Path, weights: Path, sound: Path) -> dict[str, list[str]]:
    """Return the commands by name, with OUT for the folder they write to."""
    common = [*SETTINGS, "--weights", str(weights), *METHODS]
    run = ["run", str(data), "--out", "OUT/out", *common]
    codebook, store = str(sound / "run/out/codebook"), str(sound / "run/out/encodings")
    encode = ["encode", str(data), "--codebook", codebook, "--out", "OUT/out", "--quiet"]
    encode += ["--weights", str(weights), *METHODS]
    fit = ["fit", str(data), "--out", "OUT/out", *common]
    return {
        "run": run,
        "run --cache": [*run, "--cache", "OUT/cache"],
        "fit": fit,
        "encode": encode,
        "train": ["train", store, "--out", "OUT/out", "--quiet"],
        "encode --engine ray": [*encode, *RAY],
        "run --engine ray": [*run, *RAY],
        "fit --engine ray": [*fit, *RAY],
    }


def situations(data: Path) -> dict[str, tuple[Disturbance, str]]:
    """Return the kind of disturbance and the name of the command, by the names of both."""
    local = ("run", "run --cache", "fit", "encode", "train")
    spread = tuple(f"{name} --engine ray" for name in ("encode", "run", "fit"))
    pairs: list[tuple[Disturbance, str]] = [(Kill(), name) for name in local]
    pairs += [(FullDisk(), name) for name in local]
    pairs += [(RemovedInput(data), name) for name in local if name != "train"]
    pairs += [(Kill(), name) for name in spread]
    pairs += [(KillWorkers(), name) for name in spread]
    pairs += [(FullDisk(), spread[0]), (RemovedInput(data), spread[0])]
    return {f"{how.name} {name}": (how, name) for how, name in pairs}


def placed(command: Sequence[str], folder: Path) -> list[str]:
    """Return a command with the folder it writes to."""
    return [
        part.replace("OUT", str(folder), 1) if part.startswith("OUT/") else part for part in command
    ]


def undisturbed(
    commands: Commands, jobs: Mapping[str, Sequence[str]], sound: Path
) -> dict[str, float]:
    """Run every job to its end, to compile its programs, and to learn how long it computes.

    Raises:
        RuntimeError: one that fails.
    """
    seconds: dict[str, float] = {}
    for name, command in Watcher().bar(jobs.items(), "undisturbed", "job"):
        for keep in (True, False):
            programs = commands.programs()
            shutil.rmtree(sound / name, ignore_errors=True)
            (sound / name).mkdir(parents=True)
            for _ in range(START_TRIES):
                process = commands.start(placed(command, sound / name), keep)
                seconds[name] = wait_for(process, np.inf, "ray" in command)
                status, said = commands.end(process)
                if NO_RAY not in said:
                    break
            if status != 0:
                raise RuntimeError(
                    f"{name}: ends with {status} although nothing disturbs it: {said}"
                )
            if commands.programs() == programs:  # nothing was compiled that would count
                break
    return seconds


@dataclass(frozen=True)
class Try:
    """A job that is disturbed, given again until it is done, and compared.

    Attributes:
        commands: start it.
        command: what is given, with OUT for the folder it writes to.
        sound: folder of the same job, undisturbed.
        seconds: that it computes undisturbed.
        how: the disturbance.
        folder: that it writes to; made for each try, and removed.
    """

    commands: Commands
    command: Sequence[str]
    sound: Path
    seconds: float
    how: Disturbance
    folder: Path

    def run(self, rng: np.random.Generator, row: Row) -> None:
        """Try once.

        Args:
            rng: of the moments.
            row: where it is counted.

        Raises:
            Impossible: the disturbance cannot be had on this machine.
        """
        self.folder.mkdir()
        try:
            with self.how.around(self.folder):
                history: list[str] = []
                if self._disturb(rng, row, history):
                    self._check(row, history)
                row.tries += 1
        finally:
            shutil.rmtree(self.folder)

    def _disturb(self, rng: np.random.Generator, row: Row, history: list[str]) -> bool:
        """Give the command, disturbed the first time and some of the times thereafter.

        Returns:
            Whether it was done in the end; False where it did not end as it should.
        """
        seconds, again = self.seconds, False
        while True:
            process = self.commands.start(placed(self.command, self.folder))
            what = ""
            try:
                if not again or rng.random() < REPEATED:
                    moment = wait_for(process, rng.uniform(0, seconds), "ray" in self.command)
                    count, what = self.how.strike(process, rng)
                    row.disturbed += count
                    history += [f"{what} after {moment:.2f} s of computing"] if what else []
                status, said = self.commands.end(process)
            finally:
                self.how.mend()
            if not what and not again and status == 0:  # it was quicker than the disturbance
                seconds /= 2
                emptied(self.folder)
                continue
            again = True
            then = self.how.verdict(what, status, said)
            if status == 2 and NO_RAY in error_of(said):  # the machine was too busy for it
                then = AGAIN
            if then is None or "Traceback" in said:
                row.fault("unclear", status=status, said=said[-1000:], history=history)
                return False
            history.append(f"ends with {status}")
            row.refused += status == 2
            if then == ANEW:
                row.anew += 1
                shutil.rmtree(self.folder / "out", ignore_errors=True)
            if then == DONE:
                return True

    def _check(self, row: Row, history: Sequence[str]) -> None:
        """Compare what was made in the end; see that leftovers go in time."""
        folder = self.folder
        compare(folder, self.sound, row, history=history)
        if not leftovers(folder):
            return
        old = time.time() - 2 * STALE_SECONDS
        for path in leftovers(folder):
            os.utime(path, (old, old))
        status, said = self.commands.end(self.commands.start(placed(self.command, folder)))
        if status != 0:
            row.fault("unclear", status=status, said=said[-1000:], history=[*history, "its end"])
        elif rest := leftovers(folder):
            what = [str(path.relative_to(folder)) for path in rest]
            row.fault("leftovers", len(rest), what=what, history=history)


def emptied(folder: Path) -> None:
    """Remove what is in a folder, which may be a disk."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
