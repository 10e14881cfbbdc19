"""EfficientNet-Lite0 (Tan and Le 2019, arXiv:1905.11946; the "Lite" variant of TensorFlow TPU).

The baseline of the family without squeeze-and-excitation and with ReLU6 in the place of SiLU: a
strided stem, sixteen inverted residual blocks (Sandler et al. 2018, arXiv:1801.04381), a head of
1,280 channels. A block expands its channels six times (the first not at all), filters each by
itself and projects them back without a non-linearity; where stride and channels allow, its input is
added. Every convolution is followed by batch normalisation (epsilon 1e-3), folded at import. All
padding is TensorFlow's "same" (`mpp_jax.nets.records` says what that means at other sizes).

The network is fully convolutional with stride 32, so its analogue of a fully connected layer is the
mean of the head over the 7 x 7 positions that a 224-pixel crop produces, one such mean every 32
pixels: at scale 0 this is what its classifier reads. Blocks are counted from 0, as in the weight
file; descriptors of ``block10`` and so on are single positions.
"""

from collections.abc import Iterator
from typing import NamedTuple

from mpp_jax.nets.spec import Add, Conv, GlobalMean, Layer, NetSpec, Preprocessing
from mpp_jax.nets.weight_files import WeightFiles

# (repeats, kernel, stride of the first, expansion, channels), as in the paper's table 1.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class _Block(NamedTuple):
    """An inverted residual block."""

    name: str
    kernel: int
    stride: int
    expansion: int
    inputs: int
    outputs: int

    @property
    def residual(self) -> bool:
        """Whether the block's input is added to its output."""
        return self.stride == 1 and self.inputs == self.outputs

    @property
    def project(self) -> str:
        """Name of the convolution that comes last."""
        return f"{self.name}_project" if self.residual else self.name


def _blocks() -> Iterator[_Block]:
    channels, number = 32, 0
    for repeats, kernel, stride, expansion, outputs in _STAGES:
        for i in range(repeats):
            step = stride if i == 0 else 1
            yield _Block(f"block{number}", kernel, step, expansion, channels, outputs)
            channels, number = outputs, number + 1


def _layers() -> Iterator[Layer]:
    below = "stem"
    yield Conv(below, 32, 3, stride=2, pad="same", activation="relu6")
    for b in _blocks():
        wide = b.inputs * b.expansion
        if b.expansion > 1:
            yield Conv(f"{b.name}_expand", wide, 1, activation="relu6")
        yield Conv(
            f"{b.name}_depthwise", wide, b.kernel, b.stride, "same", wide, activation="relu6"
        )
        yield Conv(b.project, b.outputs, 1, activation="linear")
        if b.residual:
            yield Add(b.name, below)
        below = b.name
    yield Conv("head", 1280, 1, activation="relu6")
    yield GlobalMean("pool")
    yield Conv("fc", 1000, 1, activation="linear", dense=True)


def _modules() -> Iterator[tuple[str, str, str]]:
    """Yield (layer, module, module of its batch normalisation) in torch's names."""
    yield "stem", "_conv_stem", "_bn0"
    for i, b in enumerate(_blocks()):
        if b.expansion > 1:
            yield f"{b.name}_expand", f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0"
        yield f"{b.name}_depthwise", f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1"
        yield b.project, f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2"
    yield "head", "_conv_head", "_bn1"


_INPUT = Preprocessing("RGB", mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))

EFFICIENTNET_LITE0 = NetSpec(
    name="efficientnet_lite0",
    side=224,
    layers=tuple(_layers()),
    default_layer="head",
    descriptor_layers=(*(block.name for block in _blocks()), "head"),
    preprocessing=(("torchvision", _INPUT), ("native", _INPUT)),
    averaged=("head",),
    aliases=("efficientnet",),
    files=WeightFiles(
        torchvision=(*((name, module) for name, module, _ in _modules()), ("fc", "_fc")),
        batch_norms=tuple((name, norm) for name, _, norm in _modules()),
        batch_norm_epsilon=1e-3,
    ),
)
