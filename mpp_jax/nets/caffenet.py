"""AlexNet as Caffe ships it (Krizhevsky et al. 2012; Jia et al. 2014).

``caffenet`` is the reference model, "Alex" in the paper: pooling comes before normalisation.
``alexnet`` is BVLC's AlexNet: normalisation comes before pooling. Their parameters have equal
shapes; only the order tells them apart.
"""

from mpp_jax.nets.spec import LRN, Conv, Layer, NetSpec, Pool, Preprocessing

# Mean of the ImageNet training pictures, blue, green, red.
CAFFE_MEAN = Preprocessing("BGR", (104.00698793, 116.66876762, 122.67891434))

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
        Conv("fc8", 1000, 1, relu=False, dense=True),
    )


CAFFENET = NetSpec(
    name="caffenet",
    side=227,
    layers=_layers(pool_first=True),
    default_layer="fc7",
    descriptor_layers=DESCRIPTOR_LAYERS,
    preprocessing=(("caffe", CAFFE_MEAN),),
)

ALEXNET = NetSpec(
    name="alexnet",
    side=227,
    layers=_layers(pool_first=False),
    default_layer="fc7",
    descriptor_layers=DESCRIPTOR_LAYERS,
    preprocessing=(("caffe", CAFFE_MEAN),),
)
