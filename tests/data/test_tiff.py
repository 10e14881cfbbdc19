"""TIFF files of every layout decode as tifffile reads them, or are refused with their layout."""

import io
from itertools import product

import numpy as np
import pytest
import tifffile
from helpers.tiff_files import tiff_file

from mpp_jax.data import DecodeError, decode_picture
from mpp_jax.data.tiff import Layout

RNG = np.random.default_rng(5)
HEIGHT, WIDTH = 21, 35
SAMPLES = {
    "uint8": lambda shape: RNG.integers(0, 256, shape).astype(np.uint8),
    "uint16": lambda shape: RNG.integers(0, 65536, shape).astype(np.uint16),
    "uint32": lambda shape: RNG.integers(0, 65536, shape).astype(np.uint32),
    "int8": lambda shape: RNG.integers(0, 128, shape).astype(np.int8),
    "int16": lambda shape: RNG.integers(0, 32768, shape).astype(np.int16),
    "int32": lambda shape: RNG.integers(0, 65536, shape).astype(np.int32),
    "float16": lambda shape: RNG.random(shape).astype(np.float16),
    "float32": lambda shape: RNG.random(shape).astype(np.float32),
    "float64": lambda shape: RNG.random(shape),
}


def written(values: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, metadata=None, **options)
    return stream.getvalue()


