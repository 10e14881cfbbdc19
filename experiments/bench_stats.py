"""Speed of the statistical core against scikit-learn and scikit-image, at the paper's sizes.

    python experiments/bench_stats.py            # about 10 minutes on 2 cores, 7 GB of memory
    python experiments/bench_stats.py --quick    # about 2 minutes: fewer rows

In float32, compilation apart, runs of both sides interleaved, figures are medians; every round also
measures this machine's matmul peak (4096^3).

    em       one EM iteration, 256,000 x 128, K = 256, counted as 8 N K D FLOP: seconds, share of
             the peak, and against scikit-learn's E-step and M-step
    fisher   finished Fisher vectors (power, L2) of a batch of pictures, 4,410 descriptors x 128,
             K = 256: seconds a picture, and against scikit-image's ``fisher_vector`` in float32
    pca      64,000 x 4,096 to 128 dimensions against both solvers of scikit-learn, with the share
             of the variance that each explains
    seeding  greedy k-means++ of 256 seeds among 65,536 x 128 rows against scikit-learn's
    vlad     VLAD of 4,410 x 128 descriptors, 256 centres, assignment included

To reach on 2 cores: em at least 70% of the peak, fisher at least 2 times scikit-image, pca at least
1.2 times the better solver. Results: ``experiments/results/bench_stats.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import skimage
import sklearn
from machine import provenance
from skimage.feature import fisher_vector as scikit_fisher_vector
from sklearn.cluster import kmeans_plusplus
from sklearn.decomposition import PCA as SklearnPCA
from sklearn.mixture import GaussianMixture

from mpp_jax.fisher import fisher_vectors, power_l2
from mpp_jax.gmm import GMM, fit_gmm, sample
from mpp_jax.kmeans import kmeans_plus_plus
from mpp_jax.pca import fit_pca
from mpp_jax.vlad import vlad

RESULTS = Path(__file__).parent / "results" / "bench_stats.json"
D, K, DESCRIPTORS = 128, 256, 4410
WIDE, NARROW = 4096, 128


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def interleaved(rounds: int, **runs: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of each run, all of them once per round, after one round that compiles."""
    for run in runs.values():
        run()
    table: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            table[name].append(run())
    return table


def matmul() -> Callable[[], float]:
    """A run of the yardstick, one 4096^3 product."""
    a = jax.random.normal(jax.random.key(0), (4096, 4096))
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=jax.lax.Precision.HIGHEST))
    return lambda: seconds(lambda: product(a))


def gflops(table: dict[str, list[float]]) -> float:
    return 2 * 4096**3 / median(table["matmul"]) / 1e9


def mixture() -> GMM:
    """A mixture whose posteriors are about as sparse as those of real descriptors."""
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.full(K, 5.0))
    means = 0.35 * rng.standard_normal((K, D))
    variances = rng.gamma(4, 0.25, (K, D)) + 0.01
    return GMM(*(jnp.asarray(leaf, jnp.float32) for leaf in (weights, means, variances)))


def scikit_mixture(gmm: GMM) -> GaussianMixture:
    model = GaussianMixture(K, covariance_type="diag")
    model.weights_, model.means_, model.covariances_ = (np.asarray(leaf) for leaf in gmm)
    model.precisions_cholesky_ = 1 / np.sqrt(model.covariances_)
    return model


def bench_em(rows: int, rounds: int) -> dict[str, Any]:
    gmm = mixture()
    x = jax.block_until_ready(sample(jax.random.key(1), gmm, rows)[0])
    host, theirs = np.asarray(x), scikit_mixture(gmm)
    start = gmm._replace(means=gmm.means * 0.9)

    def fit(steps: int) -> float:
        options = {"init": start, "tolerance": -1.0, "max_iterations": steps}
        return seconds(lambda: fit_gmm(jax.random.key(0), x, K, **options))

    def iteration() -> float:
        return (fit(5) - fit(1)) / 4  # what every fit does once cancels

    def scikit_iteration() -> float:
        def step() -> None:
            _, responsibility = theirs._e_step(host)
            theirs._m_step(host, responsibility)

        return seconds(step)

    table = interleaved(rounds, ours=iteration, scikit_learn=scikit_iteration, matmul=matmul())
    rate = 8 * rows * K * D / median(table["ours"]) / 1e9
    return {
        "rows": rows,
        "seconds": {name: median(values) for name, values in table.items()},
        "gflops": rate,
        "matmul_gflops": gflops(table),
        "share_of_peak": rate / gflops(table),
        "times_scikit_learn": median(table["scikit_learn"]) / median(table["ours"]),
    }


