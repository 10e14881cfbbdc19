"""Slow, obvious float64 solutions of one-class linear machines, and a small problem."""

import numpy as np


def problem(n=60, d=150, classes=3, seed=0, spread=0.4):
    """Overlapping classes on the unit sphere with a common mean: (X float32, labels)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    x = rng.standard_normal((n, d)) + spread * rng.standard_normal((classes, d))[labels]
    x += 0.5 * rng.standard_normal(d)[None, :]
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), labels


def losses(margins, loss):
    if loss == "logistic":
        return np.logaddexp(0, -margins)
    hinge = np.maximum(0, 1 - margins)
    return hinge**2 if loss == "squared_hinge" else hinge


def primal(w, b, x, y, u, loss="hinge", bias=1.0):
    """The objective of one class by its definition; u (N,) are the weights of the losses."""
    regulariser = 0.5 * (w @ w + ((b / bias) ** 2 if bias else 0.0))
    return regulariser + np.sum(u * losses(y * (x @ w + b), loss))


def reference_objective(x, y, u, loss="hinge", bias=1.0):
    """Smallest objective of one class, float64: coordinate ascent, or Newton where smooth."""
    z = np.concatenate([x.astype(np.float64), np.full((len(x), 1), bias)], axis=1)
    keep = (y != 0) & (u > 0)
    z, y, u = z[keep], y[keep].astype(np.float64), u[keep]
    kernel = z @ z.T
    if loss == "logistic":
        beta = np.zeros(len(y))  # w = Z^T beta; damped Newton: beta = u y p at the optimum
        for _ in range(100):
            f = kernel @ beta
            p = 1 / (1 + np.exp(y * f))
            curvature = (u * p * (1 - p))[:, None] * kernel + np.eye(len(y))
            beta -= 0.5 * np.linalg.solve(curvature, beta - u * y * p)
        assert np.abs(beta - u * y * p).max() < 1e-6 * u.max()
        return 0.5 * beta @ kernel @ beta + np.sum(u * np.logaddexp(0, -y * (kernel @ beta)))
    extra = 1 / (2 * u) if loss == "squared_hinge" else np.zeros_like(u)
    top = np.full_like(u, np.inf) if loss == "squared_hinge" else u
    alpha, w = np.zeros(len(y)), np.zeros(z.shape[1])
    for _ in range(200):
        for i in np.tile(np.arange(len(y)), 50):
            slope = 1 - y[i] * (z[i] @ w) - extra[i] * alpha[i]
            new = min(max(alpha[i] + slope / (kernel[i, i] + extra[i]), 0.0), top[i])
            w += (new - alpha[i]) * y[i] * z[i]
            alpha[i] = new
        value = 0.5 * w @ w + np.sum(u * losses(y * (z @ w), loss))
        dual = alpha.sum() - 0.5 * w @ w - 0.5 * np.sum(extra * alpha**2)
        if value - dual < 1e-7 * value:
            return value
    raise AssertionError("the reference itself has not converged")
