"""Which key each parameter is stored under, by convention of the file.

- ``caffe``: layer name and blob number, ``conv1/0`` (kernel) and ``conv1/1`` (bias).
- ``matconvnet``: layer name and ``f`` (filters) or ``b`` (biases).
- ``torchvision``: name of the module, ``features.0.weight`` and ``features.0.bias``; of a batch
  normalisation ``bn.weight``, ``bn.bias``, ``bn.running_mean`` and ``bn.running_var``.
- ``native``: the path in this package's own parameter tree, ``conv1/kernel``, or that of a Flax
  module of the same layout, ``AlexNet_0/Conv_0/kernel``.

Parameters of a function are stored by their paths in its own nested dict.

What differs from network to network stands in the network's own file, in `NetSpec.files`.
"""

from collections.abc import Collection, Sequence
from typing import Any

from mpp_jax.nets.spec import NetSpec
from mpp_jax.nets.weight_files import Convention

BATCH_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "mean": "running_mean",
    "variance": "running_var",
}
"""Parameters of a batch normalisation: leaf in our trees, key in torch's modules."""
TRAINING_STATE = "num_batches_tracked"
"""What torch keeps beside them for training alone."""


def leaves(spec: NetSpec, convention: Convention, path: tuple[str, ...]) -> tuple[str, ...]:
    """Return what files of a convention store of a layer: with or without batch normalisation."""
    normalised = convention == "torchvision" and "/".join(path) in dict(spec.files.batch_norms)
    return ("kernel", *BATCH_NORM) if normalised else ("kernel", "bias")


def stored_keys(
    spec: NetSpec, convention: Convention, path: tuple[str, ...], leaf: str
) -> tuple[str, ...]:
    """Return the keys that a parameter may be stored under; none where the convention lacks it.

    Args:
        spec: the network.
        convention: naming convention of the file.
        path: the layer's place in the parameter tree, e.g. ``("fire2", "squeeze1x1")``.
        leaf: one of `leaves`.
    """
    layer, is_kernel, files = "/".join(path), leaf == "kernel", spec.files
    if convention == "native":
        modules = (layer, *(module for own, module in files.flax if own == layer))
        return tuple(f"{module}/{leaf}" for module in modules)
    if convention == "caffe" and files.caffe:
        names = (layer, *(name for own, name in files.caffe_names if own == layer))
        return tuple(f"{name}/{0 if is_kernel else 1}" for name in names)
    if convention == "matconvnet" and files.matconvnet:
        return (f"{layer}{'f' if is_kernel else 'b'}",)
    if convention == "torchvision" and leaf in BATCH_NORM:
        return (f"{dict(files.batch_norms)[layer]}.{BATCH_NORM[leaf]}",)
    if convention == "torchvision" and files.torchvision:
        return (f"{dict(files.torchvision)[layer]}.{'weight' if is_kernel else 'bias'}",)
    return ()


def function_keys(path: Sequence[Any]) -> tuple[str, ...]:
    """Return the keys that a parameter of a function may be stored under: ``a/b/c``, ``a.b.c``."""
    return tuple(dict.fromkeys(mark.join(map(str, path)) for mark in "/."))


def needless_keys(spec: NetSpec, convention: Convention) -> frozenset[str]:
    """Return keys that files may have beside the parameters, and that say nothing of these."""
    norms = spec.files.batch_norms if convention == "torchvision" else ()
    return frozenset(f"{module}.{TRAINING_STATE}" for _, module in norms)


def convention_of(keys: Collection[str]) -> Convention:
    """Return the convention that keys follow, in a format that does not tell."""
    if any(key.endswith((".weight", ".bias")) for key in keys):
        return "torchvision"
    return "caffe" if any(key.endswith(("/0", "/1")) for key in keys) else "native"
