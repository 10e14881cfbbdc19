"""The part ``svm`` of ``bench_core.py``: one-vs-rest machines against liblinear.

All classes of a problem of 2,000 vectors x 65,536 dimensions x 20 classes (C = 10, hinge, bias as
a constant feature), from a NumPy array in memory to weights in memory, the Gram matrix included, to
a certified relative duality gap of 1e-3. The peer is scikit-learn's ``LinearSVC(loss="hinge")``,
that is liblinear (one thread), with the loosest tolerance of 1, 0.1, 0.01, ... whose objective for
the first class is as good (within 1e-3 of the certified lower bound). In quick mode liblinear
trains one class a round and the time of all is extrapolated: its one conversion of the data to its
own sparse format + classes x (one class - conversion).
"""

import warnings
from collections.abc import Callable
from functools import partial
from itertools import count
from statistics import median
from typing import Any

import jax
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC
from timing import interleaved, seconds, summary

from mpp_jax.svm import fit_svm, fit_svm_gram, gram_matrix, one_vs_rest_targets, svm_from_dual

GAP = 1e-3
C = 10.0


def fisher_like(n: int, d: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return power- and L2-normalised vectors, float32, of overlapping classes; and labels."""
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


def objective(w: np.ndarray, b: float, x: np.ndarray, y: np.ndarray) -> float:
    margins = y * (x @ w.astype(np.float32) + b)
    hinges = np.maximum(0, 1 - margins).sum(dtype=np.float64)
    return 0.5 * (float(w @ w) + float(b) ** 2) + C * float(hinges)


def liblinear(x: np.ndarray, y: np.ndarray, tol: float, max_iter: int = 10_000) -> LinearSVC:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # judged by its objective instead
        return LinearSVC(loss="hinge", C=C, dual=True, tol=tol, max_iter=max_iter).fit(x, y)


def excess(model: LinearSVC, x: np.ndarray, y: np.ndarray, bounds: np.ndarray) -> float:
    """Return the largest relative distance of liblinear's objectives from their lower bounds."""
    return max(
        objective(w, float(b), x, y[:, k]) / bounds[k] - 1
        for k, (w, b) in enumerate(zip(model.coef_, model.intercept_, strict=True))
    )


def good_tolerance(x: np.ndarray, y: np.ndarray, bound: float) -> float:
    """Return the loosest power of ten with which liblinear is as good on one class."""
    for exponent in range(0, -7, -1):
        model = liblinear(x, y, 10.0**exponent)
        if excess(model, x, y[:, None], np.array([bound])) <= GAP:
            return 10.0**exponent
    raise RuntimeError("liblinear does not reach a relative distance of 1e-3")


def bench_svm(quick: bool, rounds: int) -> dict[str, Any]:
    """Time all classes at once against one after the other; see the module's head."""
    n, d, classes = 2000, 65_536, 20
    x, labels = fisher_like(n, d, classes)
    targets = one_vs_rest_targets(labels, classes)
    train = partial(fit_svm, x, targets, C, tolerance=GAP)

    first = seconds(train)  # compiles
    gram = jax.block_until_ready(gram_matrix(x))
    dual, info = fit_svm_gram(gram, targets, C, tolerance=GAP)
    tolerance = good_tolerance(x, targets[:, 0], info.dual_objective[0])
    distances: list[float] = []
    sampled = count()

    def liblinear_all() -> float:
        models: list[LinearSVC] = []
        result = seconds(lambda: models.append(liblinear(x, labels, tolerance)))
        distances.append(excess(models[0], x, targets, info.dual_objective))
        return result

    def liblinear_sample() -> float:
        k = next(sampled) % classes
        y = targets[:, k]
        models: list[LinearSVC] = []
        # One iteration is, all but for a moment, the conversion.
        conversion = seconds(lambda: liblinear(x, y, tolerance, max_iter=1))
        whole = seconds(lambda: models.append(liblinear(x, y, tolerance)))
        distances.append(excess(models[0], x, y[:, None], info.dual_objective[[k]]))
        return conversion + classes * (whole - conversion)

    runs: dict[str, Callable[[], float]] = {
        "ours": lambda: seconds(train),
        "gram": lambda: seconds(lambda: gram_matrix(x)),
        "solve": lambda: seconds(lambda: fit_svm_gram(gram, targets, C, tolerance=GAP)),
        "weights": lambda: seconds(lambda: svm_from_dual(dual, x)),
        "liblinear": liblinear_sample if quick else liblinear_all,
    }
    table = interleaved("svm", rounds, runs, {"liblinear": rounds if quick else 2})
    parts = {name: table.pop(name) for name in ("gram", "solve", "weights")}
    flop = n * (n + 1) * d + 2 * n * d * classes
    result = summary(table, flop)
    gram_rate = n * (n + 1) * d / median(parts["gram"]) / 1e9
    return {
        "shape": {"vectors": n, "dimensions": d, "classes": classes},
        "target": "at least 30 times liblinear",
        **result,
        "seconds_of_parts": {name: median(values) for name, values in parts.items()},
        "seconds_first_call_with_compilation": first,
        "gram_share_of_matmul_peak": {
            "multiplications done once": gram_rate / result["matmul_gflops"],
            "counted as the full square": 2 * n / (n + 1) * gram_rate / result["matmul_gflops"],
        },
        "c": C,
        "iterations_slowest_class": int(info.iterations.max()),
        "largest_relative_gap": float(info.relative_gap.max()),
        "liblinear": {
            "tolerance": tolerance,
            "largest_relative_distance": max(distances),
            "extrapolated_from_one_class_a_round": quick,
        },
    }
