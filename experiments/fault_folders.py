"""What is found in folders after a disturbance, and how it differs from what should be there."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mpp_jax.files import file_digest
from mpp_jax.runs.settings import SECONDS
from mpp_jax.storage.bundle import CHECKSUMS, RECORD, BundleError, read_bundle
from mpp_jax.storage.store_records import RECORD as SHARD_RECORD


@dataclass
class Row:
    """What became of one situation.

    Attributes:
        tries: jobs that were disturbed and given again until they ended, or files with a flipped
            bit.
        disturbed: signals, full disks and removals that met a running job, workers killed, flips.
        lost: records that an undisturbed run has and this one lacks.
        doubled: records that are there more than once.
        different: files or answers that differ without a word.
        unclear: tracebacks, other exit statuses than documented, hangs.
        leftovers: files of killed processes that no later run removes.
        refused: commands that ended with one line and status 2.
        sound: commands on a flipped bit that gave the undisturbed results.
        anew: commands that asked for a new folder, and got it.
        programs: digests of the package's sources that this is of.
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
    anew: int = 0
    programs: list[str] = field(default_factory=list)
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


def snapshot(root: Path) -> dict[str, str]:
    """Return what can be compared of every file: its digest, and for bundles that of their values.

    Locks and temporary files are left out, see `leftovers`. Of caches it is the rows of pictures:
    which of them share a file depends on which were there together.
    """
    held: dict[str, str] = {}
    bundles = [path.parent for path in root.rglob(RECORD) if not hidden(path, root)]
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        name = path.relative_to(root).as_posix()
        inside = any(path.is_relative_to(folder / "arrays") for folder in bundles)
        if inside or path.name in (CHECKSUMS, SECONDS, "report.html") or hidden(path, root):
            continue
        if (rows := cached_rows(path)) is not None:
            where = path.parent.relative_to(root).as_posix()
            held |= {f"{where}/{picture}": digest for picture, digest in rows.items()}
            continue
        if path.name == "metrics.json":
            try:
                record = json.loads(path.read_text())
                untimed = {k: v for k, v in record.items() if k not in ("seconds", "waiting")}
                held[name] = json.dumps(untimed, sort_keys=True)
                continue
            except (ValueError, TypeError):
                pass
        held[name] = file_digest(path)
    for folder in bundles:
        held[f"{folder.relative_to(root).as_posix()}/arrays"] = bundle_state(folder)
    return held


def cached_rows(path: Path) -> dict[str, str] | None:
    """Return digests of a cache's rows by picture; of its arrays none; None for other files."""
    if path.suffix == ".npy" and path.with_suffix(".json").exists():
        return {} if cached_rows(path.with_suffix(".json")) is not None else None
    if path.suffix != ".json":
        return None
    try:
        record = json.loads(path.read_text())
        pictures, rows, reasons = record["pictures"], record["rows"], record["reasons"]
        arrays = np.load(path.with_suffix(".npy"))
        return {
            picture: f"broken: {reason}"
            if row is None
            else hashlib.sha256(arrays[row].tobytes()).hexdigest()
            for picture, row, reason in zip(pictures, rows, reasons, strict=True)
        }
    except (ValueError, LookupError, TypeError, OSError, EOFError):
        return None  # damaged: compared byte by byte


def bundle_state(folder: Path) -> str:
    """Return the digest that a bundle's arrays were checked against, or why it is damaged."""
    try:
        kind = json.loads((folder / RECORD).read_text())["format"]
        return read_bundle(folder, kind)[1]["arrays_sha256"]
    except (BundleError, ValueError, KeyError, TypeError) as error:
        return f"damaged: {error}"


def hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def leftovers(root: Path) -> list[Path]:
    """Return temporary files and folders and locks; all of them have hidden names."""
    return [path for path in sorted(root.rglob(".*")) if not hidden(path.parent, root)]


def records(root: Path) -> Counter[tuple[str, ...]]:
    """Return how often each record is there: pictures of stores and of caches, and bundles.

    Two pictures of a store that share a row count as two of "row (shard, row)", which no sound
    store has.
    """
    found: Counter[tuple[str, ...]] = Counter()
    for path in root.rglob("*.json"):
        where = path.parent.relative_to(root).as_posix()
        if hidden(path, root):
            continue
        if path.name == RECORD:
            found[where, "bundle"] += 1
        try:
            record = json.loads(path.read_text())
            if record.get("format") == SHARD_RECORD:
                pairs = zip(record["ids"], record["rows"], record["statuses"], strict=True)
                done = [(name, row) for name, row, status in pairs if status == "done"]
                found.update((where, name) for name, _ in done)
                rows = Counter((record["shard"], row) for _, row in done)
                found.update((where, f"row {row}") for row in rows.elements() if rows[row] > 1)
            elif "pictures" in record and "rows" in record:
                found.update((where, picture) for picture in record["pictures"])
        except (ValueError, KeyError, TypeError):
            continue  # damaged: what it names is lost
    return found
