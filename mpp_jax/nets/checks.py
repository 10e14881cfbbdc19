"""What a network's description must be for everything else to work with it."""

import re
from collections.abc import Iterable
from typing import Any, NoReturn, get_args

from mpp_jax.nets.sift_spec import SIFT_SPEC
from mpp_jax.nets.spec import (
    LRN,
    Activation,
    Add,
    Conv,
    Fire,
    Layer,
    NetSpec,
    Pool,
    Preprocessing,
    convolutions,
    map_channels,
    map_size,
    map_stride,
)
from mpp_jax.nets.weight_files import DIGEST_LENGTHS, Convention, WeightFiles, WeightPlace

ANY_NETWORK = "cnn"
"""What the paper's Table 2 writes for whatever network it is; no network has this name."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_LAYER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SIZES: dict[type, tuple[str, ...]] = {
    Conv: ("features", "kernel", "stride", "groups"),
    Pool: ("window", "stride"),
    Fire: ("squeeze", "expand1x1", "expand3x3"),
    LRN: ("size",),
}
# Not layers but sources of descriptors: the run's own layer, and dense SIFT.
_SOURCES = ("default", SIFT_SPEC.name)


def check_spec(spec: NetSpec) -> None:
    """Raise unless a description is sound.

    Raises:
        ValueError: names that are ill formed or occur twice, layers that do not fit each other or
            a picture of the base side, descriptor layers that are none of the layers, a weight
            convention whose input or keys are not stated.
    """
    _check_types(spec)
    check_name(spec)
    if spec.of_layers:
        _check_layers(spec)
    else:
        _check_names(spec)
    _check_geometry(spec)
    if spec.of_layers:
        _check_positions(spec)
    _check_files(spec)


def check_name(spec: Any) -> None:
    """Raise unless the name of a description, and its aliases, are well formed.

    Raises:
        ValueError: they are not.
    """
    aliases = getattr(spec, "aliases", ())
    for field, name in [("name", spec.name), *(("aliases", alias) for alias in aliases)]:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name == ANY_NETWORK:
            raise ValueError(
                f"{field}: must be lower-case letters, digits and _ that begin with a letter, and "
                f"not {ANY_NETWORK!r}, which means any network; got {name!r}"
            )


def _refuse(spec: NetSpec, field: str, problem: str) -> NoReturn:
    raise ValueError(f"{field}: network {spec.name!r}: {problem}")


def _twice(names: Iterable[str]) -> str | None:
    """Return the first name that occurs again."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _check_types(spec: NetSpec) -> None:
    # A name alone, ("fc3"), is no tuple but a text, and would be taken letter by letter.
    for field in ("layers", "descriptor_layers", "preprocessing", "averaged", "aliases"):
        if not isinstance(getattr(spec, field), tuple):
            _refuse(spec, field, f"must be a tuple, got {getattr(spec, field)!r}")
    if not isinstance(spec.files, WeightFiles):
        _refuse(spec, "files", f"must be a WeightFiles, got {spec.files!r}")
    for field in ("caffe_names", "torchvision", "batch_norms", "flax", "places"):
        if not isinstance(getattr(spec.files, field), tuple):
            _refuse(spec, "files", f"{field} must be a tuple, got {getattr(spec.files, field)!r}")
    files = spec.files
    pairs = (*spec.preprocessing, *files.caffe_names, *files.torchvision, *files.flax)
    pairs += files.batch_norms
    if strange := [pair for pair in pairs if not isinstance(pair, tuple) or len(pair) != 2]:
        _refuse(spec, "preprocessing, files", f"wants pairs, got {strange[0]!r}")
    try:
        hash(spec), hash(spec.files)
    except TypeError as error:
        _refuse(spec, "layers", f"give tuples, not lists or dicts ({error})")


