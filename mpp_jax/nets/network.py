"""Parameters and description together: pictures in, named activations or descriptors out."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mpp_jax.nets import layers as blocks
from mpp_jax.nets import spec as s
from mpp_jax.nets.conv import prepare_kernel
from mpp_jax.nets.forms import Forms, choose
from mpp_jax.nets.forms_table import device_forms

# The formulation of a dense map; a picture of the base size may take another.
MANY_POSITIONS = 10_000


class LayerStack(nn.Module):
    """The layer list, run in order."""

    spec: s.NetSpec
    forms: Forms
    precision: str = blocks.PRECISION

    @nn.compact
    def __call__(self, x: Array, until: str | None = None) -> dict[str, Array]:
        """Return the activations of preprocessed pictures (B, H, W, 3), up to layer `until`."""
        stop = None if until is None else self.spec.index(until) + 1
        how = (self.forms, self.precision)
        activations: dict[str, Array] = {}
        for layer in self.spec.layers[:stop]:
            match layer:
                case s.Conv():
                    x = x if layer.source is None else activations[layer.source]
                    around = [s.padding(self.spec, layer, n) for n in x.shape[1:3]]
                    x = blocks.Convolution(layer, *how, name=layer.name)(x, around)
                case s.Fire():
                    x = blocks.FireModule(layer, *how, name=layer.name)(x)
                case s.LRN():
                    x = blocks.lrn(x, layer, self.forms.lrn)
                case s.Pool():
                    before = [s.padding(self.spec, layer, n)[0] for n in x.shape[1:3]]
                    x = blocks.max_pool(x, layer, self.spec.pooling, self.forms.pool, before)
                case s.Add():
                    x = blocks.activate(x + activations[layer.other], layer.activation)
                case s.GlobalMean():
                    x = jnp.mean(x, axis=(1, 2), keepdims=True)
            activations[layer.name] = x
        return activations


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "mean", "scale", "mean_image"],
    meta_fields=["spec", "weights_sha256", "precision", "forms"],
)
@dataclasses.dataclass(frozen=True)
class Network:
    """A pretrained network: a pytree whose structure holds the description.

    Attributes:
        params: nested dict of kernels (HWIO) and biases; kernels take RGB.
        mean: (3,) float32, subtracted from RGB values 0..255.
        scale: (3,) float32, factor after the subtraction.
        mean_image: (h, w, 3) float32 subtracted instead of `mean`, resized to each picture; or
            None.
        spec: the description (static).
        weights_sha256: digest of the weight file (static); empty for random weights.
        precision: of the products in convolutions (static): ``"highest"``, or ``"default"``, which
            lets a GPU use TF32 (about 1e-3 relative error in the descriptors).
        forms: how each layer is computed (static); None: as the table of the device has it.
    """

    params: s.Params = dataclasses.field(repr=False)
    mean: Array
    scale: Array
    mean_image: Array | None = dataclasses.field(repr=False)
    spec: s.NetSpec
    weights_sha256: str = ""
    precision: str = blocks.PRECISION
    forms: Forms | None = None

    @property
    def how(self) -> Forms:
        """How each layer is computed: `forms`, or the table of the device."""
        return self.forms or device_forms(self.dtype, self.precision)

    @property
    def dtype(self) -> Any:
        """The parameters' dtype, in which the network computes."""
        return jax.tree.leaves(self.params)[0].dtype

    def preprocess(self, x: Array) -> Array:
        """Return the network's input for RGB values 0..255, (B, H, W, 3), of any real dtype."""
        x = jnp.asarray(x, jnp.float32)
        if self.mean_image is None:
            mean = self.mean[None, None, None, :]
        else:
            mean = self.mean_image
            if mean.shape[:2] != x.shape[1:3]:
                mean = jax.image.resize(mean, (*x.shape[1:3], 3), "linear", antialias=False)
            mean = mean[None]
        return ((x - mean) * self.scale[None, None, None, :]).astype(self.dtype)

    def activations(self, x: Array, until: str | None = None) -> dict[str, Array]:
        """Return every named activation, in order, up to and including layer `until`.

        A convolution's activation is taken after its non-linearity.

        Args:
            x: (B, H, W, 3) RGB, 0..255, already at the wanted size.
            until: last layer to compute; None computes all.

        Returns:
            ``{layer name: (B, H', W', C)}``.
        """
        stack = LayerStack(self.spec, self.how, self.precision)
        named: Any = stack.apply({"params": self.params}, self.preprocess(x), until)
        return named

    def descriptors(self, x: Array, layer: str | None = None) -> Array:
        """Return the descriptor map of a layer; nothing above the layer is computed.

        Args:
            x: (B, H, W, 3) RGB, 0..255, already at the wanted size.
            layer: a name of `spec.descriptor_layers`; None: the default one.

        Returns:
            (B, P, Q, C), P = ``spec.positions(H, layer)``, Q likewise of W. Position ``(i, j)``
            stands for the window at ``(i, j) * stride`` of `spec.layer(layer)`.

        Raises:
            ValueError: unknown layer, or a picture smaller than one window.
        """
        return self.layer_descriptors(x, (layer,))[0]

    def layer_descriptors(self, x: Array, layers: Sequence[str | None]) -> tuple[Array, ...]:
        """Return the `descriptors` of several layers, from one pass."""
        wanted = [self.spec.layer(layer) for layer in layers]
        if x.ndim != 4 or x.shape[-1] != 3:
            raise ValueError(f"x: must be (B, H, W, 3) RGB pictures, not shape {tuple(x.shape)}")
        for axis, side in zip("HW", x.shape[1:3], strict=True):
            for which in wanted:
                if self.spec.positions(side, which.name) == 0:
                    raise ValueError(
                        f"x: {axis} = {side} pixels are too few for layer {which.name!r} of "
                        f"network {self.spec.name!r}; resize to at least {self.spec.side}"
                    )
        maps = self.activations(x, max((w.name for w in wanted), key=self.spec.index))
        return tuple(blocks.window_mean(maps[w.name], w.pool_window, w.pool_stride) for w in wanted)


