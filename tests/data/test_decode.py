"""One decode rule: every mode, every orientation, every size."""

import io
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers.decode_samples import (
    COLOUR,
    GREY,
    GREY16,
    RNG,
    check_contract,
    encoded,
    png_by_hand,
    smooth,
)
from PIL import Image, ImageCms

from mpp_jax.data import DecodeError, decode_picture
from mpp_jax.data import decode as decode_module
from mpp_jax.data.decode import convert_picture, reduce_array

# --- modes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM"])
def test_colour_is_kept_to_the_bit(form, tmp_path):
    path = tmp_path / "misnamed.jpg"  # the content decides, not the name
    path.write_bytes(encoded(Image.fromarray(COLOUR), form))
    for source in (path, str(path), path.read_bytes()):
        picture = decode_picture(source)
        check_contract(picture)
        np.testing.assert_array_equal(picture, COLOUR)


def test_lossless_webp_and_lossy_jpeg():
    webp = encoded(Image.fromarray(COLOUR), "WEBP", lossless=True)
    np.testing.assert_array_equal(decode_picture(webp), COLOUR)
    picture = smooth(64, 48)
    jpeg = decode_picture(encoded(Image.fromarray(picture), "JPEG", quality=98, subsampling=0))
    assert np.abs(jpeg.astype(int) - picture).mean() < 2


def test_grey_is_repeated():
    picture = decode_picture(encoded(Image.fromarray(GREY), "PNG"))
    np.testing.assert_array_equal(picture, np.repeat(GREY[:, :, None], 3, 2))


def test_one_bit():
    bits = GREY > 127
    for form in ("PNG", "TIFF", "PPM"):
        picture = decode_picture(encoded(Image.fromarray(bits), form))
        np.testing.assert_array_equal(picture, np.repeat(bits[:, :, None], 3, 2) * 255)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PGM"])
def test_sixteen_bit_grey_is_scaled_not_clipped(form):
    if form == "PGM":  # by hand: older versions of Pillow cannot write it
        data = b"P5 7 11 65535\n" + GREY16.astype(">u2").tobytes()
    else:
        data = encoded(Image.fromarray(GREY16), form)
    picture = decode_picture(data)
    check_contract(picture)
    np.testing.assert_array_equal(picture, np.repeat((GREY16 >> 8)[:, :, None], 3, 2))


def test_sixteen_bit_big_endian_tiff():
    stream = bytearray(encoded(Image.fromarray(GREY16), "TIFF"))
    little = decode_picture(bytes(stream))
    big = Image.frombytes("I;16B", (7, 11), GREY16.astype(">u2").tobytes())
    np.testing.assert_array_equal(decode_picture(encoded(big, "TIFF")), little)


def test_sixteen_bit_colour_decodes_like_grey_of_the_same_values():
    colour = np.repeat(GREY16[:, :, None], 3, 2)
    a = decode_picture(png_by_hand(colour, colour_type=2))
    b = decode_picture(png_by_hand(GREY16, colour_type=0))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a, (colour >> 8).astype(np.uint8))


def test_palette_with_and_without_transparency():
    indices = (GREY % 4).astype(np.uint8)
    colours = np.array([[255, 0, 0], [0, 255, 0], [1, 2, 3], [250, 251, 252]], np.uint8)
    palette = Image.frombytes("P", (7, 11), indices.tobytes())
    palette.putpalette(colours.tobytes())
    for form, options in (
        ("PNG", {}),
        ("PNG", {"transparency": 1}),
        ("PNG", {"transparency": b"\x00\x80\xff\x40"}),
        ("GIF", {"transparency": 1}),
        ("BMP", {}),
        ("TIFF", {}),
    ):
        picture = decode_picture(encoded(palette, form, **options))
        np.testing.assert_array_equal(picture, colours[indices])


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_dropped_and_the_stored_colour_kept(form):
    alpha = RNG.integers(1, 256, (11, 7, 1), dtype=np.uint8)
    rgba = Image.fromarray(np.concatenate([COLOUR, alpha], 2))
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    np.testing.assert_array_equal(decode_picture(encoded(rgba, form, **options)), COLOUR)


def test_grey_with_alpha_and_premultiplied():
    la = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(255 - GREY)])
    np.testing.assert_array_equal(
        decode_picture(encoded(la, "PNG")), np.repeat(GREY[:, :, None], 3, 2)
    )
    opaque = Image.fromarray(COLOUR).convert("RGBA").convert("RGBa")
    rgb = decode_module._plain(opaque, "x", None).convert("RGB")
    np.testing.assert_array_equal(np.asarray(rgb), COLOUR)