def _check_layers(spec: NetSpec) -> None:
    for layer in spec.layers:
        if not isinstance(layer, Layer):
            _refuse(spec, "layers", f"{layer!r} is no layer; take Conv, Pool, LRN, Fire, ...")
        for size in _SIZES.get(type(layer), ()):
            if not _whole(value := getattr(layer, size), 1):
                _refuse(spec, "layers", f"{size} of {layer.name!r} must be from 1, got {value!r}")
        if isinstance(layer, Conv | Pool) and layer.pad != "same" and not _whole(layer.pad, 0):
            _refuse(
                spec, "layers", f"pad of {layer.name!r} must be from 0 or 'same', got {layer.pad!r}"
            )
        if isinstance(layer, Conv | Add) and layer.activation not in get_args(Activation):
            _refuse(
                spec,
                "layers",
                f"activation of {layer.name!r} must be one of {', '.join(get_args(Activation))}, "
                f"got {layer.activation!r}",
            )
    _check_names(spec)
    _check_sources(spec)
    parts = list(convolutions(spec))
    if not parts:
        _refuse(spec, "layers", "there is no convolution; give at least one")
    for path, layer, channels in parts:
        if channels % layer.groups or layer.features % layer.groups:
            _refuse(
                spec,
                "layers",
                f"{'/'.join(path)!r} takes {channels} channels and gives {layer.features}; both "
                f"must divide into its {layer.groups} groups",
            )


def _check_names(spec: NetSpec) -> None:
    for name in spec.layer_names:
        if not _LAYER.fullmatch(str(name)) or name.lower() in _SOURCES:
            _refuse(
                spec,
                "layers",
                f"names are letters, digits and _, and none of {', '.join(_SOURCES)}; got {name!r}",
            )
    # The notation of representations does not tell cases apart.
    if twice := _twice(name.lower() for name in spec.layer_names):
        _refuse(spec, "layers", f"two are named {twice!r}; each needs a name of its own")


def _check_sources(spec: NetSpec) -> None:
    """Raise unless what layers take from elsewhere lies below them, and sums are of like maps."""
    for i, layer in enumerate(spec.layers):
        below = spec.layer_names[:i]
        taken = layer.source if isinstance(layer, Conv) else getattr(layer, "other", None)
        if taken is not None and taken not in below:
            _refuse(
                spec,
                "layers",
                f"{layer.name!r} takes the activation of {taken!r}, which is none of those before "
                f"it: {', '.join(below) or 'there are none'}",
            )
        if not isinstance(layer, Add):
            continue
        if not below:
            _refuse(spec, "layers", f"{layer.name!r} has nothing before it to add to")
        # A side beside the base tells mixtures of rounding apart.
        one, other = (
            (
                map_channels(spec, name),
                map_stride(spec, name),
                *(map_size(spec, side, name) for side in (spec.side, spec.side + 1)),
            )
            for name in (below[-1], layer.other)
        )
        if one != other:
            _refuse(
                spec,
                "layers",
                f"{layer.name!r} adds {below[-1]!r} and {layer.other!r}, whose maps differ: "
                f"channels, stride, positions at {spec.side} and {spec.side + 1} pixels are {one} "
                f"and {other}",
            )


def _check_geometry(spec: NetSpec) -> None:
    if not _whole(spec.side, 1) or not _whole(spec.averaged_stride, 1):
        _refuse(spec, "side", "side and averaged_stride are whole numbers of pixels from 1")
    if spec.pooling not in ("floor", "ceil"):
        _refuse(spec, "pooling", f"must be 'floor' or 'ceil', not {spec.pooling!r}")
    usable = spec.descriptor_layers
    unknown = [name for name in usable if name not in spec.layer_names]
    if not usable or unknown or _twice(usable):
        wrong = unknown[0] if unknown else _twice(usable)
        _refuse(
            spec,
            "descriptor_layers",
            f"must name some of the layers, each once; got {wrong!r}" if wrong else "name a layer",
        )
    if spec.default_layer not in usable:
        _refuse(
            spec,
            "default_layer",
            f"{spec.default_layer!r} is none of the descriptor_layers {', '.join(usable)}",
        )
    if strange := [name for name in spec.averaged if name not in usable]:
        _refuse(spec, "averaged", f"{strange[0]!r} is none of the descriptor_layers")


