"""Comparing the layers that a weight file describes with those of a network.

CaffeNet and AlexNet have parameters of equal shapes and differ only in the order of pooling and
normalisation: shapes alone cannot tell a right file from a wrong one.
"""

import math

from mpp_jax.nets.spec import LRN, Conv, Fire, NetSpec, Pool, fire_convolutions
from mpp_jax.weights.source import FileLayer, SourceWeights

MAX_LRN_SIZE = 10_000


def described(spec: NetSpec) -> tuple[FileLayer, ...]:
    """Return a network's layers in the terms of weight files."""
    found: list[FileLayer] = []
    for layer in spec.layers:
        if isinstance(layer, Conv):
            found.append(_convolution(layer.name, layer))
        elif isinstance(layer, Fire):
            parts = fire_convolutions(layer)
            found += [_convolution(f"{layer.name}/{part.name}", part) for part in parts]
        elif isinstance(layer, Pool):
            found.append(FileLayer("pool", layer.name, kernel=layer.window, stride=layer.stride))
        elif isinstance(layer, LRN):
            found.append(FileLayer("lrn", layer.name, lrn=layer))
    return tuple(found)


def _convolution(name: str, layer: Conv) -> FileLayer:
    return FileLayer(
        "dense" if layer.dense else "conv",
        name,
        kernel=layer.kernel,
        stride=layer.stride,
        pad=None if layer.pad == "same" else layer.pad,
        groups=layer.groups,
    )


def structure_errors(source: SourceWeights, spec: NetSpec, *, to_the_end: bool = True) -> list[str]:
    """Return what the file's layers contradict; nothing where they agree or are not stored.

    Args:
        source: the file.
        spec: the network.
        to_the_end: whether the file must end where the network ends, or may go on.
    """
    if not source.structure:
        return []
    errors = [
        f"{layer.name!r} has impossible normalisation constants: {_constants(layer.lrn)}"
        for layer in source.structure
        if layer.lrn is not None and not _usable(layer.lrn)
    ]
    wanted = described(spec)
    for have, want in zip(source.structure, wanted, strict=False):
        if not _same_kind(have, want):
            return [
                *errors,
                f"the file has {have.kind} {have.name!r} where the network has "
                f"{want.kind} {want.name!r}",
            ]
        for field in ("kernel", "stride", "pad", "groups"):
            got, expected = getattr(have, field), getattr(want, field)
            if got is not None and expected is not None and got != expected:
                errors.append(f"{have.name!r} has {field} {got}, {want.name!r} has {expected}")
    have_more = len(source.structure) - len(wanted)
    if have_more < 0 or (have_more and to_the_end):
        errors.append(f"the file has {len(source.structure)} layers, the network {len(wanted)}")
    return errors


def _constants(lrn: LRN) -> str:
    return f"size {lrn.size}, alpha {lrn.alpha}, beta {lrn.beta}, k {lrn.k}"


def _usable(lrn: LRN) -> bool:
    """Return whether normalisation is over a centred window and never divides by zero."""
    centred = 0 < lrn.size < MAX_LRN_SIZE and lrn.size % 2 == 1
    finite = all(math.isfinite(v) for v in (lrn.alpha, lrn.beta, lrn.k))
    return centred and finite and lrn.alpha >= 0 and lrn.k > 0


def _same_kind(have: FileLayer, want: FileLayer) -> bool:
    # A fully connected layer may be stored as the convolution that it is.
    return have.kind == want.kind or (have.kind == "conv" and want.kind == "dense")


def lrn_constants(source: SourceWeights, spec: NetSpec) -> dict[str, LRN]:
    """Return the file's normalisation constants under the network's layer names."""
    names = [layer.name for layer in spec.layers if isinstance(layer, LRN)]
    stored = [layer.lrn for layer in source.structure if layer.lrn is not None]
    return {
        name: LRN(name, c.size, c.alpha, c.beta, c.k)
        for name, c in zip(names, stored, strict=False)
    }
