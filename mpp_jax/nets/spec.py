"""A network as data: its layer list, from which all geometry follows.

A network is a tuple of layer records (`Conv`, `Fire`, `LRN`, `Pool`, `GlobalMean`). One axis of
length ``n`` shrinks layer by layer:

    convolution          n' = floor((n + 2 pad - kernel) / stride) + 1
    pooling, floor mode  n' = floor((n - window) / stride) + 1
    pooling, ceil mode   n' = ceil((n - window) / stride) + 1, less one where the last window
                         would start outside the map (Caffe's rule)

A layer's stride in pixels is the product of the strides below it. Its *receptive window* is the
part of the picture that one position stands for: with ``p`` positions at the network's own
input side, ``window = side - (p - 1) * stride``, so that the windows tile the base picture from
edge to edge. For the fully connected layers of CaffeNet this is 227 pixels at stride 32. (The
theoretical receptive field is larger, 355 pixels: it reaches into the zero padding.)

Fully connected layers are convolutions whose kernel covers the whole map of the base picture, so
every network takes pictures of any size at least its base side.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Literal

from mpp_jax.nets.weight_files import WeightFiles

PoolingMode = Literal["floor", "ceil"]
Params = dict[str, Any]
"""Nested dict of parameters: ``{layer: {"kernel", "bias"}}``, one level deeper in fire modules."""


@dataclasses.dataclass(frozen=True)
class Conv:
    """Convolution, bias and (where `relu`) rectification; its activation is what comes out last.

    `dense` marks a fully connected layer, which weight files store as a matrix.
    """

    name: str
    features: int
    kernel: int
    stride: int = 1
    pad: int = 0
    groups: int = 1
    relu: bool = True
    dense: bool = False


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
    """Max pooling without padding; rounding follows the network's pooling mode."""

    name: str
    window: int
    stride: int


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
class GlobalMean:
    """Mean over all positions, kept as a 1x1 map."""

    name: str


Layer = Conv | LRN | Pool | Fire | GlobalMean


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


