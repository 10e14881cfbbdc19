"""Numerical helpers shared by the statistical modules.

Everything here is pure and traces under ``jit``, ``vmap`` and ``grad``; the checks at the end are
for public, untraced edges only.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import AxisType, PartitionSpec
from jax.typing import ArrayLike

PRECISION = jax.lax.Precision.HIGHEST
"""Matrix products whose rounding shows in the result state this precision: the default of GPUs
(TF32) and TPUs (bfloat16) keeps 8 to 11 bits of the mantissa."""

DEVICES = "devices"
"""Name of the mesh's axis over which rows and pictures are spread."""

LARGEST_VALUE = 1e15
"""Descriptors beyond this magnitude are refused: sums of their squares leave the float32 range."""


def real_dtype(*arrays: ArrayLike) -> jnp.dtype:
    """Return the common floating type, at least float32 (bfloat16 and integers are widened)."""
    return jnp.dtype(jnp.promote_types(jnp.result_type(*arrays), jnp.float32))


def signed_sqrt(v: ArrayLike) -> Array:
    """Return ``sign(v) sqrt(|v|)``, elementwise; its gradient at 0 is 0, not inf.

    Perronnin, Sánchez and Mensink, "Improving the Fisher Kernel for Large-Scale Image
    Classification" (2010), section 3.2, with alpha = 1/2.
    """
    v = jnp.asarray(v)
    zero = v == 0
    magnitude = jnp.where(zero, jnp.ones_like(v), jnp.abs(v))
    return jnp.where(zero, jnp.zeros_like(v), jnp.sign(v) * jnp.sqrt(magnitude))


def l2_normalize(v: ArrayLike, axis: int = -1, *, smallest: float = 1e-12) -> Array:
    """Return ``v / max(||v||_2, smallest)`` along `axis`; zero stays zero, with gradient 0.

    The guard is VLFeat's. The norm is taken after division by the largest magnitude, so that
    vectors whose squares overflow or underflow are normalised as well.
    """
    v = jnp.asarray(v)
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(v), axis=axis, keepdims=True, initial=0.0))
    unit = jnp.where(largest > 0, largest, jnp.ones_like(largest))
    square = jnp.sum(jnp.square(v / unit), axis=axis, keepdims=True)
    norm = unit * jnp.sqrt(jnp.where(largest > 0, square, jnp.ones_like(square)))
    return v / jnp.maximum(norm, smallest)


def power_l2(v: ArrayLike, axis: int = -1) -> Array:
    """Apply `signed_sqrt`, then L2 along `axis`: the normalisation of "improved" Fisher vectors."""
    return l2_normalize(signed_sqrt(v), axis=axis)


def over_pictures(function: Callable[[Any], Any], arguments: Any) -> Any:
    """Apply a one-picture function to every picture of a batch (leading axes).

    Accelerators get it vmapped. A CPU gets a loop: a batch at once falls out of its caches, and one
    picture at a time makes each result independent, to the bit, of the batch it came in. Devices of
    a mesh take their shares, see `over_shares`.
    """
    return over_shares(partial(_over_share, function), arguments)


def over_shares(function: Callable[[Any], Any], arguments: Any) -> Any:
    """Apply a function of batches to a batch: on a mesh, each device to its share of the pictures.

    The mesh is that of `mpp_jax.devices.on_mesh`. A batch that it does not divide, or no mesh: the
    function of the batch. A share never waits for another: left to itself, the compiler may gather
    the pictures of all devices on each.
    """
    mesh = jax.sharding.get_abstract_mesh()
    free = dict(zip(mesh.axis_names, mesh.axis_types, strict=True)).get(DEVICES) == AxisType.Auto
    if not free or jax.tree.leaves(arguments)[0].shape[0] % mesh.shape[DEVICES]:
        return function(arguments)
    shares = PartitionSpec(DEVICES)
    return jax.shard_map(function, in_specs=shares, out_specs=shares, check_vma=False)(arguments)


