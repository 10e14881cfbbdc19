"""Picture files to arrays: the one decode rule of the package.

CMYK, palette, transparent, 16-bit and EXIF-rotated files decode differently in every library, so
all of them pass through `decode_picture`, and the rule is written down once:

* **formats**: those of `FORMATS`, recognised by content, never by file name;
* **animations and multi-page files**: the first frame;
* **grey** (1, 8 or 16 bit): the same value in R, G and B. 16-bit values keep their high byte, which
  is also what Pillow keeps of a 16-bit RGB file, so grey and colour copies decode alike;
* **32-bit integers** are read as 16-bit grey, **floats** as ``[0, 1]``, ``[0, 255]`` or
  ``[0, 65535]`` by their largest value; negative, larger or non-finite values have no known white
  level and are refused;
* **palette**: looked up; **CMYK, YCbCr, HSV**: Pillow's formula; **CIELAB**: littleCMS to sRGB.
  Embedded ICC profiles are not applied (as in Caffe, torchvision and ``tf.io``);
* **transparency** (RGBA, LA, palette with a transparent entry): the alpha channel is dropped and
  the stored colour kept, as torchvision's ``default_loader``, ``tf.io.decode_image(channels=3)``
  and OpenCV's ``IMREAD_COLOR`` do;
* **EXIF orientation** is applied;
* **large pictures**: up to `MAX_PIXELS` (20,000 x 20,000) are decoded; a longer side beyond
  ``max_side`` is reduced to it with Pillow's antialiased bicubic filter, aspect kept. A JPEG is
  first read at 1/2, 1/4 or 1/8 where that is still at least the wanted size (libjpeg's scaled
  inverse DCT, deterministic).
"""

import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, Self, TypeAlias

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

PictureSource: TypeAlias = str | os.PathLike[str] | bytes

MAX_SIDE: Final = 4096
"""Longest side that `decode_picture` returns unless told otherwise."""
MAX_PIXELS: Final = 20_000 * 20_000
"""Most pixels that a file may declare (width x height): 1.6 GB while it is being decoded."""
FORMATS: Final[tuple[str, ...]] = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "TIFF",
    "BMP",
    "PPM",
    "JPEG2000",
    "AVIF",
    "MPO",
)
"""Raster formats that are tried. PostScript, icons, scientific grids and video stay out."""

# What Pillow logs about damaged files is in the DecodeError as well; without a handler of the
# application's own, Python would print it on standard error.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pictures above this many pixels are decoded one at a time, so that threads do not add their peaks.
_LARGE = 2**25
_large_lock = threading.Lock()


