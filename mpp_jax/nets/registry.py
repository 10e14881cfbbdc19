"""Name -> description of every network."""

from mpp_jax.nets.caffenet import ALEXNET, CAFFENET
from mpp_jax.nets.caffenet_mini import CAFFENET_MINI
from mpp_jax.nets.chatfield import CNN_M, CNN_S
from mpp_jax.nets.sift_spec import SIFT_SPEC
from mpp_jax.nets.spec import NetSpec
from mpp_jax.nets.squeezenet import SQUEEZENET
from mpp_jax.nets.torchvision_alexnet import ALEXNET_TORCHVISION
from mpp_jax.nets.vgg16 import VGG16

NETWORKS: dict[str, NetSpec] = {
    spec.name: spec
    for spec in (
        CAFFENET_MINI,
        SQUEEZENET,
        CAFFENET,
        ALEXNET,
        CNN_S,
        CNN_M,
        ALEXNET_TORCHVISION,
        VGG16,
    )
}


DEFAULT_NETWORK = CAFFENET_MINI.name
"""Used until the user names another: its weights are part of the package."""


def get_spec(name: str) -> NetSpec:
    """The description of a network, or of dense SIFT, which takes a network's place.

    Raises:
        ValueError: there is none of that name.
    """
    known = {**NETWORKS, SIFT_SPEC.name: SIFT_SPEC}
    if name not in known:
        raise ValueError(f"network: {name!r} is unknown; take one of {', '.join(sorted(known))}")
    return known[name]
