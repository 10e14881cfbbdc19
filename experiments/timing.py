"""Clocks and the yardstick of the benchmarks: a matrix product in the same run."""

import math
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

SIDE = 4096
"""Rows and columns of the yardstick's matrices."""

Run = Callable[[], Any]


def seconds(function: Run) -> float:
    """Return wall-clock seconds of one call, until its results are there."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def first_and_steady(function: Run, repeats: int, least: float = 0.05) -> tuple[float, float]:
    """Return seconds of the first call, with what it compiles, and of one of the later ones.

    The latter is the median over `repeats` of calls that last `least` seconds together. An
    accelerator has them in its queue at once, so that what it takes to start them does not count.
    """
    first = seconds(function)
    queue = 1 if jax.default_backend() == "cpu" else math.ceil(least / seconds(function))
    calls = max(1, min(queue, 50))

    def several() -> Any:
        for _ in range(calls - 1):
            function()
        return function()

    return first, median(seconds(several) for _ in range(repeats)) / calls


def matmul() -> Run:
    """Return the yardstick, one float32 product of `SIDE`, compiled."""
    a = jax.random.normal(jax.random.key(0), (SIDE, SIDE))
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=jax.lax.Precision.HIGHEST))
    jax.block_until_ready(product(a))
    return lambda: product(a)


def interleaved(
    name: str,
    rounds: int,
    runs: Mapping[str, Callable[[], float]],
    most: Mapping[str, int] | None = None,
) -> dict[str, list[float]]:
    """Return seconds of every run: all of them once a round, the yardstick `matmul` beside them.

    Args:
        name: of the part, for the progress bar.
        rounds: how often.
        runs: each returns its own seconds; compilation is the caller's to have done.
        most: of runs that are slow and steady, the number of rounds that they take part in.
    """
    yardstick = matmul()
    everything = {**runs, "matmul": lambda: seconds(yardstick)}
    table: dict[str, list[float]] = {key: [] for key in everything}
    for i in tqdm(range(rounds), desc=name, unit="round"):
        for key, run in everything.items():
            if i < (most or {}).get(key, rounds):
                table[key].append(run())
    return table


def summary(table: dict[str, list[float]], flop: float, ours: str = "ours") -> dict[str, Any]:
    """Return medians, ratios of every peer to ``ours``, and the share of the matmul's rate.

    Args:
        table: of `interleaved`.
        flop: floating-point operations that one run of ``ours`` has to do.
        ours: the run that is ours.
    """
    medians = {key: median(values) for key, values in table.items()}
    peak = 2 * SIDE**3 / medians.pop("matmul")
    rate = flop / medians[ours]
    return {
        "seconds": medians,
        "ratio": {key: value / medians[ours] for key, value in medians.items() if key != ours},
        "share_of_matmul_peak": rate / peak,
        "gflops": rate / 1e9,
        "matmul_gflops": peak / 1e9,
        "seconds_of_each_round": table,
    }
