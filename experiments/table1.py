"""The paper's Table 1: extracting multi-scale activations densely against crop by crop.

    python experiments/table1.py                 about 5 minutes
    python experiments/table1.py --quick         two scale ranges, small sample: 1 minute

For scales 1-4, 1-5, 1-6 and 1-7 of CaffeNet's fc7: the number of activations; seconds a picture of
the naive way (every window of every scale image cropped, at 227 x 227 as it is, and sent through
the network in batches) and of ours (one pass a scale), and their ratio. Random weights serve:
the arithmetic is the same. The naive time is extrapolated from ``--sample`` windows a measurement,
since all of them would take many minutes; the two are measured in turn, medians of ``--repeats``.

Expected: 270, 754, 1910, 4410 activations. The paper, on a TITAN Black: naive 1.702, 4.941, 11.41,
27.64 s, dense 0.0769, 0.1265, 0.2420, 0.4635 s, so 22, 39, 47 and 60 times faster.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from machine import provenance

from mpp_jax.describe.dense import describe_pictures, describe_scale
from mpp_jax.describe.geometry import geometry_table
from mpp_jax.describe.pyramid import resize_pictures
from mpp_jax.memory import keep_freed_memory
from mpp_jax.nets.network import random_network
from mpp_jax.nets.registry import get_spec

PAPER = {
    4: {"naive": 1.702, "dense": 0.0769},
    5: {"naive": 4.941, "dense": 0.1265},
    6: {"naive": 11.41, "dense": 0.2420},
    7: {"naive": 27.64, "dense": 0.4635},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--network", default="caffenet")
    parser.add_argument("--sample", type=int, default=40, help="windows timed a measurement")
    parser.add_argument("--batch", type=int, default=10, help="windows sent through at once")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/table1.json")
    args = parser.parse_args()
    keep_freed_memory()
    spec = get_spec(args.network)
    layer = spec.layer()
    ranges = (4, 5) if args.quick else (4, 5, 6, 7)
    sample = args.batch if args.quick else args.sample
    repeats = 1 if args.quick else args.repeats
    network = random_network(jax.random.key(0), spec)
    table = geometry_table(spec, range(max(ranges)))
    rng = np.random.default_rng(0)
    canvas = jnp.asarray(rng.integers(0, 256, (1, 512, 512, 3), np.uint8))
    sizes = jnp.asarray([[375, 500]])

    def dense(side: int) -> float:
        start = time.perf_counter()
        jax.block_until_ready(describe_scale(network, canvas, sizes, side=side))
        return time.perf_counter() - start

    def naive(side: int, count: int) -> float:
        """Return seconds to cut and describe ``count`` windows of one scale image in turn."""
        start = time.perf_counter()
        picture = resize_pictures(canvas, sizes, side)
        positions = spec.positions(side)
        # The picture is resized once a scale, so only the windows are extrapolated.
        jax.block_until_ready(picture)
        resized = time.perf_counter() - start
        start = time.perf_counter()
        for first in range(0, count, args.batch):
            corners = [
                divmod(i % positions**2, positions) for i in range(first, first + args.batch)
            ]
            crops = jnp.concatenate(
                [
                    jax.lax.dynamic_slice(
                        picture,
                        (0, y * layer.stride, x * layer.stride, 0),
                        (1, spec.side, spec.side, 3),
                    )
                    for y, x in corners
                ]
            )
            jax.block_until_ready(describe_pictures(network, crops, (layer.name,)))
        return resized + (time.perf_counter() - start) * positions**2 / count

    for row in table:  # compile
        dense(row["side"])
        naive(row["side"], args.batch)
    ours: dict[int, list[float]] = {row["side"]: [] for row in table}
    theirs: dict[int, list[float]] = {row["side"]: [] for row in table}
    for _ in range(repeats):
        for row in table:
            ours[row["side"]].append(dense(row["side"]))
            theirs[row["side"]].append(naive(row["side"], sample))
    rows = []
    for last in ranges:
        sides = [row["side"] for row in table[:last]]
        slow = sum(statistics.median(theirs[side]) for side in sides)
        fast = sum(statistics.median(ours[side]) for side in sides)
        entry = {
            "scales": f"1-{last}",
            "activations": table[last - 1]["cumulative"],
            "naive_seconds": slow,
            "dense_seconds": fast,
            "ratio": slow / fast,
            "paper": PAPER[last] | {"ratio": PAPER[last]["naive"] / PAPER[last]["dense"]},
        }
        rows.append(entry)
        print(
            f"scales {entry['scales']}: {entry['activations']} activations, naive {slow:.2f} s, "
            f"dense {fast:.3f} s, {slow / fast:.1f} times (paper {entry['paper']['ratio']:.1f})",
            flush=True,
        )
    record = {
        "made": provenance(),
        "network": spec.name,
        "extrapolated_from_windows_a_scale": sample,
        "batch": args.batch,
        "repeats": repeats,
        "rows": rows,
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"results: {args.out}")


if __name__ == "__main__":
    main()
