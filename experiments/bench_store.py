"""Stores of 1,000 to 1,000,000 pictures: what a shard costs, and what opening takes.

Synthetic pictures of a thousand classes, vectors of 16 dimensions. The list is written, 20 shards
of 256 pictures spread over the store are written by `StoreWriter` and timed, and the others are
filled in by copies of their files, each with a record of its own; then the store is opened in a
process of its own, whose time and memory are measured, and one vector of each twentieth shard is
read.

    python experiments/bench_store.py            1,000, 100,000 and 1,000,000: minutes
    python experiments/bench_store.py --quick    1,000 and 10,000

Seconds are those of the clock, which waits for the disk and other processes, and of the processor.

Expected: seconds and bytes a shard do not depend on the number of pictures, and a million open in
less than 10 seconds and 1 GB. Results: ``results/bench_store.json``.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import provenance

from mpp_jax.data import Dataset, Item
from mpp_jax.storage.store import SHARD_SIZE, Store, StoreWriter
from mpp_jax.storage.store_format import ArrayFile, array_name, record_name
from mpp_jax.storage.store_records import read_record, record_bytes
from mpp_jax.storage.store_shard import ShardTask

RESULTS = Path(__file__).parent / "results"
DIMENSION, CLASSES, TIMED = 16, 1000, 20


def pictures(count: int) -> Dataset:
    """Return a data set of so many pictures, a tenth of them to test on."""
    items = tuple(
        Item(f"{split}/class {i % CLASSES:03d}/{i:07d}.jpg", (i % CLASSES,), split)
        for split, numbers in (("train", range(count * 9 // 10)), ("test", range(count // 10)))
        for i in numbers
    )
    return Dataset("synthetic", tuple(f"class {i:03d}" for i in range(CLASSES)), items)


def opened(folder: Path, count: int) -> tuple[StoreWriter, dict[str, Item], float]:
    """Return a writer of a new store, its pictures by name, and how long its list took."""
    data = pictures(count)
    start = time.perf_counter()
    writer = StoreWriter(
        folder,
        data,
        methods=("mpp",),
        network="synthetic",
        weights_sha256="0" * 64,
        codebook_sha256=None,
        config={},
    )
    return writer, {item.id: item for item in data.items}, time.perf_counter() - start


def fill_in(task: ShardTask, source: Path) -> None:
    """Write a shard as a copy of another one's array, without computing anything."""
    count = len(task.items)
    done = [
        replace(item, status="done", row=row, sha256=f"{row:064x}")
        for row, item in enumerate(task.items)
    ]
    known = read_record(source.parent, int(source.name.split(".")[0].removeprefix("shard-")))
    file: ArrayFile = known["arrays"]["mpp"]
    assert file.rows >= count
    shutil.copyfile(source, task.folder / array_name(task.shard, "mpp"))
    record = record_bytes(task.shard, task.settings, done, task.classes, {"mpp": file})
    (task.folder / record_name(task.shard)).write_bytes(record)


def measure(folder: Path, count: int) -> dict[str, Any]:
    """Return seconds and bytes of a store of so many pictures."""
    writer, items, listing = opened(folder, count)
    rng = np.random.default_rng(0)
    numbers = sorted(writer.tasks)
    full = [n for n in numbers if len(writer.tasks[n].items) == SHARD_SIZE]
    chosen = sorted({full[int(i)] for i in np.linspace(0, len(full) - 1, TIMED)})
    seconds: list[tuple[float, float]] = []
    sizes = []
    for shard in chosen:
        some = [items[name] for name in writer.tasks[shard].pending]
        vectors = rng.standard_normal((len(some), DIMENSION), np.float32)
        digests = {item.id: f"{i:064x}" for i, item in enumerate(some)}
        start = time.perf_counter(), time.process_time()
        writer.put(some, {"mpp": vectors}, digests)
        seconds.append((time.perf_counter() - start[0], time.process_time() - start[1]))
        names = (array_name(shard, "mpp"), record_name(shard))
        sizes.append(sum((folder / name).stat().st_size for name in names))
    source = folder / array_name(chosen[0], "mpp")
    for task in [*writer.tasks.values()]:
        fill_in(task, source)
    alone = [sys.executable, __file__, "--open", str(folder)]
    text = subprocess.run(alone, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {
        "pictures": count,
        "shards": len(numbers),
        "seconds_to_write_the_list": listing,
        "median_seconds_a_shard": float(np.median([wall for wall, _ in seconds])),
        "median_processor_seconds_a_shard": float(np.median([own for _, own in seconds])),
        "bytes_a_shard": int(np.median(sizes)),
        "bytes_of_the_head": (folder / "manifest.json").stat().st_size,
        **json.loads(text),
    }


def open_alone(folder: Path) -> dict[str, Any]:
    """Open a store, look at its pictures and read some vectors; return seconds and bytes."""
    before = peak()
    start = time.perf_counter(), time.process_time()
    store = Store.open(folder)
    seconds = time.perf_counter() - start[0], time.process_time() - start[1]
    items = store.items("train")
    step = max(len(items) // TIMED, 1)
    rows = sum(len(part) for part in store.vectors_of("mpp", items[::step]))
    assert rows == len(items[::step])
    return {
        "seconds_to_open": seconds[0],
        "processor_seconds_to_open": seconds[1],
        "peak_bytes": peak(),
        "peak_bytes_beyond_imports": peak() - before,
    }


def peak() -> int:
    """Return the most memory that this process has had, in bytes (Linux counts in KiB)."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--open", type=Path, help="only open this store, and print JSON")
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_store.json")
    args = parser.parse_args()
    if args.open is not None:
        print(json.dumps(open_alone(args.open)))
        return
    if args.quick:
        args.counts = [1_000, 10_000]
    rows = []
    print(f"{'pictures':>10} {'list, s':>8} {'shard, ms':>10} {'of it CPU':>10} ", end="")
    print(f"{'shard, B':>9} ", end="")
    print(f"{'head, B':>8} {'open, s':>8} {'of it CPU':>10} {'peak, MB':>9}")
    for count in args.counts:
        with tempfile.TemporaryDirectory() as place:
            row = measure(Path(place) / "store", count)
        rows.append(row)
        print(
            f"{count:>10,} {row['seconds_to_write_the_list']:>8.2f} "
            f"{1000 * row['median_seconds_a_shard']:>10.1f} "
            f"{1000 * row['median_processor_seconds_a_shard']:>10.1f} {row['bytes_a_shard']:>9,} "
            f"{row['bytes_of_the_head']:>8,} {row['seconds_to_open']:>8.2f} "
            f"{row['processor_seconds_to_open']:>10.2f} {row['peak_bytes'] / 1e6:>9.0f}",
            flush=True,
        )
    args.out.write_text(json.dumps({"made": provenance(), "stores": rows}, indent=1) + "\n")
    print(f"results: {args.out}")


if __name__ == "__main__":
    main()
