"""Class folders: order, splits, limits, links, special files, and every user's mistake."""

import os
import socket
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from helpers.data_folders import mistake, split_folder, touch

from mpp_jax.data import open_dataset
from mpp_jax.data.dataset import stratified_test_ids

# --- folders with train and test -----------------------------------------------------------------


def test_train_and_test_folders(tmp_path):
    split_folder(tmp_path, {"b": 2, "a": 3}, {"a": 1, "b": 2})
    data = open_dataset(tmp_path)
    assert data.name == tmp_path.name
    assert data.classes == ("a", "b")
    assert not data.multi_label
    assert [item.id for item in data.items] == [
        *(f"train/a/{n}.jpg" for n in range(3)),
        *(f"train/b/{n}.jpg" for n in range(2)),
        "test/a/0.jpg",
        *(f"test/b/{n}.jpg" for n in range(2)),
    ]
    assert [item.labels for item in data.split("test")] == [(0,), (1,), (1,)]
    assert all(item.source() == tmp_path / item.id for item in data.items)
    assert data.warnings == data.notes == ()
    np.testing.assert_array_equal(data.targets("test"), [[1, -1], [-1, 1], [-1, 1]])
    with pytest.raises(ValueError, match="split must be one of"):
        data.split("val")


def test_hidden_and_side_files_are_ignored_and_depth_is_free(tmp_path):
    split_folder(tmp_path, {"a": 1}, {"a": 1})
    touch(
        tmp_path,
        "train/a/Thumbs.db",
        "train/a/.DS_Store",
        "train/a/desktop.ini",
        "train/a/.git/x.jpg",
        "train/a/__MACOSX/x.jpg",
        "train/.hidden/x.jpg",
        "train/a/deep/er/y.jpg",
        "train/a/readme.txt",
        "LICENSE",
    )
    data = open_dataset(tmp_path)
    ids = [item.id for item in data.split("train")]
    # A text file is no side file: decoding will list it as skipped.
    assert ids == ["train/a/0.jpg", "train/a/deep/er/y.jpg", "train/a/readme.txt"]
    assert data.warnings == ()


def test_loose_pictures_and_further_folders_are_told(tmp_path):
    split_folder(tmp_path, {"a": 1}, {"a": 1})
    touch(tmp_path, "train/loose.PNG", "val/a/x.jpg")
    data = open_dataset(tmp_path)
    assert len(data.items) == 2
    assert len(data.warnings) == 1
    assert "1 picture file(s) directly in" in data.warnings[0]
    assert "'val' beside train and test ignored" in data.notes[0]


def test_class_without_picture_is_left_out_with_a_warning(tmp_path):
    split_folder(tmp_path, {"a": 1, "empty": 0, "z": 1}, {"a": 1, "z": 1, "empty": 0})
    data = open_dataset(tmp_path)
    assert data.classes == ("a", "z")
    assert [item.labels for item in data.split("train")] == [(0,), (1,)]
    assert len(data.warnings) == 1
    assert "class 'empty' without any picture" in data.warnings[0]


def test_class_in_test_that_training_lacks(tmp_path):
    split_folder(tmp_path, {"a": 1, "b": 0}, {"a": 1, "b": 1, "c": 1})
    message = mistake(tmp_path)
    assert "classes 'b', 'c'" in message
    assert "training has no picture" in message
    assert "add training pictures" in message


def test_class_without_test_picture_is_noted(tmp_path):
    split_folder(tmp_path, {"a": 1, "b": 1}, {"a": 1})
    data = open_dataset(tmp_path)
    assert data.classes == ("a", "b")
    assert data.warnings == ()
    assert "class 'b' without test pictures" in data.notes[0]


