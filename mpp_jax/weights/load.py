"""From a weight file of any known format to a network that is ready to use."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mpp_jax.checkpoint import check_devices
from mpp_jax.files import cache_folder
from mpp_jax.nets.dtypes import arithmetic
from mpp_jax.nets.function_network import FunctionNetwork, carried_digest
from mpp_jax.nets.function_spec import FunctionSpec
from mpp_jax.nets.network import Network, prepare
from mpp_jax.nets.registry import DEFAULT_NETWORK, get_spec
from mpp_jax.nets.sift_spec import SIFT_SPEC
from mpp_jax.nets.spec import NetSpec, PoolingMode
from mpp_jax.remote.mirror import local_file
from mpp_jax.weights.cache import fetch
from mpp_jax.weights.convert import Audit, Converted, convert
from mpp_jax.weights.formats import read_weights
from mpp_jax.weights.forms_file import tuned_forms
from mpp_jax.weights.native import looks_native
from mpp_jax.weights.source import WeightsError


def load_network(
    name: str = DEFAULT_NETWORK,
    weights: str | os.PathLike[str] | None = None,
    layer: str | None = None,
    *,
    pooling: PoolingMode | None = None,
    dtype: Any = jnp.float32,
    precision: str | None = None,
) -> Network:
    """Return a pretrained network.

    Weights may end below the network's last layer: those of the convolutions alone, or fine-tuned
    ones whose last layers have other sizes. The network then ends where they end, and so does its
    description: `network.spec.lacking` names the layers above, and `network.spec.default_layer` is
    the highest that is left.

    Args:
        name: a name of `mpp_jax.nets.NETWORKS`, or ``sift``, which has no weights.
        weights: a weight file of any known format, or a folder of this package's own form; None
            takes what was imported into the cache folder, or the file inside the package, or the
            parameters that come with a function (`mpp_jax.nets.FunctionNet`), or the network's
            public file, which is downloaded once (its hash is checked).
        layer: one that the weights must reach; None: whatever they reach.
        pooling: ``"floor"`` or ``"ceil"``; None: the network's own.
        dtype: of the parameters and so of the computation, float32 or bfloat16; or ``"tf32"``,
            float32 with an NVIDIA GPU's products in TF32 (where there are none, in float32); or
            ``"auto"``, what `mpp_jax.nets.dtypes.AUTO` has for the device.
        precision: of the convolutions' products: ``"highest"``, or ``"default"``, the device's own
            choice (TF32 on GPUs). None: what belongs to the dtype.

    Returns:
        The network; `network.descriptors(x)` takes RGB pictures.

    Raises:
        ValueError: unknown network, layer, pooling or dtype, or a precision beside ``"tf32"`` or
            ``"auto"``.
        WeightsError: a file that is missing, damaged, for another network, or without the layer (a
            `ValueError`).
    """
    if name == SIFT_SPEC.name and weights is None:
        SIFT_SPEC.layer(layer)
        return _sift(dtype)
    spec = get_spec(name)
    carries = isinstance(spec, FunctionSpec) and spec.carried is not None
    if carries and weights is None and not looks_native(imported_folder(name)):
        spec.layer(layer)
        return _function(spec, dtype, precision, pooling)
    network, _ = load_audited(
        name, weights, layer, pooling=pooling, dtype=dtype, precision=precision
    )
    return network


def _sift(dtype: Any) -> Network:
    from mpp_jax.nets.sift import sift_network

    check_devices()
    if dtype != "auto" and arithmetic(dtype) != (jnp.float32, "highest"):
        raise ValueError(f"dtype: dense SIFT computes in float32, not {dtype!r}")
    return sift_network()


def _function(
    spec: NetSpec, dtype: Any, precision: str | None, pooling: PoolingMode | None
) -> Network:
    """Return a function with the parameters that come with it."""
    if pooling is not None:
        spec.with_pooling(pooling)  # raises
    assert isinstance(spec, FunctionSpec)
    assert spec.carried is not None
    check_devices()
    dtype, precision = arithmetic(dtype, precision)
    mean, scale = (jnp.asarray(v, jnp.float32) for v in spec.preprocessing[0][1].rgb())
    return FunctionNetwork(
        params=jax.tree.map(lambda x: jnp.asarray(x, dtype), spec.carried()),
        mean=mean,
        scale=scale,
        mean_image=None,
        spec=spec,
        weights_sha256=carried_digest(spec),
        precision=precision,
        forms=tuned_forms(dtype, precision),
    )


def load_audited(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    layer: str | None = None,
    *,
    pooling: PoolingMode | None = None,
    dtype: Any = jnp.float32,
    precision: str | None = None,
) -> tuple[Network, Audit]:
    """Return what `load_network` does, and the record of what was assigned from where."""
    spec = get_spec(name)
    if not spec.has_weights:
        raise WeightsError(f"weights: {name!r} computes without weights; leave them out")
    if pooling is not None:
        spec = spec.with_pooling(pooling)
    check_devices()
    dtype, precision = arithmetic(dtype, precision)
    if layer is not None:
        spec.index(layer)
    path = default_file(name) if weights is None else local_file(weights)
    converted, sha256 = read_converted(path, spec, layer)
    return as_network(converted, sha256, dtype, precision), converted.audit


def imported_folder(network: str) -> Path:
    """Return where `import_weights` keeps a network by default, whether or not it is there."""
    return cache_folder() / "networks" / network


def packaged_file(network: str) -> Path:
    """Return where the package keeps a network's weights, whether or not it has them."""
    return Path(__file__).parent / "pretrained" / f"{network}.safetensors"


def default_file(name: str) -> Path:
    """Return the weights of a network where no path is given.

    A network imported into the cache folder comes first, then the file inside the package, then the
    network's public file, which is downloaded where it is not in the cache folder yet.
    """
    if looks_native(imported_folder(name)):
        return imported_folder(name)
    if packaged_file(name).exists():
        return packaged_file(name)
    places = get_spec(name).files.places
    if not places:
        raise WeightsError(f"weights: network {name!r} has no public file; give a path")
    return fetch(places[0])


def read_converted(path: Path, spec: NetSpec, layer: str | None = None) -> tuple[Converted, str]:
    """Read, convert and audit a file; return the parameters and the file's SHA-256."""
    with naming(path):
        source, sha256 = read_weights(path, spec)
        return convert(source, spec, layer), sha256


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Raise what is wrong with a file as a `WeightsError` that begins with its path."""
    try:
        yield
    except WeightsError as error:
        raise WeightsError(f"weights: {path}: {error}", error.findings) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise WeightsError(f"weights: {path}: {reason}; give the path of a weight file") from error


def as_network(
    converted: Converted, sha256: str, dtype: Any = jnp.float32, precision: str = "highest"
) -> Network:
    """Return a network with jax arrays of parameters in NumPy.

    Raises:
        RuntimeError: JAX has no device.
        ValueError: an unusable file of formulations (`mpp_jax.weights.forms_file`).
    """
    check_devices()
    image = converted.mean_image
    kind = FunctionNetwork if isinstance(converted.spec, FunctionSpec) else Network
    network = kind(
        params=jax.tree.map(lambda x: jnp.asarray(x, dtype), converted.params),
        mean=jnp.asarray(converted.mean),
        scale=jnp.asarray(converted.scale),
        mean_image=None if image is None else jnp.asarray(image),
        spec=converted.spec,
        weights_sha256=sha256,
        precision=precision,
        forms=tuned_forms(dtype, precision),
    )
    return prepare(network)
