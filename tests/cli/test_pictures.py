"""How pictures are named: files, folders, lists, pipes, standard input; bytes and PIL in Python."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import REPOSITORY, TESTS
from helpers.toy_cli import cli, ok, refused
from helpers.toy_run import SHARD, Finished
from PIL import Image

from mpp_jax.cli.app import main
from mpp_jax.data import decode_picture
from mpp_jax.runs.model import load_model

pytestmark = pytest.mark.usefixtures("toy_known")


def scores(*arguments: Any, **options: Any) -> dict[str, dict[str, float]]:
    """{path: {class: score}} that predict prints."""
    result = CliRunner().invoke(main, [*map(str, arguments), "--json", "--quiet"], **options)
    assert result.exit_code == 0, result.stderr
    return {
        entry["path"]: {one["class"]: one["score"] for one in entry["classes"]}
        for entry in json.loads(result.stdout)
    }


def test_folders_lists_and_standard_input(done: Finished, tmp_path: Path) -> None:
    model, red = done.out / "model", done.data / "test" / "red"
    files = sorted(red.glob("*.png"))
    wanted = scores("predict", model, *files)
    folder = shutil.copytree(red, tmp_path / "red")
    (folder / ".hidden").write_text("no picture")
    assert [*scores("predict", model, folder).values()] == [*wanted.values()]
    (tmp_path / "list.txt").write_text(f"{files[1]}\n\n{files[0]}\n")
    listed = scores("predict", model, "--list", tmp_path / "list.txt")
    assert [*listed] == [str(files[1]), str(files[0])]
    assert listed[str(files[0])] == wanted[str(files[0])]
    piped = scores("predict", model, "--list", "-", input=f"{files[2]}\n")
    assert piped == {str(files[2]): wanted[str(files[2])]}
    one = scores("predict", model, "-", input=files[0].read_bytes())
    assert one == {"-": wanted[str(files[0])]}
    assert "no picture: name files" in refused("predict", model)
    assert "no list of pictures" in refused("predict", model, "--list", tmp_path / "none")


def test_search_and_confidence_take_folders(done: Finished, tmp_path: Path) -> None:
    red = done.data / "test" / "red"
    found = ok("search", done.out / "encodings", red, "--top", "1", "--json")
    entries = json.loads(found.stdout)
    assert [Path(entry["path"]).name for entry in entries] == ["00.png", "01.png", "02.png"]
    for entry in entries:  # each finds itself
        (nearest,) = entry["neighbours"]
        assert entry["path"].endswith(nearest["path"])
        assert 0.999 < nearest["similarity"] <= 1
    out = tmp_path / "maps"
    ok("confidence", done.out / "model", red, "--out", out, "--method", "mpp")
    assert len(list(out.iterdir())) == 6


def test_no_picture_of_the_users_is_written_over(done: Finished, tmp_path: Path) -> None:
    own = shutil.copytree(done.data / "test" / "red", tmp_path / "a")
    before = {file: file.read_bytes() for file in own.iterdir()}
    maps = ("confidence", done.out / "model", own / "00.png", "--method", "mpp", "--out")
    assert "00.png: is there already, and is no confidence map" in refused(*maps, own)
    assert {file: file.read_bytes() for file in own.iterdir()} == before
    out = tmp_path / "maps"
    ok(*maps, out)
    ok(*maps, out)  # over its own
    (out / "00.npz").write_text("mine")
    assert "00.npz: is there already" in refused(*maps, out)
    # Neither is a page or a file of figures.
    evaluate = ("evaluate", done.out / "model", done.out / "encodings", "--out")
    for name in ("report.html", "metrics.json"):
        place = tmp_path / name.partition(".")[0]
        place.mkdir()
        (place / name).write_text("{}")
        assert f"{name}: is there already, and was not made by" in refused(*evaluate, place)
        assert (place / name).read_text() == "{}"
    ok(*evaluate, tmp_path / "results")
    ok(*evaluate, tmp_path / "results")


def test_what_lies_in_a_model_folder_stays(done: Finished, tmp_path: Path) -> None:
    model = tmp_path / "model"
    train = ("train", done.out / "encodings", "--out", model, "--pooling", "avg")
    ok(*train)
    (model / "notes.txt").write_text("mine")
    ok(*train, "--c", "3")
    assert (model / "notes.txt").read_text() == "mine"


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no pipes by name")
def test_a_named_pipe_is_read_once(done: Finished) -> None:
    picture = done.data / "test" / "red" / "00.png"
    (wanted,) = scores("predict", done.out / "model", picture).values()
    program = TESTS / "helpers" / "toy.py"
    text = (
        f"{sys.executable} {program} predict {done.out / 'model'} <(cat {picture}) --json --quiet"
    )
    result = subprocess.run(
        ["/bin/bash", "-c", text],
        cwd=REPOSITORY,
        env=os.environ | {"TOY_SHARD": str(SHARD), "TOY_PAUSE_AFTER_SHARD": "99"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    (entry,) = json.loads(result.stdout)
    assert {one["class"]: one["score"] for one in entry["classes"]} == wanted


def test_python_takes_what_people_have(done: Finished) -> None:
    path = done.data / "test" / "red" / "00.png"
    model = load_model(done.out / "model")
    upright = Image.open(path)
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.save(turned, "PNG", exif=exif)
    given = [path, str(path), path.read_bytes(), upright, decode_picture(path)]
    found = model.predict([*given, Image.open(turned), turned.getvalue()]).scores
    for row in range(1, len(given)):
        np.testing.assert_array_equal(found[row], found[0])
    np.testing.assert_array_equal(found[-2], found[-1])
    for one in (path, path.read_bytes(), upright):
        with pytest.raises(TypeError, match="must be a sequence of pictures"):
            model.predict(one)


def test_a_folder_without_pictures(done: Finished, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no picture" in refused("predict", done.out / "model", tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").write_text("hello")
    result = cli("predict", done.out / "model", tmp_path / "empty")
    assert result.exit_code == 1
    assert "skipped" in result.stderr


def test_links_and_special_files_in_a_named_folder(done: Finished, tmp_path: Path) -> None:
    model, red = done.out / "model", done.data / "test" / "red"
    folder = shutil.copytree(red, tmp_path / "red")
    (folder / "linked").symlink_to(red)
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    result = cli("predict", model, folder, "--json")
    assert result.exit_code == 1
    answers = {entry["path"]: entry for entry in json.loads(result.stdout)}
    assert len(answers) == 2 * len(list(red.glob("*.png"))) + 1
    assert "pipe" in answers[str(folder / "pipe.png")]["error"]
    for said in ("1 linked folder(s) followed: 'linked'", "'loop'", f"skipped {folder}/pipe.png: "):
        assert said in result.stderr


def test_empty_standard_input_is_skipped_by_name(done: Finished) -> None:
    result = CliRunner().invoke(main, ["predict", str(done.out / "model"), "-"], input=b"")
    assert result.exit_code == 1
    assert "skipped -: empty (0 bytes)" in result.stderr


def test_a_deep_pil_picture_is_read_as_its_file_is(done: Finished, tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    model = load_model(done.out / "model")
    with Image.open(tmp_path / "deep.png") as picture:
        found = model.predict([picture, tmp_path / "deep.png"]).scores
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[0], found[1])
