"""Speed of the one-vs-rest SVM against liblinear, at the size of Fisher vectors.

    python experiments/bench_svm.py            # about 15 minutes on 2 cores, 7 GB of memory
    python experiments/bench_svm.py --quick    # about 2 minutes: liblinear on a sample of classes

All classes of a problem of 2,000 vectors x 65,536 dimensions x 20 classes (C = 10, hinge, bias as
a constant feature), from a NumPy array in memory to weights in memory, the Gram matrix included, to
a certified relative duality gap of 1e-3; compilation apart. The peer is scikit-learn's
``LinearSVC(loss="hinge")``, that is liblinear (one thread), with the loosest tolerance of 1, 0.1,
0.01, ... whose objective is as good (within 1e-3 of the certified lower bound); its one conversion
of the data to its own sparse format is counted once. Runs of both are interleaved; figures are
medians. In quick mode liblinear trains one class per round and the time of all classes is
extrapolated: conversion + classes x median.

Expected on 2 cores: at least 30 times liblinear. Results: ``experiments/results/bench_svm.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sklearn
from machine import provenance
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from mpp_jax.svm import fit_svm, fit_svm_gram, gram_matrix, one_vs_rest_targets, svm_from_dual

RESULTS = Path(__file__).parent / "results" / "bench_svm.json"
GAP = 1e-3
C = 10.0


def fisher_like(n: int, d: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Power- and L2-normalised vectors with overlapping classes and a common mean, float32."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    common = 0.5 * rng.standard_normal(d, dtype=np.float32)
    centres = 0.2 * rng.standard_normal((classes, d), dtype=np.float32)
    x = np.empty((n, d), np.float32)
    for i in range(n):  # by rows: no second copy of half a gigabyte
        row = rng.standard_normal(d, dtype=np.float32) + common + centres[labels[i]]
        row = np.sign(row) * np.sqrt(np.abs(row))
        x[i] = row / np.linalg.norm(row)
    wrong = rng.random(n) < 0.05  # labels that no machine can learn
    labels[wrong] = rng.integers(0, classes, wrong.sum())
    return x, labels


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = jax.block_until_ready(function())
    return time.perf_counter() - start, result


def matmul_peak(size: int = 4096) -> Callable[[], float]:
    """A function that measures GFLOP/s of one float32 matrix product."""
    a = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=jax.lax.Precision.HIGHEST))
    jax.block_until_ready(product(a))
    return lambda: 2 * size**3 / timed(lambda: product(a))[0] / 1e9


def objective(w: np.ndarray, b: float, x: np.ndarray, y: np.ndarray) -> float:
    margins = y * (x @ w.astype(np.float32) + b)
    hinges = np.maximum(0, 1 - margins).sum(dtype=np.float64)
    return 0.5 * (float(w @ w) + float(b) ** 2) + C * float(hinges)


def liblinear(x: np.ndarray, y: np.ndarray, tol: float, max_iter: int = 10_000) -> LinearSVC:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # judged by its objective instead
        return LinearSVC(loss="hinge", C=C, dual=True, tol=tol, max_iter=max_iter).fit(x, y)


def excess(model: LinearSVC, x: np.ndarray, y: np.ndarray, bounds: np.ndarray) -> float:
    """Largest relative distance of liblinear's objectives from their certified lower bounds."""
    return max(
        objective(w, float(b), x, y[:, k]) / bounds[k] - 1
        for k, (w, b) in enumerate(zip(model.coef_, model.intercept_, strict=True))
    )