def bench_fisher(pictures: int, rounds: int) -> dict[str, Any]:
    gmm = mixture()
    sets, _ = sample(jax.random.key(2), gmm, pictures * DESCRIPTORS)
    sets = jax.block_until_ready(sets.reshape(pictures, DESCRIPTORS, D))
    host, theirs = np.asarray(sets), scikit_mixture(gmm)
    encode = jax.jit(lambda x, gmm: power_l2(fisher_vectors(x, gmm)))

    def scikit_image() -> float:
        return seconds(lambda: [scikit_fisher_vector(x, theirs, improved=True) for x in host])

    table = interleaved(
        rounds,
        ours=lambda: seconds(lambda: encode(sets, gmm)),
        scikit_image=scikit_image,
        matmul=matmul(),
    )
    rate = 8 * pictures * DESCRIPTORS * K * D / median(table["ours"]) / 1e9
    return {
        "pictures": pictures,
        "seconds_a_picture": {
            name: median(table[name]) / pictures for name in ("ours", "scikit_image")
        },
        "share_of_peak": rate / gflops(table),
        "matmul_gflops": gflops(table),
        "times_scikit_image": median(table["scikit_image"]) / median(table["ours"]),
    }


def activations(rows: int) -> np.ndarray:
    """Rows whose variances decay as those of a network's activations do, with a mean."""
    rng = np.random.default_rng(3)
    basis = np.linalg.qr(rng.standard_normal((WIDE, 512), dtype=np.float32))[0]
    scale = 10 * np.arange(1, 513, dtype=np.float32) ** -0.6
    x = np.empty((rows, WIDE), np.float32)
    for begin in range(0, rows, 4000):
        part = x[begin : begin + 4000]
        part[:] = (rng.standard_normal((len(part), 512), dtype=np.float32) * scale) @ basis.T
        part += 0.2 * rng.standard_normal(part.shape, dtype=np.float32) + 1
    return x


def bench_pca(rows: int, rounds: int) -> dict[str, Any]:
    x = activations(rows)
    explained: dict[str, float] = {}

    def ours() -> float:
        def fit() -> jax.Array:
            variances = fit_pca(x, NARROW).explained_variance
            explained["ours"] = float(variances.sum())
            return variances

        return seconds(fit)

    def scikit(solver: str) -> float:
        model = SklearnPCA(NARROW, svd_solver=solver, random_state=0)
        result = seconds(lambda: model.fit(x) and None)
        explained[solver] = float(model.explained_variance_.sum())
        return result

    table = interleaved(
        rounds,
        ours=ours,
        covariance_eigh=partial(scikit, "covariance_eigh"),
        randomized=partial(scikit, "randomized"),
        matmul=matmul(),
    )
    better = min(median(table["covariance_eigh"]), median(table["randomized"]))
    return {
        "rows": rows,
        "seconds": {name: median(values) for name, values in table.items()},
        "explained_variance": explained,
        "matmul_gflops": gflops(table),
        "times_the_better_of_scikit_learn": better / median(table["ours"]),
    }


def bench_seeding(rows: int, rounds: int) -> dict[str, Any]:
    x = jax.block_until_ready(sample(jax.random.key(4), mixture(), rows)[0])
    host = np.asarray(x)
    seed = jax.jit(kmeans_plus_plus, static_argnames="n_clusters")
    table = interleaved(
        rounds,
        ours=lambda: seconds(lambda: seed(jax.random.key(5), x, K)),
        scikit_learn=lambda: seconds(lambda: kmeans_plusplus(host, K, random_state=0)),
    )
    return {
        "rows": rows,
        "seconds": {name: median(values) for name, values in table.items()},
        "times_scikit_learn": median(table["scikit_learn"]) / median(table["ours"]),
    }


def bench_vlad(rounds: int) -> dict[str, Any]:
    gmm = mixture()
    x, _ = sample(jax.random.key(6), gmm, DESCRIPTORS)
    encode = jax.jit(vlad)
    table = interleaved(
        5 * rounds, ours=lambda: seconds(lambda: encode(x, gmm.means)), matmul=matmul()
    )
    return {"seconds": {"ours": median(table["ours"])}, "matmul_gflops": gflops(table)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--quick", action="store_true", help="a quarter of the rows, or fewer")
    parser.add_argument("--rounds", type=int, default=None, help="5, or 3 in quick mode")
    parser.add_argument(
        "--part", action="append", choices=["em", "fisher", "pca", "seeding", "vlad"]
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rounds = options.rounds or (3 if options.quick else 5)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "em": partial(bench_em, 32_000 if options.quick else 256_000, rounds),
        "fisher": partial(bench_fisher, 8 if options.quick else 32, rounds),
        "pca": partial(bench_pca, 8_000 if options.quick else 64_000, rounds),
        "seeding": partial(bench_seeding, 16_384 if options.quick else 65_536, rounds),
        "vlad": partial(bench_vlad, rounds),
    }
    report: dict[str, Any] = {
        **provenance(),
        "scikit_learn": sklearn.__version__,
        "scikit_image": skimage.__version__,
        "quick": options.quick,
        "rounds": rounds,
    }
    for name in options.part or parts:
        report[name] = parts[name]()
        print(name, json.dumps(report[name], indent=2), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
