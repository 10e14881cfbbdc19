"""Flipped bits: is what nobody wrote ever believed?"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fault_folders import Row, compare, snapshot
from fault_processes import Commands
from fault_situations import placed

PLACES = ("encodings", "codebook", "model", "cache")


def flip(file: Path, rng: np.random.Generator) -> tuple[int, int]:
    """Flip a random bit of a file, whose times stay; return the number of its byte and bit."""
    times = file.stat()
    content = bytearray(file.read_bytes())
    byte, bit = int(rng.integers(len(content))), int(rng.integers(8))
    content[byte] ^= 1 << bit
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    return byte, bit


def questions(folder: Path, data: Path, run: Sequence[str], cached: bool) -> dict[str, list[str]]:
    """Return the commands that read what was flipped; all but ``run`` write beside it."""
    if cached:
        return {"run": placed(run, folder)}
    model, store = str(folder / "out/model"), str(folder / "out/encodings")
    picture = str(data / "test/red/00.png")
    return {
        "evaluate": ["evaluate", model, store, "--out", str(folder / "new/evaluate"), "--quiet"],
        "train": ["train", store, "--out", str(folder / "new/train"), "--quiet"],
        "search": ["search", store, picture, "--json", "--quiet"],
        "predict": ["predict", model, picture, "--json", "--quiet"],
        "run": placed(run, folder),
    }


class Flips:
    """Answers to commands on files with a flipped bit, beside those on sound files."""

    def __init__(
        self, commands: Commands, data: Path, jobs: Mapping[str, Sequence[str]], sound: Path
    ) -> None:
        """Ask everything of sound files."""
        self._commands, self._data, self._jobs, self._sound = commands, data, jobs, sound
        self._folder = sound.with_name("flipped")
        self._expected: dict[bool, dict[str, Any]] = {False: {}, True: {}}
        for cached, expected in self._expected.items():
            self._copy(cached)
            for name, arguments in self._questions(cached).items():
                status, said, why = commands.ask(arguments)
                if status != 0:
                    raise RuntimeError(f"{name}: ends with {status} on sound files: {why}")
                expected[name] = said, self._written(name)

    def _copy(self, cached: bool) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        name, part = ("run --cache", "cache") if cached else ("run", "out")
        shutil.copytree(self._sound / name / part, self._folder / part)
        (self._folder / "new").mkdir()

    def _questions(self, cached: bool) -> dict[str, list[str]]:
        run = self._jobs["run --cache" if cached else "run"]
        return questions(self._folder, self._data, run, cached)

    def _written(self, name: str) -> dict[str, str]:
        return snapshot(self._folder / "new" / name)

    def try_one(self, place: str, rng: np.random.Generator, row: Row) -> None:
        """Flip a bit somewhere in a place and judge what each command makes of it."""
        cached = place == "cache"
        self._copy(cached)
        inside = self._folder / (place if cached else f"out/{place}")
        files = sorted(path for path in inside.rglob("*") if path.is_file() and path.stat().st_size)
        file = files[int(rng.integers(len(files)))]
        byte, bit = flip(file, rng)
        name = file.relative_to(self._folder).as_posix()
        row.tries += 1
        row.disturbed += 1
        for command, arguments in self._questions(cached).items():
            details: dict[str, Any] = {"command": command, "file": name, "byte": byte, "bit": bit}
            status, said, why = self._commands.ask(arguments)
            lines = why.splitlines()
            if status == 2 and len(lines) == 1 and lines[0].startswith("error: "):
                row.refused += 1
            elif status not in (0, 1) or "Traceback" in why:
                row.fault("unclear", status=status, said=why[-1000:], **details)
            elif (said, self._written(command)) != self._expected[cached][command]:
                row.fault("different", status=status, said=(said + why)[-1000:], **details)
            elif command != "run" or self._finished(cached, name, row, details):
                row.sound += 1

    def _finished(self, cached: bool, name: str, row: Row, details: Mapping[str, Any]) -> bool:
        """Return whether ``run`` ended with the undisturbed folder.

        The flipped file may stay as it is where nothing reads it; what a cache lost may be in other
        files of it.
        """
        sound = self._sound / ("run --cache" if cached else "run") / "out"
        aside = name.removeprefix("out/")
        return compare(self._folder / "out", sound, row, besides=(aside,), **details)
