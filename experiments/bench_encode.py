"""JPEG files to vectors on disk: what all that is not extraction costs, and how much memory.

    python experiments/bench_encode.py             64 pictures, 3 rounds; 10,000 small ones: 30 min
    python experiments/bench_encode.py --quick     6 pictures, 1 round; 600 small ones: 1 minute

Two measurements, both on JPEG files that the script writes.

Speed: pictures of 375 x 500 pixels, ``--network`` at ``--scales`` scales, MPP vectors of PCA 128
and K = 256. In turn, medians: ``extraction`` (the same pictures decoded in memory before the clock
starts; descriptors alone, nothing kept), ``encoding`` (the same, to vectors) and ``whole`` (what
``mpp-jax encode`` does: files read and decoded, digests taken, vectors written).

Memory: ``--many`` pictures of 64 pixels at one scale in a process of its own; its peak after a
tenth of the pictures and at the end. It must not grow with their number.

Expected on 2 cores: ``whole`` within 10% of ``extraction``, less than 200 MB between the peaks.
Results: ``results/bench_encode.json``.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from lab import RESULTS
from machine import provenance, weights_of
from PIL import Image
from timing import interleaved, summary
from tqdm import tqdm

from mpp_jax.config import Encoder, Pyramid, Run
from mpp_jax.data import Dataset, Item, Skipped, decode_picture
from mpp_jax.describe.extraction import Described, Extractor
from mpp_jax.describe.wants import Wants
from mpp_jax.memory import keep_freed_memory
from mpp_jax.nets import Network
from mpp_jax.progress import Watcher
from mpp_jax.runs import pipeline
from mpp_jax.runs.vectors import atoms_of, encode_items, wanted_of
from mpp_jax.stats.codebook import Codebooks
from mpp_jax.weights.load import load_network

CLASSES = ("left", "right")


def write_pictures(folder: Path, count: int, height: int, width: int) -> Dataset:
    """Write JPEG files of smooth noise, as large as photographs of that size; return them."""
    rng = np.random.default_rng(0)
    items = []
    for number in tqdm(range(count), desc="write JPEG files", unit="picture"):
        coarse = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        noise = rng.normal(0, 6, (height, width, 1))
        place = folder / f"{number:05d}.jpg"
        pixels = np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(place, quality=90)
        split = "train" if number < count // 2 else "test"
        items.append(Item(place.name, (number % 2,), split, path=place))
    return Dataset("jpeg", CLASSES, tuple(items))


def in_memory(dataset: Dataset) -> tuple[Item, ...]:
    """Return the pictures decoded, so that reading one costs nothing."""
    arrays = [decode_picture(item.source()) for item in dataset.items]
    return tuple(
        replace(item, path=None, read=lambda array=array: array)
        for item, array in zip(dataset.items, arrays, strict=True)
    )


def refuse(skipped: Skipped) -> None:
    raise SystemExit(f"error: {skipped.path}: {skipped.reason}")


def speed(args: argparse.Namespace, network: Network, folder: Path) -> dict[str, Any]:
    """Time the three ways in turn."""
    dataset = write_pictures(folder, args.pictures, 375, 500)
    config = Run(
        pyramid=Pyramid(tuple(range(args.scales))),
        encoder=Encoder(pca=args.pca, components=args.components, samples=args.samples),
        pooling=("mpp",),
    )
    decoded = in_memory(dataset)
    codebooks, _ = pipeline.fit(replace(dataset, items=decoded), network, config)
    wants = wanted_of(atoms_of(config), config.pyramid.scales)
    stores = iter(range(1_000_000))

    def extraction() -> None:
        for described in Extractor(network, config.pyramid).describe(decoded, wants, refuse):
            jax.block_until_ready(described.sources)

    def encoding() -> None:
        for _ in encode_items(network, decoded, codebooks, config, atoms_of(config)):
            pass

    def whole() -> None:
        out = folder / f"store-{next(stores)}"
        pipeline.encode_dataset(
            dataset, network, codebooks, config, out, watcher=Watcher(quiet=True)
        )

    runs = {"extraction": extraction, "encoding": encoding, "whole": whole}
    for run in runs.values():  # compiled, and files in the page cache
        run()
    table = interleaved("encode", args.rounds, {name: timed(run) for name, run in runs.items()})
    result = summary(table, 0.0, "extraction")
    medians = result["seconds"]
    return {
        "pictures": args.pictures,
        "scales": args.scales,
        "seconds": medians,
        "pictures_per_second": {name: args.pictures / s for name, s in medians.items()},
        "whole_over_extraction": medians["whole"] / medians["extraction"],
        "seconds_of_each_round": result["seconds_of_each_round"],
    }


def timed(run: Callable[[], None]) -> Callable[[], float]:
    """Return the function that runs it and returns the seconds that took."""

    def clocked() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return clocked


class Sampled(Extractor):
    """Notes the process's peak memory as the pictures go by; of one job alone."""

    def describe(
        self, items: Sequence[Item], wants: Wants, on_skip: Callable[[Skipped], object]
    ) -> Iterator[Described]:
        """Describe pictures; afterwards `peaks` has one more entry."""
        yield from super().describe(items, wants, on_skip)
        PEAKS.append((len(items), peak_mib()))


