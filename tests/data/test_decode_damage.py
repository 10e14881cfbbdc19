"""Every kind of damage gives a picture or one clear line; real photographs decode."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers.decode_samples import COLOUR, GREY16, check_contract, encoded, smooth
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mpp_jax.data import DecodeError, decode_picture

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
    error = pickle.loads(pickle.dumps(DecodeError("a.jpg", "empty")))
    assert (error.path, error.reason, str(error)) == ("a.jpg", "empty", "a.jpg: empty")


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
