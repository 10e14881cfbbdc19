"""Whole files and folders: killed, failed, shared, and what else lies there."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mpp_jax import files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    place = tmp_path / "a.bin"
    files.write_file(place, b"one")
    files.write_file(place, lambda file: file.write(b"two"))
    assert place.read_bytes() == b"two"

    def fail(file) -> None:
        file.write(b"thr")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        files.write_file(place, fail)
    assert place.read_bytes() == b"two"
    assert names(tmp_path) == ["a.bin"]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    place = tmp_path / "a.bin"
    contents = [bytes([i]) * 200_000 for i in range(8)]
    threads = [threading.Thread(target=files.write_file, args=(place, c)) for c in contents * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert place.read_bytes() in contents
    assert names(tmp_path) == ["a.bin"]


def test_old_leftovers_go_and_young_ones_stay(tmp_path: Path) -> None:
    for name, age in ((".a.npy.1-x.tmp", 100), (".b.npy.2-y.tmp", 0), ("c.tmp", 100)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    files.remove_leftovers(tmp_path, seconds=50)
    assert names(tmp_path) == [".b.npy.2-y.tmp", "c.tmp"]


def write_folder(place: Path, text: str, own: tuple[str, ...] | None = ("ours.txt",)) -> None:
    with files.replaced_folder(place, own) as fresh:
        (fresh / "ours.txt").write_text(text)


def test_a_folder_is_replaced_and_what_is_not_ours_is_carried_over(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "model"
    write_folder(place, "one")
    (place / "notes.txt").write_text("mine")
    (place / "more").mkdir()
    (place / "more" / "x").write_text("mine too")
    (place / "link").symlink_to(tmp_path)
    write_folder(place, "two")
    assert (place / "ours.txt").read_text() == "two"
    assert (place / "notes.txt").read_text() == "mine"
    assert (place / "more" / "x").read_text() == "mine too"
    assert (place / "link").is_symlink()
    write_folder(place, "three", own=None)
    assert names(place) == ["ours.txt"]
    assert names(place.parent) == ["model"]


def test_a_failure_leaves_the_old_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "model", "one")

    def fail() -> None:
        with files.replaced_folder(tmp_path / "model") as fresh:
            (fresh / "half").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(tmp_path) == ["model"]
    assert (tmp_path / "model" / "ours.txt").read_text() == "one"


def test_a_kill_between_the_two_moves_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "model"
    write_folder(place, "one")
    rename, calls = Path.rename, []

    def killed(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2:
            raise SystemExit  # as a kill: nothing after it is done
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(SystemExit):
            write_folder(place, "two")
    assert not place.exists()
    files.restore_folder(place)
    assert (place / "ours.txt").read_text() == "two"
    write_folder(place, "three")
    assert names(tmp_path) == ["model"]
    # A part that was never finished is no folder.
    (tmp_path / ".book.partial").mkdir()
    files.restore_folder(tmp_path / "book")
    assert not (tmp_path / "book").exists()


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    place = tmp_path / "out"
    with files.exclusive(place):
        with pytest.raises(files.BusyError, match=f"{place}: another process is writing there"):
            files.exclusive(place).__enter__()
        with files.exclusive(tmp_path / "other"):
            pass
    with files.exclusive(place):
        pass
    assert names(tmp_path) == []
    # What cannot be a place is refused by whoever writes there.
    (tmp_path / "file").touch()
    with files.exclusive(tmp_path / "file" / "x"):
        pass


def test_an_interrupt_waits_until_a_folder_is_written(tmp_path: Path) -> None:
    def interrupted() -> None:
        with files.replaced_folder(tmp_path / "model") as fresh:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            (fresh / "ours.txt").write_text("whole")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "model" / "ours.txt").read_text() == "whole"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.skipif(not hasattr(os, "fork"), reason="asks for a process that dies")
def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; from mpp_jax import files; "
        "held = files.exclusive(pathlib.Path(sys.argv[1])); held.__enter__(); os._exit(9)"
    )
    place = tmp_path / "out"
    assert subprocess.run([sys.executable, "-c", code, place], check=False).returncode == 9
    assert (tmp_path / ".out.lock").exists()
    with files.exclusive(place):
        pass
    assert names(tmp_path) == []


def test_where_signals_are_put_off_libraries_set_no_handlers_of_their_own():
    """Ray's raised `SystemExit` wherever SIGTERM met it; once Python could only ignore that."""
    got = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    other = signal.getsignal(signal.SIGUSR1)
    try:
        own = signal.getsignal(signal.SIGTERM)
        with files.undisturbed():
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            signal.raise_signal(signal.SIGTERM)
            assert got == []
        assert got == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is own
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGUSR1, other)
