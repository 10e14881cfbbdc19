"""MIT Indoor 67, Flowers 102, Caltech 101 and Scene-15 in their layouts, whole and broken."""

import os
import shutil
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers.archives import jpeg, lines, save_mat, write_flowers, write_mit67
from helpers.data_folders import mistake, split_folder, touch

from mpp_jax.data import DataError, canvas_batches, open_dataset
from mpp_jax.data.dataset import seeded_order
from mpp_jax.data.flowers102 import CLASSES


def ids(data, split: str) -> list[str]:
    return [item.id for item in data.split(split)]


# ------------------------------------------------------------------------------ MIT Indoor 67


def test_mit67(tmp_path):
    write_mit67(tmp_path / "indoor")
    data = open_dataset(f"mit67:{tmp_path}/indoor")
    assert (data.name, data.classes) == ("mit67", ("bar", "inside_bus", "winecellar"))
    assert not data.multi_label
    # Blanks in names, and line ends of another system.
    assert ids(data, "test") == [
        *("Images/bar/bar 2.jpg", "Images/inside_bus/ins 2.jpg"),
        "Images/winecellar/win 2.jpg",
    ]
    assert Counter(item.labels for item in data.split("train")) == {(0,): 2, (1,): 2, (2,): 2}
    assert all(item.path == tmp_path / "indoor" / item.id for item in data.items)
    assert "6 train and 3 test pictures, where the official" in data.notes[0]
    assert ids(open_dataset(f"mit67:{tmp_path}"), "test") == ids(data, "test")
    (batch,) = list(canvas_batches(data.items, batch_size=9, buckets=(64,)))
    assert batch.valid.all()


def test_mit67_without_its_training_list(tmp_path):
    (write_mit67(tmp_path) / "TrainImages.txt").unlink()
    assert "'TrainImages.txt' is missing" in mistake(f"mit67:{tmp_path}")
    data = open_dataset(f"mit67:{tmp_path}", to_train=False)
    assert (len(data.split("train")), len(data.split("test"))) == (0, 3)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            ["bar/bar 2.jpg", "bar/x.jpg", "sea/y.jpg"],
            "2 picture(s) of 'TestImages.txt' are not in",
        ),
        (["bar 2.jpg"], "1 row(s) of 'TestImages.txt' are not <class>/<file>; it is 'bar 2.jpg'"),
        (["../bar/bar 2.jpg"], "are not <class>/<file>"),
        (["../TestImages.txt"], "are not <class>/<file>"),
        (["/bar 2.jpg"], "1 picture(s) of 'TestImages.txt' are not in Images"),
        (["bar/bar 1.jpg"], "1 picture(s) both in training and in test"),
        ([], "'TestImages.txt' is empty"),
    ],
)
def test_mit67_with_broken_lists(tmp_path, rows, said):
    lines(write_mit67(tmp_path) / "TestImages.txt", rows)
    assert said in mistake(f"mit67:{tmp_path}")


# -------------------------------------------------------------------------------- Flowers 102


def test_flowers102(tmp_path):
    data = open_dataset(f"flowers102:{write_flowers(tmp_path)}")
    assert data.name == "flowers102"
    assert data.classes == ("pink primrose", "hard-leaved pocket orchid", "passion flower")
    assert ids(data, "train") == [f"jpg/image_0000{n}.jpg" for n in (7, 8, 9, 1, 2, 3)]
    assert ids(data, "test") == [f"jpg/image_0000{n}.jpg" for n in (6, 4, 5)]
    assert [item.labels for item in data.split("test")] == [(2,), (0,), (1,)]
    assert any("6 train and 3 test pictures, where" in note for note in data.notes)
    (batch,) = list(canvas_batches(data.items, batch_size=9, buckets=(64,)))
    assert batch.valid.all()


def test_flower_names():
    assert len(CLASSES) == len(set(CLASSES)) == 102
    assert (CLASSES[21], CLASSES[101]) == ("pincushion flower", "blackberry lily")


def test_other_splits_of_flowers102(tmp_path):
    place = f"flowers102:{write_flowers(tmp_path)}"
    data = open_dataset(place, split_train="train", split_test="val")
    assert data.name == "flowers102 (train: trnid, test: valid)"
    assert ids(data, "test") == [f"jpg/image_0000{n}.jpg" for n in (1, 2, 3)]
    assert len(open_dataset(place, split_train="tstid", split_test="trnid+valid").items) == 9
    assert "no split 'dev'" in mistake(place, split_train="dev")
    assert "named twice" in mistake(place, split_train="train+trnid")
    assert "3 picture(s) both in training and" in mistake(place, split_test="valid")


