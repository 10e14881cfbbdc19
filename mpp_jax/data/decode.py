"""Picture files to arrays: the one decode rule of the package.

CMYK, palette, transparent, 16-bit and EXIF-rotated files decode differently in every library, so
all of them pass through `decode_picture`, and the rule is written down once:

* **formats**: those of `mpp_jax.data.formats`, recognised by content, never by file name;
* **animations and multi-page files**: the first frame;
* **grey** (1, 2, 4, 8, 12 or 16 bit): the same value in R, G and B. 12- and 16-bit values keep
  their high byte, which is also what Pillow keeps of a 16-bit RGB file, so grey and colour copies
  decode alike. Where 0 is white (TIFF) values are inverted;
* **32-bit integers** and signed 16-bit ones are read as 16-bit grey, **floats** as ``[0, 1]``,
  ``[0, 255]`` or ``[0, 65535]`` by their largest value; negative, larger or non-finite values have
  no known white level and are refused;
* **TIFF** layouts that Pillow reads wrongly are refused (`mpp_jax.data.tiff`);
* **palette**: looked up; **CMYK, YCbCr, HSV**: Pillow's formula; **CIELAB**: littleCMS to sRGB.
  Embedded ICC profiles are not applied (as in Caffe, torchvision and ``tf.io``);
* **transparency** (RGBA, LA, palette with a transparent entry): the alpha channel is dropped and
  the stored colour kept, as torchvision's ``default_loader``, ``tf.io.decode_image(channels=3)``
  and OpenCV's ``IMREAD_COLOR`` do;
* **EXIF orientation** is applied;
* **large pictures**: a longer side beyond ``max_side`` is reduced to it with Pillow's antialiased
  bicubic filter, aspect kept. A JPEG is first read at 1/2, 1/4 or 1/8 where that is still at least
  the wanted size (libjpeg's scaled inverse DCT, deterministic). What would take more than
  `mpp_jax.data.cost.MAX_MEMORY` (2 GiB) at its peak is refused, and so are more than `MAX_PIXELS`
  (20,000 x 20,000, which fits in RGB) and files of more than `mpp_jax.data.content.MAX_FILE`.
"""

import io
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, BinaryIO, Final, TypeAlias

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from mpp_jax.data.content import DecodeError, open_picture, reading_reported
from mpp_jax.data.cost import MAX_MEMORY, decoding_bytes
from mpp_jax.data.formats import readable_formats, unknown_format
from mpp_jax.data.tiff import MIN_IS_WHITE, Layout

PictureSource: TypeAlias = str | os.PathLike[str] | bytes

MAX_SIDE: Final = 4096
"""Longest side that `decode_picture` returns unless told otherwise."""
MAX_PIXELS: Final = 20_000 * 20_000
"""Most pixels that a file may declare (width x height)."""

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

# Pictures that take more bytes than this are decoded one at a time, so that threads do not add
# their peaks.
_LARGE = 2**29
_large_lock = threading.Lock()
_STRIP = 2**18
"""Pixels that are converted at once where NumPy does it."""


def decode_picture(path_or_bytes: PictureSource, *, max_side: int = MAX_SIDE) -> np.ndarray:
    """Decode a picture file by the rule in the module docstring.

    Args:
        path_or_bytes: the file, or its whole content.
        max_side: longest side of the result, in pixels, at least 1.

    Returns:
        ``(H, W, 3)`` uint8, RGB, C-contiguous, ``max(H, W) <= max_side``.

    Raises:
        DecodeError: missing, special, empty, truncated or damaged file, no picture, too large.
    """
    if max_side < 1:
        raise ValueError(f"max_side must be at least 1 pixel, got {max_side}")
    name = _display_name(path_or_bytes)
    with ExitStack() as stack:
        stack.enter_context(reading_reported(name))
        if isinstance(path_or_bytes, bytes):
            if not path_or_bytes:
                raise DecodeError(name, "empty file (0 bytes)", permanent=True)
            file: BinaryIO = io.BytesIO(path_or_bytes)
        else:
            file = stack.enter_context(open_picture(path_or_bytes))
        stack.enter_context(_pillow_settings())
        return _decode(file, name, max_side)


