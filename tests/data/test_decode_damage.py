"""Every kind of damage gives a picture or one clear line; real photographs decode."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers.decode_samples import COLOUR, GREY16, check_contract, encoded, smooth
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from mpp_jax.data import DecodeError, decode_picture
from mpp_jax.data.decode import convert_picture

# --- damage --------------------------------------------------------------------------------------


def failure(source) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        decode_picture(source)
    error = caught.value
    assert "\n" not in str(error)
    assert str(error) == f"{error.path}: {error.reason}"
    return error


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM"])
def test_truncated(form, tmp_path):
    data = encoded(Image.fromarray(smooth(64, 64)), form)
    path = tmp_path / "half.jpg"
    path.write_bytes(data[: len(data) // 2])
    error = failure(path)
    assert error.path == str(path)
    assert "truncated" in error.reason or "damaged" in error.reason


def test_empty_text_folder_and_missing(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no picture\n" * 100)
    assert "empty file (0 bytes)" in failure(tmp_path / "empty.png").reason
    assert "empty" in failure(b"").reason
    assert "not a picture" in failure(tmp_path / "notes.txt").reason
    assert "folder" in failure(tmp_path).reason
    assert "no such file" in failure(tmp_path / "absent.png").reason


def test_formats_that_run_programs_or_are_no_photographs_stay_out():
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n%%EndComments\nshowpage\n"
    assert "not a picture" in failure(postscript).reason
    assert "not a picture" in failure(encoded(Image.fromarray(COLOUR), "ICO")).reason


def test_wrong_arguments():
    with pytest.raises(ValueError, match="max_side"):
        decode_picture(b"x", max_side=0)
    with pytest.raises(TypeError, match="a picture is a path or its bytes, got int"):
        decode_picture(3)


def test_error_survives_pickling():
    for permanent in (False, True):
        error = pickle.loads(pickle.dumps(DecodeError("a.jpg", "empty", permanent)))
        assert (error.path, error.reason, str(error)) == ("a.jpg", "empty", "a.jpg: empty")
        assert error.permanent == permanent


SEEDS = [
    encoded(Image.fromarray(smooth(12, 9)), form)
    for form in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000")
] + [encoded(Image.fromarray(GREY16), "PNG"), encoded(Image.fromarray(GREY16), "TIFF")]


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    data=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=8),
    keep=st.integers(1, 100),
)
def test_damaged_bytes_give_a_picture_or_a_clear_error(data, edits, keep):
    damaged = bytearray(data[: max(1, len(data) * keep // 100)])
    for place, value in edits:
        damaged[place % len(damaged)] = value
    try:
        picture = decode_picture(bytes(damaged), max_side=64)
    except DecodeError as error:
        message = str(error)
    else:
        check_contract(picture)
        assert 1 <= max(picture.shape[:2]) <= 64
        message = "fine"
    assert message
    assert "\n" not in message


def test_real_photographs_decode_like_pillow(shared_dir):
    folder = Path(shared_dir) / "data" / "scene15" / "train" / "forest"
    for path in sorted(folder.iterdir())[:5]:
        with Image.open(path) as picture:
            np.testing.assert_array_equal(decode_picture(path), np.asarray(picture.convert("RGB")))


def test_an_opened_picture_that_is_damaged():
    data = encoded(Image.fromarray(COLOUR), "PNG")
    half = io.BytesIO(data[: len(data) // 2])
    with Image.open(half) as picture, pytest.raises(DecodeError, match="truncated or damaged"):
        convert_picture(picture)
    with pytest.raises(DecodeError, match="white level"):
        convert_picture(Image.fromarray(np.full((3, 3), -1.0, np.float32)))


# --- what is permanent ---------------------------------------------------------------------------


def test_what_another_try_may_mend_is_not_permanent(tmp_path, monkeypatch):
    def broken(source) -> DecodeError:
        with pytest.raises(DecodeError) as caught:
            decode_picture(source)
        return caught.value

    data = encoded(Image.fromarray(COLOUR), "PNG")
    assert broken(data[:60]).permanent
    assert broken(b"").permanent
    assert not broken(b"words, no picture" * 3).permanent
    assert not broken(tmp_path / "absent.png").permanent
    assert not broken(tmp_path).permanent
    path = tmp_path / "a.png"
    path.write_bytes(data)

    def fail(error: Exception):
        def load(self):
            raise error

        return load

    for error, reason in (
        (MemoryError(), "not enough memory to decode it"),
        (OSError("out of memory error when reading image file"), "not enough memory to decode it"),
        (OSError(5, "Input/output error"), "cannot be read (Input/output error)"),
    ):
        monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail(error))
        assert broken(path).reason == reason
        assert not broken(path).permanent
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail(OSError("broken PNG file")))
    assert broken(path).permanent
