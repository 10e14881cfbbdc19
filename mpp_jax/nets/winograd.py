r"""Minimal filtering F(m, r) in two dimensions, for square kernels of stride 1.

One dimension: m outputs of an r-tap correlation are the product of two polynomials evaluated at
n = m + r - 1 points (the last one at infinity), transposed (Winograd 1980; Lavin & Gray 2016):

    y = A^T [(G g) * (B^T d)],   d (n,) input tile, g (r,) taps, y (m,) outputs.

Nested over both axes, the n^2 pointwise products become, over channels, n^2 matrix products of
(tiles, C) by (C, O): n^2 / m^2 multiplications an output instead of r^2. F(3, 6) needs 7.1 instead
of 36. The price is rounding: points far from 1 in magnitude amplify it, so they are chosen small
and in pairs +-a and a, 1/a, and the matrices are made in exact fractions.
"""

from fractions import Fraction
from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

_POINTS = (
    Fraction(0),
    Fraction(1),
    Fraction(-1),
    Fraction(1, 2),
    Fraction(-1, 2),
    Fraction(2),
    Fraction(-2),
    Fraction(3, 2),
    Fraction(-3, 2),
    Fraction(2, 3),
    Fraction(-2, 3),
)
LARGEST_TILE_AND_KERNEL = len(_POINTS) + 2
"""The largest m + r for which there are accurate points."""


def _polynomial(roots: list[Fraction]) -> list[Fraction]:
    """Return the coefficients, constant term first, of prod (t - root)."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        scaled = [*(-root * c for c in coefficients), Fraction(0)]
        coefficients = [a + b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients


@lru_cache(maxsize=32)
def filtering_matrices(m: int, r: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (A^T, G, B^T) of F(m, r): (m, n), (n, r) and (n, n) float64 with n = m + r - 1.

    Raises:
        ValueError: if F(m, r) would need more points than there are accurate ones.
    """
    n = m + r - 1
    if m < 1 or r < 1 or n - 1 > len(_POINTS):
        raise ValueError(
            f"F({m}, {r}) needs {n - 1} interpolation points, at most {len(_POINTS)} are accurate "
            "in float32; take a smaller tile m"
        )
    points = list(_POINTS[: n - 1])
    a_t = [[point**row for point in points] + [Fraction(row == m - 1)] for row in range(m)]
    g = []
    b_t = []
    for i, point in enumerate(points):
        others = points[:i] + points[i + 1 :]
        scale = Fraction(1)
        for other in others:
            scale *= point - other
        g.append([point**tap / scale for tap in range(r)])
        b_t.append([*_polynomial(others), Fraction(0)])
    g.append([Fraction(tap == r - 1) for tap in range(r)])
    b_t.append(_polynomial(points))
    a, k, b = (np.array(matrix, dtype=np.float64) for matrix in (a_t, g, b_t))
    return a, k, b


def _combine(matrix: np.ndarray, parts: list[Array]) -> list[Array]:
    """Return ``matrix @ parts`` over a list, written out so that XLA fuses it into one pass."""
    result = []
    for row in matrix:
        total: Array | None = None
        for weight, part in zip(row, parts, strict=True):
            if weight == 0:
                continue
            term = part if weight == 1 else part * jnp.asarray(weight, part.dtype)
            total = term if total is None else total + term
        assert total is not None  # no row of a filtering matrix is zero
        result.append(total)
    return result


def transform_kernel(kernel: Array, m: int) -> Array:
    """Transform (r, r, C, O) taps once: (n^2, C, O), to be reused for every picture."""
    r = kernel.shape[0]
    _, g, _ = filtering_matrices(m, r)
    g_device = jnp.asarray(g, kernel.dtype)
    rows = jnp.einsum("au,uvco->avco", g_device, kernel, precision=lax.Precision.HIGHEST)
    both = jnp.einsum("bv,avco->abco", g_device, rows, precision=lax.Precision.HIGHEST)
    return both.reshape(-1, *kernel.shape[2:])


def winograd_apply(
    x: Array, transformed: Array, r: int, m: int, precision: lax.PrecisionLike = None
) -> Array:
    """Correlate pictures with a kernel that `transform_kernel` has transformed.

    Args:
        x: (B, H, W, C) float, already padded.
        transformed: (n^2, C, O) float of an (r, r, C, O) kernel.
        r: side of the kernel.
        m: side of a tile of outputs.
        precision: as in `jax.lax.conv_general_dilated`.

    Returns:
        (B, H - r + 1, W - r + 1, O) float.
    """
    batch, height, width, channels = x.shape
    n = m + r - 1
    a_t, _, b_t = filtering_matrices(m, r)
    out_h, out_w = height - r + 1, width - r + 1
    tiles_h, tiles_w = -(-out_h // m), -(-out_w // m)
    grow_h, grow_w = (tiles_h * m + r - 1) - height, (tiles_w * m + r - 1) - width
    x = jnp.pad(x, ((0, 0), (0, grow_h), (0, grow_w), (0, 0)))

    rows = [x[:, u : u + m * (tiles_h - 1) + 1 : m] for u in range(n)]
    transformed_input = []
    for row in _combine(b_t, rows):
        columns = [row[:, :, v : v + m * (tiles_w - 1) + 1 : m] for v in range(n)]
        transformed_input += _combine(b_t, columns)
    tiles = jnp.stack(transformed_input).reshape(n * n, -1, channels)

    products = lax.dot_general(
        tiles, transformed, (((2,), (1,)), ((0,), (0,))), precision=precision
    )
    c_out = products.shape[-1]
    grid = [[products[a * n + b] for b in range(n)] for a in range(n)]
    over_columns = [_combine(a_t, grid[a]) for a in range(n)]
    outputs = [_combine(a_t, [over_columns[a][q] for a in range(n)]) for q in range(m)]
    y = jnp.stack([jnp.stack([outputs[q][p] for q in range(m)]) for p in range(m)])
    y = y.reshape(m, m, batch, tiles_h, tiles_w, c_out).transpose(2, 3, 0, 4, 1, 5)
    return y.reshape(batch, tiles_h * m, tiles_w * m, c_out)[:, :out_h, :out_w]