def header_oddities(path_or_bytes: PictureSource) -> tuple[str, ...]:
    """Return what is unusual about a picture file, without decoding it.

    Args:
        path_or_bytes: the file, or its whole content.

    Returns:
        Each in a word or two: another format than JPEG and PNG, another mode than RGB, several
        frames, turned by EXIF, longer than `MAX_SIDE`.

    Raises:
        DecodeError: as for `decode_picture`, where the header tells.
    """
    name = _display_name(path_or_bytes)
    with ExitStack() as stack:
        stack.enter_context(reading_reported(name))
        stack.enter_context(_pillow_settings())
        file: BinaryIO = (
            io.BytesIO(path_or_bytes)
            if isinstance(path_or_bytes, bytes)
            else stack.enter_context(open_picture(path_or_bytes))
        )
        stack.enter_context(_reported(name, file, None))
        picture = stack.enter_context(_opened(file))
        unusual = {
            f"format {picture.format}": picture.format not in ("JPEG", "PNG", "MPO"),
            f"mode {picture.mode}": picture.mode != "RGB",
            "several frames": picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1,
            "turned by EXIF": _orientation(picture) in _UPRIGHT,
            f"reduced to {MAX_SIDE} pixels": max(picture.size) > MAX_SIDE,
        }
    return tuple(what for what, so in unusual.items() if so)


def _decode(file: BinaryIO, name: str, max_side: int) -> np.ndarray:
    layout = Layout.read(file)
    if layout is not None and (reason := layout.lacking):
        raise DecodeError(name, reason)
    if layout is not None and (reason := layout.fault):
        raise DecodeError(name, reason, permanent=True)
    with _reported(name, file, layout), _opened(file) as picture:
        width, height = picture.size
        if width * height > MAX_PIXELS:
            raise _too_large(name, f"{width:,} x {height:,} pixels, the limit is {MAX_PIXELS:,}")
        target = _reduced_size(width, height, max_side)
        if target != picture.size:
            picture.draft(None, target)  # acts on JPEG only
        needed = decoding_bytes(picture, width * height, target, layout)
        if needed > MAX_MEMORY:
            what = f"{width:,} x {height:,} pixels ({picture.mode}) need {needed / 1e9:.1f} GB"
            raise _too_large(name, f"{what}, the limit is {MAX_MEMORY / 1e9:.1f} GB")
        with _large_lock if needed > _LARGE else nullcontext():
            picture.load()
            if picture.format == "TIFF":  # load() turned it upright, and its sides with it
                target = _reduced_size(picture.width, picture.height, max_side)
            orientation = _orientation(picture)
            plain = _plain(picture, name, layout)
            if plain.size != target:
                plain = plain.resize(target, Image.Resampling.BICUBIC)
        plain = _upright(plain, orientation)
        if plain.mode != "RGB":
            plain = plain.convert("RGB")
        return np.array(plain, dtype=np.uint8)


def convert_picture(picture: Image.Image) -> np.ndarray:
    """Return a picture that somebody opened with Pillow as an array, by the same rule.

    Args:
        picture: of any mode; it is loaded, else unchanged.

    Returns:
        ``(H, W, 3)`` uint8, RGB, upright.

    Raises:
        DecodeError: damaged, or values without a known white level.
    """
    name = str(getattr(picture, "filename", "") or "<picture>")
    with reading_reported(name), _pillow_settings():
        try:
            own = picture.copy()
            plain = _plain(own, name, None)
            return np.array(_upright(plain, _orientation(picture)).convert("RGB"), np.uint8)
        except (DecodeError, MemoryError):
            raise
        except Exception as error:
            raise _damaged(name, error) from error


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
def _opened(file: BinaryIO) -> Iterator[Image.Image]:
    """Open the header; the caller holds `_reported` and `_pillow_settings`."""
    file.seek(0)
    with Image.open(file, formats=readable_formats()) as picture:
        yield picture


def _too_large(name: str, what: str) -> DecodeError:
    return DecodeError(name, f"too large: {what}; reduce it first", permanent=True)