def test_cmyk():
    cmyk = Image.frombytes("CMYK", (7, 11), RNG.integers(0, 256, 308, dtype=np.uint8).tobytes())
    ink = np.asarray(cmyk).astype(float) / 255
    expected = 255 * (1 - ink[:, :, :3]) * (1 - ink[:, :, 3:])
    picture = decode_picture(encoded(cmyk, "TIFF"))
    assert np.abs(picture - expected).max() <= 1.5
    flat = Image.new("CMYK", (32, 32), (0, 255, 255, 0))  # red, also through Adobe's inverted JPEG
    red = decode_picture(encoded(flat, "JPEG", quality=95))
    assert np.abs(red.astype(int) - np.array([255, 0, 0])[None, None]).max() <= 3


def test_lab_goes_through_colour_management():
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    flat = np.broadcast_to(np.array([200, 120, 40], np.uint8), (5, 6, 3))
    lab = ImageCms.applyTransform(Image.fromarray(np.ascontiguousarray(flat)), to_lab)
    picture = decode_picture(encoded(lab, "TIFF"))
    assert np.abs(picture.astype(int) - flat).max() <= 4


def test_floats_by_their_range():
    unit = RNG.random((5, 4), dtype=np.float32)
    unit[0, 0] = 1.0
    for level in (1.0, 255.0, 65535.0):
        picture = decode_picture(encoded(Image.fromarray(unit * np.float32(level)), "TIFF"))
        np.testing.assert_allclose(picture[:, :, 0], unit * 255, atol=0.51)
    for bad, word in ((-1.0, "white level"), (1e6, "white level"), (np.nan, "NaN")):
        broken = unit.copy()
        broken[2, 2] = bad
        with pytest.raises(DecodeError, match=word):
            decode_picture(encoded(Image.fromarray(broken), "TIFF"))


