"""Bytes of pictures: bounded, from regular files, a pipe once."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import REPOSITORY
from helpers.decode_samples import COLOUR, encoded
from PIL import Image

from mpp_jax.data import DecodeError, Item, canvas_batches, content, decode_picture
from mpp_jax.data.content import ReadOnce, is_pipe, read_picture, read_stream, special_kind

PNG = encoded(Image.fromarray(COLOUR), "PNG")

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")


def failure(call, *given) -> str:
    with pytest.raises(DecodeError) as caught:
        call(*given)
    assert not caught.value.permanent
    assert "\n" not in str(caught.value)
    assert "\0" not in str(caught.value)
    return caught.value.reason


def feed(pipe: Path, data: bytes) -> threading.Thread:
    """Write to a pipe as soon as somebody reads."""

    def write() -> None:
        with pipe.open("wb") as file:
            file.write(data)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def test_a_file_is_read_whole(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    assert read_picture(path) == read_picture(str(path)) == PNG
    assert special_kind(path) is None
    (tmp_path / "link.png").symlink_to(path)
    assert read_picture(tmp_path / "link.png") == PNG


@pytest.mark.parametrize("call", [read_picture, decode_picture])
def test_what_is_no_regular_file_is_not_opened(tmp_path, call):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("pipe.png")
    assert failure(call, tmp_path / "pipe.png") == "is a named pipe, not a picture file"
    assert failure(call, tmp_path / "link.png") == "is a named pipe, not a picture file"
    assert failure(call, "/dev/zero") == "is a device, not a picture file"
    assert failure(call, tmp_path) == "is a folder, not a picture"
    assert failure(call, tmp_path / "absent") == "no such file"
    assert failure(call, tmp_path / ("x" * 300)).startswith("cannot be read (")
    assert failure(call, f"{tmp_path}/a\0b.png") == "its name holds a NUL character"


def test_a_pipe_that_takes_a_files_place_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    monkeypatch.setattr(content, "special_kind", lambda path: None)
    assert failure(read_picture, tmp_path / "pipe.png") == "is a named pipe, not a picture file"


def test_files_of_any_size_are_not_read(tmp_path, monkeypatch):
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(2**31 + 1)  # takes no room
    for call in (read_picture, decode_picture):
        assert failure(call, path) == ("too large: 2,147,483,649 bytes, the limit is 2,147,483,648")
    monkeypatch.setattr(content, "MAX_FILE", len(PNG))
    path.write_bytes(PNG)
    assert read_picture(path) == PNG
    path.write_bytes(PNG + b"\0")
    assert "too large" in failure(read_picture, path)


def test_memory_may_be_short(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)

    def fail(path):
        raise MemoryError

    monkeypatch.setattr(content, "open_picture", fail)
    assert failure(read_picture, path) == "not enough memory to read it"


def test_a_pipe_that_is_named_is_read_once(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert is_pipe(pipe)
    assert not is_pipe(tmp_path)
    assert not is_pipe(tmp_path / "absent")
    assert not is_pipe("a\0b")
    writer = feed(pipe, PNG)
    item = Item("pipe", (), "test", read=ReadOnce(pipe))
    for _ in range(2):  # the second time it is remembered
        [batch] = canvas_batches([item], batch_size=1)
        height, width = batch.sizes[0]
        np.testing.assert_array_equal(batch.canvas[0, :height, :width], COLOUR)
    writer.join()


def test_a_pipe_with_nothing_or_without_end(tmp_path, monkeypatch):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = feed(pipe, b"")
    assert failure(ReadOnce(pipe)) == "empty (0 bytes)"
    writer.join()
    monkeypatch.setattr(content, "MAX_FILE", 100)
    with Path("/dev/zero").open("rb") as endless:
        assert failure(read_stream, endless, "-") == (
            "too large: more than 100 bytes, the limit is 100"
        )
    assert failure(ReadOnce(tmp_path / "absent")) == "no such file"


def test_standard_input_is_a_pipe_to_be_read_once():
    program = (
        "import sys; from mpp_jax.data.content import *; "
        "assert is_pipe('/dev/stdin'); read = ReadOnce('/dev/stdin'); "
        "assert read() == read(); sys.stdout.buffer.write(read())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        input=PNG,
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == PNG
    assert not stat.S_ISFIFO(os.stat(os.devnull).st_mode)
