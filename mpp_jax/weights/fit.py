"""How the arrays of a file fit a network: one rule per key, one key per parameter, equal shapes.

Every naming convention lists, for each parameter of the network, the key it is stored under; a
layout function turns the stored array into HWIO (kernels) or a vector (biases). What all keys of a
file have in front of these (``module.``, ``_orig_mod.``, ``model.``) is taken off first. A batch
normalisation has rules of its own, and is folded once all of it is there. The parameters of a
function (`mpp_jax.nets.FunctionNet`) are stored by their own paths and in their own shapes, all of
them.

A file may end below the network's last layer, or have other sizes from some layer on: weights of
the convolutions alone, or fine-tuned ones of other classes. The network then ends there, too. That
is so only where

- every layer from the first one that does not fit is missing, or has a kernel of another size;
- after one that is missing nothing of the network follows;
- what belongs to no parameter comes after all that is used, in the order of the file;
- the layers that the file describes agree with the network's up to there.

Anything else is no shorter network but a damaged file, or one of another network.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np

from mpp_jax.nets.function_spec import FunctionSpec
from mpp_jax.nets.spec import Conv, NetSpec, convolutions, kernel_shape
from mpp_jax.nets.weight_files import Convention
from mpp_jax.weights.names import function_keys, leaves, needless_keys, stored_keys
from mpp_jax.weights.source import SourceWeights
from mpp_jax.weights.structure import described, structure_errors

MAX_PREFIXES = 8
"""Words that may stand before all keys of a file."""
_WORD = re.compile(r"[^./]*[./]")


@dataclasses.dataclass(frozen=True)
class Rule:
    """One parameter: its place in the tree, the keys it may be stored under, its layer if any."""

    path: tuple[Any, ...]
    keys: tuple[str, ...]
    layer: Conv | None
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """The place in the tree as text."""
        return "/".join(map(str, self.path))


Layout = Callable[[np.ndarray, Rule], np.ndarray | None]
Pair = tuple[Rule, str, np.ndarray]
"""A parameter, the key it is stored under, and the array in the layout of the network."""


@dataclasses.dataclass(frozen=True)
class Fit:
    """What of a file belongs where; no values were looked at.

    Attributes:
        spec: the network, which ends where the file ends.
        pairs: everything that fits.
        errors: everything that does not, where the file cannot be used.
        notes: what of network and file is left out, where it can.
    """

    spec: NetSpec
    pairs: tuple[Pair, ...]
    errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def rules(spec: NetSpec, convention: Convention) -> tuple[Rule, ...]:
    """Return the rules of a convention for a network; none where it does not know the network."""
    if isinstance(spec, FunctionSpec):
        return tuple(Rule(path, function_keys(path), None, shape) for path, shape in spec.shapes)
    found = []
    for path, layer, channels in convolutions(spec):
        kernel = kernel_shape(layer, channels)
        for leaf in leaves(spec, convention, path):
            shape = kernel if leaf == "kernel" else kernel[-1:]
            keys = stored_keys(spec, convention, path, leaf)
            if keys:
                found.append(Rule((*path, leaf), keys, layer, shape))
    return tuple(found)


def parameter_count(spec: NetSpec) -> int:
    """Return the number of parameters of a network."""
    return sum(math.prod(rule.shape) for rule in rules(spec, "native"))


def bare(keys: Collection[str], known: Collection[str]) -> dict[str, str]:
    """Return ``{key without prefix: key}``: without the words that stand before all of them.

    Nothing is taken off where some key is known as it is, or where none is known without.

    Args:
        keys: the keys of a file.
        known: those of a network.
    """
    at = 0
    for _ in range(MAX_PREFIXES):
        if any(key[at:] in known for key in keys):
            return {key[at:]: key for key in keys}
        heads = {found.group() if (found := _WORD.match(key, at)) else "" for key in keys}
        if len(heads) != 1 or heads == {""}:
            break
        at += len(heads.pop())
    return {key: key for key in keys}


def fit(source: SourceWeights, spec: NetSpec) -> Fit:
    """Pair the parameters of a network with the arrays of a file; see the module's docstring."""
    known = rules(spec, source.convention)
    if not known:
        wrong = f"files of this network in {source.convention} names are not known"
        return Fit(spec, (), (wrong,))
    stored = bare(source.arrays, {key for rule in known for key in rule.keys})
    found = [_Finding.of(rule, stored, source) for rule in known]
    mine = {key for rule in known for key in rule.keys} | needless_keys(spec, source.convention)
    strangers = [key for short, key in stored.items() if short not in mine]
    errors = [*structure_errors(source, spec), *_texts(found), *map(_stranger, strangers)]
    pairs = tuple(finding.pair for finding in found if finding.pair is not None)
    if not errors:
        return Fit(spec, pairs)
    if not pairs and len(strangers) == len(stored):
        names = ", ".join(repr(key[:80]) for key in strangers[:4])
        errors.insert(0, f"no array has a name that is known for this network; they are {names}")
    trunk = _trunk(source, spec, found, strangers) if spec.of_layers else None
    return trunk or Fit(spec, pairs, tuple(errors))


