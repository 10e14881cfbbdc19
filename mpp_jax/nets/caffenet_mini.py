"""CaffeNet in small: the same geometry at 3/8 of the width, with weights inside the package.

Kernels, strides, padding, groups, normalisation and pooling are CaffeNet's, so its positions are
too: 1, 9, 64, 196, 484, 1156 and 2500, together 4,410 over seven scales. fc6 and fc7 have 512
channels, and there is no fc8: the weights were trained without classes
(``experiments/pretrain_mini.py``), on pictures made by formula.
"""

import dataclasses
from fractions import Fraction

from mpp_jax.nets.caffenet import CAFFENET
from mpp_jax.nets.spec import Conv, Layer, Preprocessing
from mpp_jax.nets.weight_files import WeightFiles

WIDTH = Fraction(3, 8)
DENSE = 512

# About the range that batch normalisation leaves: values of a picture become -2..2.
MINI_MEAN = Preprocessing("RGB", (127.5, 127.5, 127.5), std=(64.0, 64.0, 64.0))


def narrow(layers: tuple[Layer, ...], width: Fraction, dense: int) -> tuple[Layer, ...]:
    """Return the same layers with fewer channels.

    Args:
        layers: a network's.
        width: factor on the channels of convolutions.
        dense: channels of fully connected layers.

    Raises:
        ValueError: channels that do not come out whole in every group.
    """

    def one(layer: Layer) -> Layer:
        if not isinstance(layer, Conv):
            return layer
        features = Fraction(dense) if layer.dense else layer.features * width
        if features.denominator > 1 or features < 1 or features.numerator % layer.groups:
            raise ValueError(
                f"width: {layer.name} of {layer.features} channels in {layer.groups} groups has "
                f"no {width} of them; take another"
            )
        return dataclasses.replace(layer, features=int(features))

    return tuple(one(layer) for layer in layers)


CAFFENET_MINI = dataclasses.replace(
    CAFFENET,
    name="caffenet_mini",
    layers=narrow(CAFFENET.layers[: CAFFENET.index("fc7") + 1], WIDTH, DENSE),
    descriptor_layers=tuple(n for n in CAFFENET.descriptor_layers if n != "fc8"),
    preprocessing=(("native", MINI_MEAN),),
    aliases=(),
    files=WeightFiles(),
)