@dataclasses.dataclass(frozen=True)
class NetSpec:
    """A network's description; hashable, so it may be a static argument of a jitted function.

    Attributes:
        name: name in the registry.
        side: input side in pixels that the weights were trained at.
        layers: the layer list.
        default_layer: the layer whose activations are the descriptors.
        descriptor_layers: every layer whose activations may be used as descriptors.
        preprocessing: by convention of the weight file (``"caffe"``, ``"torchvision"``, ...).
        pooling: ``"floor"`` or ``"ceil"``.
        averaged: layers whose descriptors are means over the window that a base picture makes.
        averaged_stride: pixels between two such means.
        aliases: names that the literature gives to the network, in lower case; several networks may
            share one.
        files: what its weight files look like, and where the public ones are.
        lacking: layers of the network above the last one of `layers`, which its weights lack. None
            of `aliases`, `files` and this is compared or hashed: they do not change what is
            computed.
    """

    name: str
    side: int
    layers: tuple[Layer, ...]
    default_layer: str
    descriptor_layers: tuple[str, ...]
    preprocessing: tuple[tuple[str, Preprocessing], ...]
    pooling: PoolingMode = "floor"
    averaged: tuple[str, ...] = ()
    averaged_stride: int = 32
    aliases: tuple[str, ...] = dataclasses.field(default=(), compare=False)
    files: WeightFiles = dataclasses.field(default=WeightFiles(), compare=False, repr=False)
    lacking: tuple[str, ...] = dataclasses.field(default=(), compare=False, repr=False)

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of all activations, in order of computation."""
        return tuple(layer.name for layer in self.layers)

    def preprocessing_for(self, convention: str) -> Preprocessing | None:
        """Return the input that files of a convention expect; None where none is stated."""
        return dict(self.preprocessing).get(convention)

    def index(self, layer: str) -> int:
        """Return the place of a layer in the list.

        Raises:
            ValueError: it has none.
        """
        if layer in self.lacking:
            raise ValueError(
                f"layer: the weights of network {self.name!r} end at {self.layer_names[-1]!r} and "
                f"have no layer {layer!r}; give a file that has it, or take one of "
                f"{', '.join(self.descriptor_layers)}"
            )
        if layer not in self.layer_names:
            raise ValueError(
                f"layer: network {self.name!r} has no layer {layer!r}; "
                f"it has {', '.join(self.layer_names)}"
            )
        return self.layer_names.index(layer)

    def layer(self, name: str | None = None) -> LayerSpec:
        """Return the descriptor geometry of a layer (None: the default layer).

        Raises:
            ValueError: no such layer, or one whose positions have no place in the picture.
        """
        name = self.default_layer if name is None else name
        if name not in self.descriptor_layers:
            self.index(name)
            raise ValueError(
                f"layer: {name!r} of network {self.name!r} has no descriptors; "
                f"take one of {', '.join(self.descriptor_layers)}"
            )
        stride, channels = map_stride(self, name), map_channels(self, name)
        at_base = map_size(self, self.side, name)
        if name in self.averaged:
            step = max(1, self.averaged_stride // stride)
            return LayerSpec(name, channels, self.side, step * stride, at_base, step)
        window = self.side - (at_base - 1) * stride
        if at_base == 0:  # floor mode may leave a ceil-mode network's base side no position
            window = unpadded_window(self, name)
        return LayerSpec(name, channels, window, stride)

    def positions(self, side: int, layer: str | None = None) -> int:
        """Return the descriptors along an axis of `side` pixels (0: the picture is too small)."""
        spec = self.layer(layer)
        n = map_size(self, side, spec.name)
        return max(0, (n - spec.pool_window) // spec.pool_stride + 1)

    def up_to(self, layer: str) -> NetSpec:
        """Return the network that ends at a layer.

        Where the default layer lies above, the highest descriptor layer that is left takes its
        place.

        Raises:
            ValueError: no such layer, or no descriptor layer up to there.
        """
        end = self.index(layer) + 1
        kept = self.layer_names[:end]
        usable = tuple(name for name in self.descriptor_layers if name in kept)
        if not usable:
            raise ValueError(f"layer: nothing up to {layer!r} of {self.name!r} has descriptors")
        default = self.default_layer if self.default_layer in kept else max(usable, key=kept.index)
        return dataclasses.replace(
            self,
            layers=self.layers[:end],
            descriptor_layers=usable,
            default_layer=default,
            averaged=tuple(name for name in self.averaged if name in kept),
            lacking=(*self.layer_names[end:], *self.lacking),
        )

    def with_pooling(self, pooling: PoolingMode) -> NetSpec:
        """Return the same network with floor- or ceil-mode pooling."""
        if pooling not in ("floor", "ceil"):
            raise ValueError(f"pooling: must be 'floor' or 'ceil', not {pooling!r}")
        return dataclasses.replace(self, pooling=pooling)

    def with_lrn(self, constants: dict[str, LRN]) -> NetSpec:
        """Return the same network with the normalisation constants of a weight file."""
        layers = tuple(constants.get(layer.name, layer) for layer in self.layers)
        return dataclasses.replace(self, layers=layers)


def fire_convolutions(layer: Fire) -> tuple[Conv, Conv, Conv]:
    """Return the convolutions of a fire module: squeeze1x1, expand1x1, expand3x3."""
    return (
        Conv("squeeze1x1", layer.squeeze, 1),
        Conv("expand1x1", layer.expand1x1, 1),
        Conv("expand3x3", layer.expand3x3, 3, pad=1),
    )


def convolutions(spec: NetSpec) -> Iterator[tuple[tuple[str, ...], Conv, int]]:
    """Yield the path in the parameter tree, record and input channels of every convolution.

    Those inside fire modules are included.
    """
    channels = 3
    for layer in spec.layers:
        if isinstance(layer, Conv):
            yield (layer.name,), layer, channels
            channels = layer.features
        elif isinstance(layer, Fire):
            squeeze, *expansions = fire_convolutions(layer)
            yield (layer.name, squeeze.name), squeeze, channels
            for part in expansions:
                yield (layer.name, part.name), part, layer.squeeze
            channels = layer.features


def kernel_shape(layer: Conv, channels: int) -> tuple[int, int, int, int]:
    """Return the shape (h, w, in / groups, out) of a convolution's kernel."""
    return (layer.kernel, layer.kernel, channels // layer.groups, layer.features)


def pooled_size(n: int, window: int, stride: int, mode: PoolingMode) -> int:
    """Return the length of an axis after unpadded pooling."""
    if mode == "floor":
        return max(0, (n - window) // stride + 1)
    size = max(0, math.ceil((n - window) / stride) + 1)
    return size - 1 if size > 0 and (size - 1) * stride >= n else size


def _layers_to(spec: NetSpec, layer: str) -> Iterator[Layer]:
    yield from spec.layers[: spec.index(layer) + 1]


def map_size(spec: NetSpec, side: int, layer: str) -> int:
    """Return the positions along an axis of `side` pixels in the activation map of a layer."""
    n = side
    for item in _layers_to(spec, layer):
        if isinstance(item, Conv):
            n = max(0, (n + 2 * item.pad - item.kernel) // item.stride + 1)
        elif isinstance(item, Pool):
            n = pooled_size(n, item.window, item.stride, spec.pooling)
        elif isinstance(item, GlobalMean):
            n = min(n, 1)
        if n == 0:  # zero padding must not bring a vanished map back
            return 0
    return n


def map_stride(spec: NetSpec, layer: str) -> int:
    """Return the pixels between neighbouring positions of a layer."""
    steps = (x.stride for x in _layers_to(spec, layer) if isinstance(x, Conv | Pool))
    return math.prod(steps)


def map_channels(spec: NetSpec, layer: str) -> int:
    """Return the channels of the activation map of a layer."""
    features = [x.features for x in _layers_to(spec, layer) if isinstance(x, Conv | Fire)]
    return features[-1] if features else 3


def unpadded_window(spec: NetSpec, layer: str) -> int:
    """Return a position's receptive window in pixels, less the zero padding on either side."""
    n = 1
    for item in reversed(list(_layers_to(spec, layer))):
        if isinstance(item, Conv):
            n = (n - 1) * item.stride + item.kernel - 2 * item.pad
        elif isinstance(item, Pool):
            n = (n - 1) * item.stride + item.window
    return n
