"""Fault injection: does a disturbed job lose anything, and is a flipped bit ever believed?

A tiny run (24 generated pictures, a network of two layers with random weights, six shards) is
disturbed at random moments (of the time that it computes), in processes of their own, and the same
command is given again, disturbed or not, until it ends:

- *kill*: ``run``, ``run --cache``, ``fit``, ``encode``, ``train`` and, with ``--engine ray``,
  ``encode``, ``run`` and ``fit`` are sent SIGKILL or SIGTERM;
- *kill workers of*: one to three workers of Ray are sent SIGKILL, which the command has to survive;
- *full disk*: output and cache lie on a disk of their own, which fills, and has room again when the
  command is given again; it must end with status 2 and one line that says so;
- *removed input*: one to all pictures are gone, and back when the command is given again; it must
  list them (status 1), or end with one line (status 2). Where the command given again says that a
  new folder is wanted, because what is there was made of fewer pictures, it gets one ("anew").

The finished folder is compared with that of an undisturbed run: records (pictures in stores and
caches, bundles) lost or doubled, files that differ, temporary files and locks that stay.

- *flip*: one random bit of a random file of the encodings, codebook, model or cache is flipped
  (size and times stay). ``evaluate``, ``train``, ``search``, ``predict`` and the same ``run`` must
  each refuse with one line and status 2, or give what they give with sound files.

    python experiments/fault_injection.py            2 disturbances of each, 40 flips: 10 minutes
    python experiments/fault_injection.py --long     20 of each, 100 flips: an hour
    python experiments/fault_injection.py --quick    1 of each but Ray's, 8 flips, another file

Results are written after every try, a quarter of each situation after the other. ``--go-on`` goes
on with the rows of the file, which name the sources that they are of; ``--only TEXT`` takes the
situations with TEXT in their names, and leaves the others in the file as they are; ``--compiled
FOLDER`` keeps the compiled programs.

Files are compared byte for byte, with three exceptions: the arrays of bundles by their values
(orbax gives its files random names), ``metrics.json`` without its seconds, ``report.html`` not at
all. Temporary files may stay for a day, as another process may own them: they are made older, and
the command must remove them. Programs are compiled once for all processes (JAX's compilation
cache), which are forked from one that has imported everything, so that signals meet the work.

Expected: no fault. Each one is listed, and the exit status is 1. Results:
``results/fault_injection.json``.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
from fault_disturbances import Impossible
from fault_flips import PLACES, Flips
from fault_folders import Row
from fault_processes import Commands, write_inputs
from fault_situations import Try, commands_of, situations, undisturbed
from machine import provenance

import mpp_jax
from mpp_jax.files import write_file
from mpp_jax.progress import Watcher

MODES = {"quick": (1, 0, 8), "default": (2, 4, 40), "long": (20, 20, 100)}
"""Disturbances of each situation without Ray, of `RAY` or a quarter of it of others with Ray, and
flips in all."""
ROUNDS = 4
"""Parts of a trial, each of which has all situations."""
MOST = 3
"""Tries for each disturbance that is wanted, after which a situation is given up."""
RAY = ("kill encode --engine ray", "kill workers of encode --engine ray")


class Table:
    """The rows by situation, kept in the result file."""

    def __init__(self, out: Path, seed: int, go_on: bool) -> None:
        """Take what is in the file; with ``go_on`` also rows to go on with."""
        self.rows: dict[str, Row] = {}
        self._out, self._seed = out, seed
        self._made = provenance()
        self._program = sources_digest()
        self._go_on = go_on

    def _held(self) -> dict[str, Row]:
        if not self._out.exists():
            return {}
        record = json.loads(self._out.read_text())
        return {name: Row(**row) for name, row in record["situations"].items()}

    def row(self, name: str) -> Row:
        """Return a situation's row: a new one, or that of the file where it is gone on with."""
        if name in self.rows:
            return self.rows[name]
        old = self._held().get(name) if self._go_on else None
        self.rows[name] = old or Row()
        return self.rows[name]

    def save(self, tried: Row) -> None:
        """Write the rows after one of them was tried; those of the file not asked for stay."""
        tried.programs = [*dict.fromkeys([*tried.programs, self._program])]
        rows = self._held() | self.rows
        record = {"made": self._made, "seed": self._seed}
        record["situations"] = {name: asdict(row) for name, row in rows.items()}
        write_file(self._out, (json.dumps(record, indent=1) + "\n").encode())