def in_parts(function: Callable[[Any], Any], arguments: Any, most: int | None) -> Any:
    """Apply a function of batches to a batch, a few pictures at a time: for want of memory.

    To be called while a program is traced; its parts run one after the other.

    Args:
        function: of a batch, rows of arrays to rows of arrays.
        arguments: the batch, a pytree; the leading axes are the B pictures.
        most: pictures at once, of each device's share (`over_shares`); None for all.

    Returns:
        What the function makes of the batch, leading axes B.
    """
    if most is None:
        return function(arguments)
    return over_shares(partial(_share_in_parts, function, most), arguments)


def _share_in_parts(function: Callable[[Any], Any], most: int, arguments: Any) -> Any:
    count = jax.tree.leaves(arguments)[0].shape[0]
    if most >= count:
        return function(arguments)
    parts = -(-count // most)
    rows = -(-count // parts)  # as equal as they can be
    padding = parts * rows - count

    def split(leaf: Array) -> Array:
        if padding:  # the last row fills the last part
            leaf = jnp.concatenate([leaf, jnp.repeat(leaf[-1:], padding, axis=0)])
        return leaf.reshape(parts, rows, *leaf.shape[1:])

    found = lax.map(function, jax.tree.map(split, arguments))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], found)


def _over_share(function: Callable[[Any], Any], arguments: Any) -> Any:
    if jax.default_backend() != "cpu":
        return jax.vmap(function)(arguments)
    if jax.tree.leaves(arguments)[0].shape[0] > 1:
        return lax.map(function, arguments)
    single = function(jax.tree.map(lambda leaf: leaf[0], arguments))
    return jax.tree.map(lambda leaf: leaf[None], single)


def mask_rows(x: Array, mask: Array | None, fill: Array) -> Array:
    """Replace the rows of `x` (..., N, D) outside `mask` (..., N) by `fill` (D,).

    Padding may hold anything, NaN too: it must not meet arithmetic, not even times zero, or it
    returns through the gradient.
    """
    if mask is None:
        return x
    row = jnp.reshape(fill, (1,) * (x.ndim - 1) + fill.shape)
    return jnp.where(mask[..., None] != 0, x, row)


def all_finite(x: ArrayLike) -> Array:
    """Return whether `x` holds neither NaN nor infinity, () bool. Pure.

    Not by a maximum: over long arrays that of XLA on CPUs drops NaN. Nor by ``all(isfinite)``, of
    which XLA stores every term. NaN and infinity times 0 are NaN, and a sum keeps it.
    """
    return jnp.isfinite(jnp.sum(jnp.asarray(x) * 0))


def compensated_add(total: Any, carry: Any, value: Any) -> tuple[Any, Any]:
    """Add pytrees in about twice the working precision (Neumaier's variant of Kahan summation).

    Returns the new ``(total, carry)``; the sum is ``total + carry``. Without it a float32 sum over
    millions of rows stops growing.
    """

    def add(t: Array, c: Array, v: Array) -> tuple[Array, Array]:
        s = t + v
        lost = jnp.where(jnp.abs(t) >= jnp.abs(v), (t - s) + v, (v - s) + t)
        return s, c + lost

    pairs = jax.tree.map(add, total, carry, value)
    outer = jax.tree.structure(total)
    high, low = jax.tree.transpose(outer, jax.tree.structure((0, 0)), pairs)
    return high, low


