"""What a network's weight files look like, and where the public ones are: facts without code.

Every network states its own in `NetSpec.files`, in its own file; `mpp_jax.weights` downloads, reads
and converts by them.
"""

import dataclasses
from typing import Literal

Convention = Literal["caffe", "matconvnet", "torchvision", "native"]
"""How a file names its arrays and lays them out; see `mpp_jax.weights.names`."""

DIGEST_LENGTHS = {"md5": 32, "sha1": 40, "sha256": 64}
"""Hexadecimal digits of a whole digest, by its `hashlib` name."""

MATCONVNET = (
    "https://www.vlfeat.org/matconvnet/models",
    "http://www.vlfeat.org/matconvnet/models",
)
TORCH = "https://download.pytorch.org/models"


@dataclasses.dataclass(frozen=True)
class WeightPlace:
    """One public weight file.

    Attributes:
        name: what the user types.
        filename: name in the cache folder.
        urls: mirrors, tried in order.
        algorithm: `hashlib` name of the digest.
        digest: hexadecimal digest of the file, or the beginning of it that is published.
        note: format and licence, one line.
    """

    name: str
    filename: str
    urls: tuple[str, ...]
    algorithm: str
    digest: str
    note: str


@dataclasses.dataclass(frozen=True)
class WeightFiles:
    """The weight files of one network.

    Files in this package's own names, ``conv1/kernel``, are read for every network that states what
    input they expect (``"native"``). Layers inside fire modules are written ``fire2/squeeze1x1``.

    Attributes:
        caffe: whether files in Caffe's names are known.
        caffe_names: (layer, name) pairs: names that such files use beside the layer's own.
        matconvnet: whether files in MatConvNet's names are known.
        torchvision: (layer, module) pairs, for instance ``("conv1", "features.0")`` where torch
            files have ``features.0.weight``: every convolution, or none where no such file is.
        batch_norms: (layer, module) pairs: the batch normalisation that follows a convolution in
            torch files, for instance ``("conv1", "bn1")``. It is folded into the layer, which has
            no bias of its own in such files.
        batch_norm_epsilon: what these add to the variance.
        flax: (layer, module) pairs: names beside the layer's own where the layout is this package's
            own, as in what Flax saves, for instance ``("conv1", "AlexNet_0/Conv_0")`` where files
            have ``AlexNet_0/Conv_0/kernel``. Not every layer needs one.
        deep_compression: whether there are files in the Deep Compression format.
        places: public files; the first is taken where the user gives none.
    """

    caffe: bool = False
    caffe_names: tuple[tuple[str, str], ...] = ()
    matconvnet: bool = False
    torchvision: tuple[tuple[str, str], ...] = ()
    batch_norms: tuple[tuple[str, str], ...] = ()
    batch_norm_epsilon: float = 1e-5
    flax: tuple[tuple[str, str], ...] = ()
    deep_compression: bool = False
    places: tuple[WeightPlace, ...] = ()


def matconvnet_place(name: str, filename: str, md5: str) -> WeightPlace:
    """Return the place of a file among MatConvNet's models."""
    urls = tuple(f"{folder}/{filename}" for folder in MATCONVNET)
    return WeightPlace(name, filename, urls, "md5", md5, "MatConvNet, mean picture")


def torch_place(name: str, filename: str, sha256: str, size: str) -> WeightPlace:
    """Return the place of a file among torchvision's models.

    Args:
        name: what the user types.
        filename: as it is published; its name holds the beginning of the digest.
        sha256: that beginning.
        size: for the note, "245 MB".
    """
    note = f"torch, {size}, BSD licence"
    return WeightPlace(name, filename, (f"{TORCH}/{filename}",), "sha256", sha256, note)
