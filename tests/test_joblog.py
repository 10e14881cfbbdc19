"""Logs of jobs: JSON lines that say how far the work is."""

import json
import time
from datetime import datetime

import pytest

from mpp_jax import joblog
from mpp_jax.joblog import current_log, logged
from mpp_jax.progress import Watcher, waiting


def lines(place):
    return [json.loads(line) for line in place.read_text().splitlines()]


def test_a_job_is_logged(tmp_path, monkeypatch):
    monkeypatch.setattr(joblog, "PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr("mpp_jax.progress.LEAST_SHARE", 0.0)
    place, watcher = tmp_path / "job.jsonl", Watcher(quiet=True)
    with logged(place, "encode", {"data": "pictures", "append": None}) as log:
        with watcher.stage("encode"), watcher.bar(4, "encode", "picture", initial=1) as bar:
            with waiting("decoding"):
                time.sleep(0.05)
            bar.update(1)
            assert len(lines(place)) == 3  # flushed a line at a time
            bar.skip("caf\udce9.jpg", "no picture")
            bar.update(1)
            log.skip("caf\udce9.jpg", "no picture")
            bar.update(1)
        log.end(1)
    current_log().write("lost")
    start, stage, first, skip, second, last, end = lines(place)
    assert start["arguments"] == {"data": "pictures"}
    assert (start["event"], start["command"]) == ("start", "encode")
    assert (stage["event"], stage["stage"]) == ("stage", "encode")
    assert skip["path"] == "caf\udce9.jpg"
    assert first["rate"] > 0
    assert [(p["done"], p["total"], p["skipped"]) for p in (first, second, last)] == [
        (2, 4, 0),
        (3, 4, 1),
        (4, 4, 1),
    ]
    assert first["bottleneck"] == "decoding"
    assert last["eta"] == 0.0
    assert (end["event"], end["status"]) == ("end", 1)
    assert datetime.fromisoformat(end["time"]).tzinfo is not None
    with logged(place, "encode", {}):
        pass
    assert len(lines(place)) == 8  # appended


def test_lines_of_progress_are_few(tmp_path):
    place = tmp_path / "job.jsonl"
    with logged(place, "x", {}):
        assert list(Watcher(quiet=True).bar(range(100), "x")) == [*range(100)]
    assert [line.get("done") for line in lines(place)] == [None, 1, 100]


def test_a_log_that_cannot_be_written(tmp_path, capsys):
    with pytest.raises(OSError, match="Is a directory"), logged(tmp_path, "x", {}):
        pass
    with logged(tmp_path / "job.jsonl", "x", {}) as log:
        log._file.close()

        def full(text):
            raise OSError(28, "No space left on device")

        log._file = type("Full", (), {"write": staticmethod(full)})()
        log.write("lost")
        log.write("lost")
    assert capsys.readouterr().err == "log: cannot be written any more (No space left on device)\n"


def test_passwords_and_signatures_are_not_logged(tmp_path):
    place = tmp_path / "job.jsonl"
    address = "wds:https://me:secret@host/shard-{0..9}.tar?sig=secret"
    with logged(place, "x", {"data": address, "out": "s3://bucket/out"}):
        pass
    assert lines(place)[0]["arguments"] == {
        "data": "wds:https://host/shard-{0..9}.tar?...",
        "out": "s3://bucket/out",
    }
