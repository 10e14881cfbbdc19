"""PASCAL VOC in its devkit's layout, whole and broken."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.archives import annotation, jpeg, lines, write_voc
from helpers.data_folders import mistake

from mpp_jax.data import Box, canvas_batches, open_dataset


@pytest.fixture
def year(tmp_path: Path) -> Path:
    return write_voc(tmp_path)


def labels(data) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    return {item.id[-10:-4]: (item.labels, item.ignored) for item in data.items}


WANTED = {
    "000005": ((0,), (1,)),
    "000007": ((1,), ()),  # one difficult, one not: present
    "000009": ((), (0,)),
    "000012": ((0, 1), ()),
    "000016": ((1,), ()),
    "000001": ((0,), ()),
    "000002": ((), (1,)),
    "000003": ((), ()),
}


def test_the_official_split(year):
    data = open_dataset(f"voc:{year}")
    assert (data.name, data.classes, data.multi_label) == ("VOC2007", ("cat", "train"), True)
    assert labels(data) == WANTED
    ids = [item.id for item in data.items]
    assert ids[:2] == ["JPEGImages/000005.jpg", "JPEGImages/000007.jpg"]
    assert ids[-3:] == [f"JPEGImages/00000{n}.jpg" for n in (1, 2, 3)]
    assert [item.split for item in data.items] == ["train"] * 5 + ["test"] * 3
    assert all(item.path == year / item.id for item in data.items)
    # -1 absent, 0 difficult, +1: of training and of test.
    np.testing.assert_array_equal(data.targets("train")[:3], [[1, 0], [-1, 1], [0, -1]])
    np.testing.assert_array_equal(data.targets("test"), [[1, -1], [-1, 0], [-1, -1]])
    assert data.warnings == ()
    assert "train: trainval, test: test" in data.notes
    assert any(note.startswith("3 times") and "difficult" in note for note in data.notes)
    assert any("5 train and 3 test pictures, where the official" in note for note in data.notes)
    assert any("'train' without test pictures: in no mean" in note for note in data.notes)


def test_labels_come_from_annotations_where_there_are_no_lists(tmp_path, year):
    other = write_voc(tmp_path / "other", lists=False)
    data = open_dataset(f"voc:{other}")
    assert labels(data) == WANTED
    assert data.classes == ("cat", "train")
    for side in ("train", "test"):
        np.testing.assert_array_equal(data.targets(side), open_dataset(f"voc:{year}").targets(side))


def test_boxes_are_shares_of_whole_pixels(year):
    first = open_dataset(f"voc:{year}").items[0]
    assert first.boxes is not None
    assert first.boxes() == (
        Box("cat", (0.0, 0.0, 10 / 40, 12 / 24)),
        Box("train", (10 / 40, 0.0, 20 / 40, 12 / 24), difficult=True),
    )
    shutil.rmtree(year / "Annotations")
    assert open_dataset(f"voc:{year}").items[0].boxes is None
    assert labels(open_dataset(f"voc:{year}")) == WANTED


def test_boxes_come_from_one_file_where_there_are_no_annotations(year):
    rows = [["cat", 1, 1, 12, 10], ["train", 2, 3, 30, 4]]
    listed = {"000005": {"split": "train", "boxes2": rows}, "000007": {"boxes2": []}}
    (year / "boxes_of_2.json").write_text(json.dumps(listed))
    first = open_dataset(f"voc:{year}").items[0]
    assert first.boxes is not None
    assert first.boxes()[1].place == (10 / 40, 0.0, 20 / 40, 12 / 24)  # the annotation's
    shutil.rmtree(year / "Annotations")
    first, second, *_ = open_dataset(f"voc:{year}").items
    assert first.boxes is not None
    assert first.boxes() == (
        Box("cat", (0.0, 0.0, 10 / 40, 12 / 24)),
        Box("train", (2 / 40, 1 / 24, 4 / 40, 1.0)),
    )
    assert second.boxes is None


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"000005": []}', '{"000005": {"boxes": [["cat", 1, 2]]}}', "null"]
)
def test_a_damaged_file_of_boxes(year, text):
    shutil.rmtree(year / "Annotations")
    (year / "boxes.json").write_text(text)
    assert "'boxes.json' is not {id: {'boxes': [[class, xmin" in mistake(f"voc:{year}")
    (year / "boxes2.json").write_text("{}")
    assert "several files of boxes: boxes.json, boxes2.json" in mistake(f"voc:{year}")


def test_boxes_of_floats_that_leave_the_picture_are_cut(year):
    text = annotation("000005", {"cat": [False]}).replace("<xmin>1<", "<xmin>0.5<")
    (year / "Annotations/000005.xml").write_text(text.replace("<xmax>12<", "<xmax>24.7<"))
    boxes = open_dataset(f"voc:{year}").items[0].boxes
    assert boxes is not None
    assert boxes() == (Box("cat", (0.0, 0.0, 0.25, 1.0)),)


def test_folders_above_that_hold_one_year(year):
    for place in (year.parent, year.parent.parent):
        data = open_dataset(f"voc:{place}")
        assert data.name == "VOC2007"
        assert data.items[0].id == "JPEGImages/000005.jpg"
    assert f"give the whole, voc:{year}" in mistake(f"voc:{year}/JPEGImages")
    shutil.copytree(year, year.with_name("VOC2012"))
    line = mistake(f"voc:{year.parent}")
    assert "holds 'VOC2007', 'VOC2012'" in line
    assert f"as voc:{year}" in line


def test_other_splits(year):
    data = open_dataset(f"voc:{year}", split_train="train", split_test="val")
    assert data.name == "VOC2007 (train: train, test: val)"
    assert [item.id[-6:-4] for item in data.items] == ["05", "07", "09", "12", "16"]
    assert [item.split for item in data.items] == ["train"] * 2 + ["test"] * 3
    both = open_dataset(f"voc:{year}", split_train="train+val")
    assert {item.id for item in both.items} == {
        item.id for item in open_dataset(f"voc:{year}").items
    }
    assert "no lists of split 'dev'" in mistake(f"voc:{year}", split_train="dev")
    line = mistake(f"voc:{year}", split_train="trainval", split_test="val")
    assert "3 picture(s) both in training and in test" in line
    assert "named twice" in mistake(f"voc:{year}", split_train="val+val")
    assert "3 id(s) stand twice" in mistake(f"voc:{year}", split_train="val+trainval")


def test_a_class_that_training_lacks_is_left_out(year):
    lines(year / "ImageSets/Main/cat_trainval.txt", [f"{n} -1" for n in WANTED if n > "000004"])
    for to_train in (True, False):  # in a run, and in its parts one after another
        data = open_dataset(f"voc:{year}", to_train=to_train)
        assert data.classes == ("train",)
        assert any("class 'cat' without a training picture" in w for w in data.warnings)
        assert labels(data)["000001"] == ((), ())
        assert labels(data)["000002"] == ((), (0,))


def test_one_half_of_the_archive(year):
    """The training archive alone trains and tests on its own; the other one is encoded."""
    main = year / "ImageSets/Main"
    for file in main.glob("*test.txt"):
        file.unlink()
    line = mistake(f"voc:{year}")
    assert "no lists of split 'test'" in line
    assert "split_test" in line
    alone = open_dataset(f"voc:{year}", to_train=False)
    assert {item.split for item in alone.items} == {"train"}
    # Test pictures without labels, as of 2012.
    lines(main / "test.txt", ["000001", "000003"])
    for name in ("000001", "000003"):
        (year / f"Annotations/{name}.xml").unlink()
    assert "2 picture(s) of split 'test' have no labels" in mistake(f"voc:{year}")
    data = open_dataset(f"voc:{year}", to_train=False)
    assert [item.labels for item in data.split("test")] == [(), ()]


def test_limits(year):
    data = open_dataset(f"voc:{year}", limit_per_class=1, seed=3)
    assert labels(data) == labels(open_dataset(f"voc:{year}", limit_per_class=1, seed=3))
    assert 1 <= len(data.split("train")) <= 2
    shown = [label for item in data.split("train") for label in item.labels]
    assert set(shown) == {0, 1}


def test_pictures_of_odd_modes(year):
    """Grey, CMYK and turned ones come out as colour pictures, upright."""
    jpeg(year / "JPEGImages/000005.jpg", (90, 90, 90), "L")
    jpeg(year / "JPEGImages/000007.jpg", (200, 40, 40), "CMYK")
    jpeg(year / "JPEGImages/000009.jpg", (200, 40, 40), turn=6)
    items = open_dataset(f"voc:{year}").items[:3]
    (batch,) = list(canvas_batches(items, batch_size=3, buckets=(64,)))
    np.testing.assert_array_equal(batch.sizes, [[40, 24], [40, 24], [24, 40]])
    np.testing.assert_allclose(batch.canvas[0, 20, 12], 90, atol=3)
    np.testing.assert_allclose(batch.canvas[1, 20, 12], (200, 40, 40), atol=8)
    # What was on top is on the right now.
    np.testing.assert_allclose(
        batch.canvas[2, 12, [10, 37]], [(200, 40, 40), (55, 215, 215)], atol=8
    )


BROKEN = {
    "picture": ("JPEGImages/000012.jpg", None, "1 picture(s) of split 'trainval' are not in JPEG"),
    "row": (
        "ImageSets/Main/cat_test.txt",
        "000001 1\n000002 2\n",
        "row 2 of 'ImageSets/Main/cat_t",
    ),
    "twice": ("ImageSets/Main/cat_test.txt", "000001 1\n000001 1\n", "'000001' again"),
    "short": ("ImageSets/Main/cat_test.txt", "000001 1\n", "2 id(s) are in 'test.txt' alone"),
    "list": ("ImageSets/Main/cat_test.txt", None, "'cat_test.txt' is missing"),
    "empty": ("ImageSets/Main/test.txt", "", "'ImageSets/Main/test.txt' is empty"),
    "again": ("ImageSets/Main/test.txt", "000001\n000001\n", "1 id(s) stand twice in split 'test'"),
    "alien": ("ImageSets/Main/test.txt", "../../x\n", "it is '../../x.jpg'"),
    "xml": ("Annotations/000003.xml", "<annotation><size>", "1 damaged annotation(s); it is"),
    "no xml": ("Annotations/000003.xml", "", "damaged annotation(s)"),
    "encoding": (
        *("Annotations/000003.xml", "<?xml version='1.0' encoding='x-no'?><a/>"),
        "damaged annotation(s)",
    ),
    "bomb": (
        "Annotations/000003.xml",
        "<!DOCTYPE a [<!ENTITY b '"
        + "c" * 9999
        + "'>"
        + "".join(f"<!ENTITY b{n} '" + f"&b{n - 1 if n else ''};" * 10 + "'>" for n in range(4))
        + "]><annotation><size>&b3;</size></annotation>",
        "damaged annotation(s)",
    ),
    "size": ("Annotations/000003.xml", "<annotation/>", "no size/height"),
    "box": (
        "Annotations/000005.xml",
        annotation("000005", {"cat": [False]}).replace("<ymax>10</ymax>", "<ymax>nan</ymax>"),
        "bndbox/ymax is nan",
    ),
    "difficult": (
        "Annotations/000005.xml",
        annotation("000005", {"cat": [False]}).replace("<difficult>0", "<difficult>maybe"),
        "difficult is 'maybe'",
    ),
}


@pytest.mark.parametrize(("name", "content", "said"), BROKEN.values(), ids=BROKEN)
def test_broken_archives(year, name, content, said):
    if content is None:
        (year / name).unlink()
    else:
        (year / name).write_text(content)
    line = mistake(f"voc:{year}")
    assert line.startswith(f"voc:{year}: ")
    assert said in line


def test_wrong_paths(tmp_path, year):
    assert "no such folder" in mistake(f"voc:{tmp_path}/nothing")
    assert "unpack the archive" in mistake(f"voc:{year}/JPEGImages/000001.jpg")
    assert "write voc:PATH" in mistake("voc:")
    (tmp_path / "else").mkdir()
    assert "no ImageSets/Main and JPEGImages in it" in mistake(f"voc:{tmp_path}/else")
    shutil.rmtree(year / "JPEGImages")
    assert "no pictures in JPEGImages" in mistake(f"voc:{year}")


def test_the_pictures_at_hand(shared_dir):
    """A part of VOC 2007, by the official lists, with boxes of five classes in one file."""
    data = open_dataset(f"voc:{shared_dir / 'data' / 'voc2007_part'}")
    assert len(data.classes) == 20
    assert (len(data.split("train")), len(data.split("test"))) == (942, 965)
    assert any("the official VOC2007 has 5,011 and 4,952" in note for note in data.notes)
    assert all(item.boxes is not None for item in data.items)
    [box] = data.items[0].boxes()
    assert box.name == "car"
    (batch,) = list(canvas_batches(data.items[:1], batch_size=1))
    assert batch.valid.all()