def test_broken_flowers102(tmp_path):
    root = write_flowers(tmp_path)
    place = f"flowers102:{root}"
    (root / "jpg/image_00004.jpg").rename(root / "jpg/image_4.jpg")
    assert "1 picture(s) of 'setid.mat' are missing; it is 'jpg/image_00004.jpg'" in mistake(place)
    save_mat(root / "setid.mat", trnid=np.array([[1, 99, 0]]), valid=[[2]], tstid=[[3]])
    assert "2 number(s) in 'setid.mat' are none of 1..9, the labels; first 99" in mistake(place)
    save_mat(root / "setid.mat", trnid=[[1, 1]], valid=[[2]], tstid=[[3]])
    assert "stand twice in trnid+valid" in mistake(place)
    save_mat(root / "setid.mat", trnid=[[1]], valid=[[2]])
    assert "has no variable 'tstid'" in mistake(place)
    save_mat(root / "setid.mat", trnid=np.array([[1.5]]), valid=[[2]], tstid=[[3]])
    assert "'trnid' in 'setid.mat' holds no list of whole numbers" in mistake(place)
    save_mat(root / "setid.mat", trnid=np.array(["a"]), valid=[[2]], tstid=[[3]])
    assert "holds no list of whole numbers" in mistake(place)
    (root / "setid.mat").unlink()
    assert "'setid.mat' is missing" in mistake(place)
    save_mat(root / "imagelabels.mat", labels=np.array([[1, 103, 0]]))
    assert "2 label(s) in 'imagelabels.mat' are none of 1..102; first 103" in mistake(place)
    (root / "imagelabels.mat").write_bytes(
        b"MATLAB 7.3 MAT-file" + bytes(109) + b"\0\2IM" + bytes(99)
    )
    assert "'imagelabels.mat' is no MATLAB file that can be read" in mistake(place)


def test_damaged_matlab_files_end_in_one_line(tmp_path):
    """Cut anywhere, or with bytes changed: refused, or read as it was."""
    root = write_flowers(tmp_path)
    whole = (root / "setid.mat").read_bytes()
    wanted = open_dataset(f"flowers102:{root}").items
    rng = np.random.default_rng(0)
    said = []
    for case in range(60):
        damaged = bytearray(whole)
        if case % 2:
            del damaged[int(rng.integers(len(whole))) :]
        else:
            for place in rng.integers(116, len(whole), 3):
                damaged[place] = rng.integers(256)
        (root / "setid.mat").write_bytes(bytes(damaged))
        try:
            assert open_dataset(f"flowers102:{root}").items == wanted
        except DataError as error:
            said.append(str(error))
    assert len(said) > 30
    assert all(line.startswith(f"flowers102:{root}: ") for line in said)
    assert not any("\n" in line for line in said)


# -------------------------------------------------------------------------------- Caltech 101


def caltech(root: Path, counts: dict[str, int]) -> Path:
    folder = root / "101_ObjectCategories"
    for name, count in {**counts, "BACKGROUND_Google": 3}.items():
        touch(folder, *(f"{name}/image_{n:04d}.jpg" for n in range(1, count + 1)))
    return root


def test_caltech101(tmp_path):
    place = f"caltech101:{caltech(tmp_path / 'caltech-101', {'ant': 31, 'Faces': 120})}"
    data = open_dataset(place)
    assert data.classes == ("Faces", "ant")
    assert Counter((item.split, item.labels[0]) for item in data.items) == {
        ("train", 0): 30,
        ("test", 0): 50,
        ("train", 1): 30,
        ("test", 1): 1,
    }
    names = [f"101_ObjectCategories/ant/image_{n:04d}.jpg" for n in range(1, 32)]
    assert ids(data, "test")[-1] == seeded_order(names, 0, "split")[30]
    assert any("30 of each class for training and at most 50" in note for note in data.notes)
    assert any("BACKGROUND_Google is no class" in note for note in data.notes)
    assert any("2 classes, where the official Caltech 101 has 101" in note for note in data.notes)
    assert data == open_dataset(f"caltech101:{tmp_path}")  # the folder above
    assert ids(data, "train") != ids(open_dataset(place, seed=1), "train")
    fewer = open_dataset(place, train_per_class=5)
    assert fewer.name == "caltech101 (5 of each class)"
    assert set(ids(fewer, "train")) < set(ids(data, "train"))  # the first of the same order
    assert len(fewer.split("test")) == 50 + 26
    assert len(open_dataset(place, limit_per_class=2).items) == 2 * 2 + 2 + 1
    assert "give the whole, caltech101:" in mistake(f"{place}/101_ObjectCategories")


