"""Foreign arrays -> audited parameters of a network, in NumPy.

The audit is two-sided: it fails on a key without a parameter, a parameter without a key, a wrong
shape or dtype (`mpp_jax.weights.fit`, which also says where a file may end before the network
does), on values that are not finite and on layers that contradict the network's, and it finds all
of these at once. The channel order of the file is folded into the first kernel, so that every
network takes RGB.
"""

import dataclasses
import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mpp_jax.nets.registry import NETWORKS
from mpp_jax.nets.spec import NetSpec, Params, Preprocessing, convolutions
from mpp_jax.weights.fit import fit
from mpp_jax.weights.names import BATCH_NORM
from mpp_jax.weights.source import SourceWeights, WeightsError, summary
from mpp_jax.weights.structure import lrn_constants


@dataclasses.dataclass(frozen=True)
class AuditRow:
    """Summary of one parameter after conversion."""

    parameter: str
    shape: tuple[int, ...]
    source: str
    minimum: float
    maximum: float
    mean: float
    crc32: str


@dataclasses.dataclass(frozen=True)
class Audit:
    """What was assigned from where, and what of network and file was left out."""

    network: str
    format: str
    rows: tuple[AuditRow, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return a table: parameter, shape, key, min, max, mean, CRC-32 of the float32 bytes.

        What of the network or the file is left out follows.
        """
        head = ("parameter", "shape", "from", "min", "max", "mean", "crc32")
        body = [
            (
                r.parameter,
                "x".join(map(str, r.shape)),
                r.source,
                f"{r.minimum:.4g}",
                f"{r.maximum:.4g}",
                f"{r.mean:.4g}",
                r.crc32,
            )
            for r in self.rows
        ]
        widths = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in [head, *body]
        ]
        total = sum(math.prod(r.shape) for r in self.rows)
        head_line = f"{self.network} from {self.format}: {total:,} parameters"
        return "\n".join([head_line, *lines, *(f"note: {note}" for note in self.notes)])


@dataclasses.dataclass(frozen=True)
class Converted:
    """Parameters in NumPy, ready to become a network."""

    params: Params
    spec: NetSpec
    mean: np.ndarray
    scale: np.ndarray
    mean_image: np.ndarray | None
    audit: Audit


def _at(tree: Params, path: Iterable[Any]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _assign(params: Params, path: tuple[Any, ...], value: np.ndarray) -> None:
    for name in path[:-1]:
        params = params.setdefault(name, {})
    params[path[-1]] = value


def convert(source: SourceWeights, spec: NetSpec, layer: str | None = None) -> Converted:
    """Turn a file's arrays into parameters of `spec`, or say everything that is wrong.

    Args:
        source: the file.
        spec: the network; what comes out ends where the file ends.
        layer: one that must be there; None: whatever the file has.

    Raises:
        WeightsError: see the module's docstring; `WeightsError.findings` holds all that is wrong.
    """
    found = fit(source, spec)
    params: Params = {}
    errors = list(found.errors)
    for rule, key, stored in found.pairs:
        value = np.ascontiguousarray(stored, np.float32)
        if not np.isfinite(value).all():
            errors.append(f"{key!r} holds values that are not finite")
            continue
        if rule.path[-1] == "variance" and (value < 0).any():
            errors.append(f"{key!r} holds variances below zero")
            continue
        _assign(params, rule.path, value)
    if errors:
        raise WeightsError(_message(source, spec, errors), errors)
    if layer is not None and layer not in found.spec.layer_names:
        raise WeightsError(
            f"the {source.format} file has no layer {layer!r}: {summary(found.notes)}", found.notes
        )
    spec = found.spec
    preprocessing = source.preprocessing or spec.preprocessing_for(source.convention)
    if preprocessing is None:
        raise WeightsError(
            f"the {source.format} file does not say how pictures are prepared (a mean is missing)"
        )
    mean, scale, mean_image = _fold_channels(params, spec, preprocessing, source.mean_image)
    spec = spec.with_lrn(lrn_constants(source, spec))
    origin = {rule.path: key for rule, key, _ in found.pairs}
    if spec.of_layers:
        origin = _fold_batch_norms(params, spec, origin)
    rows = tuple(
        _audit_row("/".join(map(str, path)), key, _at(params, path)) for path, key in origin.items()
    )
    audit = Audit(spec.name, source.format, rows, found.notes)
    return Converted(params, spec, mean, scale, mean_image, audit)


def _fold_batch_norms(
    params: Params, spec: NetSpec, origin: dict[tuple[Any, ...], str]
) -> dict[tuple[Any, ...], str]:
    """Fold batch normalisations into the convolutions before them, in place.

    ``gamma (kernel * x - mean) / sqrt(variance + epsilon) + beta`` is a convolution with
    ``kernel gamma / sqrt(...)`` and the bias ``beta - mean gamma / sqrt(...)`` (Ioffe and Szegedy
    2015, algorithm 2). In float64, rounded once.

    Args:
        params: kernels HWIO beside `mpp_jax.weights.names.BATCH_NORM`; kernels and biases after.
        spec: the network.
        origin: the key that each parameter came from, by path.

    Returns:
        The keys that each parameter of the network came from, by path.
    """
    folded: dict[tuple[Any, ...], str] = {}
    for path, _, _ in convolutions(spec):
        layer = _at(params, path)
        if "gamma" in layer:
            gamma, beta, mean, variance = (layer.pop(n).astype(np.float64) for n in BATCH_NORM)
            factor = gamma / np.sqrt(variance + spec.files.batch_norm_epsilon)
            layer["kernel"] = (layer["kernel"] * factor).astype(np.float32)
            layer["bias"] = (beta - mean * factor).astype(np.float32)
            norm = origin[*path, "gamma"].rpartition(".")[0]
            folded[*path, "kernel"] = f"{origin[*path, 'kernel']} x {norm}"
            folded[*path, "bias"] = norm
        else:
            folded |= {(*path, leaf): origin[*path, leaf] for leaf in ("kernel", "bias")}
    return folded


def _fold_channels(
    params: Params, spec: NetSpec, preprocessing: Preprocessing, mean_image: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Turn the first kernel and the means around where the file wants BGR, in place."""
    mean, scale = (np.asarray(v, np.float32) for v in preprocessing.rgb())
    if preprocessing.channels == "BGR":
        first, _, _ = next(convolutions(spec))
        kernel = _at(params, first)["kernel"]
        _assign(params, (*first, "kernel"), np.ascontiguousarray(kernel[:, :, ::-1, :]))
        mean_image = None if mean_image is None else mean_image[:, :, ::-1]
    if mean_image is not None:
        mean_image = np.ascontiguousarray(mean_image, np.float32)
    return mean, scale, mean_image


def _audit_row(parameter: str, key: str, value: np.ndarray) -> AuditRow:
    return AuditRow(
        parameter,
        value.shape,
        key,
        float(value.min()),
        float(value.max()),
        float(value.mean(dtype=np.float64)),
        f"{zlib.crc32(value.data):08x}",
    )


def _message(source: SourceWeights, spec: NetSpec, errors: Sequence[str]) -> str:
    others = [other.name for other in NETWORKS.values() if fits_whole(source, other)]
    hint = f" (it fits {' and '.join(map(repr, others))})" if others else ""
    return f"{source.format} file does not fit network {spec.name!r}{hint}: {summary(errors)}"


def fits_whole(source: SourceWeights, spec: NetSpec) -> bool:
    """Return whether a file holds all of a network and nothing else, whatever the values."""
    found = fit(source, spec)
    return not found.errors and not found.notes
