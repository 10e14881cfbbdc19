"""AlexNet as torchvision ships it (Krizhevsky 2014, arXiv:1404.5997): no LRN, no groups."""

from mpp_jax.nets.caffenet import DESCRIPTOR_LAYERS
from mpp_jax.nets.spec import Conv, NetSpec, Pool, Preprocessing

TORCHVISION_INPUT = Preprocessing(
    "RGB", mean=(0.485, 0.456, 0.406), divisor=255.0, std=(0.229, 0.224, 0.225)
)

ALEXNET_TORCHVISION = NetSpec(
    name="alexnet_torchvision",
    side=224,
    layers=(
        Conv("conv1", 64, 11, stride=4, pad=2),
        Pool("pool1", 3, 2),
        Conv("conv2", 192, 5, pad=2),
        Pool("pool2", 3, 2),
        Conv("conv3", 384, 3, pad=1),
        Conv("conv4", 256, 3, pad=1),
        Conv("conv5", 256, 3, pad=1),
        Pool("pool5", 3, 2),
        Conv("fc6", 4096, 6, dense=True),
        Conv("fc7", 4096, 1, dense=True),
        Conv("fc8", 1000, 1, relu=False, dense=True),
    ),
    default_layer="fc7",
    descriptor_layers=DESCRIPTOR_LAYERS,
    preprocessing=(("torchvision", TORCHVISION_INPUT),),
)
