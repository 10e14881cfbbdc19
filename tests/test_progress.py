"""Progress bars and the table of stages."""

import gc
import sys
import time

import pytest

from mpp_jax.progress import Bar, Watcher, waiting


def test_bar_over_an_iterable(capsys):
    assert list(Watcher().bar([1, 2, 3], "encode", "picture")) == [1, 2, 3]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "encode: 100%" in captured.err
    assert "3/3" in captured.err
    assert "picture/s" in captured.err


def test_bar_with_a_total(capsys):
    with Watcher().bar(10, "fit", "step", initial=4) as bar:
        bar.update(6)
    assert "10/10" in capsys.readouterr().err


def test_iterables_without_length(capsys):
    assert list(Watcher().bar(iter("ab"), "x")) == ["a", "b"]
    assert "2it" in capsys.readouterr().err


def test_quiet(capsys):
    assert list(Watcher(quiet=True).bar(range(3), "x")) == [0, 1, 2]
    with Watcher(quiet=True).bar(3, "x") as bar:
        bar.update(3)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_stages(capsys):
    watcher = Watcher()
    with watcher.stage("decode"):
        time.sleep(0.02)
    with watcher.stage("train"):
        pass

    def fails():
        with watcher.stage("decode"):
            time.sleep(0.02)
            raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        fails()
    watcher.add("train", 3.0)
    assert list(watcher.seconds) == ["decode", "train"]
    assert watcher.seconds["decode"] >= 0.04
    lines = watcher.table().splitlines()
    assert [line.split()[0] for line in lines] == ["stage", "decode", "train", "total"]
    assert len({len(line) for line in lines}) == 1
    assert "100.0%" in lines[-1]
    watcher.print_table()
    Watcher().print_table()
    quiet = Watcher(quiet=True)
    quiet.add("train", 1.0)
    quiet.print_table()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == watcher.table() + "\n"


def test_lines(capsys):
    Watcher().say("caf\udce9")  # a file name that is no UTF-8
    Watcher(quiet=True).say("nothing")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "caf\\udce9\n")


def test_what_a_stage_waited_for():
    watcher = Watcher(quiet=True)
    with waiting("nothing that is watched"):
        pass
    with watcher.stage("encode"):
        for _ in range(2):
            with waiting("decoding"):
                pass
        with watcher.stage("write"), waiting("the disk"):
            pass
        with waiting("the device"):
            pass
    assert {name: list(waits) for name, waits in watcher.waits.items()} == {
        "encode": ["decoding", "the device"],
        "write": ["the disk"],
    }
    watcher.seconds = {"encode": 8.0, "write": 2.0}
    watcher.waits = {"encode": {"decoding": 1.0, "the device": 6.0}}
    assert [" ".join(line.split()) for line in watcher.table().splitlines()] == [
        "stage seconds share",
        "encode 8.0 80.0%",
        "waiting for decoding 1.0 10.0%",
        "waiting for the device 6.0 60.0%",
        "write 2.0 20.0%",
        "total 10.0 100.0%",
    ]


def test_the_line_says_what_is_waited_for_and_what_was_skipped(capsys, monkeypatch):
    monkeypatch.setattr("mpp_jax.progress.LEAST_SHARE", 0.0)
    watcher = Watcher()
    assert watcher.bottleneck is None
    with watcher.stage("encode"), watcher.bar(3, "encode", "picture") as bar:
        with waiting("decoding"):
            time.sleep(0.02)
        with waiting("the disk"):
            pass
        bar.update(2)
        bar.skip("a.jpg", "no picture")
        bar.update(1)
        assert watcher.bottleneck == "decoding"
        monkeypatch.setattr("mpp_jax.progress.LEAST_SHARE", 1.1)
        assert watcher.bottleneck is None
    assert "3/3" in (err := capsys.readouterr().err)
    assert "waiting for decoding, 1 skipped" in err
    assert (bar.done, bar.skips) == (3, 1)


def test_seconds_over_several_calls(tmp_path, monkeypatch):
    place = tmp_path / "run" / "seconds.json"
    first = Watcher(quiet=True)
    first.keep_in(place)
    with first.stage("fit"):
        pass
    assert not place.exists()  # nothing else is there yet
    place.parent.mkdir()
    with first.stage("encode"), waiting("the disk"):
        time.sleep(0.02)
    second = Watcher(quiet=True)
    second.keep_in(place)
    second.add("fit", 1.0)
    second.add("train", 2.0)
    seconds, waits = second.totals()
    assert list(seconds) == ["fit", "encode", "train"]
    assert seconds["fit"] == pytest.approx(1.0 + first.seconds["fit"])
    assert seconds["encode"] == pytest.approx(first.seconds["encode"])
    assert waits == {"encode": {"the disk": pytest.approx(first.waits["encode"]["the disk"])}}
    # A stage that is open counts when it is killed.
    monkeypatch.setattr("mpp_jax.progress.KEEP_SECONDS", 0.0)
    with second.stage("encode"), second.bar(9, "encode") as bar:
        time.sleep(0.02)
        bar.update(1)
        killed = Watcher(quiet=True)
        killed.keep_in(place)
        assert killed.totals()[0]["encode"] >= seconds["encode"] + 0.02


def test_seconds_that_cannot_be_read(tmp_path, capsys):
    place = tmp_path / "seconds.json"
    place.write_text('{"seconds": 3}')
    watcher = Watcher()
    watcher.keep_in(place)
    assert "seconds are counted from this call on" in capsys.readouterr().err
    assert watcher.totals() == ({}, {})


@pytest.mark.parametrize("step", ["_get_free_pos", "refresh"])
def test_a_bar_that_is_interrupted_while_it_is_made(step, monkeypatch):
    """Python closes what there is of it, and says what goes wrong in that on standard error."""

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    lost = []
    monkeypatch.setattr(sys, "unraisablehook", lost.append)
    with monkeypatch.context() as patch:
        patch.setattr(Bar, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            Watcher().bar(3, "encode", "picture")
    gc.collect()
    assert lost == []
    half = Bar.__new__(Bar)
    half.close()
    del half
    assert lost == []
