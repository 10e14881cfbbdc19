"""How many descriptors each scale of the pyramid gives: the paper's Table 1 for any network."""

from collections.abc import Iterable

from mpp_jax.describe.pyramid import scale_side
from mpp_jax.nets.registry import get_spec
from mpp_jax.nets.spec import NetSpec, Pool


def geometry_table(
    network: str | NetSpec, scales: Iterable[int] = range(7), layer: str | None = None
) -> list[dict[str, int]]:
    """Return the positions per scale and their running total.

    Args:
        network: a name of `NETWORKS`, or a description (which holds the pooling mode).
        scales: pyramid levels k = 0, 1, ...; level k has a side of ``ceil(side * 2^(k/2))`` pixels.
        layer: the layer whose positions are counted; None: the network's default.

    Returns:
        One ``{"scale", "side", "positions", "cumulative"}`` per level, scale counted from 1.

    Raises:
        ValueError: unknown network or layer, or a negative level.
    """
    spec = get_spec(network) if isinstance(network, str) else network
    rows, total = [], 0
    for k in scales:
        if k < 0:
            raise ValueError(f"scales: levels count from 0, {k} was given")
        side = scale_side(spec.side, k)
        positions = spec.positions(side, layer) ** 2
        total += positions
        rows.append({"scale": k + 1, "side": side, "positions": positions, "cumulative": total})
    return rows


def format_geometry(
    network: str | NetSpec, scales: Iterable[int] = range(7), layer: str | None = None
) -> str:
    """Return the table as text, with the layer's stride and receptive window in pixels."""
    spec = get_spec(network) if isinstance(network, str) else network
    which = spec.layer(layer)
    head = ("scale", "side", "positions", "cumulative", "stride", "window")
    rows = [
        (*row.values(), which.stride, which.window) for row in geometry_table(spec, scales, layer)
    ]
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(str(cell).rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in [head, *rows]
    ]
    pools = any(isinstance(layer, Pool) for layer in spec.layers)
    rounding = f", {spec.pooling}-mode pooling" if pools else ""
    title = f"{spec.name} {which.name}: {which.channels} channels{rounding}"
    return "\n".join([title, *lines])