def sources_digest() -> str:
    """Return the beginning of the SHA-256 of the package's sources."""
    files = sorted(Path(mpp_jax.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def show(table: Mapping[str, Row]) -> None:
    """Print a line for each situation."""
    columns = [each.name for each in fields(Row) if each.name not in ("faults", "programs")]
    width = max(map(len, table), default=0)
    print(f"{'situation':<{width}}", *(f"{name:>9}" for name in columns))
    for name, row in table.items():
        print(f"{name:<{width}}", *(f"{getattr(row, column):>9}" for column in columns))


def show_faults(table: Mapping[str, Row]) -> None:
    """Print a line for each fault."""
    for name, row in table.items():
        for fault in row.faults:
            print(f"FAULT {name}:", json.dumps(fault))


def goal_of(name: str, args: argparse.Namespace) -> int:
    """Return how many disturbances a situation is to have at least."""
    if "ray" not in name:
        return int(args.each)
    return int(args.ray if name in RAY else args.ray // 4)


def measure(root: Path, args: argparse.Namespace) -> dict[str, Row]:
    """Disturb everything below a folder and return what became of it."""
    data, weights = write_inputs(root, args.seed)
    commands = Commands(root, args.compiled)
    table = Table(args.out, args.seed, args.go_on)

    def wanted(name: str) -> bool:
        return not args.only or any(text in name for text in args.only)

    goals = {name: goal_of(name, args) for name in situations(data) if wanted(name)}
    kinds = {name: kind for name, kind in situations(data).items() if goals.get(name)}
    places = [place for place in PLACES if wanted(f"flip {place}")] if args.flips else []
    needed = {job for _, job in kinds.values()} | {"run"} | ({"run --cache"} if places else set())
    sound = root / "sound"
    jobs = {name: job for name, job in commands_of(data, weights, sound).items() if name in needed}
    try:
        seconds = undisturbed(commands, jobs, sound)
        flips = Flips(commands, data, jobs, sound) if places else None
        for part in range(1, ROUNDS + 1):  # some of each, so that a long trial may be cut short
            for name, (how, job) in [*kinds.items()]:
                one = Try(commands, jobs[job], sound / job, seconds[job], how, root / "disturbed")
                try:
                    repeat(table, name, -(-goals[name] * part // ROUNDS), one, args.seed)
                except Impossible as error:
                    print(f"{name}: left out, {error}")
                    del kinds[name], table.rows[name]
            for place in places:
                name, goal = f"flip {place}", -(-args.flips * part // (len(PLACES) * ROUNDS))
                row = table.row(name)
                for _ in Watcher().bar(range(row.tries, goal), name, "bit"):
                    assert flips is not None
                    flips.try_one(place, moments(name, row, args.seed), row)
                    table.save(row)
    finally:
        commands.close()
    return table.rows


def repeat(table: Table, name: str, goal: int, one: Try, seed: int) -> None:
    """Disturb a job until it has been disturbed often enough.

    Raises:
        Impossible: such a disturbance cannot be had here.
    """
    row = table.row(name)
    with Watcher().bar(goal, name, "disturbance", initial=min(row.disturbed, goal)) as bar:
        while row.disturbed < goal and row.tries < MOST * goal:
            before = row.disturbed
            one.run(moments(name, row, seed), row)
            table.save(row)
            bar.update(row.disturbed - before)


def moments(name: str, row: Row, seed: int) -> np.random.Generator:
    """Return the random numbers of a situation's next try, whatever was tried before."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), row.tries])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--each", type=int, help="disturbances of each situation, at least")
    parser.add_argument("--ray", type=int, help="the same of `encode --engine ray`")
    parser.add_argument("--flips", type=int, help="bits that are flipped")
    parser.add_argument("--only", action="append", metavar="TEXT", help="situations named so")
    parser.add_argument("--go-on", action="store_true", help="go on with the rows of the file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compiled", type=Path, help="keep compiled programs in this folder")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--quick", action="store_true", help="little of everything, without Ray")
    mode.add_argument("--long", action="store_true", help="hundreds of disturbances")
    out = Path(__file__).parent / "results/fault_injection.json"
    parser.add_argument("--out", type=Path, default=out)
    args = parser.parse_args()
    if args.quick:
        args.out = args.out.with_name("fault_injection_quick.json")
    name = "quick" if args.quick else "long" if args.long else "default"
    for key, value in zip(("each", "ray", "flips"), MODES[name], strict=True):
        if getattr(args, key) is None:
            setattr(args, key, value)
    with tempfile.TemporaryDirectory() as temporary:
        table = measure(Path(temporary), args)
    show(table)
    show_faults(table)
    print(f"results: {args.out}")
    sys.exit(any(row.faults for row in table.values()))


if __name__ == "__main__":
    main()
