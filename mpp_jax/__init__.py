"""Multi-scale Pyramid Pooling: Fisher vectors of dense CNN activations, in JAX.

The names below load their modules when first used, so that ``import mpp_jax`` stays light.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Codebook": "codebook",
    "Descriptors": "dense",
    "GMM": "gmm",
    "LinearSVM": "svm",
    "Model": "model",
    "Network": "nets",
    "PCA": "pca",
    "Sift": "sift",
    "average_precision": "metrics",
    "confidence_maps": "confidence",
    "confusion_matrix": "metrics",
    "decode_picture": "data",
    "dense_descriptors": "dense",
    "dense_sift": "sift",
    "fisher_vector": "fisher",
    "fit_codebook": "codebook",
    "fit_gmm": "gmm",
    "fit_pca": "pca",
    "fit_svm": "svm",
    "l2_normalize": "numerics",
    "load_codebooks": "model",
    "load_model": "model",
    "load_network": "nets",
    "mean_class_accuracy": "metrics",
    "open_dataset": "data",
    "pca_transform": "pca",
    "pool": "pooling",
    "power_l2": "fisher",
    "preset": "config",
    "register_pooling": "pooling",
    "signed_sqrt": "numerics",
    "svm_scores": "svm",
    "top1_accuracy": "metrics",
    "vlad": "vlad",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mpp_jax' has no attribute {name!r}")
    value = getattr(import_module(f"mpp_jax.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
