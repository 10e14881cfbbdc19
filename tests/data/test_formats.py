"""Which formats are read: as this Pillow was built, and what plug-ins add."""

import io
import sys
import types

import numpy as np
import pytest
from helpers.decode_samples import COLOUR, encoded, smooth
from PIL import Image, ImageFile, features

from mpp_jax.data import DecodeError, decode_picture, formats


def failure(source: bytes) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        decode_picture(source)
    return caught.value


def test_what_this_pillow_reads_is_listed():
    readable = formats.readable_formats()
    assert {"JPEG", "PNG", "GIF", "TIFF", "BMP", "PPM"} <= set(readable)
    assert ("AVIF" in readable) == ("avif" in features.get_supported())
    error = failure(b"no picture at all, only words")
    assert error.reason.startswith("not a picture in a known format (JPEG, PNG, ")
    assert ("AVIF" in error.reason) == ("AVIF" in readable)
    assert not error.permanent  # another Pillow may know it


@pytest.mark.parametrize(
    ("form", "feature", "cure"),
    [("AVIF", "avif", "Pillow reads it from 11.3 on"), ("WEBP", "webp", "convert it")],
)
def test_a_pillow_that_lacks_a_format_says_so(monkeypatch, form, feature, cure):
    if feature not in features.get_supported():
        pytest.skip(f"this Pillow writes no {form}")
    data = encoded(Image.fromarray(smooth(16, 16)), form)
    assert decode_picture(data).shape == (16, 16, 3)
    supported = formats._supported() - {feature}
    monkeypatch.setattr(formats, "_supported", lambda: supported)
    error = failure(data)
    assert error.reason.startswith(f"{form}, which this Pillow (")
    assert cure in error.reason
    assert not error.permanent
    assert form not in failure(b"words" * 9).reason


def test_formats_that_nobody_here_reads():
    jpeg_xl = b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20)
    assert failure(jpeg_xl).reason.startswith("JPEG XL, which this Pillow (")


def test_heic_without_its_plugin(monkeypatch):
    monkeypatch.setattr(formats, "_load_plugin", lambda: None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(20)
    assert "HEIC, which this Pillow" in failure(heic).reason
    assert failure(heic).reason.endswith("pip install pillow-heif")


def test_heic_with_its_plugin():
    pillow_heif = pytest.importorskip("pillow_heif")
    formats.readable_formats()
    data = encoded(Image.fromarray(smooth(64, 48)), "HEIF", quality=95)
    assert np.abs(decode_picture(data).astype(int) - smooth(64, 48)).mean() < 4
    assert f"pillow_heif {pillow_heif.__version__}" in formats.decoder_version()


def test_a_format_that_somebody_elses_package_registers(monkeypatch):
    class Toy(ImageFile.ImageFile):
        format = "TOY"
        format_description = "a size and grey bytes"

        def _open(self) -> None:
            width, height = self.fp.read(6)[4:]
            self._mode, self._size = "L", (width, height)
            self.tile = [("raw", (0, 0, width, height), 6, ("L", 0, 1))]

    Toy.__module__ = "toy_pictures.plugin"
    package = types.ModuleType("toy_pictures")
    package.__version__ = "7.1"
    data = b"TOY!" + bytes((4, 3)) + bytes(range(12))
    assert "not a picture" in failure(data).reason
    monkeypatch.setitem(sys.modules, "toy_pictures", package)
    monkeypatch.setitem(Image.OPEN, "TOY", (Toy, lambda prefix: prefix.startswith(b"TOY!")))
    picture = decode_picture(data)
    np.testing.assert_array_equal(picture[:, :, 0], np.arange(12).reshape(3, 4))
    assert "toy_pictures 7.1" in formats.decoder_version()
    assert "TOY" in failure(b"words" * 9).reason


def test_the_decoders_version_names_pillow():
    assert formats.decoder_version().startswith("pillow ")


def test_pillows_own_other_formats_stay_out():
    for form in ("ICO", "PCX", "TGA"):
        stream = io.BytesIO()
        Image.fromarray(COLOUR).save(stream, form)
        assert "not a picture" in failure(stream.getvalue()).reason
