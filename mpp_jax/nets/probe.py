"""Stride, padding and receptive window of a function's map, measured.

Of the map's value ``y[p, q]`` the gradient with respect to the picture is non-zero on a square: the
*receptive window* of the position, rows ``p s - before .. p s - before + receptive``, ``s`` the
stride and ``before`` the zeros (if any) that the function puts before the picture. The stride is
what a picture has to grow by for the map to grow by one position; the gradients of several
neighbouring positions of random pictures, laid on top of one another ``s`` pixels apart, give the
window. Entries below `NEGLIGIBLE` times the largest do not count: through many layers the rim of a
theoretical window fades beyond any precision.

What is measured so is then put to the test that everything else relies on: the picture shifted by
one stride must give the map shifted by one position, wherever no window touches the border.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mpp_jax.nets.function_net import MapFunction
from mpp_jax.nets.spec import Params

NEGLIGIBLE = 1e-6
"""Of the largest gradient, what is taken for none."""
TOLERANCE = 1e-3
"""What a shift may change, of the largest deviation of a map from its mean over positions."""
ROUNDING = 1e-5
"""Likewise, of the largest value of a map."""
LARGEST = 4
"""Base sides that a picture is enlarged to until a window lies inside."""
LARGEST_STRIDE = 512
_POSITIONS, _PICTURES = 3, 2


class Probe(NamedTuple):
    """What was measured of a map, in pixels.

    Attributes:
        stride: between neighbouring positions.
        window: what a position stands for: `receptive` less the padding on both sides, so that the
            windows of a base picture tile it from edge to edge.
        receptive: what a position depends on.
        before: how far the first position's receptive window reaches past the picture.
        behind: likewise the last one's, on a base picture.
    """

    stride: int
    window: int
    receptive: int
    before: int
    behind: int


def probe(function: MapFunction, params: Params, name: str, side: int) -> Probe:
    """Measure a map of a function.

    Args:
        function: ``(params, pictures (B, H, W, 3)) -> {name: map (B, P, Q, C)}``.
        params: its parameters; the values do not matter as long as nothing vanishes.
        name: of the map.
        side: base side in pixels.

    Raises:
        ValueError: the map's positions do not follow the picture's size evenly, do not depend on
            the picture, depend on all of it at `LARGEST` base sides, or do not move with it.
    """

    def one_map(params: Params, pictures: Array) -> Array:
        y: Array = function(params, pictures)[name]
        return y

    def positions(n: int) -> int:
        shape = jax.ShapeDtypeStruct((1, n, n, 3), jnp.float32)
        count: int = jax.eval_shape(one_map, params, shape).shape[1]
        return count

    stride = _stride(positions, name, side)
    n = side
    while True:
        first, last = _support(one_map, params, name, n, positions(n), stride)
        receptive = last - first
        inside = [p for p in range(positions(n)) if p * stride + first >= 0]
        inside = [p for p in inside if p * stride + last <= n]
        if len(inside) > 2:
            break
        if n >= LARGEST * side:
            raise ValueError(
                f"map {name!r}: a position depends on {receptive} pixels of a picture of {n}, and "
                "too few lie off its border to tell how it moves; state stride and window: "
                f"maps=(Map({name!r}, stride, window),)"
            )
        n = min(2 * n, LARGEST * side)
    _check_covariant(one_map, params, name, n, stride, inside)
    count = positions(side)
    behind = (count - 1) * stride + last - side
    return Probe(stride, side - (count - 1) * stride, receptive, -first, behind)


def _stride(positions: Callable[[int], int], name: str, side: int) -> int:
    """Return the pixels that add one position, which must do so again and again."""
    start = positions(side)

    def first_with(count: int, low: int) -> int:
        """Return the least side from `low` on with so many positions."""
        high = low
        while positions(high) < count:
            low, high = high + 1, high + max(1, 2 * (high - low + 1))
            if high > side + 4 * LARGEST_STRIDE:
                raise ValueError(
                    f"map {name!r}: has {start} positions along {side} pixels and along {high}: "
                    "it is no map of the picture; state stride and window if it is one"
                )
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if positions(middle) >= count else (middle + 1, high)
        return high

    one = first_with(start + 1, side)
    stride = first_with(start + 2, one) - one
    counts = [positions(one + i * stride) for i in range(4)]
    if start < 1 or counts != [start + 1 + i for i in range(4)]:
        raise ValueError(
            f"map {name!r}: has {start} positions along {side} pixels and {counts} along "
            f"{one} and every {stride} more, which is no even stride; "
            "state it if it is meant so"
        )
    return stride


def _support(
    function: Callable[[Params, Array], Array],
    params: Params,
    name: str,
    n: int,
    count: int,
    stride: int,
) -> tuple[int, int]:
    """Return (first, last + 1) pixel that a position depends on, along an axis, for position 0."""
    rng = np.random.default_rng(n)
    pictures = jnp.asarray(rng.uniform(0, 255, (_PICTURES, n, n, 3)), jnp.float32)
    channels = jax.eval_shape(function, params, pictures).shape[-1]
    signs = jnp.asarray(rng.choice([-1.0, 1.0], (_PICTURES, channels)), jnp.float32)

    @jax.jit
    def profile(params: Params, pictures: Array, p: Array) -> tuple[Array, Array]:
        def value(pictures: Array) -> Array:
            return jnp.sum(function(params, pictures)[:, p, p] * signs)

        size = jnp.abs(jax.grad(value)(pictures))
        return size.sum(axis=(0, 2, 3)), size.sum(axis=(0, 1, 3))

    middle = max(0, count // 2 - _POSITIONS // 2)
    found = []
    for p in range(middle, min(count, middle + _POSITIONS)):
        for axis in jax.device_get(profile(params, pictures, jnp.asarray(p))):
            if not np.isfinite(axis).all() or axis.max() == 0:
                raise ValueError(
                    f"map {name!r}: has no finite gradient with respect to the picture; state "
                    "stride and window if it depends on it"
                )
            seen = np.flatnonzero(axis > NEGLIGIBLE * axis.max())
            found.append((seen[0] - p * stride, seen[-1] + 1 - p * stride))
    return int(min(a for a, _ in found)), int(max(b for _, b in found))


def _check_covariant(
    function: Callable[[Params, Array], Array],
    params: Params,
    name: str,
    n: int,
    stride: int,
    inside: list[int],
) -> None:
    """Raise unless a picture shifted by a stride gives the map shifted by a position."""
    rng = np.random.default_rng(1)
    wide = jnp.asarray(rng.uniform(0, 255, (1, n + stride, n + stride, 3)), jnp.float32)
    compute = functools.partial(jax.jit(function), params)
    still = np.asarray(compute(wide[:, :n, :n]))[0]
    here, there = np.array(inside[:-1]), np.array(inside[1:])
    seen = still[np.ix_(inside, inside)]
    scale = np.abs(seen - seen.mean(axis=(0, 1))[None, None]).max()
    allowed = TOLERANCE * scale + ROUNDING * np.abs(seen).max()
    for axis, moved, target in (
        ("rows", wide[:, stride:, :n], (there, here)),
        ("columns", wide[:, :n, stride:], (here, there)),
    ):
        shifted = np.asarray(compute(moved))[0]
        change = np.abs(shifted[np.ix_(here, here)] - still[np.ix_(*target)]).max()
        if not change <= allowed:
            raise ValueError(
                f"map {name!r}: is not translation-covariant: a picture shifted by its stride of "
                f"{stride} pixels along its {axis} changes the values away from the border by "
                f"{change:.1e} where {scale:.1e} lie between them. If that is meant so (a "
                "position embedding, attention), state where positions lie: "
                f"maps=(Map({name!r}, stride, window),)"
            )
