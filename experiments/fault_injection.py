"""Fault injection: does a killed job lose anything, and is a flipped bit ever believed?

A tiny run (24 generated pictures, a network of two layers with random weights, six shards) is
disturbed in two ways:

- *Kills.* ``run``, ``run --cache``, ``fit``, ``encode``, ``train`` and ``encode --engine ray`` are
  killed in processes of their own at random moments, by SIGKILL or SIGTERM, and given again, killed
  or not, until they end; of ``encode --engine ray`` also one of its two workers, by SIGKILL, which
  the command has to survive. The finished folder is compared with that of an undisturbed run:
  records (pictures in stores and caches, bundles) lost or doubled, files that differ, temporary
  files and locks that stay.
- *Flips.* One random bit of a random file of the encodings, codebook, model or cache is flipped
  (size and times stay). ``evaluate``, ``train``, ``search``, ``predict`` and the same ``run`` must
  each refuse with one line and status 2, or give what they give with sound files.

    python experiments/fault_injection.py            30 kills, 100 flips: 10 minutes on 2 cores
    python experiments/fault_injection.py --quick    5 kills, 20 flips, another result file

Files are compared byte for byte, with three exceptions: the arrays of bundles by their values
(orbax gives its files random names), ``metrics.json`` without its seconds, ``report.html`` not at
all. Temporary files may stay for a day, as another process may own them: they are made older, and
the command must remove them. Programs are compiled once for all processes (JAX's compilation
cache), which are forked from one that has imported everything, so that signals meet the work.

Expected: no fault. Each one is listed, and the exit status is 1. Results:
``results/fault_injection.json``.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from fault_tools import TINY, Commands, leftovers, records, snapshot, workers_of, write_inputs
from machine import provenance

from mpp_jax.files import STALE_SECONDS
from mpp_jax.progress import Watcher

SIGNALS = (signal.SIGKILL, signal.SIGTERM)
WORKER = "worker of "
"""Before the name of a situation: not the command is killed, but a worker that Ray runs for it."""
ENDINGS = {signal.SIGKILL: (-9, 0), signal.SIGTERM: (143, -15, 0)}
"""Exit statuses of a job that was sent a signal; 0 where it was done already."""
SETTINGS = [
    *("--scales", "1-2", "--pca", "4", "--components", "2", "--samples", "200"),
    *("--network", TINY.name, "--quiet"),
]
METHODS = ("--pooling", "mpp,avg")
PLACES = ("encodings", "codebook", "model", "cache")


@dataclass
class Row:
    """What became of one situation.

    Attributes:
        tries: jobs that were disturbed and ended, or files with a flipped bit.
        disturbed: signals that met a running job, or flips.
        lost: records that an undisturbed run has and this one lacks.
        doubled: records that are there more than once.
        different: files or answers that differ without a word.
        unclear: tracebacks, other exit statuses than documented, hangs.
        leftovers: files of killed processes that no later run removes.
        refused: commands that ended with one line and status 2.
        sound: commands that gave the undisturbed results.
    """

    tries: int = 0
    disturbed: int = 0
    lost: int = 0
    doubled: int = 0
    different: int = 0
    unclear: int = 0
    leftovers: int = 0
    refused: int = 0
    sound: int = 0
    faults: list[dict[str, Any]] = field(default_factory=list)

    def fault(self, kind: str, count: int = 1, **details: Any) -> None:
        """Count a fault and list it."""
        setattr(self, kind, getattr(self, kind) + count)
        self.faults.append({"kind": kind} | details)


def compare(root: Path, sound: Path, row: Row, besides: Sequence[str] = (), **details: Any) -> bool:
    """Count what differs between two folders, some of their files aside; return if nothing does."""
    mine, theirs = records(root), records(sound)
    lost = sorted(set(theirs) - set(mine))
    doubled = sorted(key for key, count in mine.items() if count > theirs.get(key, 1))
    a, b = snapshot(root), snapshot(sound)
    names = [n for n in sorted(set(a) | set(b)) if not n.startswith(tuple(besides) or ("/",))]
    other = [
        name if name in a and name in b else f"{name} ({'new' if name in a else 'missing'})"
        for name in names
        if a.get(name) != b.get(name)
    ]
    for kind, found in (("lost", lost), ("doubled", doubled), ("different", other)):
        if found:
            row.fault(kind, len(found), what=[str(each) for each in found[:5]], **details)
    return not (lost or doubled or other)


# --- kills


def situations(data: Path, weights: Path, sound: Path) -> dict[str, list[str]]:
    """Return the command of every situation, with OUT for the folder it writes to."""
    common = [*SETTINGS, "--weights", str(weights), *METHODS]
    run = ["run", str(data), "--out", "OUT/out", *common]
    codebook, store = str(sound / "run/out/codebook"), str(sound / "run/out/encodings")
    encode = ["encode", str(data), "--codebook", codebook, "--out", "OUT/out", "--quiet"]
    encode += ["--weights", str(weights), *METHODS]
    spread = [*encode, "--engine", "ray", "--workers", "2"]
    return {
        "run": run,
        "run --cache": [*run, "--cache", "OUT/cache"],
        "fit": ["fit", str(data), "--out", "OUT/out", *common],
        "encode": encode,
        "train": ["train", store, "--out", "OUT/out", "--quiet"],
        "encode --engine ray": spread,
        f"{WORKER}encode --engine ray": spread,
    }


def placed(command: Sequence[str], folder: Path) -> list[str]:
    return [
        part.replace("OUT", str(folder), 1) if part.startswith("OUT/") else part for part in command
    ]


def undisturbed(
    commands: Commands, jobs: Mapping[str, Sequence[str]], sound: Path
) -> dict[str, float]:
    """Run every situation to its end, twice: to compile its programs and to learn how long it is.

    Raises:
        RuntimeError: one that fails.
    """
    seconds: dict[str, float] = {}
    for name, command in Watcher().bar(jobs.items(), "undisturbed", "job"):
        for keep in (True, False):
            shutil.rmtree(sound / name, ignore_errors=True)
            (sound / name).mkdir(parents=True)
            start = time.perf_counter()
            status, said = commands.end(commands.start(placed(command, sound / name), keep))
            seconds[name] = time.perf_counter() - start
            if status != 0:
                raise RuntimeError(
                    f"{name}: ends with {status} although nothing disturbs it: {said}"
                )
    return seconds


def kill(
    commands: Commands,
    command: Sequence[str],
    folder: Path,
    seconds: float,
    rng: np.random.Generator,
    row: Row,
    worker: bool = False,
) -> list[str] | None:
    """Give a command until it ends, killed the first time and half of the times thereafter.

    With ``worker`` one of its workers is killed instead, which is not to end it.

    Returns:
        The signals it was sent and when; None where it did not end as it should.
    """
    history: list[str] = []
    again = False
    row.tries += 1
    while True:
        process = commands.start(placed(command, folder))
        sent: signal.Signals | None = None
        if not again or rng.random() < 0.5:
            moment = rng.uniform(0, seconds)
            process.join(moment)
            victims = workers_of(process) if worker else [process.pid]
            if process.is_alive() and victims:
                sent = signal.SIGKILL if worker else SIGNALS[int(rng.integers(len(SIGNALS)))]
                os.kill(victims[int(rng.integers(len(victims)))], sent)
                history.append(f"{sent.name} after {moment:.2f} s")
        status, said = commands.end(process)
        if sent is None and not again and status == 0:  # it was quicker than the signal
            seconds /= 2
            shutil.rmtree(folder)
            folder.mkdir()
            continue
        again = True
        row.disturbed += sent is not None
        if status not in (ENDINGS[sent] if sent and not worker else (0,)) or "Traceback" in said:
            row.fault("unclear", status=status, said=said[-1000:], history=history)
            return None
        if status == 0:
            return history


def check_killed(
    commands: Commands,
    command: Sequence[str],
    folder: Path,
    sound: Path,
    history: Sequence[str],
    row: Row,
) -> None:
    """Compare what a killed job made in the end; see that leftovers go in time."""
    compare(folder, sound, row, history=history)
    if not leftovers(folder):
        return
    old = time.time() - 2 * STALE_SECONDS
    for path in leftovers(folder):
        os.utime(path, (old, old))
    status, said = commands.end(commands.start(placed(command, folder)))
    if status != 0:
        row.fault("unclear", status=status, said=said[-1000:], history=[*history, "its end"])
    elif rest := leftovers(folder):
        what = [str(path.relative_to(folder)) for path in rest]
        row.fault("leftovers", len(rest), what=what, history=history)


# --- flips


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


# --- the table


def show(table: Mapping[str, Row]) -> None:
    """Print a line for each situation."""
    columns = [each.name for each in fields(Row) if each.name != "faults"]
    width = max(map(len, table))
    print(f"{'situation':<{width}}", *(f"{name:>9}" for name in columns))
    for name, row in table.items():
        print(f"{name:<{width}}", *(f"{getattr(row, column):>9}" for column in columns))


def show_faults(table: Mapping[str, Row]) -> None:
    """Print a line for each fault."""
    for name, row in table.items():
        for fault in row.faults:
            print(f"FAULT {name}:", json.dumps(fault))


def measure(root: Path, args: argparse.Namespace) -> dict[str, Row]:
    """Disturb everything below a folder and return what became of it."""
    rng = np.random.default_rng(args.seed)
    data, weights = write_inputs(root, args.seed)
    sound, commands = root / "sound", Commands(root)
    jobs = situations(data, weights, sound)
    table = {f"kill {name}": Row() for name in jobs} | {f"flip {p}": Row() for p in PLACES}
    try:
        seconds = undisturbed(commands, jobs, sound)
        names = [*islice(cycle(jobs), args.kills)]
        for number, name in enumerate(Watcher().bar(names, "kills", "job")):
            folder, row = root / f"killed {number}", table[f"kill {name}"]
            folder.mkdir()
            worker = name.startswith(WORKER)
            history = kill(commands, jobs[name], folder, seconds[name], rng, row, worker)
            if history is not None:
                check_killed(commands, jobs[name], folder, sound / name, history, row)
            shutil.rmtree(folder)
        if args.flips:
            flips = Flips(commands, data, jobs, sound)
        for place in Watcher().bar([*islice(cycle(PLACES), args.flips)], "flips", "bit"):
            flips.try_one(place, rng, table[f"flip {place}"])
    finally:
        commands.close()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=30, help="jobs that are killed, once or more")
    parser.add_argument("--flips", type=int, default=100, help="bits that are flipped")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="5 kills and 20 flips")
    out = Path(__file__).parent / "results/fault_injection.json"
    parser.add_argument("--out", type=Path, default=out)
    args = parser.parse_args()
    if args.quick:
        args.kills, args.flips = 5, 20
        args.out = args.out.with_name("fault_injection_quick.json")
    with tempfile.TemporaryDirectory() as temporary:
        table = measure(Path(temporary), args)
    show(table)
    show_faults(table)
    record = {"made": provenance(), "seed": args.seed}
    record["situations"] = {name: asdict(row) for name, row in table.items()}
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"results: {args.out}")
    sys.exit(any(row.faults for row in table.values()))


if __name__ == "__main__":
    main()