def wanted(data: bytes) -> np.ndarray:
    """Return (H, W, 3) uint8 by the rule, from what tifffile reads."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        values = page.asarray()
        if page.planarconfig == 2 and values.ndim == 3:
            values = np.moveaxis(values, 0, -1)
        photometric, bits = page.photometric.name, page.bitspersample
    if values.dtype == bool:
        values = values * np.uint8(255)
    elif values.dtype.kind == "f":
        values = np.rint(values.astype(np.float64) * 255)
    elif bits == 8:
        values = values.astype(int)
    else:  # wider integers are 16-bit grey
        values = values.astype(int) >> (min(bits, 16) - 8)
    if photometric == "MINISWHITE":
        values = 255 - values
    if values.ndim == 2 or photometric.startswith("MINIS"):
        values = np.repeat(values.reshape(HEIGHT, WIDTH, -1)[:, :, :1], 3, axis=2)
    return values[:, :, :3]


def result(data: bytes) -> np.ndarray | DecodeError:
    try:
        return decode_picture(data)
    except DecodeError as error:
        return error


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize(
    ("colours", "bands", "extra"),
    [
        ("minisblack", 1, ()),
        ("miniswhite", 1, ()),
        ("minisblack", 2, ("unassalpha",)),
        ("minisblack", 5, ("unspecified",) * 4),
        ("rgb", 3, ()),
        ("rgb", 4, ("unassalpha",)),
        ("rgb", 4, ("unspecified",)),
        ("rgb", 5, ("unassalpha", "unspecified")),
    ],
)
def test_every_layout_is_right_or_refused(kind, colours, bands, extra):
    right = 0
    for order, compression, apart, tile in product(
        "<>", (None, "zlib"), (False, True), (None, (16, 16))
    ):
        if apart and bands == 1:
            continue
        values = SAMPLES[kind]((HEIGHT, WIDTH, bands) if bands > 1 else (HEIGHT, WIDTH))
        data = written(
            np.moveaxis(values, -1, 0) if apart else values,
            photometric=colours,
            extrasamples=extra or None,
            planarconfig=("separate" if apart else "contig") if bands > 1 else None,
            compression=compression,
            byteorder=order,
            tile=tile,
            rowsperstrip=None if tile else 8,
        )
        found = result(data)
        if isinstance(found, DecodeError):
            assert found.reason.startswith("TIFF of "), found.reason
            assert "read" in found.reason
            assert "\n" not in found.reason
        else:
            np.testing.assert_allclose(found, wanted(data), atol=0.51)
            right += 1
    # What people have is read, whatever the order, strips or tiles.
    common = {"minisblack": ("uint8", "uint16"), "rgb": ("uint8", "uint16")}
    if not extra and kind in common.get(colours, ("uint8",)):
        assert right >= 8


@pytest.mark.parametrize("compression", [1, 8])
def test_twelve_bits(compression):
    values = RNG.integers(0, 4096, (9, 6, 1))
    data = tiff_file(values, 12, 1, compression=compression)
    np.testing.assert_array_equal(decode_picture(data)[:, :, :1], values >> 4)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_white_is_zero(compression):
    grey = RNG.integers(0, 65536, (9, 6)).astype(np.uint16)
    options = {"photometric": "miniswhite", "compression": compression, "byteorder": "<"}
    np.testing.assert_array_equal(
        decode_picture(written(grey, **options))[:, :, 0], (65535 - grey) >> 8
    )
    unit = RNG.random((9, 6), dtype=np.float32)
    unit[0, 0] = 1
    for level in (1, 255, 65535):
        picture = decode_picture(written(unit * np.float32(level), **options))
        np.testing.assert_allclose(picture[:, :, 0], 255 - unit * 255, atol=0.51)


@pytest.mark.parametrize("colours", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_few_bits(colours, bits):
    values = RNG.integers(0, 2**bits, (9, 13, 1))
    scaled = values * 255 // (2**bits - 1)
    for order, compression, back in product("<>", (1, 8), (False, True)):
        found = result(
            tiff_file(
                values, bits, colours, order=order, compression=compression, reversed_bits=back
            )
        )
        if isinstance(found, DecodeError):
            assert back
            assert "lowest bits first" in found.reason
        else:
            np.testing.assert_array_equal(found[:, :, :1], 255 - scaled if colours == 0 else scaled)


def test_bands_apart_or_backwards():
    values = RNG.integers(0, 256, (9, 6, 3))
    for colours, apart, back, compression in product((2, 8), (False, True), (False, True), (1, 8)):
        data = tiff_file(
            values, 8, colours, planar=apart, reversed_bits=back, compression=compression
        )
        found = result(data)
        if colours == 2 and not isinstance(found, DecodeError):
            np.testing.assert_array_equal(found, values)
        refused = (colours == 8 and (apart or back)) or (apart and back and compression == 1)
        assert isinstance(found, DecodeError) == refused


REFUSED = {
    "half": (written(np.ones((4, 5), np.float16)), "TIFF of 16-bit floating point (grey)"),
    "double": (written(np.ones((4, 5))), "TIFF of 64-bit floating point (grey)"),
    "RGB float": (
        written(np.ones((4, 5, 3), np.float32), photometric="rgb"),
        "TIFF of 3 bands of 32-bit floating point (RGB)",
    ),
    "five bands": (
        written(np.ones((4, 5, 5), np.uint8), photometric="minisblack", planarconfig="contig"),
        "TIFF of 5 bands of 8-bit integers (grey)",
    ),
    "planar RGB of 16 bits": (
        written(np.ones((3, 4, 5), np.uint16), photometric="rgb", planarconfig="separate"),
        "TIFF of 3 bands of 16-bit integers (RGB, band by band)",
    ),
    "signed bytes": (
        written(np.ones((4, 5), np.int8)),
        "TIFF of 8-bit signed integers (grey)",
    ),
    "big-endian, compressed": (
        written(np.ones((4, 5), np.float32), byteorder=">", compression="zlib"),
        "TIFF of 32-bit floating point (grey, big-endian, compressed)",
    ),
    "chrominance of half the size": (
        tiff_file(np.ones((4, 6, 3), int), 8, 6),
        "TIFF of 3 bands of 8-bit integers (YCbCr)",
    ),
    "a palette of 8-bit colours": (
        tiff_file(np.ones((4, 6, 1), int), 8, 3, tags={320: (3, [*range(256)] * 3)}),
        "whose colours are not of 16 bits",
    ),
    "camera raw": (
        tiff_file(
            np.ones((4, 6, 3), int), 8, 2, tags={254: (4, [1]), 330: (4, [8]), 50706: (4, [1])}
        ),
        "the preview in a camera's raw file",
    ),
    "an unknown compression": (
        tiff_file(np.ones((4, 6, 1), int), 8, 1, tags={259: (3, [34712])}),
        "TIFF compressed by method 34712, which this Pillow does not read",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_layout(name):
    data, reason = REFUSED[name]
    found = result(data)
    assert isinstance(found, DecodeError)
    assert reason in found.reason
    # What this Pillow does not know may be tried with another; the rest is wrong in the file.
    assert found.permanent == ("this Pillow does not read" not in found.reason)


def test_big_tiff():
    values = RNG.integers(0, 65536, (9, 6)).astype(np.uint16)
    data = written(values, bigtiff=True)
    layout = Layout.read(io.BytesIO(data))
    assert layout is not None
    assert layout.bits == (16,)
    np.testing.assert_array_equal(decode_picture(data)[:, :, 0], values >> 8)


def test_layout_of_what_is_none():
    assert Layout.read(io.BytesIO(b"\xff\xd8\xff")) is None
    assert Layout.read(io.BytesIO(b"II*\0")) is None
    assert Layout.read(io.BytesIO(b"II*\0\xff\xff\xff\xff")) is None