@contextmanager
def _reported(name: str, file: BinaryIO, layout: Layout | None) -> Iterator[None]:
    """Turn whatever a damaged file makes Pillow raise into one `DecodeError`."""
    try:
        yield
    except DecodeError:
        raise
    except MemoryError as error:
        raise DecodeError(name, _NO_MEMORY) from error
    except UnidentifiedImageError as error:
        if layout is not None:
            raise DecodeError(name, layout.unread) from error
        file.seek(0)
        raise DecodeError(name, unknown_format(file.read(32))) from error
    except Image.DecompressionBombError as error:
        raise _too_large(name, f"more than {2 * MAX_PIXELS:,} pixels") from error
    except Exception as error:  # Pillow's readers raise almost any type on hostile bytes
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's word: the file could not be read
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> DecodeError:
    detail = " ".join(str(error).split()) or type(error).__name__
    if any(word in detail for word in _SHORT_OF_MEMORY):
        return DecodeError(name, _NO_MEMORY)
    return DecodeError(name, f"truncated or damaged ({detail})", permanent=True)


_NO_MEMORY = "not enough memory to decode it"
# How Pillow's decoders report that they could not get memory.
_SHORT_OF_MEMORY = ("out of memory", "decoder error -9")


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


def _upright(picture: Image.Image, orientation: int) -> Image.Image:
    return picture.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else picture


def _reduced_size(width: int, height: int, max_side: int) -> tuple[int, int]:
    longer = max(width, height)
    if longer <= max_side:
        return width, height
    # Integer arithmetic, rounded half up: the same on every machine.
    scaled = [max(1, (2 * side * max_side + longer) // (2 * longer)) for side in (width, height)]
    return scaled[0], scaled[1]


def _plain(picture: Image.Image, name: str, layout: Layout | None) -> Image.Image:
    """Return a loaded picture as grey (L) or RGB."""
    mode = picture.mode
    picture.info.pop("transparency", None)  # dropped by rule; Pillow would warn about it
    if mode in ("RGB", "L"):
        return picture
    inverted = layout is not None and layout.colours == MIN_IS_WHITE
    if mode.startswith("I;16"):
        bits = 12 if layout is not None and layout.bits[0] == 12 else 16
        mask = 255 if inverted else 0
        return _grey(picture, lambda values: (values >> (bits - 8)) ^ mask)
    if mode == "I":
        _check_int32(picture, name)
        return _grey(picture, lambda values: values >> 8)
    if mode == "F":
        white = _white_level(picture, name)
        scale = 255.0 / white
        low, sign = (white, -1.0) if inverted else (0.0, 1.0)
        return _grey(
            picture, lambda values: np.rint((low + sign * values.astype(np.float64)) * scale)
        )
    if mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(lab, srgb, "LAB", "RGB")
        converted = ImageCms.applyTransform(picture, transform)
        assert converted is not None  # in-place only on request
        return converted
    if mode in ("RGBa", "La"):  # premultiplied: divide first
        picture = picture.convert("RGBA" if mode == "RGBa" else "LA")
    if picture.mode == "LA":
        return picture.getchannel("L")
    return picture.convert("L" if mode == "1" else "RGB")


def _strips(picture: Image.Image) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first row, values) of horizontal strips: whole arrays would be further copies."""
    rows = max(1, _STRIP // picture.width)
    for top in range(0, picture.height, rows):
        bottom = min(top + rows, picture.height)
        yield top, np.asarray(picture.crop((0, top, picture.width, bottom)))


def _grey(picture: Image.Image, convert: Callable[[np.ndarray], np.ndarray]) -> Image.Image:
    grey = Image.new("L", picture.size)
    for top, values in _strips(picture):
        grey.paste(Image.fromarray(convert(values).astype(np.uint8)), (0, top))
    return grey


def _range(picture: Image.Image) -> tuple[float, float]:
    """Return the smallest and the largest value; NaN where there is one."""
    ranges = np.array([(values.min(), values.max()) for _, values in _strips(picture)])
    return float(ranges[:, 0].min()), float(ranges[:, 1].max())


def _check_int32(picture: Image.Image, name: str) -> None:
    low, high = _range(picture)
    if low < 0 or high > 65535:
        raise DecodeError(
            name,
            f"32-bit grey values {low:.0f}..{high:.0f}: no known white level; save it with 16 bits",
            permanent=True,
        )


def _white_level(picture: Image.Image, name: str) -> float:
    low, high = _range(picture)
    if not np.isfinite([low, high]).all():
        raise DecodeError(name, "floating-point pixels that are NaN or infinite", permanent=True)
    white = next((level for level in (1.0, 255.0, 65535.0) if high <= level), None)
    if low < 0 or white is None:
        raise DecodeError(
            name,
            f"floating-point grey values {low:g}..{high:g}: no known white level; "
            "save it with 8 or 16 bits",
            permanent=True,
        )
    return white
