"""The commands about data sets."""

import json
import sys
from pathlib import Path

import pytest
from helpers.archives import jpeg, pack_voc, write_scene15
from helpers.toy_cli import cli, ok, refused

from mpp_jax.data.published import SETS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sets"


def prepare(folder: Path, name: str, *archives: Path):
    options = [part for path in archives for part in ("--archive", path)]
    return ok("data", "prepare", name, "--data-dir", folder, *options)


def test_list_prepare_show(tmp_path: Path, folder: Path) -> None:
    pytest.importorskip("array_record")
    listed = ok("data", "list", "--data-dir", folder).stdout
    assert listed.count("not prepared") == len(SETS)
    assert "VOCtest_06-Nov-2007.tar (451,020,800 bytes)" in listed
    assert "TestImages.txt (give it with --archive)" in listed
    result = prepare(folder, "voc2007", *pack_voc(tmp_path))
    place = folder / "voc2007" / "1.0.0"
    assert result.stdout == f"prepared: {place}\n"
    assert "2 classes, 5 training pictures, 3 test" in result.stderr
    assert f"open it as tfds:{place}" in result.stderr
    again = prepare(folder, "voc2007")
    assert "prepared already; remove the folder" in again.stderr
    # One of TFDS's own beside it.
    (folder / "voc/2007/5.0.0").mkdir(parents=True)
    (folder / "voc/2007/5.0.0/dataset_info.json").write_text("{}")
    listed = ok("data", "list", "--data-dir", folder).stdout.splitlines()
    assert "prepared, tfds:voc2007" in listed[0]
    assert listed[-2].split() == ["voc/2007", "prepared,", "tfds:voc/2007", "(5.0.0)"]
    assert listed[-1] == f"prepared sets lie in {folder}"
    shown = [
        ok("data", "show", f"{spec}", "--quiet").stdout
        for spec in (
            f"tfds:{place}",
            f"voc:{tmp_path}/whole",
        )
    ]
    assert shown[0] == shown[1]
    lines = shown[0].splitlines()
    assert lines[0].split() == [
        "class",
        *["train", "train", "difficult", "test", "test", "difficult"],
    ]
    assert lines[1].split() == ["cat", "2", "1", "1", "0"]
    assert lines[2].split() == ["train", "3", "1", "0", "1"]
    assert lines[3].split() == ["pictures", "5", "3"]
    assert lines[4].startswith("pixels: height 40 to 40, half of them up to 40; width 24 to 24")
    assert lines[5].startswith("odd: tiny (a side under 64 pixels): 8 (JPEGImages/000005.jpg, ")
    assert "7 pictures have the same pixels as another before them, in 1 groups" in lines[6]
    assert "groups in training and test: 1; of different labels: 1" in lines[6]
    assert "tensorflow" not in sys.modules


def test_show_lists_what_cannot_be_decoded(tmp_path: Path) -> None:
    root = write_scene15(tmp_path / "scenes")
    (root / "test/coast/broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    result = cli("data", "show", root, "--json")
    assert result.exit_code == 1
    held = json.loads(result.stdout)
    assert [entry["id"] for entry in held["broken"]] == ["test/coast/broken.jpg"]
    assert "skipped test/coast/broken.jpg: not a picture in a known format" in result.stderr
    assert held["odd"]["mode L"][0] == "train/coast/image_0001.jpg"
    assert len(held["duplicates"]) == 3
    text = cli("data", "show", root, "--quiet").stdout
    assert "cannot be decoded: 1 (test/coast/broken.jpg)" in text
    assert "test difficult" not in text


def test_show_takes_any_data(tmp_path: Path) -> None:
    for number in range(3):
        jpeg(tmp_path / f"{number}.jpg", (80 * number, 9, 9))
    (tmp_path / "list.csv").write_text(
        "0.jpg,cat;?dog,train\n1.jpg,dog;?elk,train\n2.jpg,?cat,test\n"
    )
    lines = ok("data", "show", tmp_path / "list.csv", "--quiet").stdout.splitlines()
    assert [line.split() for line in lines[1:5]] == [
        ["cat", "1", "0", "0", "1"],
        ["dog", "1", "1", "0", "0"],
        ["elk", "0", "1", "0", "0"],
        ["pictures", "2", "1"],
    ]
    assert lines[-1] == "duplicates: none"
    again = tmp_path / "again.csv"
    ok("data", "show", tmp_path / "list.csv", "--list", again)
    assert ok("data", "show", again, "--quiet").stdout.splitlines() == lines
    assert "no such folder or list file" in refused("data", "show", tmp_path / "absent")


def test_mistakes_are_one_line(tmp_path: Path, folder: Path) -> None:
    options = ["--data-dir", folder]
    assert "voc: no published set; there are voc2007" in refused("data", "prepare", "voc", *options)
    line = refused("data", "prepare", "scene15", *options)
    assert "scene_categories.zip and give them with --archive" in line
    page = tmp_path / "a.tar"
    page.write_bytes(b"<html>" * 999)
    line = refused("data", "prepare", "voc2007", "--archive", page, *options)
    assert f"{page}: neither a tar nor a zip file" in line
    line = refused("data", "prepare", "flowers102", "--archive", tmp_path, *options)
    assert "no setid.mat and imagelabels.mat in it" in line
    assert not list(folder.rglob("*.json"))


def test_unclear_labels_stand_in_the_help() -> None:
    for command in ("run", "fit", "encode"):
        assert "?label" in ok(command, "--help").stdout
    assert "?label" in ok("data", "show", "--help").stdout