def test_caltech101_with_small_classes(tmp_path):
    place = f"caltech101:{caltech(tmp_path, {'ant': 31, 'bass': 30, 'crab': 2})}"
    line = mistake(place)
    assert "2 class folder(s) have no more than 30 pictures" in line
    assert "first 'bass' with 30" in line
    assert len(open_dataset(place, train_per_class=1).split("train")) == 3


# ----------------------------------------------------------------------------------- Scene-15

SCENES = (
    *("CALsuburb", "MITcoast", "MITforest", "MIThighway", "MITinsidecity", "MITmountain"),
    *("MITopencountry", "MITstreet", "MITtallbuilding", "PARoffice", "bedroom", "industrial"),
    *("kitchen", "livingroom", "store"),
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("scenes") / "scene_categories"
    jpeg(root / "bedroom/image_0001.jpg")
    for name in SCENES:  # one file under many names
        (root / name).mkdir(exist_ok=True)
        for n in range(1, 104):
            if not (place := root / name / f"image_{n:04d}.jpg").exists():
                os.link(root / "bedroom/image_0001.jpg", place)
    return root


def test_scene15_as_published(scenes):
    data = open_dataset(f"scene15:{scenes}")
    assert (data.name, data.classes) == ("scene15", SCENES)
    assert (len(data.split("train")), len(data.split("test"))) == (1500, 45)
    assert set(Counter(item.labels for item in data.split("train")).values()) == {100}
    assert any("100 of each class for training" in note for note in data.notes)
    assert any("1,500 train and 45 test pictures, where the official" in n for n in data.notes)
    assert data == open_dataset(f"scene15:{scenes.parent}")
    few = open_dataset(f"scene15:{scenes}", train_per_class=2, limit_per_class=1)
    assert (len(few.split("train")), len(few.split("test"))) == (15, 15)
    (batch,) = list(canvas_batches(few.items[:2], batch_size=2, buckets=(64,)))
    assert batch.valid.all()
    assert "15 class folder(s) have no more than 103" in mistake(
        f"scene15:{scenes}", train_per_class=103
    )


def test_scene15_with_another_number_of_folders(tmp_path, scenes):
    copy = shutil.copytree(scenes, tmp_path / "copy", copy_function=os.link)
    shutil.rmtree(copy / "store")
    assert "no fifteen class folders" in mistake(f"scene15:{copy}")


def test_scene15_divided_already(tmp_path):
    split_folder(tmp_path, {"a": 2, "b": 3}, {"a": 1, "b": 1})
    data = open_dataset(f"scene15:{tmp_path}")
    assert data.name == "scene15"
    assert data.items == open_dataset(tmp_path).items
    assert "does not apply" in mistake(f"scene15:{tmp_path}", train_per_class=5)
    shutil.rmtree(tmp_path / "train")
    assert "no fifteen class folders, and no train/ and test/" in mistake(f"scene15:{tmp_path}")


def test_scene15_at_hand(shared_dir):
    data = open_dataset(f"scene15:{shared_dir / 'data' / 'scene15'}")
    assert (len(data.split("train")), len(data.split("test")), data.notes) == (1500, 2985, ())


# ------------------------------------------------------------------------------ what they share


def test_options_that_do_not_apply(tmp_path):
    split_folder(tmp_path, {"a": 1}, {"a": 1})
    for spec in (str(tmp_path), f"mit67:{tmp_path}", f"scene15:{tmp_path}"):
        line = mistake(spec, split_test="val")
        assert (
            "split_train and split_test are for data of voc:, flowers102:, tfds: and wds:" in line
        )
    for spec in (str(tmp_path), f"voc:{tmp_path}", "tfds:clutter"):
        line = mistake(spec, train_per_class=3)
        assert "train_per_class is for data of caltech101: and scene15:" in line
    with pytest.raises(ValueError, match="train_per_class must be at least 1"):
        open_dataset(f"scene15:{tmp_path}", train_per_class=0)


def test_lists_of_any_bytes(tmp_path):
    """A list that is a picture, a folder, or too long for one."""
    root = write_mit67(tmp_path)
    (root / "TestImages.txt").write_bytes(zlib.compress(bytes(9999)) + b"\n\xff\xfe/\x80\n")
    assert "row(s) of 'TestImages.txt' are not" in mistake(f"mit67:{tmp_path}")
    with (root / "TestImages.txt").open("wb") as file:
        file.truncate(2**26 + 1)
    assert "more than 67,108,864 bytes" in mistake(f"mit67:{tmp_path}")
    (root / "TestImages.txt").unlink()
    (root / "TestImages.txt").mkdir()
    assert "'TestImages.txt' is no file" in mistake(f"mit67:{tmp_path}")
