"""The parts ``em``, ``fisher``, ``pca``, ``seeding`` and ``vlad`` of ``bench_core.py``.

Each against scikit-learn or scikit-image, in float32, compilation apart:

    em       one EM iteration, 256,000 x 128, K = 256, counted as 8 N K D FLOP, against
             scikit-learn's E-step and M-step
    fisher   finished Fisher vectors (power, L2) of a batch of pictures, 4,410 descriptors x 128,
             K = 256, against scikit-image's ``fisher_vector``
    pca      64,000 x 4,096 to 128 dimensions against both solvers of scikit-learn, with the share
             of the variance that each explains
    seeding  greedy k-means++ of 256 seeds among 65,536 x 128 rows against scikit-learn's
    vlad     VLAD of 4,410 x 128 descriptors, 256 centres, assignment included
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from skimage.feature import fisher_vector as scikit_fisher_vector
from sklearn.cluster import kmeans_plusplus
from sklearn.decomposition import PCA as SklearnPCA
from sklearn.mixture import GaussianMixture
from timing import interleaved, seconds, summary

from mpp_jax.encoders.fisher import fisher_vectors
from mpp_jax.encoders.vlad import vlad
from mpp_jax.numerics import power_l2
from mpp_jax.stats.gmm import fit_gmm
from mpp_jax.stats.mixture import GMM, sample
from mpp_jax.stats.pca import fit_pca
from mpp_jax.stats.seeding import kmeans_plus_plus

D, K, DESCRIPTORS = 128, 256, 4410
WIDE, NARROW = 4096, 128


def mixture() -> GMM:
    """Return a mixture whose posteriors are about as sparse as those of real descriptors."""
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


def bench_em(quick: bool, rounds: int) -> dict[str, Any]:
    """Time one iteration of expectation maximisation."""
    rows = 32_000 if quick else 256_000
    gmm = mixture()
    x = jax.block_until_ready(sample(jax.random.key(1), gmm, rows)[0])
    host, theirs = np.asarray(x), scikit_mixture(gmm)
    start = gmm._replace(means=gmm.means * 0.9)

    def fit(steps: int) -> float:
        options = {"init": start, "tolerance": -1.0, "max_iterations": steps}
        return seconds(lambda: fit_gmm(jax.random.key(0), x, K, **options))

    def iteration() -> float:
        return (fit(9) - fit(1)) / 8  # what every fit does once cancels

    def scikit_iteration() -> float:
        def step() -> None:
            _, responsibility = theirs._e_step(host)
            theirs._m_step(host, responsibility)

        return seconds(step)

    fit(1)  # compiles
    table = interleaved("em", rounds, {"ours": iteration, "scikit-learn": scikit_iteration})
    return {
        "shape": {"rows": rows, "dimensions": D, "components": K},
        "target": "at least 0.7 of the matmul peak, counted as 8 N K D FLOP",
        **summary(table, 8 * rows * K * D),
    }


def bench_fisher(quick: bool, rounds: int) -> dict[str, Any]:
    """Time improved Fisher vectors of a batch of pictures."""
    pictures = 8 if quick else 32
    gmm = mixture()
    sets, _ = sample(jax.random.key(2), gmm, pictures * DESCRIPTORS)
    sets = jax.block_until_ready(sets.reshape(pictures, DESCRIPTORS, D))
    host, theirs = np.asarray(sets), scikit_mixture(gmm)
    encode = jax.jit(lambda x, gmm: power_l2(fisher_vectors(x, gmm)))

    def ours() -> float:
        return seconds(lambda: encode(sets, gmm))

    def scikit_image() -> float:
        return seconds(lambda: [scikit_fisher_vector(x, theirs, improved=True) for x in host])

    ours()  # compiles
    table = interleaved("fisher", rounds, {"ours": ours, "scikit-image": scikit_image})
    result = summary(table, 8 * pictures * DESCRIPTORS * K * D)
    return {
        "shape": {
            "pictures": pictures,
            "descriptors": DESCRIPTORS,
            "dimensions": D,
            "components": K,
        },
        "target": "at least 2 times scikit-image in float32",
        **result,
        "seconds_a_picture": {key: s / pictures for key, s in result["seconds"].items()},
    }


def activations(rows: int) -> np.ndarray:
    """Return rows whose variances decay as those of a network's activations do, with a mean."""
    rng = np.random.default_rng(3)
    basis = np.linalg.qr(rng.standard_normal((WIDE, 512), dtype=np.float32))[0]
    scale = 10 * np.arange(1, 513, dtype=np.float32) ** -0.6
    x = np.empty((rows, WIDE), np.float32)
    for begin in range(0, rows, 4000):
        part = x[begin : begin + 4000]
        part[:] = (rng.standard_normal((len(part), 512), dtype=np.float32) * scale) @ basis.T
        part += 0.2 * rng.standard_normal(part.shape, dtype=np.float32) + 1
    return x


def bench_pca(quick: bool, rounds: int) -> dict[str, Any]:
    """Time the 128 leading components of 4,096 dimensions."""
    rows = 8_000 if quick else 64_000
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

    ours()  # compiles
    runs: dict[str, Callable[[], float]] = {"ours": ours}
    runs |= {solver: partial(scikit, solver) for solver in ("covariance_eigh", "randomized")}
    table = interleaved("pca", rounds, runs)
    return {
        "shape": {"rows": rows, "dimensions": WIDE, "components": NARROW},
        "target": "at least 1.2 times the better of scikit-learn's two solvers",
        **summary(table, rows * WIDE * (WIDE + 1)),  # the covariance, multiplications done once
        "explained_variance": explained,
    }


def bench_seeding(quick: bool, rounds: int) -> dict[str, Any]:
    """Time greedy k-means++."""
    rows = 16_384 if quick else 65_536
    x = jax.block_until_ready(sample(jax.random.key(4), mixture(), rows)[0])
    host = np.asarray(x)
    seed = jax.jit(kmeans_plus_plus, static_argnames="n_clusters")

    def ours() -> float:
        return seconds(lambda: seed(jax.random.key(5), x, K))

    def scikit_learn() -> float:
        return seconds(lambda: kmeans_plusplus(host, K, random_state=0))

    ours()  # compiles
    table = interleaved("seeding", rounds, {"ours": ours, "scikit-learn": scikit_learn})
    candidates = 2 + int(np.log(K))
    return {
        "shape": {"rows": rows, "dimensions": D, "seeds": K},
        **summary(table, 2 * rows * D * K * candidates),
    }


def bench_vlad(quick: bool, rounds: int) -> dict[str, Any]:
    """Time VLAD of one picture; there is no peer in Python."""
    gmm = mixture()
    x, _ = sample(jax.random.key(6), gmm, DESCRIPTORS)
    encode = jax.jit(vlad)

    def ours() -> float:
        return seconds(lambda: encode(x, gmm.means))

    ours()  # compiles
    table = interleaved("vlad", rounds if quick else 5 * rounds, {"ours": ours})
    return {
        "shape": {"descriptors": DESCRIPTORS, "dimensions": D, "centres": K},
        **summary(table, 2 * DESCRIPTORS * K * D),
    }
