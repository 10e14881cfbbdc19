"""A network as data: its layer list, from which all geometry follows.

A network is a tuple of layer records (`mpp_jax.nets.records`). One axis of length ``n`` shrinks
layer by layer, from the picture up to the layer:

    convolution          n' = floor((n + 2 pad - kernel) / stride) + 1
    pooling, floor mode  n' = floor((n + 2 pad - window) / stride) + 1
    pooling, ceil mode   n' = ceil((n + 2 pad - window) / stride) + 1, less one where the last
                         window would start outside the map (Caffe's rule)
    padding "same"       n' = ceil(n / stride), of either

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
from functools import cached_property
from typing import ClassVar

from mpp_jax.nets.records import (
    LRN,
    Activation,
    Add,
    Conv,
    Fire,
    GlobalMean,
    Layer,
    LayerSpec,
    Padding,
    Params,
    Pool,
    PoolingMode,
    Preprocessing,
)
from mpp_jax.nets.weight_files import WeightFiles

__all__ = [
    "LRN",
    "Activation",
    "Add",
    "Conv",
    "Fire",
    "GlobalMean",
    "Layer",
    "LayerSpec",
    "NetSpec",
    "Params",
    "Pool",
    "PoolingMode",
    "Preprocessing",
]


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

    of_layers: ClassVar[bool] = True
    """Whether `layers` say what is computed; a function says it in its own way."""

    @cached_property  # it is asked for with every batch, of every layer and scale
    def layer_names(self) -> tuple[str, ...]:
        """Names of all activations, in order of computation."""
        return tuple(layer.name for layer in self.layers)

    @cached_property
    def _found(self) -> dict[str, LayerSpec]:
        return {}

    @property
    def has_weights(self) -> bool:
        """Whether there are parameters, which weight files hold."""
        return bool(self.layers)

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
        if name not in self._found:
            self._found[name] = self._geometry(name)
        return self._found[name]

    def _geometry(self, name: str) -> LayerSpec:
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
    channels, of_layer = 3, dict[str | None, int]()
    for layer in spec.layers:
        if isinstance(layer, Conv):
            yield (layer.name,), layer, of_layer.get(layer.source, channels)
            channels = layer.features
        elif isinstance(layer, Fire):
            squeeze, *expansions = fire_convolutions(layer)
            yield (layer.name, squeeze.name), squeeze, channels
            for part in expansions:
                yield (layer.name, part.name), part, layer.squeeze
            channels = layer.features
        of_layer[layer.name] = channels


def kernel_shape(layer: Conv, channels: int) -> tuple[int, int, int, int]:
    """Return the shape (h, w, in / groups, out) of a convolution's kernel."""
    return (layer.kernel, layer.kernel, channels // layer.groups, layer.features)


def pooled_size(n: int, window: int, stride: int, mode: PoolingMode, pad: Padding = 0) -> int:
    """Return the length of an axis after pooling."""
    if pad == "same":
        return -(-n // stride)
    padded = n + 2 * pad
    if mode == "floor":
        return max(0, (padded - window) // stride + 1)
    size = max(0, math.ceil((padded - window) / stride) + 1)
    return size - 1 if size > 0 and (size - 1) * stride >= n + pad else size


def convolved_size(n: int, layer: Conv) -> int:
    """Return the length of an axis after a convolution."""
    if layer.pad == "same":
        return -(-n // layer.stride)
    return max(0, (n + 2 * layer.pad - layer.kernel) // layer.stride + 1)


def _path(spec: NetSpec, layer: str) -> list[Layer]:
    """Return the layers from the picture up to a layer, without what residual sums add."""
    at: int | None = spec.index(layer)
    path: list[Layer] = []
    while at is not None:
        path.append(spec.layers[at])
        below = input_of(spec, path[-1].name)
        at = None if below is None else spec.index(below)
    return path[::-1]


def input_of(spec: NetSpec, layer: str) -> str | None:
    """Return the name of the layer whose activation a layer takes; None: it takes the picture."""
    at = spec.index(layer)
    item = spec.layers[at]
    if isinstance(item, Conv) and item.source is not None:
        return item.source
    return spec.layers[at - 1].name if at else None


def map_size(spec: NetSpec, side: int, layer: str) -> int:
    """Return the positions along an axis of `side` pixels in the activation map of a layer."""
    n = side
    for item in _path(spec, layer):
        if isinstance(item, Conv):
            n = convolved_size(n, item)
        elif isinstance(item, Pool):
            n = pooled_size(n, item.window, item.stride, spec.pooling, item.pad)
        elif isinstance(item, GlobalMean):
            n = min(n, 1)
        if n == 0:  # zero padding must not bring a vanished map back
            return 0
    return n


def padding(spec: NetSpec, layer: Conv | Pool, n: int) -> tuple[int, int]:
    """Return the zeros before and behind an axis of `n` positions that a layer takes.

    Those behind a pooling include the positions that ceil mode reaches past the map. Padding
    ``"same"`` is explained in `mpp_jax.nets.records`.
    """
    window = _window(layer)
    if layer.pad != "same":
        if isinstance(layer, Conv):
            return layer.pad, layer.pad
        size = pooled_size(n, window, layer.stride, spec.pooling, layer.pad)
        return layer.pad, max(0, (size - 1) * layer.stride + window - n - layer.pad)
    below = input_of(spec, layer.name)
    base = spec.side if below is None else map_size(spec, spec.side, below)
    before = max(0, (-(-base // layer.stride) - 1) * layer.stride + window - base) // 2
    return before, max(0, (-(-n // layer.stride) - 1) * layer.stride + window - n - before)


def map_stride(spec: NetSpec, layer: str) -> int:
    """Return the pixels between neighbouring positions of a layer."""
    return math.prod(x.stride for x in _path(spec, layer) if isinstance(x, Conv | Pool))


def map_channels(spec: NetSpec, layer: str) -> int:
    """Return the channels of the activation map of a layer."""
    features = [x.features for x in _path(spec, layer) if isinstance(x, Conv | Fire)]
    return features[-1] if features else 3


def unpadded_window(spec: NetSpec, layer: str) -> int:
    """Return a position's receptive window in pixels, less the zero padding on either side."""
    n = 1
    for item in reversed(_path(spec, layer)):
        if not isinstance(item, Conv | Pool):
            continue
        if item.pad == "same":
            n *= item.stride
        else:
            n = (n - 1) * item.stride + _window(item) - 2 * item.pad
    return n


def _window(layer: Conv | Pool) -> int:
    return layer.kernel if isinstance(layer, Conv) else layer.window
