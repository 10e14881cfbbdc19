"""Class folders and list files: order, splits, limits, and every user's mistake."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from mpp_jax.data import DataError, Item, open_dataset, target_matrix
from mpp_jax.data.dataset import make_dataset, seeded_order, stratified_test_ids


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def split_folder(root: Path, train: dict[str, int], test: dict[str, int]) -> Path:
    for split, classes in (("train", train), ("test", test)):
        for name, count in classes.items():
            (root / split / name).mkdir(parents=True, exist_ok=True)
            touch(root, *(f"{split}/{name}/{number}.jpg" for number in range(count)))
    return root


def mistake(spec, **options) -> str:
    with pytest.raises(DataError) as caught:
        open_dataset(spec, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


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

    walk, listing = os.walk, Path.iterdir

    def backwards(top, **options):
        return ((place, f[::-1], n[::-1]) for place, f, n in walk(top, **options))

    monkeypatch.setattr(os, "walk", backwards)
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


def test_seeded_order_depends_on_seed_and_purpose_only():
    ids = [f"{n}" for n in range(50)]
    order = seeded_order(ids, 0, "limit")
    assert sorted(order) == sorted(ids)
    assert seeded_order(reversed(ids), 0, "limit") == order
    assert seeded_order(ids, 1, "limit") != order
    assert seeded_order(ids, 0, "split") != order
    # Fixed for good: a new version must not reshuffle published splits.
    assert seeded_order(["a", "b", "c", "d"], 0, "split") == ["c", "a", "d", "b"]


def test_argument_ranges(tmp_path):
    with pytest.raises(ValueError, match="test_fraction"):
        open_dataset(tmp_path, test_fraction=1.0)
    with pytest.raises(ValueError, match="limit_per_class"):
        open_dataset(tmp_path, limit_per_class=0)


# --- lists ---------------------------------------------------------------------------------------


def write_list(root: Path, text: str, encoding: str = "utf-8") -> Path:
    touch(root, "p/1.jpg", "p/2.jpg", "p/3.jpg", "p/4,5.jpg")
    path = root / "list.csv"
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize("header", ["", "path,label,split\n", "Path,Labels,Split\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_list(tmp_path, header, encoding):
    rows = 'p/2.jpg,sea,test\np/1.jpg, sea ,train\n\np/3.jpg,Ärger,train\n"p/4,5.jpg",sea,train\n'
    data = open_dataset(write_list(tmp_path, header + rows, encoding))
    assert data.name == "list"
    assert data.classes == ("sea", "Ärger")
    assert not data.multi_label
    assert [item.id for item in data.items] == ["p/1.jpg", "p/3.jpg", "p/4,5.jpg", "p/2.jpg"]
    assert [item.labels for item in data.items] == [(0,), (1,), (0,), (0,)]
    assert all(item.path is not None and item.path.exists() for item in data.items)


def test_list_with_several_labels(tmp_path):
    rows = "p/1.jpg,dog;cat,train\np/2.jpg,cat;,train\np/3.jpg,,test\np/4.jpg,dog; cat;dog,test\n"
    data = open_dataset(write_list(tmp_path, rows))
    assert data.multi_label
    assert data.classes == ("cat", "dog")
    assert [item.labels for item in data.items] == [(0, 1), (0,), (), (0, 1)]
    np.testing.assert_array_equal(data.targets("test"), [[-1, -1], [1, 1]])
    assert len(open_dataset(tmp_path / "list.csv", limit_per_class=1).split("train")) in (1, 2)


def test_absolute_paths_in_a_list(tmp_path):
    place = touch(tmp_path, "p/1.jpg") / "p" / "1.jpg"
    data = open_dataset(write_list(tmp_path, f"{place},a,train\n"))
    assert data.items[0].path == place
    assert data.items[0].id == place.as_posix()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "an empty list"),
        ("path,label,split\n", "an empty list"),
        ("p/1.jpg,a,train\np/2.jpg,a,val\n", "line 2: split is 'val', must be 'train' or 'test'"),
        ("p/1.jpg,a\n", "line 1: 2 column(s) instead of 3"),
        ("p/1.jpg,a,b,train\n", "line 1: 4 column(s) instead of 3"),
        (",a,train\n", "line 1: no path"),
        ("p/1.jpg,,train\n", "line 1: no label for 'p/1.jpg'"),
        ("p/1.jpg,a,train\n\np/1.jpg,b,test\n", "lines 1 and 3 both name 'p/1.jpg'"),
        ("p/1.jpg,a,train\n./p/1.jpg,b,test\n", "lines 1 and 2 both name 'p/1.jpg'"),
        ("p/1.jpg,a,test\n", "no training picture"),
        ("p/1.jpg,a,train\np/2.jpg,b,test\n", "class 'b', of which training has no picture"),
        ("q/1.jpg,a,train\nq/2.jpg,a,test\n", "none of its pictures (2) exists"),
        ('p/1.jpg,"a,train\n', "not a CSV list"),
    ],
)
def test_mistakes_in_a_list(tmp_path, text, wanted):
    assert wanted in mistake(write_list(tmp_path, text))


def test_a_picture_given_for_a_list(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    assert "not a UTF-8 text list" in mistake(path)


def test_one_missing_picture_does_not_stop_a_list(tmp_path):
    data = open_dataset(write_list(tmp_path, "p/1.jpg,a,train\nabsent.jpg,a,train\n"))
    assert len(data.items) == 2


# --- shared rules --------------------------------------------------------------------------------


def test_targets_with_ignored_classes():
    items = [Item("a", (0, 2), "train", ignored=(1,)), Item("b", (), "train")]
    np.testing.assert_array_equal(target_matrix(items, 3), [[1, 0, 1], [-1, -1, -1]])
    assert target_matrix(items, 3).dtype == np.float32
    assert target_matrix([], 3).shape == (0, 3)


def test_ignored_classes_are_renumbered_with_the_labels():
    items = [Item("a", (2,), "train", ignored=(1, 0)), Item("b", (0,), "train")]
    data = make_dataset("x", ["p", "q", "r"], items, multi_label=True)
    assert data.classes == ("p", "r")
    assert data.items[0].labels == (1,)
    assert data.items[0].ignored == (0,)  # q went with the class


def test_item_without_a_source():
    with pytest.raises(ValueError, match="neither path nor read"):
        Item("a", (0,), "train").source()


def test_scene15(shared_dir):
    data = open_dataset(shared_dir / "data" / "scene15")
    assert len(data.classes) == 15
    assert len(data.split("train")) == 1500
    assert len(data.split("test")) == 2985
    assert data.warnings == data.notes == ()
