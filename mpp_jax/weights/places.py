"""Where the public weight files are, and the digests that a download must have."""

from __future__ import annotations

import dataclasses

DIGEST_LENGTHS = {"md5": 32, "sha1": 40, "sha256": 64}


@dataclasses.dataclass(frozen=True)
class WeightPlace:
    """One public weight file.

    Attributes:
        name: what the user types.
        network: the network it is for.
        filename: name in the cache folder.
        urls: mirrors, tried in order.
        algorithm: ``hashlib`` name of the digest.
        digest: hexadecimal digest of the file, or the beginning of it that is published.
        note: format and licence, one line.
    """

    name: str
    network: str
    filename: str
    urls: tuple[str, ...]
    algorithm: str
    digest: str
    note: str


_CAFFE = "http://dl.caffe.berkeleyvision.org"
_MATCONVNET = (
    "https://www.vlfeat.org/matconvnet/models",
    "http://www.vlfeat.org/matconvnet/models",
)
_TORCH = "https://download.pytorch.org/models"
_SQUEEZENET = "songhan/SqueezeNet-Deep-Compression"


def _matconvnet(name: str, network: str, filename: str, md5: str) -> WeightPlace:
    urls = tuple(f"{folder}/{filename}" for folder in _MATCONVNET)
    return WeightPlace(name, network, filename, urls, "md5", md5, "MatConvNet, mean picture")


# The first place of a network is the one that is taken where no file is given.
PLACES: dict[str, WeightPlace] = {
    place.name: place
    for place in (
        WeightPlace(
            "squeezenet",
            "squeezenet",
            "compressed_SqueezeNet.net",
            (
                f"https://raw.githubusercontent.com/{_SQUEEZENET}/master/compressed_SqueezeNet.net",
                f"https://github.com/{_SQUEEZENET}/raw/master/compressed_SqueezeNet.net",
            ),
            "sha256",
            "e4ab6960ae8cd81505e1c2136921201507e930966c53deaf15862a395b3a3261",
            "Deep Compression, 676 kB, BSD licence",
        ),
        WeightPlace(
            "caffenet",
            "caffenet",
            "bvlc_reference_caffenet.caffemodel",
            (f"{_CAFFE}/bvlc_reference_caffenet.caffemodel",),
            "sha1",
            "4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46",
            "Caffe, 244 MB, unrestricted use",
        ),
        _matconvnet(
            "caffenet-matconvnet",
            "caffenet",
            "imagenet-caffe-ref.mat",
            "6d69dfa6e549012c94546658737c5885",
        ),
        WeightPlace(
            "alexnet",
            "alexnet",
            "bvlc_alexnet.caffemodel",
            (f"{_CAFFE}/bvlc_alexnet.caffemodel",),
            "sha1",
            "9116a64c0fbe4459d18f4bb6b56d647b63920377",
            "Caffe, 244 MB, unrestricted use",
        ),
        _matconvnet(
            "alexnet-matconvnet",
            "alexnet",
            "imagenet-caffe-alex.mat",
            "ed49ef44caf18496291ce0c3257b0596",
        ),
        _matconvnet("cnn_s", "cnn_s", "imagenet-vgg-s.mat", "93b683d5420c2eeaf07a6eef492f182b"),
        _matconvnet("cnn_m", "cnn_m", "imagenet-vgg-m.mat", "1c164950e882b4ea11623e669a86b1c4"),
        WeightPlace(
            "alexnet_torchvision",
            "alexnet_torchvision",
            "alexnet-owt-7be5be79.pth",
            (f"{_TORCH}/alexnet-owt-7be5be79.pth",),
            "sha256",
            "7be5be79",
            "torch, 245 MB, BSD licence",
        ),
        WeightPlace(
            "vgg16",
            "vgg16",
            "vgg16-397923af.pth",
            (f"{_TORCH}/vgg16-397923af.pth",),
            "sha256",
            "397923af",
            "torch, 554 MB, BSD licence",
        ),
    )
}


def get_place(name: str) -> WeightPlace:
    """A public file by name; ``ValueError`` where there is none."""
    if name not in PLACES:
        raise ValueError(f"weights: {name!r} is unknown; take one of {', '.join(PLACES)}")
    return PLACES[name]


def default_place(network: str) -> WeightPlace | None:
    """The first public file of a network."""
    return next((place for place in PLACES.values() if place.network == network), None)
