"""SqueezeNet v1.0 and v1.1 (Iandola et al. 2016, arXiv:1602.07360, table 1).

Both are fully convolutional with stride 16, so its analogue of a fully connected layer is
the mean of the last fire module over the 13 x 13 positions that a 227-pixel crop produces, one
such mean every 32 pixels. conv_final has one ring of zero padding, as in the authors' prototxt.
v1.1 (the authors' later release) has a smaller first kernel, pools earlier and has no such ring; a
crop gives it 14 x 14 positions.
"""

from mpp_jax.nets.spec import Conv, Fire, GlobalMean, NetSpec, Pool, Preprocessing
from mpp_jax.nets.torchvision_alexnet import TORCHVISION_INPUT
from mpp_jax.nets.weight_files import WeightFiles, WeightPlace

_GITHUB = "songhan/SqueezeNet-Deep-Compression"

SQUEEZENET = NetSpec(
    name="squeezenet",
    side=227,
    layers=(
        Conv("conv1", 96, 7, stride=2),
        Pool("pool1", 3, 2),
        Fire("fire2", 16, 64, 64),
        Fire("fire3", 16, 64, 64),
        Fire("fire4", 32, 128, 128),
        Pool("pool4", 3, 2),
        Fire("fire5", 32, 128, 128),
        Fire("fire6", 48, 192, 192),
        Fire("fire7", 48, 192, 192),
        Fire("fire8", 64, 256, 256),
        Pool("pool8", 3, 2),
        Fire("fire9", 64, 256, 256),
        Conv("conv_final", 1000, 1, pad=1),
        GlobalMean("pool_final"),
    ),
    default_layer="fire9",
    descriptor_layers=tuple(f"fire{i}" for i in range(2, 10)),
    preprocessing=(("caffe", Preprocessing("BGR", (104.0, 117.0, 123.0))),),
    pooling="ceil",
    averaged=("fire9",),
    files=WeightFiles(
        caffe=True,
        caffe_names=(("conv_final", "conv10"),),
        deep_compression=True,
        places=(
            WeightPlace(
                "squeezenet",
                "compressed_SqueezeNet.net",
                (
                    f"https://raw.githubusercontent.com/{_GITHUB}/master/compressed_SqueezeNet.net",
                    f"https://github.com/{_GITHUB}/raw/master/compressed_SqueezeNet.net",
                ),
                "sha256",
                "e4ab6960ae8cd81505e1c2136921201507e930966c53deaf15862a395b3a3261",
                "Deep Compression, 676 kB, BSD licence",
            ),
        ),
    ),
)

_V11_FIRES = (
    ("fire2", 3),
    ("fire3", 4),
    ("fire4", 6),
    ("fire5", 7),
    ("fire6", 9),
    ("fire7", 10),
    ("fire8", 11),
    ("fire9", 12),
)
_PARTS = (("squeeze1x1", "squeeze"), ("expand1x1", "expand1x1"), ("expand3x3", "expand3x3"))

SQUEEZENET_V11 = NetSpec(
    name="squeezenet_v11",
    side=227,
    layers=(
        Conv("conv1", 64, 3, stride=2),
        Pool("pool1", 3, 2),
        Fire("fire2", 16, 64, 64),
        Fire("fire3", 16, 64, 64),
        Pool("pool3", 3, 2),
        Fire("fire4", 32, 128, 128),
        Fire("fire5", 32, 128, 128),
        Pool("pool5", 3, 2),
        Fire("fire6", 48, 192, 192),
        Fire("fire7", 48, 192, 192),
        Fire("fire8", 64, 256, 256),
        Fire("fire9", 64, 256, 256),
        Conv("conv_final", 1000, 1),
        GlobalMean("pool_final"),
    ),
    default_layer="fire9",
    descriptor_layers=tuple(f"fire{i}" for i in range(2, 10)),
    preprocessing=(
        ("caffe", Preprocessing("BGR", (104.0, 117.0, 123.0))),
        ("torchvision", TORCHVISION_INPUT),
    ),
    pooling="ceil",
    averaged=("fire9",),
    aliases=("squeezenet11",),
    files=WeightFiles(
        caffe=True,
        caffe_names=(("conv_final", "conv10"),),
        torchvision=(
            ("conv1", "features.0"),
            *(
                (f"{fire}/{part}", f"features.{number}.{module}")
                for fire, number in _V11_FIRES
                for part, module in _PARTS
            ),
            ("conv_final", "classifier.1"),
        ),
    ),
)
