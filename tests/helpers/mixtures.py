"""A small mixture with unequal weights and variances, and a sample of it."""

import numpy as np

from mpp_jax.stats.mixture import GMM

N, D, K = 400, 4, 3
RNG = np.random.default_rng(0)
TRUE = GMM(
    np.array([0.5, 0.15, 0.35]),
    RNG.normal(size=(K, D)) * 2,
    RNG.gamma(2, 0.5, size=(K, D)) + 0.1,
)
LABEL = RNG.choice(K, N, p=TRUE.weights)
X = (TRUE.means[LABEL] + np.sqrt(TRUE.variances[LABEL]) * RNG.normal(size=(N, D))).astype(
    np.float32
)
