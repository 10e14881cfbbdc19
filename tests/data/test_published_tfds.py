"""Builders of published sets: the same set as its official layout, without TensorFlow."""

import functools
import hashlib
import http.server
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.archives import (
    jpeg,
    lines,
    pack,
    pack_voc,
    save_mat,
    write_caltech,
    write_flowers,
    write_mit67,
    write_scene15,
    write_voc,
)

from mpp_jax.data import DataError, Dataset, open_dataset
from mpp_jax.data.published import SETS
from mpp_jax.data.published_tfds import Flowers102, prepare

pytest.importorskip("array_record")  # TFDS requires it on Linux only

LAYOUTS = {
    "voc2007": (write_voc, "voc", "voc2007"),
    "mit67": (write_mit67, "mit67", "mit67"),
    "flowers102": (write_flowers, "flowers102", "flowers102"),
    "caltech101": (write_caltech, "caltech101", "caltech101_30"),
    "scene15": (write_scene15, "scene15", "scene15"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where prepared sets go."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path / "tfds"


def fault(name: str, *archives: Path) -> str:
    with pytest.raises(DataError) as caught:
        prepare(name, archives=archives)
    assert "\n" not in str(caught.value)
    folder = Path(os.environ["TFDS_DATA_DIR"])
    assert not list(folder.rglob("*.json"))
    assert str(folder) not in str(caught.value)  # names what was given, no place of ours
    return str(caught.value)


def same(one: Dataset, other: Dataset) -> None:
    """Assert that two sets have the same pictures, order, labels, splits and boxes."""
    assert one.classes == other.classes
    assert one.multi_label == other.multi_label
    for mine, wanted in zip(one.items, other.items, strict=True):
        assert (mine.id, mine.split) == (wanted.id, wanted.split)
        assert (mine.labels, mine.ignored) == (wanted.labels, wanted.ignored)
        assert wanted.path is not None
        assert mine.source() == wanted.path.read_bytes()
        assert (mine.boxes is None) == (wanted.boxes is None)
        if mine.boxes is None or wanted.boxes is None:
            continue
        for box, place in zip(mine.boxes(), wanted.boxes(), strict=True):
            assert (box.name, box.difficult) == (place.name, place.difficult)
            assert box.place == pytest.approx(place.place, abs=1e-7)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_prepared_set_is_its_layout(name: str, tmp_path: Path, folder: Path) -> None:
    write, prefix, title = LAYOUTS[name]
    root = write(tmp_path / "root")
    with pytest.raises(DataError, match=f"prepare it with: mpp-jax data prepare {name} --archive"):
        open_dataset(f"tfds:{title}")
    done = prepare(name, archives=[root])
    assert done.folder == folder / title / "1.0.0"
    assert done.opened is not None
    whole = open_dataset(f"{prefix}:{root}")
    assert len(done.opened.items) == len(whole.items)
    same(open_dataset(f"tfds:{title}"), whole)
    few = [open_dataset(spec, limit_per_class=1) for spec in (f"tfds:{title}", f"{prefix}:{root}")]
    same(*few)
    assert prepare(name, archives=[tmp_path / "absent"]).opened is None  # left as it is
    assert "tensorflow" not in sys.modules


def test_voc_keeps_its_splits_and_reads_as_tfds_has_it(tmp_path: Path, folder: Path) -> None:
    import tensorflow_datasets as tfds

    trainval, test = pack_voc(tmp_path)
    own = {"data_dir": folder, "file_format": "array_record"}
    builder = tfds.builder("voc2007", archives=[trainval, test], **own)
    builder.download_and_prepare()
    done = prepare("voc2007")
    assert done.folder == Path(builder.data_dir)
    assert not list(done.folder.glob("unpacked*"))
    whole = f"voc:{tmp_path}/whole"
    same(open_dataset("tfds:voc2007"), open_dataset(whole))
    halves = {"split_train": "train", "split_test": "val"}
    tfds_halves = {"split_train": "train", "split_test": "validation"}
    same(open_dataset("tfds:voc2007", **tfds_halves), open_dataset(whole, **halves))
    builder = tfds.builder_from_directory(os.fspath(done.folder))
    source = builder.as_data_source(split="train")
    example = source[0]
    assert example["id"] == b"JPEGImages/000005.jpg"
    assert example["image"].shape == (40, 24, 3)
    np.testing.assert_array_equal(example["labels"], [0, 1])
    np.testing.assert_array_equal(example["labels_no_difficult"], [0])
    np.testing.assert_array_equal(example["objects"]["is_difficult"], [False, True])
    np.testing.assert_allclose(example["objects"]["bbox"][1], [0.25, 0, 0.5, 0.5])
    assert builder.info.features["objects"].feature["label"].names == ["cat", "train"]


def test_voc_without_annotations_has_unknown_boxes(tmp_path: Path) -> None:
    year = write_voc(tmp_path / "root", annotations=False)
    prepare("voc2007", archives=[year])
    data = open_dataset("tfds:voc2007")
    assert all(item.boxes is None for item in data.items if item.labels or item.ignored)
    assert [item.labels for item in data.items] == [
        item.labels for item in open_dataset(f"voc:{year}").items
    ]
    assert "3 times a picture has a class only as 'difficult': ignored for it" in data.notes


def test_odd_pictures_are_kept_to_the_byte(tmp_path: Path) -> None:
    root = write_scene15(tmp_path / "root")
    jpeg(root / "train/coast/cmyk.jpg", mode="CMYK", turn=6)
    (root / "train/coast/broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    (root / "test/coast/n\udcffn ascii \u00e9.jpg").write_bytes(b"GIF89a")
    prepare("scene15", archives=[root])
    same(open_dataset("tfds:scene15"), open_dataset(f"scene15:{root}"))


def test_broken_archives_are_one_line(tmp_path: Path, folder: Path) -> None:
    trainval, test = pack_voc(tmp_path)
    line = fault("voc2007", trainval)
    assert line.startswith(f"{trainval}: no lists of split 'test' in ImageSets/Main")
    assert "consists of VOCtrainval_06-Nov-2007.tar, VOCtest_06-Nov-2007.tar; give all" in line
    test.write_bytes(test.read_bytes()[:20000])
    assert "truncated or damaged archive" in fault("voc2007", trainval, test)
    year = write_voc(tmp_path / "root")
    for split in ("train", "val"):
        lines(year / f"ImageSets/Main/{split}.txt", ["000005" if split == "train" else "000009"])
        for label in ("cat", "train"):
            row = "000005 1" if split == "train" else "000009 -1"
            lines(year / f"ImageSets/Main/{label}_{split}.txt", [row])
    assert "3 training picture(s) are neither in train nor in val" in fault("voc2007", year)
    (year / "JPEGImages/000012.jpg").unlink()
    assert "not in JPEGImages; it is '000012.jpg'" in fault("voc2007", year)
    root = write_scene15(tmp_path / "scenes")
    (root / "train/coast/empty.jpg").write_bytes(b"")
    assert "train/coast/empty.jpg: empty file (0 bytes); get" in fault("scene15", root)
    assert "no published set; there are voc2007" in fault("voc2012", root)
    assert "nobody publishes digests of its files" in fault("mit67")
    assert "http://web.mit.edu/torralba/www/TestImages.txt and give them with --archive" in fault(
        "mit67"
    )


# ---------------------------------------------------------------------------------- downloads


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address of a server of its files."""
    place = tmp_path / "served"
    place.mkdir()
    handler = functools.partial(_Quiet, directory=os.fspath(place))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield place, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        """Say nothing."""


def test_downloads_are_checked(served, tmp_path, monkeypatch) -> None:
    place, address = served
    root = write_flowers(tmp_path / "root")
    pack(place / "102flowers.tgz", root, "jpg")
    for name in ("imagelabels.mat", "setid.mat"):
        (root / name).rename(place / name)
    entry = SETS["flowers102"]
    files = [
        replace(
            file,
            urls=(f"{address}gone/{file.name}", f"{address}{file.name}"),
            size=(place / file.name).stat().st_size,
            sha256=hashlib.sha256((place / file.name).read_bytes()).hexdigest(),
        )
        for file in entry.files
    ]
    monkeypatch.setattr(Flowers102, "entry", replace(entry, files=tuple(files)))
    good = (place / "setid.mat").read_bytes()
    (place / "setid.mat").write_bytes(good + b"more")
    line = fault("flowers102")
    assert f"{address}gone/setid.mat: Failed to get url" in line
    assert "HTTP code: 404" in line
    assert f"{address}setid.mat: gave another file, its size or sha256 is wrong" in line
    (place / "setid.mat").write_bytes(good)
    said: list[str] = []
    assert prepare("flowers102", say=said.append).opened is not None
    assert f"{address}102flowers.tgz: {files[0].size:,} bytes" in "\n".join(said)
    data = open_dataset("tfds:flowers102")
    assert [item.id for item in data.items][:2] == ["jpg/image_00007.jpg", "jpg/image_00008.jpg"]
    # Given by hand, a file of a published name is checked as well.
    save_mat(place / "setid.mat", trnid=np.array([[1]], np.uint16))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "other"))
    assert "not the published file of this name" in fault("flowers102", place)
