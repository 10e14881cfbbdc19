"""Slow, obvious NumPy float64 models of the statistical modules: one formula, one loop each."""

import numpy as np


def wide(*arrays):
    return [np.asarray(a, np.float64) for a in arrays]


def log_joint(x, gmm):
    """log w_k + log N(x_i; mu_k, v_k), (N, K)."""
    x, weights, means, variances = wide(x, *gmm)
    out = np.full((len(x), len(weights)), -np.inf)
    for k in range(len(weights)):
        if weights[k] > 0:
            square = ((x - means[k]) ** 2 / variances[k]).sum(1)
            volume = np.log(2 * np.pi * variances[k]).sum()
            out[:, k] = np.log(weights[k]) - 0.5 * (volume + square)
    return out


def log_prob(x, gmm):
    joint = log_joint(x, gmm)
    top = joint.max(1)
    return top + np.log(np.exp(joint - top[:, None]).sum(1))


def responsibilities(x, gmm):
    return np.exp(log_joint(x, gmm) - log_prob(x, gmm)[:, None])


def em_step(x, gmm, floor=0.0):
    """One step of exact EM: (weights, means, variances)."""
    (x,) = wide(x)
    q = responsibilities(x, gmm)
    mass = q.sum(0)
    means = np.stack([(q[:, k : k + 1] * x).sum(0) / mass[k] for k in range(len(mass))])
    variances = np.stack(
        [(q[:, k : k + 1] * (x - means[k]) ** 2).sum(0) / mass[k] for k in range(len(mass))]
    )
    return mass / len(x), means, np.maximum(variances, floor)


def fisher_vector(x, gmm, blocks=("mean", "sigma"), prune=1e-6, smallest_weight=1e-6):
    x, weights, means, variances = wide(x, *gmm)
    n, (k_all, d) = len(x), means.shape
    parts = {
        "weight": np.zeros(k_all),
        "mean": np.zeros((k_all, d)),
        "sigma": np.zeros((k_all, d)),
    }
    if n == 0:
        return np.concatenate([parts[block].ravel() for block in blocks])
    alive = weights >= smallest_weight
    q = responsibilities(x, (np.where(alive, weights, 0), means, variances))
    q[q < prune] = 0
    for k in np.flatnonzero(alive):
        y = (x - means[k]) / np.sqrt(variances[k])
        root = np.sqrt(weights[k])
        parts["weight"][k] = (q[:, k] - weights[k]).sum() / (n * root)
        parts["mean"][k] = (q[:, k : k + 1] * y).sum(0) / (n * root)
        parts["sigma"][k] = (q[:, k : k + 1] * (y**2 - 1)).sum(0) / (n * root * np.sqrt(2))
    return np.concatenate([parts[block].ravel() for block in blocks])


def l2(v, axis=-1):
    return v / np.maximum(np.linalg.norm(v, axis=axis, keepdims=True), 1e-12)


def power_l2(v):
    return l2(np.sign(v) * np.sqrt(np.abs(v)))


def nearest(x, centres):
    x, centres = wide(x, centres)
    distance = np.stack([((x - c) ** 2).sum(1) for c in centres], axis=1)
    return distance.argmin(1), distance


def assignments(x, centres, kind="hard", neighbours=1, sharpness=1.0):
    """Weights (N, K) of descriptors on centres."""
    _, distance = nearest(x, centres)
    order = distance.argsort(1)
    keep = np.zeros(distance.shape, bool)
    for i in range(len(distance)):
        keep[i, order[i, : neighbours or len(centres)]] = True
    if kind == "hard":
        return keep.astype(np.float64)
    weight = np.where(keep, np.exp(-sharpness * (distance - distance.min(1, keepdims=True))), 0)
    return weight / weight.sum(1, keepdims=True)


def vlad(x, centres, a, residual=False, mass=False, power=False, intra=False, normalize=True):
    x, centres = wide(x, centres)
    blocks = np.zeros(centres.shape)
    for k in range(len(centres)):
        difference = x - centres[k]
        if residual:
            difference = l2(difference)
        blocks[k] = (a[:, k : k + 1] * difference).sum(0)
        if mass and a[:, k].sum() > 0:
            blocks[k] /= a[:, k].sum()
    if power:
        blocks = np.sign(blocks) * np.sqrt(np.abs(blocks))
    if intra:
        blocks = l2(blocks)
    return l2(blocks.ravel()) if normalize else blocks.ravel()


def super_vector(x, centres, a, scale=1.0):
    x, centres = wide(x, centres)
    blocks = []
    for k in range(len(centres)):
        p = a[:, k].mean()
        if p == 0:
            blocks.append(np.zeros(x.shape[1] + 1))
            continue
        sums = (a[:, k : k + 1] * (x - centres[k])).mean(0)
        blocks.append(np.concatenate([[scale * np.sqrt(p)], sums / np.sqrt(p)]))
    return np.concatenate(blocks)


def second_order(x, centred=True, root=True, ridge=0.0):
    (x,) = wide(x)
    if centred:
        x = x - x.mean(0)
    matrix = x.T @ x / len(x) + ridge * np.eye(x.shape[1])
    if root:
        values, vectors = np.linalg.eigh(matrix)
        matrix = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    d = x.shape[1]
    return np.array(
        [matrix[i, j] * (1 if i == j else np.sqrt(2)) for i in range(d) for j in range(i, d)]
    )


def generalized_max(phi, strength, unit=True):
    (phi,) = wide(phi)
    if unit:
        phi = l2(phi)
    return phi.T @ np.linalg.solve(phi @ phi.T + strength * np.eye(len(phi)), np.ones(len(phi)))


def pca(x, n_components):
    """Mean, components with the largest entry positive, and variances."""
    (x,) = wide(x)
    mean = x.mean(0)
    values, vectors = np.linalg.eigh(np.cov(x - mean, rowvar=False))
    components = vectors.T[::-1][:n_components]
    for row in components:
        if row[np.abs(row).argmax()] < 0:
            row *= -1
    return mean, components, values[::-1][:n_components]


def lloyd_step(x, centres):
    index, _ = nearest(x, centres)
    return np.stack(
        [x[index == k].mean(0) if (index == k).any() else centres[k] for k in range(len(centres))]
    )


def relative(a, b):
    """Relative L2 error of ``a`` against ``b``."""
    a, b = wide(a, b)
    return np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-300)
