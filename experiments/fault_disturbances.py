"""What jobs are disturbed by: kills, dead workers, a full disk, pictures that are gone.

A disturbance says what it allows a command to end with, and what is to be done then: documented are
0 (done), 1 (done, some pictures were skipped and are listed), 2 (one line says what is wrong) and
143 (SIGTERM).
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from fault_processes import workers_of

SIGNALS = (signal.SIGKILL, signal.SIGTERM)
ENDINGS = {"SIGKILL": (-9, 0), "SIGTERM": (143, -15, 0)}
"""Exit statuses of a job that was sent a signal; 0 where it was done already."""
DISK = 16 * 2**20
"""Bytes of the disk that fills: what an undisturbed job writes is a twentieth of it."""
PAGE = 4096
DONE, AGAIN, ANEW = "done", "again", "anew"
"""What follows from how a command ended: nothing; it is given again; so it is, into a new folder,
because that is what it said."""


class Impossible(Exception):
    """A disturbance that cannot be had on this machine."""


class Disturbance:
    """One kind of disturbance, whatever the command.

    Attributes:
        name: of the kind.
        needs_pictures: whether it is none to a command that reads no pictures.
    """

    name: ClassVar[str]
    needs_pictures: ClassVar[bool] = False

    @contextlib.contextmanager
    def around(self, folder: Path) -> Iterator[None]:
        """Prepare the folder that jobs write to, for one try."""
        yield

    def strike(self, process: Any, rng: np.random.Generator) -> tuple[int, str]:
        """Disturb a job; return how often, 0 where it had ended, and what was done."""
        raise NotImplementedError  # each kind has its own

    def mend(self) -> None:
        """Undo what can be undone, before the command is given again."""

    def verdict(self, what: str, status: int, said: str) -> str | None:
        """Return what is to be done next; None where the command ended as it should not.

        Args:
            what: `strike` did; empty if this command was left alone.
            status: the exit status.
            said: by the command.
        """
        return DONE if status == 0 else None


class Kill(Disturbance):
    """The command itself is killed, by SIGKILL or SIGTERM."""

    name = "kill"

    def strike(self, process: Any, rng: np.random.Generator) -> tuple[int, str]:
        """Send a signal."""
        if not process.is_alive():
            return 0, ""
        chosen = SIGNALS[int(rng.integers(len(SIGNALS)))]
        os.kill(process.pid, chosen)
        return 1, chosen.name

    def verdict(self, what: str, status: int, said: str) -> str | None:
        """Allow the statuses of the signal."""
        if status not in ENDINGS.get(what, (0,)):
            return None
        return DONE if status == 0 else AGAIN


class KillWorkers(Disturbance):
    """Workers that Ray runs for the command are killed, which it has to survive."""

    name = "kill workers of"
    most: ClassVar[int] = 3

    def strike(self, process: Any, rng: np.random.Generator) -> tuple[int, str]:
        """Kill one to three workers, one after another."""
        killed = 0
        for number in range(int(rng.integers(1, self.most + 1))):
            if number:
                process.join(rng.uniform(0.2, 3))
            workers = workers_of(process)
            if workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(workers[int(rng.integers(len(workers)))], signal.SIGKILL)
                    killed += 1
        return killed, f"{killed} workers killed" if killed else ""


class FullDisk(Disturbance):
    """The disk of the output fills, and has room again when the command is given again."""

    name = "full disk"

    def __init__(self) -> None:
        """Mount nothing yet."""
        self._ballast: Path | None = None

    @contextlib.contextmanager
    def around(self, folder: Path) -> Iterator[None]:
        """Make the folder a disk of its own.

        Raises:
            Impossible: none can be mounted here.
        """
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Impossible(f"no disk can be mounted here ({error})") from error
        self._ballast = folder / "ballast"
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)

    def strike(self, process: Any, rng: np.random.Generator) -> tuple[int, str]:
        """Fill the disk but for some pages, from none to eight."""
        assert self._ballast is not None
        if not process.is_alive():
            return 0, ""
        left = int(rng.integers(9))
        with self._ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(2**18)):
                pass
        size = self._ballast.stat().st_size
        os.truncate(self._ballast, max(0, size - left * PAGE))
        return 1, f"disk filled but for {left} pages"

    def mend(self) -> None:
        """Make room."""
        if self._ballast is not None:
            self._ballast.unlink(missing_ok=True)

    def verdict(self, what: str, status: int, said: str) -> str | None:
        """Allow one line that names the disk."""
        if what and status == 2:
            return AGAIN if "no space left on the disk" in error_of(said) else None
        return DONE if status == 0 else None


class RemovedInput(Disturbance):
    """Some pictures are gone, and back when the command is given again."""

    name = "removed input"
    needs_pictures = True

    def __init__(self, data: Path) -> None:
        """Take the folder of pictures; those removed lie beside it meanwhile."""
        self._data, self._aside = data, data.with_name("aside")
        self._moved: list[tuple[Path, Path]] = []

    def strike(self, process: Any, rng: np.random.Generator) -> tuple[int, str]:
        """Remove one picture to all of them."""
        if not process.is_alive():
            return 0, ""
        self._aside.mkdir(exist_ok=True)
        pictures = sorted(path for path in self._data.rglob("*") if path.is_file())
        # Mostly few: with many gone, commands end before they have much to go on with.
        count = int(len(pictures) ** rng.uniform(0, 1))
        for number, i in enumerate(rng.permutation(len(pictures))[:count]):
            aside = self._aside / f"{number}{pictures[i].suffix}"
            pictures[i].rename(aside)
            self._moved.append((aside, pictures[i]))
        return 1, f"{count} pictures removed"

    def mend(self) -> None:
        """Put the pictures back."""
        while self._moved:
            aside, picture = self._moved.pop()
            aside.rename(picture)

    def verdict(self, what: str, status: int, said: str) -> str | None:
        """Allow a list of what was skipped, or one line; then the same command, unless it says no.

        A command that was left alone may still refuse to go on with what the one before made of
        fewer pictures, or say that its codebook lacks some: if it says that a new folder helps.
        """
        listed = [line for line in said.splitlines() if line.startswith("skipped ")]
        if what:
            refused = status == 2 and error_of(said)
            return AGAIN if status == 0 or (status == 1 and listed) or refused else None
        if status == 0:
            return DONE
        told = listed if status == 1 else [error_of(said)]
        asked = bool(told) and all("new folder" in line for line in told)
        return ANEW if status in (1, 2) and asked else None


def error_of(said: str) -> str:
    """Return the one line that says what is wrong, "" where there is none or more than that.

    Where results went and what was skipped may stand before it.
    """
    lines = said.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    others = [line for line in lines[:-1] if not line.startswith("skipped ") and ": /" not in line]
    return errors[0] if len(errors) == 1 and lines[-1] == errors[0] and not others else ""
