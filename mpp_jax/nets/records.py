"""The layers that a network's list is made of, as records without code that computes.

The records of one list are in order of computation. Each takes the activation of the one before it;
a `Conv` may take an earlier one's instead (`source`) and an `Add` takes an earlier one's besides,
which is what residual networks are made of.

Padding ``"same"`` is TensorFlow's: an axis of ``n`` positions gives ``ceil(n / stride)``, and of
the ``max((ceil(n / stride) - 1) stride + kernel - n, 0)`` zeros that takes, the smaller half comes
before. Strided layers are thus asymmetric, and where the halves fall depends on ``n``: on an even
map a 3x3/2 window begins at positions 0, 2, 4, ..., on an odd one at -1, 1, 3, ... The dense map of
a picture of another size would lie up to half a stride beside that of the pictures that the network
was trained on, and no crop would equal its part of the whole. Here the zeros *before* are
therefore those of the network's base side at every size, and those behind are as many as
``ceil(n / stride)`` positions need. At the base side, and wherever all strided layers meet maps
that are even or odd as they are there (for EfficientNet: all multiples of 32), this is TensorFlow's
result; elsewhere the grid stays where it is and TensorFlow's would move.
"""

import dataclasses
from typing import Any, Literal

PoolingMode = Literal["floor", "ceil"]
Padding = int | Literal["same"]
Activation = Literal[
    "linear", "relu", "relu6", "leaky_relu", "elu", "gelu", "silu", "hard_swish", "hard_sigmoid"
]
"""What follows a sum: nothing, or the function of that name in `jax.nn` (GELU by its exact form,
``hard_swish`` and ``hard_sigmoid`` by ``relu6(x + 3) / 6``)."""
Params = dict[str, Any]
"""Nested dict of parameters: ``{layer: {"kernel", "bias"}}``, one level deeper in fire modules."""


@dataclasses.dataclass(frozen=True)
class Conv:
    """Convolution, bias and non-linearity; its activation is what comes out last.

    A convolution that is followed by batch normalisation is described without: in inference both
    are one affine map, which is folded into kernel and bias when weights are imported
    (`mpp_jax.nets.weight_files.WeightFiles.batch_norms`).

    Attributes:
        name: of the layer.
        features: channels that come out.
        kernel: side of the kernel.
        stride: of the window.
        pad: zeros on every side, or ``"same"`` (see the module's docstring).
        groups: of channels that do not see each other; as many as channels come in: a depthwise
            convolution.
        activation: the non-linearity.
        dense: marks a fully connected layer, which weight files store as a matrix.
        source: name of the layer whose activation is taken; None: the one before.
    """

    name: str
    features: int
    kernel: int
    stride: int = 1
    pad: Padding = 0
    groups: int = 1
    activation: Activation = "relu"
    dense: bool = False
    source: str | None = None


@dataclasses.dataclass(frozen=True)
class LRN:
    """Local response normalisation across channels: ``x / (k + alpha/size * sum x^2)^beta``.

    `alpha` is divided by `size` as in Caffe and torch (MatConvNet stores the quotient).
    """

    name: str
    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0


@dataclasses.dataclass(frozen=True)
class Pool:
    """Max pooling; rounding follows the network's pooling mode, but for `pad` ``"same"``.

    What is padded never is a maximum.
    """

    name: str
    window: int
    stride: int
    pad: Padding = 0


@dataclasses.dataclass(frozen=True)
class Fire:
    """SqueezeNet's module: a 1x1 squeeze, then 1x1 and 3x3 expansions side by side.

    All three are rectified. The activation is the concatenation (1x1 first).
    """

    name: str
    squeeze: int
    expand1x1: int
    expand3x3: int

    @property
    def features(self) -> int:
        """Channels that come out."""
        return self.expand1x1 + self.expand3x3


@dataclasses.dataclass(frozen=True)
class Add:
    """Residual sum: the activation before it plus that of an earlier layer of equal shape."""

    name: str
    other: str
    activation: Activation = "linear"


@dataclasses.dataclass(frozen=True)
class GlobalMean:
    """Mean over all positions, kept as a 1x1 map."""

    name: str


Layer = Conv | LRN | Pool | Fire | Add | GlobalMean


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What a weight file expects of its input: ``(x / divisor - mean) / std``, x in 0..255.

    Colours are given in the file's own `channels` order.
    """

    channels: Literal["RGB", "BGR"]
    mean: tuple[float, float, float]
    divisor: float = 1.0
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def rgb(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return (mean, scale) in RGB order, such that the input is ``(x - mean) * scale``."""
        step = -1 if self.channels == "BGR" else 1
        mean = tuple(self.divisor * m for m in self.mean[::step])
        return mean, tuple(1.0 / (self.divisor * s) for s in self.std[::step])


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """A layer whose positions are used as descriptors.

    Attributes:
        name: the activation.
        channels: length of a descriptor.
        window: side in pixels of the receptive window of one descriptor.
        stride: pixels between neighbouring descriptors.
        pool_window: positions of the activation map, per axis, averaged into one descriptor
            (1: none).
        pool_stride: positions of the map between neighbouring averages.

    Descriptor ``(i, j)`` of a map stands for rows ``i * stride .. i * stride + window`` and the
    like columns, cut off at the picture's edge (ceil-mode pooling may reach past it).
    """

    name: str
    channels: int
    window: int
    stride: int
    pool_window: int = 1
    pool_stride: int = 1
