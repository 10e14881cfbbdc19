"""Name -> description of every network."""

from mpp_jax.nets.caffenet import ALEXNET, CAFFENET
from mpp_jax.nets.chatfield import CNN_M, CNN_S
from mpp_jax.nets.spec import NetSpec
from mpp_jax.nets.squeezenet import SQUEEZENET
from mpp_jax.nets.torchvision_alexnet import ALEXNET_TORCHVISION
from mpp_jax.nets.vgg16 import VGG16

NETWORKS: dict[str, NetSpec] = {
    spec.name: spec
    for spec in (SQUEEZENET, CAFFENET, ALEXNET, CNN_S, CNN_M, ALEXNET_TORCHVISION, VGG16)
}


def get_spec(name: str) -> NetSpec:
    """The description of a network; ``ValueError`` where there is none of that name."""
    if name not in NETWORKS:
        raise ValueError(f"network: {name!r} is unknown; take one of {', '.join(sorted(NETWORKS))}")
    return NETWORKS[name]
