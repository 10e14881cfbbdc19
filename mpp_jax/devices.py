"""Several devices: what is computed over rows or pictures is spread over a mesh of them.

Each device takes an equal share of the rows (padded, and masked out), with the same parameters;
only sums are exchanged. What is spread: descriptions and encodings of pictures, the fits of a
codebook, and Gram matrices. The results are those of one device up to the order of the sums.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from mpp_jax.numerics import DEVICES

Tree = TypeVar("Tree")

_COUNT: ContextVar[int] = ContextVar("devices", default=1)


def default_count() -> int:
    """Return how many devices the commands use: all accelerators of this process, one CPU."""
    return 1 if jax.default_backend() == "cpu" else jax.local_device_count()


@contextmanager
def using_devices(count: int | None = None) -> Iterator[int]:
    """Spread what is computed inside (by this thread) over some of the local devices.

    Args:
        count: the first so many; None for `default_count`.

    Yields:
        How many there are.

    Raises:
        ValueError: fewer than one, or more than there are.
    """
    there = jax.local_device_count()
    chosen = default_count() if count is None else count
    if not 1 <= chosen <= there:
        more = (
            "; XLA_FLAGS=--xla_force_host_platform_device_count=N simulates N on a CPU"
            if jax.default_backend() == "cpu"
            else ""
        )
        raise ValueError(f"devices must be between 1 and {there}, got {chosen}{more}")
    token = _COUNT.set(chosen)
    try:
        yield chosen
    finally:
        _COUNT.reset(token)


def device_count() -> int:
    """Return over how many devices work is spread here."""
    return _COUNT.get()


def current_mesh() -> Mesh | None:
    """Return the mesh of the devices that are used here; None for one."""
    count = device_count()
    if count == 1:
        return None
    devices = np.array(jax.local_devices()[:count])
    return Mesh(devices, (DEVICES,), axis_types=(AxisType.Auto,))


def on_mesh(mesh: Mesh | None) -> AbstractContextManager[Any]:
    """Return a context in which `mpp_jax.numerics.over_pictures` gives each device its share."""
    return nullcontext() if mesh is None else jax.set_mesh(mesh)


def spread(tree: Tree, mesh: Mesh | None, axis: int = 0) -> Tree:
    """Put equal parts of arrays, cut along an axis, on the devices; its length is a multiple."""
    if mesh is None:
        return tree
    spec = PartitionSpec(*[None] * axis, DEVICES)
    return jax.device_put(tree, NamedSharding(mesh, spec))


def replicated(tree: Tree, mesh: Mesh | None) -> Tree:
    """Put arrays whole on every device; those that are there are not moved."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def spread_rows(x: ArrayLike, mesh: Mesh) -> tuple[Array, Array]:
    """Return rows (N, D) spread over the devices and a mask (N,) bool, both padded to N' >= N."""
    rows = np.asarray(x)
    mask = np.arange(len(rows) + -len(rows) % mesh.size) < len(rows)
    padded = np.concatenate([rows, rows[-1:].repeat(len(mask) - len(rows), axis=0)])
    return jnp.asarray(spread(padded, mesh)), jnp.asarray(spread(mask, mesh))


def collected(tree: Tree) -> Tree:
    """Return arrays that lie on several devices as ordinary ones, which go with any others."""

    def home(leaf: Any) -> Any:
        return jnp.asarray(np.asarray(leaf)) if isinstance(leaf, Array) else leaf

    return jax.tree.map(home, tree)
