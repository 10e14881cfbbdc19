"""Fits from additive statistics of descriptor sets: PCA, k-means, Gaussian mixtures, codebooks."""
