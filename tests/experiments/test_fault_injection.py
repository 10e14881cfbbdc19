"""The experiment that kills jobs and flips bits: that it sees what it is made to see."""

import contextlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest


def store(folder: Path, *rows: tuple[str, str, int]) -> None:
    """Write a shard's record of (id, status, row)."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = dict(
        zip(("ids", "statuses", "rows"), map(list, zip(*rows, strict=True)), strict=True)
    )
    record = {"format": "mpp-jax-store-shard", "shard": 0, **columns}
    (folder / "shard-00000.json").write_text(json.dumps(record))


def test_one_bit_and_no_new_time(tmp_path: Path) -> None:
    import fault_flips

    file = tmp_path / "file"
    before = bytes(range(200))
    file.write_bytes(before)
    times = file.stat()
    byte, bit = fault_flips.flip(file, np.random.default_rng(0))
    after = file.read_bytes()
    assert [i for i in range(200) if after[i] != before[i]] == [byte]
    assert after[byte] ^ before[byte] == 1 << bit
    assert file.stat().st_mtime_ns == times.st_mtime_ns


def test_lost_doubled_different(tmp_path: Path) -> None:
    import fault_folders

    sound, mine = tmp_path / "sound", tmp_path / "mine"
    rows = [(f"{i}.png", "done", i) for i in range(4)]
    store(sound / "out", *rows)
    (sound / "out" / "shard.npy").write_bytes(b"sound")
    shutil.copytree(sound, mine)
    row = fault_folders.Row()
    assert fault_folders.compare(mine, sound, row)
    assert row == fault_folders.Row()

    (mine / "out" / "shard.npy").write_bytes(b"other")
    store(mine / "out", *rows[:2], rows[1], ("2.png", "skipped", 2), ("3.png", "done", 0))
    assert not fault_folders.compare(mine, sound, row, command="run")
    assert row.lost == 1  # 2.png
    # 1.png is there twice; so are the rows of 0.png and 1.png
    assert row.doubled == 3
    assert row.different == 2  # the record itself and the array
    assert [fault["kind"] for fault in row.faults] == ["lost", "doubled", "different"]
    assert all(fault["command"] == "run" for fault in row.faults)

    besides = ("out/shard.npy", "out/shard-00000.json")
    store(mine / "out", *rows)
    assert fault_folders.compare(mine, sound, fault_folders.Row(), besides)


def test_what_is_compared(tmp_path: Path) -> None:
    """No seconds, no report, no temporary files; those are leftovers."""
    import fault_folders

    (tmp_path / "metrics.json").write_text(
        json.dumps({"seconds": {"fit": 1.5}, "waiting": {}, "results": 1})
    )
    (tmp_path / "report.html").write_text("<p>")
    (tmp_path / "seconds.json").write_text("{}")
    (tmp_path / ".x.npy.1-2.tmp").write_text("half")
    (tmp_path / ".model.partial" / "arrays").mkdir(parents=True)
    (tmp_path / ".model.partial" / "record.json").write_text("{}")
    assert fault_folders.snapshot(tmp_path) == {
        "metrics.json": '{"results": 1}',
    }
    names = [path.name for path in fault_folders.leftovers(tmp_path)]
    assert names == [".model.partial", ".x.npy.1-2.tmp"]
    assert fault_folders.records(tmp_path) == Counter()


def test_records_of_a_cache(tmp_path: Path) -> None:
    import fault_folders

    for shard in ("a", "b"):
        record = {"pictures": ["one", shard], "rows": [0, 1], "reasons": [None, None]}
        (tmp_path / f"{shard}.json").write_text(json.dumps(record))
    (tmp_path / "damaged.json").write_bytes(b"\xff{")
    found = fault_folders.records(tmp_path)
    assert found == {(".", "one"): 2, (".", "a"): 1, (".", "b"): 1}


def test_caches_are_compared_by_picture(tmp_path: Path) -> None:
    """Which pictures share a file depends on which were there together."""
    import fault_folders

    def shard(folder: str, name: str, **rows: float) -> None:
        (tmp_path / folder / "key").mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / folder / "key" / f"{name}.npy", np.array([*rows.values()]))
        none = [None] * len(rows)
        record = {"pictures": [*rows], "rows": [*range(len(rows))], "reasons": none}
        (tmp_path / folder / "key" / f"{name}.json").write_text(json.dumps(record))

    shard("sound", "ab", a=1.0, b=2.0)
    shard("mine", "b", b=2.0)
    shard("mine", "a", a=1.0)
    sound, mine = tmp_path / "sound", tmp_path / "mine"
    assert fault_folders.compare(mine, sound, fault_folders.Row())
    shard("mine", "b", b=2.5)
    assert not fault_folders.compare(mine, sound, row := fault_folders.Row())
    assert (row.lost, row.doubled, row.different) == (0, 0, 1)


class Alive:
    """A job that is still running."""

    pid = 0

    def is_alive(self) -> bool:
        return True


class Program:
    """A program of Python, as `multiprocessing` has processes."""

    def __init__(self, text: str) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", text])
        self.pid = self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def join(self, seconds: float | None = None) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.mark.parametrize("family", [False, True])
def test_moments_are_of_computing(family: bool) -> None:
    import fault_processes

    nested = "import os, time; os.fork() and time.sleep(60)\nfor _ in range(10**12): pass"
    program = Program(nested if family else "while True: pass")
    try:
        assert fault_processes.wait_for(program, 0.3, family) >= 0.3
        assert program.is_alive()
    finally:
        for child in psutil.Process(program.pid).children():
            child.kill()
        program.kill()
    assert fault_processes.wait_for(program, 0.3, family) == 0


def test_pictures_are_removed_and_put_back(tmp_path: Path) -> None:
    import fault_disturbances

    data = tmp_path / "data"
    (data / "red").mkdir(parents=True)
    for name in "abcdefgh":
        (data / "red" / f"{name}.png").write_text(name)
    how, counts = fault_disturbances.RemovedInput(data), set()
    for seed in range(20):
        assert how.strike(Alive(), np.random.default_rng(seed))[0] == 1
        counts.add(len([*data.rglob("*.png")]))
        how.mend()
        assert [f.read_text() for f in sorted(data.rglob("*.png"))] == [*"abcdefgh"]
    assert max(counts) == 7
    assert len(counts) > 2


def test_a_disk_is_full_and_has_room_again(tmp_path: Path) -> None:
    import fault_disturbances

    how = fault_disturbances.FullDisk()
    try:
        with how.around(tmp_path):
            (tmp_path / "own").write_bytes(b"own")
            assert how.strike(Alive(), np.random.default_rng(0))[0] == 1
            with pytest.raises(OSError, match="No space left"):
                (tmp_path / "more").write_bytes(bytes(2**17))
            how.mend()
            (tmp_path / "more").write_bytes(bytes(2**17))
            assert sorted(path.name for path in tmp_path.iterdir()) == ["more", "own"]
    except fault_disturbances.Impossible as error:
        pytest.skip(str(error))
    assert not [*tmp_path.iterdir()]


FULL = "skipped a: b\nerror: no space left on the disk at /x; make room\n"
GONE = "skipped a.png: no such file\n"
NEW = "skipped a.png: it can be read by now, but a new folder would use it\n"


@pytest.mark.parametrize(
    ("kind", "what", "status", "said", "then"),
    [
        ("Kill", "SIGKILL", -9, "", "again"),
        ("Kill", "SIGTERM", 143, "interrupted", "again"),
        ("Kill", "SIGTERM", 0, "", "done"),
        ("Kill", "SIGTERM", 1, "", None),
        ("Kill", "", 143, "", None),
        ("FullDisk", "filled", 2, FULL, "again"),
        ("FullDisk", "", 2, FULL, None),
        ("FullDisk", "filled", 70, FULL, None),
        ("FullDisk", "filled", 2, f"{FULL}and more\n", None),
        ("FullDisk", "filled", 2, f"a warning\n{FULL}", None),
        ("FullDisk", "filled", 2, "error: something else\n", None),
        ("RemovedInput", "removed", 0, "", "again"),
        ("RemovedInput", "removed", 1, GONE, "again"),
        ("RemovedInput", "removed", 1, "", None),
        ("RemovedInput", "removed", 2, "error: no picture\n", "again"),
        ("RemovedInput", "removed", 2, "a.png\n", None),
        ("RemovedInput", "", 0, "", "done"),
        ("RemovedInput", "", 1, GONE, None),
        ("RemovedInput", "", 1, NEW, "anew"),
        ("RemovedInput", "", 1, GONE + NEW, None),
        ("RemovedInput", "", 2, "error: others; give a new folder\n", "anew"),
        ("RemovedInput", "", 2, "error: others\n", None),
        ("RemovedInput", "", 70, "error: a new folder\n", None),
    ],
)
def test_what_may_be_answered(
    tmp_path: Path, kind: str, what: str, status: int, said: str, then: str | None
) -> None:
    import fault_disturbances

    given = (tmp_path,) if kind == "RemovedInput" else ()
    assert getattr(fault_disturbances, kind)(*given).verdict(what, status, said) == then


def test_rows_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fault_injection

    out = tmp_path / "out.json"
    monkeypatch.setattr(fault_injection, "sources_digest", lambda: "one")
    table = fault_injection.Table(out, seed=0, go_on=False)
    for name in ("kill run", "kill fit"):
        table.row(name).tries = 3
        table.save(table.row(name))
    assert fault_injection.Table(out, seed=0, go_on=False).row("kill run").tries == 0
    monkeypatch.setattr(fault_injection, "sources_digest", lambda: "two")
    other = fault_injection.Table(out, seed=0, go_on=True)
    assert other.row("kill run").tries == 3
    assert other.row("kill train").tries == 0
    other.rows["kill run"].tries = 4
    other.save(other.row("kill run"))
    rows = json.loads(out.read_text())["situations"]
    assert {name: (row["tries"], row["programs"]) for name, row in rows.items()} == {
        "kill run": (4, ["one", "two"]),
        "kill fit": (3, ["one"]),
        "kill train": (0, []),
    }


@pytest.mark.slow
def test_small_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Thirty disturbances and some flips leave nothing lost, doubled or wrong."""
    import fault_injection

    out = tmp_path / "out.json"
    arguments = ["--each", "2", "--ray", "1", "--flips", "8", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["fault_injection.py", *arguments])
    with pytest.raises(SystemExit) as ending:
        fault_injection.main()
    record, printed = json.loads(out.read_text()), capsys.readouterr().out
    rows = record["situations"]
    assert {"date", "processor"} <= set(record["made"])
    assert {name: row["faults"] for name, row in rows.items() if row["faults"]} == {}
    assert not ending.value.code
    flips = [name for name in rows if name.startswith("flip")]
    assert all(rows[name]["tries"] == 2 for name in flips)
    assert len(flips) == 4
    kinds = {"kill": 5, "kill workers of": 1, "removed input": 4}
    if "no disk can be mounted here" not in printed:
        kinds["full disk"] = 5
        assert sum(row["disturbed"] for name, row in rows.items() if name not in flips) >= 30
    for kind, count in kinds.items():
        assert len([name for name in rows if name.startswith(kind)]) >= count
    assert "flip encodings" in printed
