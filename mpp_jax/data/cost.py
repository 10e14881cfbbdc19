"""Bytes that decoding a picture takes at its peak, from its header.

Pillow keeps pixels of 1, 2 or 4 bytes by mode: RGB takes 4, grey 1. The readers of some formats
hold the whole picture in further copies, and so does the way from a mode to RGB. The numbers were
measured (``tests/data/test_memory.py``) and err on the large side; the file's own bytes, which are
at most `mpp_jax.data.content.MAX_FILE`, come on top where they are in memory.
"""

from typing import Any, Final

from PIL import Image

from mpp_jax.data.tiff import Layout

MAX_MEMORY: Final = 2**31
"""Most bytes that decoding a picture may take at its peak (2 GiB)."""

_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
"""Bytes of a pixel in Pillow by mode; 4 in all others."""
_CONVERTED = {"RGB": 0, "L": 0, "1": 1, "I;16": 1, "I;16B": 1, "I;16L": 1, "I;16N": 1}
"""Bytes of a pixel that the way to grey or RGB adds; 4 in all others, but see below."""
_CONVERTED |= {"I": 1, "F": 1, "LA": 1, "La": 5, "RGBa": 8}
_COLOUR = 4


def decoding_bytes(
    picture: Image.Image, declared: int, target: tuple[int, int], layout: Layout | None = None
) -> int:
    """Return an upper bound of what decoding an opened picture takes at its peak.

    Args:
        picture: opened, and drafted if it will be, but not loaded.
        declared: pixels that the file declares, before drafting.
        target: (width, height) to which it is reduced.
        layout: of a TIFF file.
    """
    width, height = picture.size
    wide, high = target
    stored, converted = _STORED.get(picture.mode, 4), _CONVERTED.get(picture.mode, 4)
    held = width * height * max(converted, _reader(picture))
    if layout is not None and layout.compressed:  # libtiff decompresses strip by strip
        held = max(held, layout.piece)
    if picture.info.get("progressive"):  # coefficients of the whole picture, in 16 bits
        held = max(held, declared * 2 * len(picture.getbands()))
    full = width * height * stored + held
    reduced = wide * height * _COLOUR if target != picture.size else 0  # width first, then height
    return full + reduced + wide * high * 3 * _COLOUR


def _reader(picture: Any) -> int:
    """Return the bytes a pixel that the format's reader holds beside Pillow's picture."""
    bands = len(picture.getbands())
    match picture.format:
        case "JPEG" | "MPO" | "PNG" | "GIF" | "TIFF" | "BMP":
            return 0  # row by row; what a JPEG or TIFF may hold besides is above
        case "PPM":
            raw = not picture.tile or picture.tile[0][0] == "raw"
            return 0 if raw else 2 * (4 if picture.mode == "I" else bands)
        case "JPEG2000":
            return 6 * bands
    return 16  # WEBP, AVIF, HEIC and whatever plug-ins read