def stack_unit_vectors(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate finished representations and L2-normalise the result.

    A single one is finished already and returned as it is, not normalised once more: its last bits
    are the same wherever it is used.

    Args:
        parts: arrays ``(N, D_i)``, each row of unit norm or zero.

    Returns:
        ``(N, sum D_i)`` float32 rows of unit norm; a row that is zero in every part stays zero.
    """
    if len(parts) == 1:
        return np.asarray(parts[0], np.float32)
    stacked = np.concatenate([np.asarray(part, np.float32) for part in parts], axis=1)
    norms = np.sqrt(np.einsum("nd,nd->n", stacked, stacked, dtype=np.float64))
    return (stacked / np.where(norms > 0, norms, 1.0)[:, None]).astype(np.float32)


def as_numbers(x: Any, name: str) -> Any:
    """Return data frames, tables and nested lists as NumPy arrays; arrays and what else as it is.

    A list of rows (D,) is a matrix; one of matrices (n_i, D) stays what it is.

    Raises:
        TypeError: it holds something beside numbers.
        ValueError: rows of different lengths.
    """
    sequence = isinstance(x, list | tuple) or (_is_object(x) and np.ndim(x) == 1)
    if sequence and (len(x) == 0 or np.ndim(next(iter(x))) != 1):
        return list(x) if _is_object(x) else x  # of chunks, or of nothing
    array = hasattr(x, "shape") and hasattr(x, "dtype") and not _is_object(x)
    if array or not (sequence or hasattr(x, "__array__")):
        return x
    try:
        given = np.asarray(list(x) if sequence else x)
    except ValueError as error:
        raise ValueError(f"the rows of {name} must be equally long: {error}.") from error
    if given.dtype != object:
        return given
    try:
        return given.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must hold real numbers: {error}.") from error


def _is_object(x: Any) -> bool:
    return str(getattr(x, "dtype", None)) == "object"


def check_matrix(x: ArrayLike, name: str, columns: int | None = None) -> None:
    """Raise unless `x` is a non-empty real (N, D) array (with D = `columns`)."""
    shape = np.shape(x)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(
            f"{name} must be a non-empty array of shape (N, D), one descriptor per row; "
            f"got shape {shape}. Reshape activations with x.reshape(-1, x.shape[-1])."
        )
    if not jnp.issubdtype(jnp.result_type(x), jnp.number) or jnp.iscomplexobj(x):
        raise TypeError(f"{name} must hold real numbers; got dtype {jnp.result_type(x)}.")
    if columns is not None and shape[1] != columns:
        raise ValueError(f"{name} must have {columns} columns (dimensions); got {shape[1]}.")


def check_set(x: Array, dimension: int, owner: str, mask: Array | None = None) -> None:
    """Raise unless `x` is one set (N, D) with the D of `owner`, and `mask` (N,).

    It looks at shapes alone, so that it holds under a trace as well.
    """
    if x.ndim != 2 or x.shape[1] != dimension:
        raise ValueError(
            f"x must have shape (N, {dimension}), one descriptor of the {owner}'s dimension a row; "
            f"got shape {x.shape}. Project descriptors as the {owner}'s were; vmap over batches."
        )
    if mask is not None and mask.shape != x.shape[:1]:
        raise ValueError(f"mask must have shape {x.shape[:1]}, one entry a row; got {mask.shape}.")


def check_key(key: Any, name: str = "key") -> None:
    """Raise unless `key` is one PRNG key, of the new or of the old style."""
    given = jnp.asarray(key) if isinstance(key, jax.Array | np.ndarray) else None
    typed = given is not None and jnp.issubdtype(given.dtype, jax.dtypes.prng_key)
    old = given is not None and given.dtype == jnp.uint32 and given.ndim == 1
    if given is None or not (old or (typed and given.ndim == 0)):
        raise TypeError(f"{name} must be a PRNG key, as jax.random.key(0) makes; got {key!r}.")


def check_values(largest: float, name: str) -> None:
    """Raise unless `largest`, the largest magnitude in `name`, is finite and of a sane size."""
    if not np.isfinite(largest):
        raise ValueError(f"{name} holds NaN or infinity; remove those rows, or mask them out.")
    if largest > LARGEST_VALUE:
        raise ValueError(
            f"{name} holds a value of magnitude {largest:g}, above {LARGEST_VALUE:g}, whose "
            "squares leave the float32 range; rescale the descriptors."
        )


def check_positive_integer(value: Any, name: str) -> int:
    """Return `value` as an int, or raise an error naming the argument."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer; got {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1; got {value}.")
    return int(value)
