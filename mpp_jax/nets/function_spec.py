"""The description of a network that is a JAX function, derived from what its author states.

Names and channels come from the function's own shapes, and so does the
number of positions at every side: the function is asked with `jax.eval_shape`, which computes
nothing. Stride and window of a map are stated, or probed once from gradients where they are not
(`mpp_jax.nets.probe`).
"""

import dataclasses
import functools
import hashlib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mpp_jax.nets.function_net import FunctionNet, Map, MapFunction
from mpp_jax.nets.probe import probe
from mpp_jax.nets.spec import LayerSpec, NetSpec, Params, PoolingMode, Preprocessing

Path = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class FunctionSpec(NetSpec):
    """The description of a network that is a function; equal only with the very same function.

    Attributes:
        function: see `FunctionNet`.
        shapes: path and shape of every parameter.
        geometry: (name, channels, stride, window) of every map.
        carried: returns the parameters that come with the function; None: a file must be given.
        code: SHA-256 of the source that it comes from.
    """

    function: MapFunction = dataclasses.field(kw_only=True, repr=False)
    shapes: tuple[tuple[Path, tuple[int, ...]], ...] = dataclasses.field(kw_only=True)
    geometry: tuple[tuple[str, int, int, int], ...] = dataclasses.field(kw_only=True)
    carried: Callable[[], Params] | None = dataclasses.field(
        kw_only=True, repr=False, compare=False
    )
    code: str = dataclasses.field(kw_only=True)

    of_layers: ClassVar[bool] = False

    @functools.cached_property
    def layer_names(self) -> tuple[str, ...]:
        """Names of all maps."""
        return tuple(name for name, *_ in self.geometry)

    @property
    def has_weights(self) -> bool:
        """Whether the function has parameters."""
        return bool(self.shapes)

    def preprocessing_for(self, convention: str) -> Preprocessing | None:
        """Return what the function expects, whatever the file."""
        return self.preprocessing[0][1]

    def with_pooling(self, pooling: PoolingMode) -> NetSpec:
        """Raise: a function rounds as it does."""
        raise ValueError(f"pooling: network {self.name!r} is a function, which has no such setting")

    def layer(self, name: str | None = None) -> LayerSpec:
        """Return the descriptor geometry of a map; see `NetSpec.layer`."""
        name = self.default_layer if name is None else name
        _, channels, stride, window = self.geometry[self.index(name)]
        if name in self.averaged:
            step = max(1, self.averaged_stride // stride)
            at_base = map_positions(self, self.side)[name]
            return LayerSpec(name, channels, self.side, step * stride, at_base, step)
        return LayerSpec(name, channels, window, stride)

    def positions(self, side: int, layer: str | None = None) -> int:
        """Return the descriptors along an axis of `side` pixels (0: the picture is too small)."""
        spec = self.layer(layer)
        n = map_positions(self, side)[spec.name]
        return max(0, (n - spec.pool_window) // spec.pool_stride + 1)


@functools.lru_cache(maxsize=1024)
def map_positions(spec: FunctionSpec, side: int) -> dict[str, int]:
    """Return the positions along an axis of `side` pixels of every map."""
    shapes = _map_shapes(spec.function, nested(spec.shapes, _abstract), side, spec.name)
    return {name: shape[1] for name, shape in shapes.items()}


def nested(leaves: tuple[tuple[Path, Any], ...], make: Callable[[Any], Any]) -> Params:
    """Return the nested dict of ``(path, value)`` pairs."""
    tree: Params = {}
    for path, value in leaves:
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = make(value)
    return tree


def flat(params: Params, name: str) -> tuple[tuple[Path, Any], ...]:
    """Return (path, leaf) of every parameter, in order.

    Raises:
        ValueError: something else than nested dicts of floating-point arrays.
    """
    leaves = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        kinds = {type(key) for key in path}
        if not path or kinds != {jax.tree_util.DictKey}:
            raise ValueError(f"params: network {name!r}: must be a nested dict of arrays")
        keys = tuple(key.key for key in path)
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            place = "/".join(map(str, keys))
            raise ValueError(
                f"params: network {name!r}: {place} must be a floating-point array, got "
                f"{dtype or type(leaf).__name__}; constants belong into the function"
            )
        leaves.append((keys, leaf))
    return tuple(leaves)


def function_spec(net: FunctionNet) -> FunctionSpec:
    """Return the description of a function, probing what is not stated.

    Raises:
        ValueError: a function that fails, or returns something else than maps; parameters that are
            no nested dict of arrays; a map whose stated stride its sizes contradict, or that cannot
            be probed (`mpp_jax.nets.probe.probe`).
    """
    _check_stated(net)
    given = {} if net.params is None else net.params
    leaves = flat(given if net.like is None else jax.eval_shape(net.like), net.name)
    shapes = tuple((path, tuple(leaf.shape)) for path, leaf in leaves)

    def at(side: int) -> dict[str, tuple[int, ...]]:
        return _map_shapes(net.function, nested(shapes, _abstract), side, net.name)

    found = at(net.side)
    named = net.maps or tuple(map(Map, found))
    if strange := [each.name for each in named if each.name not in found]:
        raise ValueError(
            f"maps: network {net.name!r} returns {', '.join(found)}, and no {strange[0]!r}"
        )
    stated = [each for each in named if each.stride is not None]
    for stride in {each.stride for each in stated}:
        _check_sizes(net, [each for each in stated if each.stride == stride], found, at)
    values = given if net.like is None else nested(shapes, _RandomValues(seed=0))
    geometry = []
    for each in named:
        stride, window = each.stride, each.window
        if stride is None or window is None:
            seen = probe(net.function, values, each.name, net.side)
            stride, window = seen.stride, seen.window
        geometry.append((each.name, found[each.name][3], stride, window))
    names = tuple(name for name, *_ in geometry)
    return FunctionSpec(
        name=net.name,
        side=net.side,
        layers=(),
        default_layer=net.default_layer or names[-1],
        descriptor_layers=names,
        preprocessing=(("native", net.preprocessing),),
        averaged=net.averaged,
        averaged_stride=net.averaged_stride,
        function=net.function,
        shapes=shapes,
        geometry=tuple(geometry),
        carried=None if net.like is not None else lambda: given,
        code=_source_digest(net.function),
    )


def _check_stated(net: FunctionNet) -> None:
    def refuse(field: str, problem: str) -> None:
        raise ValueError(f"{field}: network {net.name!r}: {problem}")

    if not callable(net.function):
        refuse("function", f"must be a function of params and pictures, got {net.function!r}")
    if net.params is not None and net.like is not None:
        refuse("like", "give params, or like where a weight file has them, not both")
    if not isinstance(net.side, int) or net.side < 1:
        refuse("side", f"must be a whole number of pixels from 1, got {net.side!r}")
    if not isinstance(net.maps, tuple) or not all(isinstance(each, Map) for each in net.maps):
        refuse("maps", f"must be a tuple of Map, got {net.maps!r}")
    for each in net.maps:
        pair = (each.stride, each.window)
        if pair != (None, None) and not all(isinstance(x, int) and x > 0 for x in pair):
            refuse("maps", f"{each.name!r} needs stride and window in pixels, or neither of them")
    if net.preprocessing.channels != "RGB":
        refuse("preprocessing", "must be in RGB; turn the channels around in the function")


class _RandomValues:
    """Random arrays of given shapes, with which activations keep their size.

    The values of `FunctionNet.like` are anybody's, zeros for instance, and a probe needs some that
    matter.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def __call__(self, shape: tuple[int, ...]) -> Array:
        if len(shape) < 2:  # biases, scales, variances
            return jnp.asarray(self._rng.uniform(0.5, 1.5, shape), jnp.float32)
        deviation = math.sqrt(2 / max(1, math.prod(shape[:-1])))
        return jnp.asarray(deviation * self._rng.standard_normal(shape), jnp.float32)


def _abstract(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _map_shapes(
    function: MapFunction, params: Params, side: int, name: str
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all maps of one picture, in the order in which they are returned."""
    names: list[str] = []

    def ordered(params: Params, pictures: Array) -> dict[str, Array]:
        maps = function(params, pictures)
        if isinstance(maps, Mapping):
            names.extend(maps)
        return dict(maps)

    picture = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    try:
        found = jax.eval_shape(ordered, params, picture)
    except Exception as error:  # whatever the user's function raises
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"function: network {name!r} fails on pictures of {side} pixels ({reason}); it must "
            "return {name: map (B, P, Q, C)}"
        ) from error
    for key in names:
        shape: tuple[int, ...] = getattr(found[key], "shape", ())
        if len(shape) != 4 or shape[0] != 1:
            raise ValueError(
                f"function: network {name!r} must return maps (B, P, Q, C); got {key!r} of shape "
                f"{shape} for one picture"
            )
    if not names:
        raise ValueError(f"function: network {name!r} returns no map")
    return {key: tuple(found[key].shape) for key in names}


def _check_sizes(
    net: FunctionNet,
    maps: list[Map],
    at_base: dict[str, tuple[int, ...]],
    at: Callable[[int], dict[str, tuple[int, ...]]],
) -> None:
    """Raise unless maps of one stated stride grow by one position a stride."""
    more, stride = 4, maps[0].stride or 0
    side = net.side + more * stride
    wide = at(side)
    for each in maps:
        small, large = at_base[each.name][1], wide[each.name][1]
        if small < 1 or large != small + more:
            raise ValueError(
                f"maps: network {net.name!r}: {each.name!r} has {small} positions along "
                f"{net.side} pixels and {large} along {side}, which is no stride of {stride} pixels"
            )


def _source_digest(function: MapFunction) -> str:
    """Return the SHA-256 of a function's source, or of its name where there is none."""
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        source = getattr(function, "__qualname__", type(function).__qualname__)
    return hashlib.sha256(source.encode()).hexdigest()