def good_tolerance(x: np.ndarray, y: np.ndarray, bound: float) -> tuple[float, float]:
    """The loosest power of ten with which liblinear is as good on one class, and its excess."""
    for exponent in range(0, -7, -1):
        model = liblinear(x, y, 10.0**exponent)
        distance = excess(model, x, y[:, None], np.array([bound]))
        if distance <= GAP:
            return 10.0**exponent, distance
    raise RuntimeError("liblinear does not reach a relative distance of 1e-3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="liblinear on a sample of classes")
    parser.add_argument("--rounds", type=int, default=None, help="3, or 5 in full")
    parser.add_argument("--shape", type=int, nargs=3, default=(2000, 65536, 20), metavar="N")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    n, d, classes = options.shape
    rounds = options.rounds or (3 if options.quick else 5)
    x, labels = fisher_like(n, d, classes)
    targets = one_vs_rest_targets(labels, classes)

    def ours() -> dict[str, Any]:
        total, (svm, info) = timed(lambda: fit_svm(x, targets, C, tolerance=GAP))
        return {"total": total, "svm": svm, "info": info}

    peak = matmul_peak()
    first, _ = timed(lambda: ours()["svm"])  # compiles
    seconds: dict[str, list[float]] = {k: [] for k in ("total", "gram", "solve", "weights")}
    peaks, peer, conversions = [], [], []
    tolerance, distance = 0.0, 0.0
    for i in range(rounds):
        peaks.append(peak())
        run = ours()
        seconds["total"].append(run["total"])
        # the same in its parts
        gram_seconds, gram = timed(lambda: gram_matrix(x))
        solve_seconds, (dual, info) = timed(partial(fit_svm_gram, gram, targets, C, tolerance=GAP))
        weight_seconds, _ = timed(partial(svm_from_dual, dual, x))
        for name, value in zip(
            ("gram", "solve", "weights"), (gram_seconds, solve_seconds, weight_seconds), strict=True
        ):
            seconds[name].append(value)
        bounds = info.dual_objective
        if not tolerance:
            tolerance, distance = good_tolerance(x, targets[:, 0], bounds[0])
        if options.quick:
            y = targets[:, i % classes]
            # One iteration is, all but for a moment, the conversion.
            conversion, _ = timed(partial(liblinear, x, y, tolerance, max_iter=1))
            whole, model = timed(partial(liblinear, x, y, tolerance))
            conversions.append(conversion)
            peer.append(whole - conversion)
            worst = excess(model, x, y[:, None], bounds[[i % classes]])
        elif i < 3:  # minutes each
            whole, model = timed(partial(liblinear, x, labels, tolerance))
            peer.append(whole)
            worst = excess(model, x, targets, bounds)
        distance = max(distance, worst)
        print(
            f"round {i + 1}/{rounds}: ours {seconds['total'][-1]:.2f} s, liblinear "
            f"{peer[-1]:.2f} s ({'one class' if options.quick else 'all classes'})",
            flush=True,
        )

    medians = {name: median(values) for name, values in seconds.items()}
    peer_all = median(conversions) + classes * median(peer) if options.quick else median(peer)
    flop = {"gram": n * (n + 1) * d, "weights": 2 * n * d * classes}
    speed = median(peaks)
    result = {
        "shape": {"vectors": n, "dimensions": d, "classes": classes},
        "c": C,
        "quick": options.quick,
        "rounds": rounds,
        "seconds": medians,
        "seconds_all_rounds": seconds,
        "seconds_first_call_with_compilation": first,
        "iterations_slowest_class": int(info.iterations.max()),
        "largest_relative_gap": float(info.relative_gap.max()),
        "matmul_gflops": speed,
        "share_of_matmul_peak": {
            "gram, multiplications done once": flop["gram"] / medians["gram"] / 1e9 / speed,
            "gram, counted as the full square": 2 * n * n * d / medians["gram"] / 1e9 / speed,
            "total, all useful FLOP": sum(flop.values()) / medians["total"] / 1e9 / speed,
        },
        "liblinear": {
            "tolerance": tolerance,
            "largest_relative_distance": distance,
            "seconds_all_classes": peer_all,
            "extrapolated_from_classes": len(peer) if options.quick else None,
            "seconds_conversion": median(conversions) if conversions else None,
            "seconds_per_round": peer,
        },
        "ratio": peer_all / medians["total"],
        "load_average": os.getloadavg()[0],
        "provenance": provenance() | {"scikit-learn": sklearn.__version__},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "seconds_all_rounds"}, indent=1))


if __name__ == "__main__":
    main()
