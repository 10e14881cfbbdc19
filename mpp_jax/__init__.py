"""Multi-scale Pyramid Pooling: Fisher vectors of dense CNN activations, in JAX.

The names below load their modules when first used, so that ``import mpp_jax`` stays light.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Codebook": "stats.codebook",
    "Descriptors": "describe.dense",
    "GMM": "stats.mixture",
    "LayerParams": "pooling.layer",
    "LinearSVM": "svm",
    "MPPLayer": "pooling.linen",
    "Model": "runs.model",
    "NetSpec": "nets.spec",
    "Network": "nets.network",
    "PCA": "stats.pca",
    "PlattScaling": "svm",
    "Sift": "nets.sift_spec",
    "average_precision": "metrics",
    "confidence_maps": "maps.confidence",
    "confusion_matrix": "metrics",
    "cross_validate_svm": "svm",
    "decode_picture": "data.decode",
    "dense_descriptors": "describe.dense",
    "dense_sift": "nets.sift",
    "fisher_vector": "encoders.fisher",
    "fit_codebook": "stats.codebook",
    "fit_gmm": "stats.gmm",
    "fit_pca": "stats.pca",
    "fit_platt": "svm",
    "fit_svm": "svm",
    "fit_svm_primal": "svm",
    "gram_matrix": "svm",
    "init_layer": "pooling.layer",
    "l2_normalize": "numerics",
    "layer_codebook": "pooling.layer",
    "layer_loss": "pooling.layer",
    "load_codebooks": "runs.provenance",
    "load_model": "runs.model",
    "load_network": "weights.load",
    "mean_class_accuracy": "metrics",
    "mpp_layer": "pooling.layer",
    "open_dataset": "data.sources",
    "pca_transform": "stats.pca",
    "platt_probabilities": "svm",
    "pool": "pooling",
    "power_l2": "numerics",
    "preset": "config",
    "register_network": "nets.registry",
    "register_pooling": "pooling",
    "signed_sqrt": "numerics",
    "svm_scores": "svm",
    "top1_accuracy": "metrics",
    "vlad": "encoders.vlad",
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
