"""The experiment that kills jobs and flips bits: that it sees what it is made to see."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
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
    import fault_injection

    file = tmp_path / "file"
    before = bytes(range(200))
    file.write_bytes(before)
    times = file.stat()
    byte, bit = fault_injection.flip(file, np.random.default_rng(0))
    after = file.read_bytes()
    assert [i for i in range(200) if after[i] != before[i]] == [byte]
    assert after[byte] ^ before[byte] == 1 << bit
    assert file.stat().st_mtime_ns == times.st_mtime_ns


def test_lost_doubled_different(tmp_path: Path) -> None:
    import fault_injection

    sound, mine = tmp_path / "sound", tmp_path / "mine"
    rows = [(f"{i}.png", "done", i) for i in range(4)]
    store(sound / "out", *rows)
    (sound / "out" / "shard.npy").write_bytes(b"sound")
    shutil.copytree(sound, mine)
    row = fault_injection.Row()
    assert fault_injection.compare(mine, sound, row)
    assert row == fault_injection.Row()

    (mine / "out" / "shard.npy").write_bytes(b"other")
    store(mine / "out", *rows[:2], rows[1], ("2.png", "skipped", 2), ("3.png", "done", 0))
    assert not fault_injection.compare(mine, sound, row, command="run")
    assert row.lost == 1  # 2.png
    # 1.png is there twice; so are the rows of 0.png and 1.png
    assert row.doubled == 3
    assert row.different == 2  # the record itself and the array
    assert [fault["kind"] for fault in row.faults] == ["lost", "doubled", "different"]
    assert all(fault["command"] == "run" for fault in row.faults)

    besides = ("out/shard.npy", "out/shard-00000.json")
    store(mine / "out", *rows)
    assert fault_injection.compare(mine, sound, fault_injection.Row(), besides)


def test_what_is_compared(tmp_path: Path) -> None:
    """No seconds, no report, no temporary files; those are leftovers."""
    import fault_tools

    (tmp_path / "metrics.json").write_text(
        json.dumps({"seconds": {"fit": 1.5}, "waiting": {}, "results": 1})
    )
    (tmp_path / "report.html").write_text("<p>")
    (tmp_path / ".x.npy.1-2.tmp").write_text("half")
    (tmp_path / ".model.partial" / "arrays").mkdir(parents=True)
    (tmp_path / ".model.partial" / "record.json").write_text("{}")
    assert fault_tools.snapshot(tmp_path) == {
        "metrics.json": '{"results": 1}',
    }
    names = [path.name for path in fault_tools.leftovers(tmp_path)]
    assert names == [".model.partial", ".x.npy.1-2.tmp"]
    assert fault_tools.records(tmp_path) == Counter()


def test_records_of_a_cache(tmp_path: Path) -> None:
    import fault_tools

    for shard in ("a", "b"):
        record = {"pictures": ["one", shard], "rows": [0, 1], "reasons": [None, None]}
        (tmp_path / f"{shard}.json").write_text(json.dumps(record))
    (tmp_path / "damaged.json").write_bytes(b"\xff{")
    found = fault_tools.records(tmp_path)
    assert found == {(".", "one"): 2, (".", "a"): 1, (".", "b"): 1}


@pytest.mark.slow
def test_small_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kills and flips of every kind leave nothing lost, doubled or wrong."""
    import fault_injection

    out = tmp_path / "out.json"
    arguments = ["--kills", "7", "--flips", "8", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["fault_injection.py", *arguments])
    with pytest.raises(SystemExit) as ending:
        fault_injection.main()
    record = json.loads(out.read_text())
    rows = record["situations"]
    assert {"date", "processor"} <= set(record["made"])
    assert list(rows)[:2] == ["kill run", "kill run --cache"]
    assert all(row["tries"] == (1 if name.startswith("kill") else 2) for name, row in rows.items())
    assert {name: row["faults"] for name, row in rows.items() if row["faults"]} == {}
    assert not ending.value.code
    assert "flip encodings" in capsys.readouterr().out
