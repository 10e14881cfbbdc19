"""Which picture formats are read here: those of `FORMATS` that this Pillow can, and plug-ins'.

* Of Pillow's own formats those of `FORMATS`. PostScript, icons, scientific grids and video stay
  out. How Pillow was built decides: one without AVIF does not read AVIF.
* **HEIC**, where the package pillow-heif is installed (``pip install 'mpp-jax[heif]'``).
* Any format that somebody else's package has registered with Pillow by the time a picture is
  decoded: whoever imports such a package (in a program, or in a file given as ``--plugin``) wants
  its formats.
"""

import functools
import importlib
import sys
from typing import Final

import PIL
from PIL import Image, features

FORMATS: Final[dict[str, str | None]] = {
    "JPEG": "jpg",
    "PNG": "zlib",
    "WEBP": "webp",
    "GIF": None,
    "TIFF": None,
    "BMP": None,
    "PPM": None,
    "JPEG2000": "jpg_2000",
    "AVIF": "avif",
    "MPO": "jpg",
}
"""Pillow's raster formats that are tried -> the feature that Pillow must be built with."""
_PLUGIN = "pillow_heif.HeifImagePlugin"

_CURES = {
    "AVIF": "Pillow reads it from 11.3 on",
    "HEIC": "pip install pillow-heif",
}
# Brands of ISO files, at byte 8.
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1"), "HEIC"),
}
_SIGNS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
)


def readable_formats() -> list[str]:
    """Return the names of the formats that are tried, as Pillow calls them."""
    _load_plugin()
    supported = _supported()
    own = [form for form, needs in FORMATS.items() if needs is None or needs in supported]
    return [form for form in own if form in Image.OPEN] + sorted(set(_foreign()) - set(own))


def decoder_version() -> str:
    """Return the versions of what decodes: Pillow and the plug-ins that are there."""
    _load_plugin()
    packages = {module.split(".")[0] for module in _foreign().values()}
    versions = [f"{name} {getattr(sys.modules.get(name), '__version__', '?')}" for name in packages]
    return ", ".join([f"pillow {PIL.__version__}", *sorted(versions)])


def unknown_format(head: bytes) -> str:
    """Return why a file is no picture that is read here.

    Args:
        head: its first bytes, 16 or more where it has so many.
    """
    readable = readable_formats()
    form = _guess(head)
    if form is not None and form not in readable:
        cure = _CURES.get(form, "convert it to PNG or JPEG")
        return f"{form}, which this Pillow ({PIL.__version__}) does not read; {cure}"
    listed = ", ".join(form for form in readable if form != "MPO")  # a JPEG to everybody
    return f"not a picture in a known format ({listed})"


def _guess(head: bytes) -> str | None:
    if head[4:8] == b"ftyp":
        form = _BRANDS.get(head[8:12])
        # pillow-heif calls its format HEIF.
        return None if form == "HEIC" and "HEIF" in Image.OPEN else form
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return next((form for sign, form in _SIGNS if head.startswith(sign)), None)


@functools.cache
def _supported() -> frozenset[str]:
    return frozenset(features.get_supported())


@functools.cache
def _load_plugin() -> None:
    """Let Pillow and pillow-heif register their formats."""
    Image.init()
    try:
        importlib.import_module(_PLUGIN)
    except ImportError:  # not installed, or not for this Pillow or machine
        return


def _foreign() -> dict[str, str]:
    """Return the formats that are not Pillow's own -> the module that reads them."""
    modules = {form: factory.__module__ for form, (factory, _) in Image.OPEN.items()}
    return {form: module for form, module in modules.items() if module.split(".")[0] != "PIL"}
