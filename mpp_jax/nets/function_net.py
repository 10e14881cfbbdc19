"""Any JAX function as a network: what its author states. Importing this imports no JAX.

The function takes parameters and pictures and returns named maps::

    function(params, pictures (B, H, W, 3)) -> {name: map (B, P, Q, C)}

What follows from the statement is in `mpp_jax.nets.function_spec`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from mpp_jax.nets.records import Params, Preprocessing

MapFunction = Callable[[Params, Any], Any]
"""``(params, pictures (B, H, W, 3)) -> {name: map (B, P, Q, C)}``."""
PLAIN = Preprocessing("RGB", (0.0, 0.0, 0.0))
"""Pictures as they are: RGB, 0..255."""


@dataclasses.dataclass(frozen=True)
class Map:
    """Where the positions of one map lie.

    Attributes:
        name: as the function names it.
        stride: pixels between neighbouring positions; None to have it probed.
        window: side in pixels of the part of the picture that one position stands for; position
            ``i`` stands for pixels ``i stride .. i stride + window``. None with the stride.
    """

    name: str
    stride: int | None = None
    window: int | None = None


@dataclasses.dataclass(frozen=True)
class FunctionNet:
    """A network that is a JAX function, for `register_network`.

    Attributes:
        name: name in the registry, lower case.
        side: base side in pixels: scale k of the pyramid has ``ceil(side 2^(k/2))``.
        function: ``(params, pictures (B, H, W, 3) float) -> {name: map (B, P, Q, C)}`` for pictures
            of any side from `side` on; it is traced by `jax.jit`.
        params: nested dict of float arrays where no weight file is given; None: see `like`.
        like: a function without arguments that returns parameters of the right names and shapes,
            whatever the values (for instance a module's ``init``): a file must be given, and is
            audited against them; it is traced, not run. Neither of the two: the function has no
            parameters.
        maps: the maps that serve as descriptors; () for all, probed.
        default_layer: the map that is pooled unless another is named; None: the last one.
        preprocessing: what the function expects, in RGB; pictures come as 0..255 without.
        averaged: maps whose descriptors are means over the window that a base picture makes.
        averaged_stride: pixels between two such means.
    """

    name: str
    side: int
    function: MapFunction
    params: Params | None = None
    like: Callable[[], Params] | None = None
    maps: tuple[Map, ...] = ()
    default_layer: str | None = None
    preprocessing: Preprocessing = PLAIN
    averaged: tuple[str, ...] = ()
    averaged_stride: int = 32