def prepare(network: Network) -> Network:
    """Return the same network with the kernels transformed that its formulations transform.

    On a CPU this is fc6, whose transformed kernel is 1.8 times as large as the kernel itself.
    """
    if network.dtype != jnp.float32:  # other precisions take XLA's own form
        return network
    params = jax.tree.map(lambda leaf: leaf, network.params)  # dicts of its own
    for path, layer, channels in s.convolutions(network.spec):
        node: s.Params = params
        for name in path:
            node = node[name]
        chosen = choose(
            network.how,
            s.kernel_shape(layer, channels),
            (layer.stride, layer.stride),
            MANY_POSITIONS,
            layer.groups,
        )
        prepared = prepare_kernel(node["kernel"], chosen)
        if prepared is not None:
            node["prepared"] = prepared
    return dataclasses.replace(network, params=params)


def plain(network: Network) -> Network:
    """Return the same network with every convolution in XLA's own form, the others' reference."""
    return with_forms(network, dataclasses.replace(network.how, convolutions=()))


def with_forms(network: Network, forms: Forms | None) -> Network:
    """Return the same network computed as `forms` says; None: as the table of the device has it."""
    params = _without_prepared(network.params)
    return prepare(dataclasses.replace(network, params=params, forms=forms))


def _without_prepared(node: s.Params) -> s.Params:
    return {
        name: _without_prepared(value) if isinstance(value, dict) else value
        for name, value in node.items()
        if name != "prepared"
    }


def param_shapes(spec: s.NetSpec) -> s.Params:
    """Return a nested dict of the parameters' `jax.ShapeDtypeStruct`."""
    shapes: s.Params = {}
    for path, layer, channels in s.convolutions(spec):
        node = shapes
        for name in path:
            node = node.setdefault(name, {})
        kernel = s.kernel_shape(layer, channels)
        node["kernel"] = jax.ShapeDtypeStruct(kernel, jnp.float32)
        node["bias"] = jax.ShapeDtypeStruct(kernel[-1:], jnp.float32)
    return shapes


def random_network(key: Array, spec: s.NetSpec, dtype: Any = jnp.float32) -> Network:
    """Return a network with random weights (He-normal kernels), for tests and timing.

    Args:
        key: PRNG key.
        spec: the network.
        dtype: the parameters' dtype.
    """
    shapes, treedef = jax.tree.flatten(param_shapes(spec))
    sizes = [math.prod(x.shape) for x in shapes]
    # One draw for all parameters: a draw for each would compile a program for each shape.
    draw = np.split(np.asarray(jax.random.normal(key, (sum(sizes),))), np.cumsum(sizes)[:-1])
    leaves = []
    for x, values in zip(shapes, draw, strict=True):
        deviation = math.sqrt(2 / math.prod(x.shape[:-1])) if len(x.shape) == 4 else 0.01
        leaves.append(jnp.asarray(deviation * values.reshape(x.shape), dtype))
    preprocessing = spec.preprocessing[0][1]
    mean, scale = (jnp.asarray(np.array(v, np.float32)) for v in preprocessing.rgb())
    return prepare(Network(jax.tree.unflatten(treedef, leaves), mean, scale, None, spec))
