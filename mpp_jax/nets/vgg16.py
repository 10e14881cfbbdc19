"""VGG-16, configuration D (Simonyan and Zisserman 2015, arXiv:1409.1556, table 1)."""

from mpp_jax.nets.chatfield import VGG_MEAN
from mpp_jax.nets.spec import Conv, Layer, NetSpec, Pool
from mpp_jax.nets.torchvision_alexnet import TORCHVISION_INPUT
from mpp_jax.nets.weight_files import WeightFiles, torch_place

# Convolutions of 3x3 per stage, and their channels.
STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))


def _stages() -> tuple[Layer, ...]:
    layers: list[Layer] = []
    for stage, (depth, features) in enumerate(STAGES, start=1):
        layers += [Conv(f"conv{stage}_{i}", features, 3, pad=1) for i in range(1, depth + 1)]
        layers.append(Pool(f"pool{stage}", 2, 2))
    return tuple(layers)


VGG16 = NetSpec(
    name="vgg16",
    side=224,
    layers=(
        *_stages(),
        Conv("fc6", 4096, 7, dense=True),
        Conv("fc7", 4096, 1, dense=True),
        Conv("fc8", 1000, 1, activation="linear", dense=True),
    ),
    default_layer="fc7",
    descriptor_layers=(*(x.name for x in _stages()), "fc6", "fc7", "fc8"),
    preprocessing=(("torchvision", TORCHVISION_INPUT), ("caffe", VGG_MEAN)),
    aliases=("vgg",),
    files=WeightFiles(
        caffe=True,
        matconvnet=True,
        torchvision=(
            ("conv1_1", "features.0"),
            ("conv1_2", "features.2"),
            ("conv2_1", "features.5"),
            ("conv2_2", "features.7"),
            ("conv3_1", "features.10"),
            ("conv3_2", "features.12"),
            ("conv3_3", "features.14"),
            ("conv4_1", "features.17"),
            ("conv4_2", "features.19"),
            ("conv4_3", "features.21"),
            ("conv5_1", "features.24"),
            ("conv5_2", "features.26"),
            ("conv5_3", "features.28"),
            ("fc6", "classifier.0"),
            ("fc7", "classifier.3"),
            ("fc8", "classifier.6"),
        ),
        places=(torch_place("vgg16", "vgg16-397923af.pth", "397923af", "554 MB"),),
    ),
)
