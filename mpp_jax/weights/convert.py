"""Foreign arrays -> audited parameters: one rule per key, one key per parameter, equal shapes.

Every naming convention lists, for each parameter of the network, the key it is stored under; a
layout function turns the stored array into HWIO (kernels) or a vector (biases). The audit is
two-sided: it fails on a key without a parameter, a parameter without a key, a wrong shape or
dtype, on values that are not finite and on layers that contradict the network's, and it names all
of these in one message. The channel order of the file is folded into the first kernel, so that
every network takes RGB.
"""

import dataclasses
import math
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from mpp_jax.nets.registry import NETWORKS
from mpp_jax.nets.spec import Conv, NetSpec, Params, Preprocessing, convolutions, kernel_shape
from mpp_jax.nets.weight_files import Convention
from mpp_jax.weights.names import stored_keys
from mpp_jax.weights.source import SourceWeights, WeightsError
from mpp_jax.weights.structure import lrn_constants, structure_errors

SHOWN_ERRORS = 120  # more than a network has parameters; names from a file are endless


@dataclasses.dataclass(frozen=True)
class Rule:
    """One parameter: its place in the tree, the keys it may be stored under, its layer."""

    path: tuple[str, ...]
    keys: tuple[str, ...]
    layer: Conv
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """The place in the tree as text."""
        return "/".join(self.path)


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
    """What was assigned from where."""

    network: str
    format: str
    rows: tuple[AuditRow, ...]

    def __str__(self) -> str:
        """Return a table: parameter, shape, key, min, max, mean, CRC-32 of the float32 bytes."""
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
        return "\n".join([f"{self.network} from {self.format}: {total:,} parameters", *lines])


@dataclasses.dataclass(frozen=True)
class Converted:
    """Parameters in NumPy, ready to become a network."""

    params: Params
    spec: NetSpec
    mean: np.ndarray
    scale: np.ndarray
    mean_image: np.ndarray | None
    audit: Audit


def rules(spec: NetSpec, convention: Convention) -> tuple[Rule, ...]:
    """Return the rules of a convention for a network; none where it does not know the network."""
    found = []
    for path, layer, channels in convolutions(spec):
        kernel = kernel_shape(layer, channels)
        for leaf, shape in (("kernel", kernel), ("bias", kernel[-1:])):
            keys = stored_keys(spec, convention, path, leaf)
            if keys:
                found.append(Rule((*path, leaf), keys, layer, shape))
    return tuple(found)


def _bias(x: np.ndarray, rule: Rule) -> np.ndarray | None:
    """Return a vector that may have axes of length one around it."""
    return x.reshape(-1) if max(x.shape, default=0) == x.size == rule.shape[0] else None


def _kernel_oihw(x: np.ndarray, rule: Rule) -> np.ndarray | None:
    """Return HWIO of (O, I, h, w), or for dense layers of (O, I h w) with leading ones."""
    height, width, inputs, outputs = rule.shape
    oihw = (outputs, inputs, height, width)
    as_matrix = math.prod(x.shape[:-2]) == 1 and x.shape[-2:] == (outputs, math.prod(oihw[1:]))
    if x.shape != oihw and not (rule.layer.dense and as_matrix):
        return None
    return x.reshape(oihw).transpose(2, 3, 1, 0)


def _kernel_hwio(x: np.ndarray, rule: Rule) -> np.ndarray | None:
    return x if x.shape == rule.shape else None


_LAYOUT: dict[Convention, Callable[[np.ndarray, Rule], np.ndarray | None]] = {
    "caffe": _kernel_oihw,
    "torchvision": _kernel_oihw,
    "matconvnet": _kernel_hwio,
    "native": _kernel_hwio,
}


def _at(tree: Params, path: Iterable[str]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _assign(params: Params, path: tuple[str, ...], value: np.ndarray) -> None:
    for name in path[:-1]:
        params = params.setdefault(name, {})
    params[path[-1]] = value


def match(
    source: SourceWeights, spec: NetSpec
) -> tuple[list[tuple[Rule, str, np.ndarray]], list[str]]:
    """Pair parameters with stored arrays, in the layout of the network, touching no values.

    Returns:
        (rule, key, array) of everything that fits, and all that does not.
    """
    errors, pairs, unused = structure_errors(source, spec), [], dict(source.arrays)
    known = rules(spec, source.convention)
    if not known:
        return [], [f"files of this network in {source.convention} names are not known"]
    for rule in known:
        keys = [key for key in rule.keys if key in source.arrays]
        arrays = [unused.pop(key) for key in keys]
        if not keys:
            errors.append(f"{rule.name} is missing: no {' or '.join(map(repr, rule.keys))}")
            continue
        if len(keys) > 1:
            errors.append(f"{rule.name} is stored twice, as {' and '.join(map(repr, keys))}")
            continue
        if arrays[0].dtype.kind != "f":
            errors.append(f"{keys[0]!r} has dtype {arrays[0].dtype}, wanted floating point")
            continue
        layout = _bias if rule.path[-1] == "bias" else _LAYOUT[source.convention]
        value = layout(arrays[0], rule)
        if value is None:
            got = arrays[0].shape
            errors.append(f"{keys[0]!r} has shape {got}, {rule.name} needs {rule.shape}")
            continue
        pairs.append((rule, keys[0], value))
    return pairs, [*errors, *(f"{key!r} belongs to no parameter" for key in unused)]


def convert(source: SourceWeights, spec: NetSpec) -> Converted:
    """Turn a file's arrays into parameters of `spec`, or say everything that is wrong.

    Raises:
        WeightsError: see the module's docstring; the message holds all findings.
    """
    pairs, errors = match(source, spec)
    params: Params = {}
    for rule, key, stored in pairs:
        value = np.ascontiguousarray(stored, np.float32)
        if not np.isfinite(value).all():
            errors.append(f"{key!r} holds values that are not finite")
            continue
        _assign(params, rule.path, value)
    if errors:
        raise WeightsError(_message(source, spec, errors))
    preprocessing = source.preprocessing or spec.preprocessing_for(source.convention)
    if preprocessing is None:
        raise WeightsError(
            f"the {source.format} file does not say how pictures are prepared (a mean is missing)"
        )
    mean, scale, mean_image = _fold_channels(params, spec, preprocessing, source.mean_image)
    spec = spec.with_lrn(lrn_constants(source, spec))
    rows = tuple(_audit_row(rule.name, key, _at(params, rule.path)) for rule, key, _ in pairs)
    audit = Audit(spec.name, source.format, rows)
    return Converted(params, spec, mean, scale, mean_image, audit)


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


def _message(source: SourceWeights, spec: NetSpec, errors: list[str]) -> str:
    shown = [error[:300] for error in errors[:SHOWN_ERRORS]]
    if len(errors) > SHOWN_ERRORS:
        shown.append(f"and {len(errors) - SHOWN_ERRORS} more")
    others = [other.name for other in NETWORKS.values() if not match(source, other)[1]]
    hint = f" (it fits {' and '.join(map(repr, others))})" if others else ""
    return f"{source.format} file does not fit network {spec.name!r}{hint}: {'; '.join(shown)}"


def parameter_count(spec: NetSpec) -> int:
    """Return the number of parameters of a network."""
    return sum(math.prod(rule.shape) for rule in rules(spec, "native"))