def test_unusable_folders(tmp_path):
    assert "no such folder or list file" in mistake(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "no class folder" in mistake(tmp_path / "empty")
    touch(tmp_path, "flat/1.jpg")
    assert "no class folder; pictures are expected in <class>/*" in mistake(tmp_path / "flat")
    touch(tmp_path, "half/train/a/1.jpg")
    assert "has train/ but no test/" in mistake(tmp_path / "half")
    touch(tmp_path, "other/test/a/1.jpg")
    assert "has test/ but no train/" in mistake(tmp_path / "other")
    split_folder(tmp_path / "bare", {"a": 0}, {"a": 0})
    assert "no picture found" in mistake(tmp_path / "bare")
    (tmp_path / "bones" / "train").mkdir(parents=True)
    (tmp_path / "bones" / "test").mkdir()
    assert "expected in train/<class>/*, test/<class>/*" in mistake(tmp_path / "bones")


@pytest.mark.skipif(os.name != "posix", reason="file names that are no text exist on POSIX only")
@pytest.mark.skipif(sys.platform == "darwin", reason="macOS refuses such names")
def test_a_split_by_another_name_is_no_pair_of_classes(tmp_path):
    touch(tmp_path, "Train/a/0.jpg", "Train/b/0.jpg", "TEST/a/0.jpg", "TEST/b/0.jpg")
    assert mistake(tmp_path) == (
        f"{tmp_path}: has TEST/ and Train/; the folders of a split are called train and test"
    )


def test_a_folder_that_cannot_be_read_is_not_left_out(tmp_path, monkeypatch):
    split_folder(tmp_path, {"a": 1, "b": 1}, {"a": 1})
    touch(tmp_path, "train/a/closed/1.jpg")
    scandir = os.scandir

    def refuse(place):  # what chmod does, which does not bind every user
        if os.fspath(place).endswith("closed"):
            raise PermissionError(13, "Permission denied", os.fspath(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    assert mistake(tmp_path) == (
        f"{tmp_path / 'train' / 'a' / 'closed'}: cannot be read (Permission denied)"
    )


def test_file_names_that_are_no_text(tmp_path):
    split_folder(tmp_path, {"a": 3}, {"a": 1})
    (tmp_path / "train" / "a" / os.fsdecode(b"\xff.jpg")).write_bytes(b"x")
    data = open_dataset(tmp_path, limit_per_class=3)
    assert len(data.split("train")) == 3


# --- one level, seeded ---------------------------------------------------------------------------


def test_seeded_split_is_stratified_and_independent_of_the_listing(tmp_path, monkeypatch):
    counts = {"a": 10, "b": 5, "c": 2, "d": 1}
    for name, count in counts.items():
        touch(tmp_path, *(f"{name}/{n}.jpg" for n in range(count)))
    data = open_dataset(tmp_path, test_fraction=0.2, seed=3)
    tested = {c: sum(i.labels == (c,) for i in data.split("test")) for c in range(4)}
    assert tested == {0: 2, 1: 1, 2: 1, 3: 0}
    assert len(data.items) == 18
    assert any("seed 3" in note for note in data.notes)
    assert any("class 'd' without test pictures" in note for note in data.notes)
    assert open_dataset(tmp_path, test_fraction=0.2, seed=3).items == data.items
    assert open_dataset(tmp_path, test_fraction=0.2, seed=4).items != data.items

    scan, listing = os.scandir, Path.iterdir

    @contextmanager
    def backwards(place):
        with scan(place) as entries:
            yield reversed(list(entries))

    monkeypatch.setattr(os, "scandir", backwards)
    monkeypatch.setattr(Path, "iterdir", lambda self: reversed(list(listing(self))))
    assert open_dataset(tmp_path, test_fraction=0.2, seed=3).items == data.items


def test_a_large_fraction_leaves_one_training_picture(tmp_path):
    touch(tmp_path, *(f"a/{n}.jpg" for n in range(4)), *(f"b/{n}.jpg" for n in range(4)))
    data = open_dataset(tmp_path, test_fraction=0.99)
    assert len(data.split("train")) == 2
    assert stratified_test_ids({0: ["x"]}, 0.5, 0) == set()
    assert stratified_test_ids({0: []}, 0.5, 0) == set()


def test_adding_a_picture_moves_no_other_between_limits(tmp_path):
    split_folder(tmp_path, {"a": 9, "b": 9}, {"a": 4, "b": 4})
    few = {i.id for i in open_dataset(tmp_path, limit_per_class=2).items}
    more = {i.id for i in open_dataset(tmp_path, limit_per_class=3).items}
    assert len(few) == 8
    assert len(more) == 12
    assert few < more
    assert {i.id for i in open_dataset(tmp_path, limit_per_class=2, seed=1).items} != few
    everything = open_dataset(tmp_path, limit_per_class=100)
    assert everything.items == open_dataset(tmp_path).items
    limited = open_dataset(tmp_path, limit_per_class=3).items
    assert list(limited) == [item for item in everything.items if item.id in more]


# --- links and special files ---------------------------------------------------------------------


def ids(data, split: str = "train") -> list[str]:
    return [item.id for item in data.split(split)]


def test_linked_folders_are_followed_and_told(tmp_path):
    touch(tmp_path, *(f"elsewhere/{n}.jpg" for n in range(3)), "elsewhere/deep/x.jpg")
    root = split_folder(tmp_path / "data", {"a": 2, "b": 1}, {"a": 1, "b": 1})
    (root / "train/a/part").symlink_to(tmp_path / "elsewhere")
    data = open_dataset(root)
    assert ids(data) == [
        *("train/a/0.jpg", "train/a/1.jpg"),
        *("train/a/part/0.jpg", "train/a/part/1.jpg", "train/a/part/2.jpg"),
        *("train/a/part/deep/x.jpg", "train/b/0.jpg"),
    ]
    assert data.notes == ("1 linked folder(s) followed: 'train/a/part'",)
    assert data.warnings == ()
    assert all(item.path.read_bytes() == b"x" for item in data.items)


def test_linked_classes_and_splits(tmp_path):
    touch(tmp_path, "all/a/0.jpg", "all/b/0.jpg", "all/b/1.jpg", "rest/a/9.jpg")
    root = tmp_path / "data"
    (root / "train").mkdir(parents=True)
    (root / "train/a").symlink_to(tmp_path / "all/a")
    (root / "train/b").symlink_to(tmp_path / "all/b")
    (root / "test").symlink_to(tmp_path / "rest")
    data = open_dataset(root)
    assert ids(data) == ["train/a/0.jpg", "train/b/0.jpg", "train/b/1.jpg"]
    assert ids(data, "test") == ["test/a/9.jpg"]
    assert "2 linked folder(s) followed: 'train/a', 'train/b'" in data.notes


@pytest.mark.parametrize("target", [".", "..", "../..", "../../..", "deep", "/"])
def test_loops_end(tmp_path, target):
    root = split_folder(tmp_path / "data", {"a": 1, "b": 1}, {"a": 1})
    touch(root, "train/a/deep/x.jpg")
    (root / "train/a/again").symlink_to(target)
    (root / "train/a/more").symlink_to(root / "train/a/again")
    data = open_dataset(root)
    assert ids(data) == ["train/a/0.jpg", "train/a/deep/x.jpg", "train/b/0.jpg"]
    assert any(
        "2 linked folder(s) lead to what was read already and were not read again: "
        "'train/a/again', 'train/a/more'" in note
        for note in data.notes
    )
    assert data.warnings == ()


def test_links_that_lead_nowhere_are_listed_as_skipped(tmp_path):
    root = split_folder(tmp_path, {"a": 1}, {"a": 1})
    (root / "train/a/gone.jpg").symlink_to("nowhere")
    (root / "train/a/self.jpg").symlink_to("self.jpg")
    assert ids(open_dataset(root)) == ["train/a/0.jpg", "train/a/gone.jpg", "train/a/self.jpg"]


def test_the_same_folder_under_several_names_is_told(tmp_path):
    root = split_folder(tmp_path, {"a": 1, "b": 1}, {"a": 1})
    (root / "test/a/more").symlink_to(root / "train/a")
    data = open_dataset(root)
    assert ids(data, "test") == ["test/a/0.jpg", "test/a/more/0.jpg"]
    [warning] = data.warnings
    assert "'test/a/more' is 'train/a'" in warning
    assert "count several times" in warning


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_special_files_are_left_out_and_told(tmp_path):
    root = split_folder(tmp_path, {"a": 1, "b": 1}, {"a": 1})
    os.mkfifo(root / "train/a/pipe.jpg")
    (root / "train/b/zero.jpg").symlink_to("/dev/zero")
    held = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    try:
        os.chdir(root / "train/b")  # names of sockets are short
        held.bind("s.jpg")
    finally:
        os.chdir(here)
        held.close()
    data = open_dataset(root)
    assert len(data.items) == 3
    assert data.warnings == (
        "3 special file(s) (pipes, devices, sockets) left out: "
        "'train/a/pipe.jpg', 'train/b/s.jpg', 'train/b/zero.jpg'",
    )
    assert f"{root}/train/a/pipe.jpg: neither a folder nor a regular file" == mistake(
        root / "train/a/pipe.jpg"
    )
