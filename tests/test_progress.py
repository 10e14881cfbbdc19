"""Progress bars and the table of stages."""

import time

import pytest

from mpp_jax.progress import StageTimer, progress


def test_bar_over_an_iterable(capsys):
    assert list(progress([1, 2, 3], "encode", "picture")) == [1, 2, 3]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "encode: 100%" in captured.err
    assert "3/3" in captured.err
    assert "picture/s" in captured.err


def test_bar_with_a_total(capsys):
    with progress(10, "fit", "step", initial=4) as bar:
        bar.update(6)
    assert "10/10" in capsys.readouterr().err


def test_iterables_without_length(capsys):
    assert list(progress(iter("ab"), "x")) == ["a", "b"]
    assert "2it" in capsys.readouterr().err


def test_quiet(capsys):
    assert list(progress(range(3), "x", quiet=True)) == [0, 1, 2]
    with progress(3, "x", quiet=True) as bar:
        bar.update(3)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_stage_timer(capsys):
    timer = StageTimer()
    with timer.stage("decode"):
        time.sleep(0.02)
    with timer.stage("train"):
        pass

    def fails():
        with timer.stage("decode"):
            time.sleep(0.02)
            raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        fails()
    timer.add("train", 3.0)
    assert list(timer.seconds) == ["decode", "train"]
    assert timer.seconds["decode"] >= 0.04
    lines = timer.table().splitlines()
    assert [line.split()[0] for line in lines] == ["stage", "decode", "train", "total"]
    assert len({len(line) for line in lines}) == 1
    assert "100.0%" in lines[-1]
    timer.print_table()
    timer.print_table(quiet=True)
    StageTimer().print_table()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == timer.table() + "\n"