class DecodeError(ValueError):
    """A file that is no usable picture.

    Attributes:
        path: the file, as given (``"<bytes>"`` for bytes).
        reason: one line that says what is wrong with it.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        return type(self), (self.path, self.reason)


def decode_picture(path_or_bytes: PictureSource, *, max_side: int = MAX_SIDE) -> np.ndarray:
    """Decode a picture file by the rule in the module docstring.

    Args:
        path_or_bytes: the file, or its whole content.
        max_side: longest side of the result, in pixels, at least 1.

    Returns:
        ``(H, W, 3)`` uint8, RGB, C-contiguous, ``max(H, W) <= max_side``.

    Raises:
        DecodeError: missing, empty, truncated or damaged file, no picture, too large.
    """
    if max_side < 1:
        raise ValueError(f"max_side must be at least 1 pixel, got {max_side}")
    name = _display_name(path_or_bytes)
    with _reported(name), _pillow_settings(), _open(path_or_bytes, name) as picture:
        large = picture.width * picture.height > _LARGE
        with _large_lock if large else nullcontext():
            target = _reduced_size(picture.width, picture.height, max_side)
            if target != picture.size:
                picture.draft(None, target)  # acts on JPEG only
            picture.load()
            if picture.format == "TIFF":  # load() turned it upright, and its sides with it
                target = _reduced_size(picture.width, picture.height, max_side)
            orientation = _orientation(picture)
            rgb = _to_rgb(picture, name)
        if rgb.size != target:
            rgb = rgb.resize(target, Image.Resampling.BICUBIC)
        if orientation in _UPRIGHT:
            rgb = rgb.transpose(_UPRIGHT[orientation])
        return np.array(rgb, dtype=np.uint8)


def reduce_array(picture: np.ndarray, max_side: int) -> np.ndarray:
    """Reduce an array whose longer side exceeds ``max_side``, as `decode_picture` does.

    Args:
        picture: ``(H, W, 3)`` uint8 RGB.
        max_side: longest side of the result.

    Returns:
        The array itself where it fits, else a reduced ``(H', W', 3)`` uint8 array.
    """
    height, width = picture.shape[:2]
    target = _reduced_size(width, height, max_side)
    if target == (width, height):
        return picture
    return np.array(Image.fromarray(picture).resize(target, Image.Resampling.BICUBIC))


def _display_name(source: PictureSource) -> str:
    if isinstance(source, bytes):
        return "<bytes>"
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    raise TypeError(f"a picture is a path or its bytes, got {type(source).__name__}")


@contextmanager
def _open(source: PictureSource, name: str) -> Iterator[Image.Image]:
    """Open the header; the caller holds `_reported` and `_pillow_settings`."""
    if isinstance(source, bytes):
        size, stream = len(source), io.BytesIO(source)
    else:
        path = Path(source)
        if path.is_dir():
            raise DecodeError(name, "is a folder, not a picture")
        size, stream = path.stat().st_size, path  # type: ignore[assignment]
    if size == 0:
        raise DecodeError(name, "empty file (0 bytes)")
    Image.init()
    known = [form for form in FORMATS if form in Image.OPEN]
    with Image.open(stream, formats=known) as picture:
        width, height = picture.size
        if width * height > MAX_PIXELS:
            raise DecodeError(name, _too_large(f"{width:,} x {height:,} pixels"))
        yield picture


def _too_large(what: str) -> str:
    return f"too large: {what}, the limit is {MAX_PIXELS:,} pixels; reduce it first"


@contextmanager
def _reported(name: str) -> Iterator[None]:
    """Turn whatever a damaged file makes Pillow raise into one `DecodeError`."""
    try:
        yield
    except DecodeError:
        raise
    except UnidentifiedImageError as error:
        raise DecodeError(
            name, f"not a picture in a known format ({', '.join(FORMATS[:-1])})"
        ) from error
    except FileNotFoundError as error:
        raise DecodeError(name, "no such file") from error
    except (PermissionError, IsADirectoryError) as error:
        raise DecodeError(name, f"cannot be read ({error.strerror})") from error
    except Image.DecompressionBombError as error:
        raise DecodeError(name, _too_large(f"more than {2 * MAX_PIXELS:,} pixels")) from error
    except MemoryError as error:
        raise DecodeError(name, "not enough memory to decode it") from error
    except Exception as error:  # Pillow's readers raise almost any type on hostile bytes
        detail = " ".join(str(error).split()) or type(error).__name__
        raise DecodeError(name, f"truncated or damaged ({detail})") from error


_settings_lock = threading.Lock()
_settings_users = 0
_limit_before: int | None = None


@contextmanager
def _pillow_settings() -> Iterator[None]:
    """Change Pillow's settings while any decode is running, for the whole process, and back.

    Its pixel limit becomes `MAX_PIXELS`, and its warnings (about EXIF blocks and the like)
    are silenced: a file either decodes or is reported. ``warnings.catch_warnings`` would do, were
    it safe with threads; a filter that one inserts and removes oneself can at worst stay behind.
    """
    global _settings_users, _limit_before
    with _settings_lock:
        if _settings_users == 0:
            _limit_before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_PIXELS
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _settings_users += 1
    try:
        yield
    finally:
        with _settings_lock:
            _settings_users -= 1
            if _settings_users == 0:
                Image.MAX_IMAGE_PIXELS = _limit_before
                ours = [entry for entry in warnings.filters if _is_our_filter(entry)]
                for entry in ours:
                    warnings.filters.remove(entry)  # type: ignore[attr-defined]


def _is_our_filter(entry: tuple[Any, ...]) -> bool:
    action, _, _, module, _ = entry
    return action == "ignore" and getattr(module, "pattern", module) == r"PIL\."


def _orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation 1..8; an unreadable EXIF block leaves a picture usable."""
    try:
        return int(picture.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        return 1


def _reduced_size(width: int, height: int, max_side: int) -> tuple[int, int]:
    longer = max(width, height)
    if longer <= max_side:
        return width, height
    # Integer arithmetic, rounded half up: the same on every machine.
    scaled = [max(1, (2 * side * max_side + longer) // (2 * longer)) for side in (width, height)]
    return scaled[0], scaled[1]


def _to_rgb(picture: Image.Image, name: str) -> Image.Image:
    mode = picture.mode
    if mode == "RGB":
        return picture
    if mode.startswith("I;16"):
        return _grey(np.asarray(picture) >> 8)
    if mode == "I":
        return _grey(_from_int32(np.asarray(picture), name))
    if mode == "F":
        return _grey(_from_float(np.asarray(picture), name))
    if mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(lab, srgb, "LAB", "RGB")
        converted = ImageCms.applyTransform(picture, transform)
        assert converted is not None  # in-place only on request
        return converted
    if mode in ("RGBa", "La"):  # premultiplied: divide first
        picture = picture.convert("RGBA" if mode == "RGBa" else "LA")
    picture.info.pop("transparency", None)  # dropped by rule; Pillow would warn about it
    return picture.convert("RGB")


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")


def _from_int32(values: np.ndarray, name: str) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise DecodeError(
            name, f"32-bit grey values {low}..{high}: no known white level; save it with 16 bits"
        )
    return values >> 8


def _from_float(values: np.ndarray, name: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise DecodeError(name, "floating-point pixels that are NaN or infinite")
    low, high = float(values.min()), float(values.max())
    white = next((level for level in (1.0, 255.0, 65535.0) if high <= level), None)
    if low < 0 or white is None:
        raise DecodeError(
            name,
            f"floating-point grey values {low:g}..{high:g}: no known white level; "
            "save it with 8 or 16 bits",
        )
    return np.rint(values.astype(np.float64) * (255.0 / white))