@dataclasses.dataclass(frozen=True)
class _Finding:
    """What became of one rule: a pair, or what is wrong."""

    rule: Rule
    state: Literal["fits", "missing", "size", "unusable"]
    text: str = ""
    pair: Pair | None = None

    @classmethod
    def of(cls, rule: Rule, stored: Mapping[str, str], source: SourceWeights) -> "_Finding":
        keys = [stored[key] for key in rule.keys if key in stored]
        if not keys:
            wanted = " or ".join(map(repr, rule.keys))
            return cls(rule, "missing", f"{rule.name} is missing: no {wanted}")
        if len(keys) > 1:
            both = " and ".join(map(repr, keys))
            return cls(rule, "unusable", f"{rule.name} is stored twice, as {both}")
        (key,), array = keys, source.arrays[keys[0]]
        if array.dtype.kind != "f":
            text = f"{key!r} has dtype {array.dtype}, wanted floating point"
            return cls(rule, "unusable", text)
        value = _layout(rule, source.convention)(array, rule)
        if value is None:
            text = f"{key!r} has shape {array.shape}, {rule.name} needs {rule.shape}"
            return cls(rule, "size", text)
        return cls(rule, "fits", "", (rule, key, value))


def _texts(found: Iterable[_Finding]) -> list[str]:
    return [finding.text for finding in found if finding.text]


def _stranger(key: str) -> str:
    return f"{key!r} belongs to no parameter"


def _trunk(
    source: SourceWeights, spec: NetSpec, found: list[_Finding], strangers: list[str]
) -> Fit | None:
    """Return how a file fits the lower layers of a network; None where it is no such file."""
    first = _first_other(found)
    cut = None if first is None else _below(spec, first.rule.path[0], len(source.structure))
    if cut is None or structure_errors(source, cut, to_the_end=False):
        return None
    kept = [x for x in found if x.rule.path[0] in cut.layer_names]
    pairs = tuple(finding.pair for finding in kept if finding.pair is not None)
    order = {key: i for i, key in enumerate(source.arrays)}
    last = max(order[key] for _, key, _ in pairs)
    if any(order[key] < last for key in strangers):
        return None
    lacking = ", ".join(dict.fromkeys(x.rule.path[0] for x in found[len(kept) :]))
    notes = (
        f"the file serves up to layer {cut.layer_names[-1]!r} of {spec.name!r}, without {lacking}",
        *_texts(found),
        *(f"{key!r} is not used" for key in strangers),
    )
    return Fit(cut, pairs, notes=notes)


def _first_other(found: list[_Finding]) -> _Finding | None:
    """Return the first finding of a layer that does not fit, where all from there on may differ."""
    first, absent = None, False
    for layer in _by_layer(found):
        states = [finding.state for finding in layer]
        if absent and set(states) != {"missing"}:
            return None
        absent = set(states) == {"missing"}
        whole, other = set(states) == {"fits"}, states[0] == "size" and "unusable" not in states
        if not (whole or absent or other):
            return None
        if first is None and not whole:
            first = layer[0]
    return first


def _by_layer(found: list[_Finding]) -> Iterator[list[_Finding]]:
    """Yield kernel, bias and so on of one convolution after the other."""
    layers: dict[tuple[str, ...], list[_Finding]] = {}
    for finding in found:
        layers.setdefault(finding.rule.path[:-1], []).append(finding)
    yield from layers.values()


def _below(spec: NetSpec, layer: str, file_layers: int) -> NetSpec | None:
    """Return the network below a layer; None where nothing of use is left.

    Args:
        spec: the network.
        layer: the first one that is not there.
        file_layers: how many a file describes; 0 where it describes none.
    """
    names = spec.layer_names[: spec.index(layer)]
    weighted = {path[0] for path, _, _ in convolutions(spec)}
    while names and any(name in names for name in spec.descriptor_layers):
        cut = spec.up_to(names[-1])
        # Poolings above the last weights are there unless the file says that they are not.
        if names[-1] in weighted or not 0 < file_layers < len(described(cut)):
            return cut
        names = names[:-1]
    return None


def _vector(x: np.ndarray, rule: Rule) -> np.ndarray | None:
    """Return a vector that may have axes of length one around it."""
    return x.reshape(-1) if max(x.shape, default=0) == x.size == rule.shape[0] else None


def _kernel_oihw(x: np.ndarray, rule: Rule) -> np.ndarray | None:
    """Return HWIO of (O, I, h, w), or for dense layers of (O, I h w) with leading ones."""
    height, width, inputs, outputs = rule.shape
    oihw = (outputs, inputs, height, width)
    as_matrix = math.prod(x.shape[:-2]) == 1 and x.shape[-2:] == (outputs, math.prod(oihw[1:]))
    dense = rule.layer is not None and rule.layer.dense
    if x.shape != oihw and not (dense and as_matrix):
        return None
    return x.reshape(oihw).transpose(2, 3, 1, 0)


def _as_it_is(x: np.ndarray, rule: Rule) -> np.ndarray | None:
    return x if x.shape == rule.shape else None


def _layout(rule: Rule, convention: Convention) -> Layout:
    """Return what turns a stored array into the parameter, or into None where it does not fit."""
    if rule.layer is None:
        return _as_it_is
    return _LAYOUT[convention] if rule.path[-1] == "kernel" else _vector


_LAYOUT: dict[Convention, Layout] = {
    "caffe": _kernel_oihw,
    "torchvision": _kernel_oihw,
    "matconvnet": _as_it_is,
    "native": _as_it_is,
}