def test_int32_is_sixteen_bit_or_refused():
    values = GREY16.astype(np.int32)
    picture = decode_picture(encoded(Image.fromarray(values), "TIFF"))
    np.testing.assert_array_equal(picture[:, :, 1], GREY16 >> 8)
    for bad in (-1, 65536):
        values[0, 0] = bad
        with pytest.raises(DecodeError, match="white level"):
            decode_picture(encoded(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("form", ["GIF", "TIFF", "PNG", "WEBP"])
def test_first_frame(form):
    frames = [Image.new("RGB", (6, 5), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    picture = decode_picture(data)
    np.testing.assert_array_equal(picture, np.asarray(frames[0]))


# --- EXIF ----------------------------------------------------------------------------------------

UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_orientation(orientation, form):
    stored = smooth(24, 40)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    data = encoded(Image.fromarray(stored), form, exif=exif, **options.get(form, {}))
    picture = decode_picture(data)
    expected = UPRIGHT[orientation](stored)
    assert picture.shape == expected.shape
    assert np.abs(picture.astype(int) - expected).max() <= (4 if form == "JPEG" else 0)
    # The reduced picture is upright as well.
    reduced = decode_picture(data, max_side=20)
    assert reduced.shape[:2] == ((20, 12) if orientation >= 5 else (12, 20))
    small = reduce_array(np.ascontiguousarray(expected), 20)
    assert np.abs(reduced.astype(int) - small).max() <= 6


def test_png_whose_exif_follows_the_pixels():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(COLOUR), "PNG", exif=exif)
    start = data.index(b"eXIf") - 4
    length = struct.unpack(">I", data[start : start + 4])[0] + 12
    block, end = data[start : start + length], data.index(b"IEND") - 4
    late = data[:start] + data[start + length : end] + block + data[end:]
    np.testing.assert_array_equal(decode_picture(late), UPRIGHT[6](COLOUR))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientation_out_of_range_is_upright(value):
    exif = Image.Exif()
    exif[0x0112] = value
    np.testing.assert_array_equal(
        decode_picture(encoded(Image.fromarray(COLOUR), "PNG", exif=exif)), COLOUR
    )


def test_broken_exif_block_does_not_spoil_the_picture():
    data = encoded(Image.fromarray(smooth(16, 16)), "JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff\0\0")
    assert decode_picture(data).shape == (16, 16, 3)


# --- sizes ---------------------------------------------------------------------------------------


def test_one_pixel():
    for mode, colour in (("RGB", (9, 8, 7)), ("L", 9), ("1", 1), ("RGBA", (9, 8, 7, 0))):
        picture = decode_picture(encoded(Image.new(mode, (1, 1), colour), "PNG"))
        assert picture.shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("shape", "side", "expected"),
    [
        ((3, 20000), 4096, (1, 4096)),
        ((20000, 3), 4096, (4096, 1)),
        ((30, 20000), 4096, (6, 4096)),
        ((100, 80), 100, (100, 80)),
        ((101, 80), 100, (100, 79)),
        ((7, 7), 1, (1, 1)),
    ],
)
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_large_pictures_are_reduced(shape, side, expected, form):
    data = encoded(Image.fromarray(smooth(*shape)), form)
    picture = decode_picture(data, max_side=side)
    check_contract(picture)
    assert picture.shape[:2] == expected


def test_reduction_is_antialiased():
    checker = np.indices((256, 256)).sum(0) % 2 * 255
    picture = decode_picture(encoded(Image.fromarray(checker.astype(np.uint8)), "PNG"), max_side=64)
    assert np.abs(picture[4:-4, 4:-4].astype(int) - 127.5).max() < 2


def test_jpeg_draft_agrees_with_the_full_decode_and_is_never_enlarged():
    data = encoded(Image.fromarray(smooth(640, 960)), "JPEG", quality=97, subsampling=0)
    full = decode_picture(data)
    for side in (100, 120, 121, 300, 480, 500):
        drafted = decode_picture(data, max_side=side)
        assert max(drafted.shape[:2]) == side
        expected = reduce_array(full, side)
        assert drafted.shape == expected.shape
        assert np.abs(drafted.astype(int) - expected).mean() < 2
        np.testing.assert_array_equal(drafted, decode_picture(data, max_side=side))


def test_pillows_own_limit_neither_stops_nor_stays_changed(monkeypatch, recwarn):
    data = encoded(Image.fromarray(COLOUR), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    np.testing.assert_array_equal(decode_picture(data), COLOUR)
    assert Image.MAX_IMAGE_PIXELS == 10
    with pytest.raises(DecodeError):
        decode_picture(data[:40])
    assert Image.MAX_IMAGE_PIXELS == 10
    assert not recwarn.list


def test_warning_filters_are_left_as_they_were():
    before = list(warnings.filters)
    decode_picture(encoded(Image.fromarray(smooth(12, 9)), "PNG"))
    assert list(warnings.filters) == before


def test_pictures_beyond_the_limit_are_refused(monkeypatch):
    data = encoded(Image.fromarray(COLOUR), "PNG")
    monkeypatch.setattr(decode_module, "MAX_PIXELS", 76)
    with pytest.raises(DecodeError, match="too large: 7 x 11 pixels, the limit is 76"):
        decode_picture(data)
    monkeypatch.setattr(decode_module, "MAX_PIXELS", 77)
    assert decode_picture(data).shape == (11, 7, 3)


def test_a_header_that_declares_terabytes():
    data = bytearray(png_by_hand(GREY16, 0))
    data[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    with pytest.raises(DecodeError, match="too large"):
        decode_picture(bytes(data))


def test_large_pictures_pass_one_at_a_time(monkeypatch):
    monkeypatch.setattr(decode_module, "_LARGE", 10)
    running, most = [0], [0]
    guard, real = threading.Lock(), decode_module._plain

    def slow(picture, name, layout):
        with guard:
            running[0] += 1
            most[0] = max(most[0], running[0])
        try:
            threading.Event().wait(0.01)
            return real(picture, name, layout)
        finally:
            with guard:
                running[0] -= 1

    monkeypatch.setattr(decode_module, "_plain", slow)
    data = encoded(Image.fromarray(COLOUR), "PNG")
    with ThreadPoolExecutor(4) as pool:
        for picture in pool.map(decode_picture, [data] * 8):
            np.testing.assert_array_equal(picture, COLOUR)
    assert most[0] == 1


# --- pictures that are open already --------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L", "1", "RGBA", "LA", "I;16"])
def test_an_opened_picture_is_converted_by_the_same_rule(mode, form):
    source = Image.fromarray(GREY16) if mode == "I;16" else Image.fromarray(COLOUR).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(source, form, exif=exif)
    with Image.open(io.BytesIO(data)) as picture:
        found = convert_picture(picture)
        assert picture.mode == mode
        np.testing.assert_array_equal(found, decode_picture(data))
        np.testing.assert_array_equal(found, convert_picture(picture))


def test_a_grey_picture_is_reduced_as_its_colour_copy():
    grey = encoded(Image.fromarray(smooth(300, 211)[..., 0]), "PNG")
    colour = encoded(Image.fromarray(smooth(300, 211)[..., 0]).convert("RGB"), "PNG")
    for side in (20, 97, 299):
        np.testing.assert_array_equal(
            decode_picture(grey, max_side=side), decode_picture(colour, max_side=side)
        )
