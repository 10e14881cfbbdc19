"""Shards on disk: checked when opened, and shared by processes that write at the same time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import REPOSITORY

from mpp_jax.describe import shards
from mpp_jax.describe.shards import LostError, Shards

KEY = {"network": "toy"}


def rows(count: int, value: float = 1.0) -> dict[int, np.ndarray]:
    return {i: np.full((2, 3), value + i, np.float16) for i in range(count)}


def test_what_another_process_wrote_is_found(tmp_path):
    mine, others = Shards(tmp_path, KEY), Shards(tmp_path, KEY)
    others.write(["a", "b"], [None, "damaged"], {0: rows(1)[0]})
    assert "a" not in mine
    mine.refresh()
    assert "a" in mine
    assert "b" in mine
    assert mine.reason("b") == "damaged"
    assert mine.reason("a") is None
    np.testing.assert_array_equal(mine.activations("a"), rows(1)[0])
    with pytest.raises(LostError):
        mine.activations("b")


def test_a_shard_that_another_process_replaces(tmp_path):
    """Its rows may stand elsewhere: what was known of it counts no more."""
    mine, others = Shards(tmp_path, KEY), Shards(tmp_path, KEY)
    mine.write(["a", "b", "c"], [None] * 3, rows(3))
    assert "c" in mine
    others.write(["a", "b", "c"], [None] * 3, {i: row for i, row in rows(3).items() if i})
    with pytest.raises(LostError):
        mine.activations("c")
    np.testing.assert_array_equal(mine.activations("c"), rows(3)[2])
    assert "a" not in mine
    assert "b" in mine


def test_a_damaged_shard_hides_no_sound_one(tmp_path):
    one = Shards(tmp_path, KEY)
    one.write(["a", "b"], [None] * 2, rows(2))
    one.write(["b"], [None], rows(1, 2.0))
    [damaged] = [f for f in tmp_path.glob("*.npy") if len(np.load(f)) == 2]
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 4
    damaged.write_bytes(content)
    for _ in range(2):
        again = Shards(tmp_path, KEY)
        assert "a" not in again
        if "b" not in again:  # of the damaged one, whose record is gone now
            again = Shards(tmp_path, KEY)
        np.testing.assert_array_equal(again.activations("b"), rows(1, 2.0)[0])


def test_an_array_that_cannot_be_read_now_is_not_removed(tmp_path, monkeypatch):
    Shards(tmp_path, KEY).write(["a"], [None], rows(1))
    opened = Path.open

    def refuse(self, *args, **options):
        if self.suffix == ".npy":
            raise PermissionError(13, "Permission denied")
        return opened(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        assert "a" not in Shards(tmp_path, KEY)
    assert "a" in Shards(tmp_path, KEY)


def test_bytes_are_checked_once_for_each_state(tmp_path, monkeypatch):
    Shards(tmp_path, KEY).write(["a", "b"], [None] * 2, rows(2))
    taken = []
    digest = shards.hashlib.file_digest
    monkeypatch.setattr(shards.hashlib, "file_digest", lambda *a: taken.append(1) or digest(*a))
    again = Shards(tmp_path, KEY)
    for name in "abab":
        assert name in again
        again.activations(name)
    assert len(taken) == 1


def test_nothing_is_written_where_nothing_is_to_be_kept(tmp_path):
    Shards(tmp_path / "place", KEY).write(["a"], [None], {})
    assert not (tmp_path / "place").exists()


def test_leftovers_go_when_they_are_old(tmp_path):
    old, new = tmp_path / ".x.npy.1-a.tmp", tmp_path / ".y.npy.1-b.tmp"
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    Shards(tmp_path, KEY)
    assert not old.exists()
    assert new.exists()


PROCESS = """
import sys, time
from pathlib import Path
import numpy as np
from mpp_jax.describe.shards import LostError, Shards
folder, me = Path(sys.argv[1]), int(sys.argv[2])
ready = folder / f"ready{me}"
ready.touch()
while not (folder / f"ready{1 - me}").exists():
    time.sleep(0.01)
shards = Shards(folder / "cache", {"network": "toy"})
for turn in range(6):
    # The same pictures; each process could not decode another one of them.
    digests = [f"{turn}-{i}" for i in range(4)]
    rows = {i: np.full((1024, 1024), turn + i, np.float16) for i in range(4) if i != me}
    shards.write(digests, [None] * 4, rows)
    for i in rows:
        for _ in range(20):
            try:
                found = shards.activations(digests[i])
                break
            except LostError:
                shards.refresh()
                if digests[i] not in shards:
                    shards.write([digests[i]], [None], {0: rows[i]})
        assert (found == turn + i).all(), (turn, i)
print("fine")
"""


def test_two_processes_that_write_the_same_large_shards(tmp_path):
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path), str(me)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for me in (0, 1)
    ]
    for process in started:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out, err) == (0, "fine\n", "")
    left = Shards(tmp_path / "cache", KEY)
    for turn in range(6):
        for i in range(4):
            if f"{turn}-{i}" in left:
                assert (left.activations(f"{turn}-{i}") == turn + i).all()
    assert not list((tmp_path / "cache").glob(".*"))
    for record in (tmp_path / "cache").glob("*.json"):
        json.loads(record.read_text())
