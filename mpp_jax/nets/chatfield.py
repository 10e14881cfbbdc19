"""CNN-S and CNN-M (Chatfield et al. 2014, "Return of the Devil in the Details", table 1).

The weights were trained with Caffe's ceil-mode pooling: in floor mode a picture of 224 pixels
leaves no position for fc6. The normalisation constants here are those of the published models; a
weight file that states its own overrides them.
"""

from mpp_jax.nets.caffenet import DESCRIPTOR_LAYERS
from mpp_jax.nets.spec import LRN, Conv, Layer, NetSpec, Pool, Preprocessing
from mpp_jax.nets.weight_files import WeightFiles, matconvnet_place

# The published models come with a mean picture; files in Caffe's format lack it and are commonly
# used with the mean colour of the same training set.
VGG_MEAN = Preprocessing("BGR", (103.939, 116.779, 123.68))


def _norm(i: int) -> LRN:
    return LRN(f"norm{i}", size=5, alpha=5e-4, beta=0.75, k=2.0)


_TOP: tuple[Layer, ...] = (
    Conv("fc6", 4096, 6, dense=True),
    Conv("fc7", 4096, 1, dense=True),
    Conv("fc8", 1000, 1, activation="linear", dense=True),
)
_MIDDLE: tuple[Layer, ...] = tuple(Conv(f"conv{i}", 512, 3, pad=1) for i in (3, 4, 5))


def _files(name: str, filename: str, md5: str) -> WeightFiles:
    place = matconvnet_place(name, filename, md5)
    return WeightFiles(caffe=True, matconvnet=True, places=(place,))


CNN_S = NetSpec(
    name="cnn_s",
    side=224,
    layers=(
        Conv("conv1", 96, 7, stride=2),
        _norm(1),
        Pool("pool1", 3, 3),
        Conv("conv2", 256, 5, pad=1),
        Pool("pool2", 2, 2),
        *_MIDDLE,
        Pool("pool5", 3, 3),
        *_TOP,
    ),
    default_layer="fc7",
    descriptor_layers=DESCRIPTOR_LAYERS,
    preprocessing=(("caffe", VGG_MEAN),),
    pooling="ceil",
    aliases=("cnns",),
    files=_files("cnn_s", "imagenet-vgg-s.mat", "93b683d5420c2eeaf07a6eef492f182b"),
)

CNN_M = NetSpec(
    name="cnn_m",
    side=224,
    layers=(
        Conv("conv1", 96, 7, stride=2),
        _norm(1),
        Pool("pool1", 3, 2),
        Conv("conv2", 256, 5, stride=2, pad=1),
        _norm(2),
        Pool("pool2", 3, 2),
        *_MIDDLE,
        Pool("pool5", 3, 2),
        *_TOP,
    ),
    default_layer="fc7",
    descriptor_layers=DESCRIPTOR_LAYERS,
    preprocessing=(("caffe", VGG_MEAN),),
    pooling="ceil",
    aliases=("cnnm",),
    files=_files("cnn_m", "imagenet-vgg-m.mat", "1c164950e882b4ea11623e669a86b1c4"),
)
