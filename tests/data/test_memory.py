"""Decoding takes at most the memory that is foretold from the header, and never more than 2 GiB."""

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from helpers import REPOSITORY
from helpers.decode_samples import smooth
from PIL import Image, features

from mpp_jax.data import DecodeError, decode_picture
from mpp_jax.data.cost import MAX_MEMORY

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peaks are in kilobytes on Linux")

WIDTH, HEIGHT = 5000, 3000
CHILD = """
import io, json, resource, sys
from PIL import Image
from mpp_jax.data import decode, formats
path, side, form = sys.argv[1], int(sys.argv[2]), sys.argv[3]
formats.readable_formats()
small = io.BytesIO()
Image.new("RGB", (64, 64)).save(small, form)
decode.decode_picture(small.getvalue())  # what the format's library takes once
foretold, bytes_of = [], decode.decoding_bytes
decode.decoding_bytes = lambda *a: foretold.append(bytes_of(*a)) or foretold[-1]
peak = lambda: 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
try:
    decode.decode_picture(path, max_side=side)
    reason = ""
except decode.DecodeError as error:
    reason = error.reason
print(json.dumps([peak() - before, foretold[0], reason]))
"""


def measured(path: Path, form: str, side: int) -> tuple[int, int, str]:
    """Return (bytes at the peak, bytes foretold, why it was refused) in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), str(side), form],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        timeout=600,
    )
    return tuple(json.loads(done.stdout))


def check(path: Path, form: str) -> None:
    for side in (1000, WIDTH):
        peak, foretold, reason = measured(path, form, side)
        assert reason == ""
        # The interpreter's own allocations, and strips that are converted at once.
        assert peak < foretold + 2**24


def rgba16_png(width: int, height: int, rows: int) -> bytes:
    """Return a PNG of 16-bit RGBA, black, of which only so many rows are there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer, row = zlib.compressobj(1), bytes(1 + 8 * width)
    data = b"".join(packer.compress(row) for _ in range(rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 16, 6, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def picture(mode: str) -> Image.Image:
    pixels = Image.fromarray(np.tile(smooth(100, 200), (HEIGHT // 100, WIDTH // 200, 1)))
    return pixels.convert("L").convert(mode) if mode in ("I", "F") else pixels.convert(mode)


def test_more_bytes_than_pixels_promise(tmp_path):
    path = tmp_path / "wide.png"
    path.write_bytes(rgba16_png(100_000, 4_000, rows=1))
    peak, foretold, reason = measured(path, "PNG", 4096)
    assert reason == (
        "too large: 100,000 x 4,000 pixels (RGBA) need 3.3 GB, the limit is 2.1 GB; reduce it first"
    )
    assert foretold > MAX_MEMORY
    assert peak < 2**24
    with pytest.raises(DecodeError) as caught:
        decode_picture(path)
    assert caught.value.permanent


def test_png_with_alpha_and_float_tiff(tmp_path):
    for mode, form in (("RGBA", "PNG"), ("F", "TIFF")):
        path = tmp_path / form
        picture(mode).save(path, form, **({"compress_level": 1} if form == "PNG" else {}))
        check(path, form)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "mode", "options"),
    [
        *(("PNG", mode, {"compress_level": 1}) for mode in ("1", "L", "P", "LA", "RGB", "I;16")),
        *(("JPEG", mode, {"progressive": True}) for mode in ("L", "RGB", "CMYK")),
        ("JPEG", "RGB", {"subsampling": 0}),
        *(("TIFF", mode, {}) for mode in ("L", "RGB", "CMYK", "I;16", "I", "LAB")),
        *(("TIFF", mode, {"compression": "tiff_lzw"}) for mode in ("RGBA", "I")),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
        ("PPM", "RGB", {}),
        *(("JPEG2000", mode, {}) for mode in ("L", "RGB", "RGBA", "I;16")),
        *(("WEBP", mode, {"lossless": True, "method": 0}) for mode in ("RGB", "RGBA")),
        *(("AVIF", mode, {"speed": 10, "subsampling": "4:4:4"}) for mode in ("RGB", "RGBA")),
    ],
)
def test_every_format(tmp_path, form, mode, options):
    if {"AVIF": "avif", "JPEG2000": "jpg_2000"}.get(form, "jpg") not in features.get_supported():
        pytest.skip(f"this Pillow has no {form}")
    path = tmp_path / "picture"
    source = picture("L").convert("I").convert("I;16") if mode == "I;16" else None
    if mode == "LAB":
        source = Image.new("LAB", (WIDTH, HEIGHT))
    (source or picture(mode)).save(path, form, **options)
    check(path, form)


@pytest.mark.slow
def test_one_strip_of_sixteen_bits_and_bands_apart(tmp_path):
    values = np.zeros((HEIGHT, WIDTH, 4), np.uint16)
    path = tmp_path / "strip.tif"
    options = {"photometric": "rgb", "compression": "zlib", "rowsperstrip": HEIGHT}
    tifffile.imwrite(path, values, extrasamples=["unassalpha"], **options)
    check(path, "TIFF")
    tifffile.imwrite(path, values[..., :3].transpose(2, 0, 1), planarconfig="separate", **options)
    check(path, "TIFF")


@pytest.mark.slow
def test_a_reader_in_python(tmp_path):
    path = tmp_path / "grey.pgm"
    path.write_bytes(b"P5 2000 1000 100\n" + bytes(2_000_000))
    check(path, "PPM")


@pytest.mark.slow
def test_the_largest_that_is_decoded(tmp_path):
    """20,000 x 20,000 in RGB fits, with alpha half as much."""
    path = tmp_path / "large.png"
    path.write_bytes(rgba16_png(50_000, 3_600, rows=3_600))
    peak, foretold, reason = measured(path, "PNG", 4096)
    assert reason == ""
    assert peak < foretold < MAX_MEMORY
    Image.new("RGB", (20_000, 20_000)).save(path, "PNG", compress_level=1)
    peak, foretold, reason = measured(path, "PNG", 4096)
    assert reason == ""
    assert peak < foretold < MAX_MEMORY
