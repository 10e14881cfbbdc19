"""What changes between two calls, or is shared by two, is said: mended pictures, other classes."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import REPOSITORY, TESTS
from helpers.toy_cli import cli, ok, refused
from helpers.toy_run import OPTIONS, SHARD, Finished, quiet

from mpp_jax.data import DecodeError
from mpp_jax.files import exclusive
from mpp_jax.progress import one_line
from mpp_jax.runs import contents, pipeline
from mpp_jax.runs.fitted_on import fitted_on
from mpp_jax.runs.provenance import load_codebooks
from mpp_jax.storage.store import Store

pytestmark = pytest.mark.usefixtures("toy_known")


@pytest.fixture
def data(done: Finished, tmp_path: Path) -> Path:
    return shutil.copytree(done.data, tmp_path / "data")


def command(name: str, data: Path, out: Path, done: Finished) -> list[Any]:
    return [name, data, "--out", out, *OPTIONS, "--weights", done.weights, "--pooling", "mpp,avg"]


def broken(picture: Path) -> bytes:
    """Break a picture; return what it was."""
    content = picture.read_bytes()
    picture.write_bytes(content[:40])
    return content


# --------------------------------------------------------------------- pictures mended meanwhile


def test_a_codebook_says_what_it_was_fitted_without(
    done: Finished, data: Path, tmp_path: Path
) -> None:
    picture, book = data / "train" / "red" / "00.png", tmp_path / "book"
    whole = broken(picture)
    fit = command("fit", data, book, done)
    first = cli(*fit)
    assert first.exit_code == 1
    ((name, reason),) = fitted_on(book).skipped
    assert name == "train/red/00.png"
    assert f"skipped {name}: {reason}" in first.stderr
    before = load_codebooks(book)[0]["default.fisher"].pca.mean
    # Still broken: taken as it is, and said again.
    again = cli(*fit)
    assert (again.exit_code, f"skipped {name}: {reason}" in again.stderr) == (1, True)
    picture.write_bytes(whole)
    mended = ok(*fit)
    assert "can be read by now" in mended.stderr
    assert fitted_on(book).skipped == []
    assert np.abs(load_codebooks(book)[0]["default.fisher"].pca.mean - before).max() > 0


def test_a_run_says_that_its_codebook_lacks_a_mended_picture(
    done: Finished, data: Path, tmp_path: Path
) -> None:
    picture, out = data / "train" / "red" / "00.png", tmp_path / "out"
    whole = broken(picture)
    run = command("run", data, out, done)
    assert cli(*run).exit_code == 1
    picture.write_bytes(whole)
    result = cli(*run)
    assert result.exit_code == 1
    assert "while the codebook was fitted" in result.stderr
    assert "a new folder would use it" in result.stderr
    assert len(Store.open(out / "encodings").items("train")) == 15  # it is encoded by now
    skipped = json.loads((out / "metrics.json").read_text())["pictures"]["skipped"]
    assert [entry["path"] for entry in skipped] == ["train/red/00.png"]


def test_a_picture_unreadable_only_while_fitting_is_listed(
    done: Finished, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One error of the disk in the first pass, none in the second."""
    fails = ["00.png"]
    read = contents.read_picture

    def once(path: Path) -> bytes:
        if fails and str(path).endswith("green/00.png"):
            fails.clear()
            raise DecodeError(str(path), "cannot be read (Input/output error)")
        return read(path)

    monkeypatch.setattr(contents, "read_picture", once)
    result = cli(*command("run", data, tmp_path / "out", done))
    assert result.exit_code == 1
    assert (
        "skipped train/green/00.png: while the codebook was fitted: "
        "cannot be read (Input/output error)"
    ) in result.stderr.splitlines()


# ------------------------------------------------------------------------------ two at one place


def test_the_second_of_two_is_told_at_once(done: Finished, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = "another process is writing there"
    places = {
        "run": command("run", done.data, out, done),
        "fit": command("fit", done.data, out, done),
        "encode": ["encode", done.data, "--codebook", done.out / "codebook", "--out", out],
        "train": ["train", done.out / "encodings", "--out", out],
        "evaluate": ["evaluate", done.out / "model", done.out / "encodings", "--out", out],
    }
    for name, arguments in places.items():
        with exclusive(out):
            assert told in refused(*arguments), name
        assert not out.exists(), name
    parts = [tmp_path / "part-1", tmp_path / "part-2"]
    for number, part in enumerate(parts, 1):
        encode = ["encode", done.data, "--codebook", done.out / "codebook", "--out", part]
        ok(*encode, "--weights", done.weights, "--shard", f"{number}/2")
    with exclusive(parts[1]):  # its encode was given again
        assert f"{parts[1]}: {told}" in refused("merge", *parts, "--out", out)
    assert "hold the same part" in refused("merge", parts[0], parts[0], "--out", out)
    ok("merge", *parts, "--out", out)


def test_two_runs_of_different_seeds_leave_one_run(done: Finished, tmp_path: Path) -> None:
    """In two processes; one of them ends as if it had been alone."""
    out = tmp_path / "out"
    program = TESTS / "helpers" / "toy.py"
    environment = os.environ | {"TOY_SHARD": str(SHARD), "TOY_PAUSE_AFTER_SHARD": "99"}
    processes = []
    for seed in ("0", "1"):
        arguments = [*command("run", done.data, out, done), "--seed", seed, "--quiet"]
        processes.append(
            subprocess.Popen(
                [sys.executable, program, *map(str, arguments)],
                cwd=REPOSITORY,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        deadline = time.monotonic() + 300
        while not out.parent.joinpath(".out.lock").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
    messages = [process.communicate(timeout=600)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 2]
    assert "another process is writing there" in messages[1]
    assert load_codebooks(out / "codebook")[1].config.seed == 0
    assert not (tmp_path / ".out.lock").exists()


# ------------------------------------------------------------------------- some of the classes


def test_some_of_the_models_classes_can_be_evaluated(done: Finished, tmp_path: Path) -> None:
    """The test pictures of two of three classes: their columns of the machines decide."""
    two = shutil.copytree(done.data, tmp_path / "two")
    for split in ("train", "test"):
        shutil.rmtree(two / split / "green")
    store = tmp_path / "store"
    ok("encode", two, "--codebook", done.out / "codebook", "--out", store, "--pooling", "mpp,avg")
    model = replace(done.model, svms={m: done.model.svms[m] for m in ("mpp", "avg")})
    part = pipeline.score(model, Store.open(store), watcher=quiet())
    whole = pipeline.score(model, done.store, watcher=quiet())
    rows = [i for i, item in enumerate(done.store.items("test")) if "green" not in item.id]
    columns = [i for i, name in enumerate(model.classes) if name != "green"]
    for method, scores in part.items():
        np.testing.assert_allclose(scores, whole[method][rows][:, columns], atol=1e-6)
    result = refused("evaluate", done.out / "model", store, "--out", tmp_path / "out")
    assert "no encodings" in result  # the other methods were not encoded
    stranger = replace(model, classes=("red", "green", "violet"))
    with pytest.raises(ValueError, match="class 'blue', which the model does not know"):
        pipeline.score(stranger, done.store, watcher=quiet())


def test_names_with_line_breaks_stay_on_their_line() -> None:
    assert one_line("a\nb\t\x1b[1m \udce9 猫") == r"a\nb\t\x1b[1m \udce9 猫"
