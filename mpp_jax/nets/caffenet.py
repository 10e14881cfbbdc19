"""AlexNet as Caffe ships it (Krizhevsky et al. 2012; Jia et al. 2014).

``caffenet`` is the reference model, "Alex" in the paper: pooling comes before normalisation.
``alexnet`` is BVLC's AlexNet: normalisation comes before pooling. Their parameters have equal
shapes; only the order tells them apart.
"""

from mpp_jax.nets.spec import LRN, Conv, Layer, NetSpec, Pool, Preprocessing
from mpp_jax.nets.weight_files import WeightFiles, WeightPlace, matconvnet_place

# Mean of the ImageNet training pictures, blue, green, red.
CAFFE_MEAN = Preprocessing("BGR", (104.00698793, 116.66876762, 122.67891434))

_CAFFE = "http://dl.caffe.berkeleyvision.org"

DESCRIPTOR_LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "pool5", "fc6", "fc7", "fc8")


def _layers(pool_first: bool) -> tuple[Layer, ...]:
    def stage(i: int) -> tuple[Layer, ...]:
        pool, norm = Pool(f"pool{i}", 3, 2), LRN(f"norm{i}", 5, 1e-4, 0.75, 1.0)
        return (pool, norm) if pool_first else (norm, pool)

    return (
        Conv("conv1", 96, 11, stride=4),
        *stage(1),
        Conv("conv2", 256, 5, pad=2, groups=2),
        *stage(2),
        Conv("conv3", 384, 3, pad=1),
        Conv("conv4", 384, 3, pad=1, groups=2),
        Conv("conv5", 256, 3, pad=1, groups=2),
        Pool("pool5", 3, 2),
        Conv("fc6", 4096, 6, dense=True),
        Conv("fc7", 4096, 1, dense=True),
        Conv("fc8", 1000, 1, activation="linear", dense=True),
    )


def _files(name: str, caffe: tuple[str, str], matconvnet: tuple[str, str]) -> WeightFiles:
    """Return the two public files of a network, each given as file name and digest."""
    filename, sha1 = caffe
    urls, note = (f"{_CAFFE}/{filename}",), "Caffe, 244 MB, unrestricted use"
    return WeightFiles(
        caffe=True,
        matconvnet=True,
        places=(
            WeightPlace(name, filename, urls, "sha1", sha1, note),
            matconvnet_place(f"{name}-matconvnet", *matconvnet),
        ),
    )


CAFFENET = NetSpec(
    name="caffenet",
    side=227,
    layers=_layers(pool_first=True),
    default_layer="fc7",
    descriptor_layers=DESCRIPTOR_LAYERS,
    preprocessing=(("caffe", CAFFE_MEAN),),
    aliases=("alex", "caffe"),
    files=_files(
        "caffenet",
        ("bvlc_reference_caffenet.caffemodel", "4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46"),
        ("imagenet-caffe-ref.mat", "6d69dfa6e549012c94546658737c5885"),
    ),
)

ALEXNET = NetSpec(
    name="alexnet",
    side=227,
    layers=_layers(pool_first=False),
    default_layer="fc7",
    descriptor_layers=DESCRIPTOR_LAYERS,
    preprocessing=(("caffe", CAFFE_MEAN),),
    aliases=("alex",),
    files=_files(
        "alexnet",
        ("bvlc_alexnet.caffemodel", "9116a64c0fbe4459d18f4bb6b56d647b63920377"),
        ("imagenet-caffe-alex.mat", "ed49ef44caf18496291ce0c3257b0596"),
    ),
)