def _check_positions(spec: NetSpec) -> None:
    for name in spec.layer_names:
        if map_size(spec, spec.side, name) == 0:
            _refuse(
                spec,
                "side",
                f"a picture of {spec.side} pixels leaves layer {name!r} no position; give a "
                "larger side, or smaller kernels and windows",
            )
    for which in map(spec.layer, spec.descriptor_layers):
        if which.window < 1:
            _refuse(spec, "layers", f"{which.name!r} has more padding than picture")


def _check_files(spec: NetSpec) -> None:
    files, conventions = spec.files, [name for name, _ in spec.preprocessing]
    for _, how in spec.preprocessing:
        ok = isinstance(how, Preprocessing) and how.channels in ("RGB", "BGR")
        if not ok or 0 in (how.divisor, *how.std) or {len(how.mean), len(how.std)} != {3}:
            _refuse(
                spec,
                "preprocessing",
                f"wants a Preprocessing of three colours, RGB or BGR, that divides by no 0; got "
                f"{how!r}",
            )
    known = get_args(Convention)
    if _twice(conventions) or not set(conventions) <= set(known):
        _refuse(spec, "preprocessing", f"conventions are {', '.join(known)}, each at most once")
    for name, needed in (("caffe", files.caffe), ("torchvision", bool(files.torchvision))):
        if needed and name not in conventions:
            _refuse(spec, "preprocessing", f"does not say what {name} files expect; add {name!r}")
    own = ["/".join(path) for path, _, _ in convolutions(spec)]
    modules = [module for _, module in (*files.torchvision, *files.batch_norms)]
    if files.torchvision and (sorted(n for n, _ in files.torchvision) != sorted(own)):
        _refuse(spec, "files", f"torchvision must name each of {', '.join(own)} once")
    if twice := _twice(modules):
        _refuse(spec, "files", f"torchvision gives two layers the module {twice!r}")
    if twice := _twice((*own, *(module for _, module in files.flax))):
        _refuse(spec, "files", f"flax gives two layers the module {twice!r}")
    if files.batch_norms and not files.torchvision:
        _refuse(spec, "files", "batch_norms need torchvision, the convolutions beside them")
    if twice := _twice(name for name, _ in files.batch_norms):
        _refuse(spec, "files", f"batch_norms gives layer {twice!r} two")
    if not files.batch_norm_epsilon > 0:
        _refuse(spec, "files", f"batch_norm_epsilon must be above 0: {files.batch_norm_epsilon!r}")
    for field in ("caffe_names", "batch_norms", "flax"):
        if strange := [name for name, _ in getattr(files, field) if name not in own]:
            _refuse(spec, "files", f"{field}: {strange[0]!r} is none of {', '.join(own)}")
    for place in files.places:
        _check_place(spec, place)


def _check_place(spec: NetSpec, place: WeightPlace) -> None:
    if not isinstance(place, WeightPlace):
        _refuse(spec, "files", f"places must be WeightPlace, got {place!r}")
    length = DIGEST_LENGTHS.get(place.algorithm, 0)
    if not re.fullmatch(rf"[0-9a-f]{{1,{max(length, 1)}}}", place.digest) or not length:
        _refuse(
            spec,
            "files",
            f"the digest of {place.name!r} must be {', '.join(DIGEST_LENGTHS)} in lower-case "
            f"hexadecimal digits; got {place.algorithm} {place.digest!r}",
        )
    if not _FILE.fullmatch(place.filename) or not place.urls:
        _refuse(spec, "files", f"{place.name!r} needs a plain file name and at least one address")