PEAKS: list[tuple[int, float]] = []
"""(pictures of a block, MiB at most up to its end)."""


def peak_mib() -> float:
    """Return the most memory that this process has had, in MiB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(args: argparse.Namespace, network: Network, folder: Path) -> dict[str, Any]:
    """Encode many small pictures, and look at the peak as they go by."""
    dataset = write_pictures(folder, args.many, 64, 64)
    config = Run(
        pyramid=Pyramid((0,)),
        encoder=Encoder(pca=4, components=2, samples=2_000),
        pooling=("mpp",),
    )
    few = replace(dataset, items=dataset.items[:200])
    codebooks: Codebooks
    codebooks, _ = pipeline.fit(few, network, config)
    source = Sampled(network, config.pyramid)
    start = time.perf_counter()
    pipeline.encode_dataset(
        dataset, network, codebooks, config, folder / "store", activations=source
    )
    seconds = time.perf_counter() - start
    passed = np.cumsum([count for count, _ in PEAKS])
    early = next(peak for n, (_, peak) in zip(passed, PEAKS, strict=True) if n >= args.many / 10)
    return {
        "pictures": args.many,
        "pictures_per_second": args.many / seconds,
        "peak_mib_after_a_tenth": early,
        "peak_mib_at_the_end": PEAKS[-1][1],
    }


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--network", default="squeezenet")
    parser.add_argument("--weights", help="default: SqueezeNet's shared file, else the library's")
    parser.add_argument("--scales", type=int, default=4)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--many", type=int, default=10_000, help="small pictures, for the memory")
    parser.add_argument("--pca", type=int, default=128)
    parser.add_argument("--components", type=int, default=256)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--memory-only", action="store_true", help="print that part as JSON")
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_encode.json")
    args = parser.parse_args()
    if args.quick:
        args.pictures, args.rounds, args.many = 6, 1, 600
        args.scales, args.pca, args.components, args.samples = 2, 16, 8, 2_000
    keep_freed_memory()
    network = load_network(args.network, weights_of(args.network, args.weights))
    with tempfile.TemporaryDirectory() as place:
        if args.memory_only:
            print(json.dumps(memory(args, network, Path(place))))
            return
        made = provenance() | {"network": args.network}
        record: dict[str, Any] = {"made": made, "speed": speed(args, network, Path(place))}
    # A process of its own: a peak is of the whole life of one.
    alone = [sys.executable, *sys.argv, "--memory-only"]
    text = subprocess.run(alone, check=True, stdout=subprocess.PIPE, text=True).stdout
    record["memory"] = json.loads(text.splitlines()[-1])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    rates = record["speed"]["pictures_per_second"]
    print("pictures/s: " + ", ".join(f"{name} {rate:.2f}" for name, rate in rates.items()))
    print(f"whole / extraction: {record['speed']['whole_over_extraction']:.3f}")
    kept = record["memory"]
    print(
        f"peak memory of {kept['pictures']} small pictures: {kept['peak_mib_after_a_tenth']:.0f} "
        f"MiB after a tenth, {kept['peak_mib_at_the_end']:.0f} MiB at the end"
    )
    print(f"results: {args.out}")


if __name__ == "__main__":
    main()
