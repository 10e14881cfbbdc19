"""Which key each parameter is stored under, by convention of the file.

- ``caffe``: layer name and blob number, ``conv1/0`` (kernel) and ``conv1/1`` (bias).
- ``matconvnet``: layer name and ``f`` (filters) or ``b`` (biases).
- ``torchvision``: place in its ``nn.Sequential``, ``features.0.weight`` and ``features.0.bias``.
- ``native``: the path in this package's own parameter tree, ``conv1/kernel``.
"""

from __future__ import annotations

from mpp_jax.weights.source import Convention

# Names that public files use beside the ones of this package's layer lists.
CAFFE_ALIASES: dict[tuple[str, str], tuple[str, ...]] = {
    ("squeezenet", "conv_final"): ("conv10",),
}

TORCHVISION: dict[str, dict[str, str]] = {
    "alexnet_torchvision": {
        "conv1": "features.0",
        "conv2": "features.3",
        "conv3": "features.6",
        "conv4": "features.8",
        "conv5": "features.10",
        "fc6": "classifier.1",
        "fc7": "classifier.4",
        "fc8": "classifier.6",
    },
    "vgg16": {
        "conv1_1": "features.0",
        "conv1_2": "features.2",
        "conv2_1": "features.5",
        "conv2_2": "features.7",
        "conv3_1": "features.10",
        "conv3_2": "features.12",
        "conv3_3": "features.14",
        "conv4_1": "features.17",
        "conv4_2": "features.19",
        "conv4_3": "features.21",
        "conv5_1": "features.24",
        "conv5_2": "features.26",
        "conv5_3": "features.28",
        "fc6": "classifier.0",
        "fc7": "classifier.3",
        "fc8": "classifier.6",
    },
}

# Networks whose public files exist in a convention (torchvision lists its own above).
CAFFE_NETWORKS = ("squeezenet", "caffenet", "alexnet", "cnn_s", "cnn_m", "vgg16")
MATCONVNET_NETWORKS = ("caffenet", "alexnet", "cnn_s", "cnn_m", "vgg16")


def stored_keys(
    network: str, convention: Convention, path: tuple[str, ...], leaf: str
) -> tuple[str, ...]:
    """Keys that a parameter may be stored under; empty where the convention lacks it.

    Args:
        network: name of the network.
        convention: naming convention of the file.
        path: the layer's place in the parameter tree, e.g. ``("fire2", "squeeze1x1")``.
        leaf: ``"kernel"`` or ``"bias"``.
    """
    layer, is_kernel = "/".join(path), leaf == "kernel"
    if convention == "native":
        return (f"{layer}/{leaf}",)
    if convention == "caffe" and network in CAFFE_NETWORKS:
        names = (layer, *CAFFE_ALIASES.get((network, layer), ()))
        return tuple(f"{name}/{0 if is_kernel else 1}" for name in names)
    if convention == "matconvnet" and network in MATCONVNET_NETWORKS:
        return (f"{layer}{'f' if is_kernel else 'b'}",)
    if convention == "torchvision" and network in TORCHVISION:
        return (f"{TORCHVISION[network][layer]}.{'weight' if is_kernel else 'bias'}",)
    return ()
