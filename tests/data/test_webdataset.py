"""Tar shards: grouping, labels, splits, and tars that are not what they should be."""

import bz2
import gzip
import hashlib
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.data_folders import mistake
from helpers.decode_samples import encoded, smooth
from helpers.far import BUCKET, Far, tar_bytes
from PIL import Image

from mpp_jax.data import Dataset, canvas_batches, open_dataset
from mpp_jax.data.content import FarPicture
from mpp_jax.runs.contents import Contents

JPEG = encoded(Image.fromarray(smooth(20, 30)), "JPEG")
PNG = encoded(Image.fromarray(smooth(30, 20)), "PNG")


def shard(place: Path, files: dict[str, Any]) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(tar_bytes(files))
    return place


def labels(data: Dataset) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {i.id: (i.split, tuple(data.classes[n] for n in i.labels)) for i in data.items}


def img2dataset(folder: Path) -> str:
    """Two shards as img2dataset writes them, with a field for the class and a parquet beside."""
    number = 0
    for name in ("00000", "00001"):
        files: dict[str, Any] = {}
        for label in ("cat", "dog", "cat"):
            key = f"{name}{number % 3:04d}"
            files |= {f"{key}.jpg": JPEG, f"{key}.txt": "a caption"}
            split = "test" if number % 3 == 2 else "train"
            files[f"{key}.json"] = {"key": key, "caption": "a", "label": label, "split": split}
            number += 1
        shard(folder / f"{name}.tar", files)
        (folder / f"{name}.parquet").write_bytes(b"PAR1")
        (folder / f"{name}_stats.json").write_text("{}")
    return f"wds:{folder}/{{00000..00001}}.tar"


EXPECTED = {
    "000000000.jpg": ("train", ("cat",)),
    "000000001.jpg": ("train", ("dog",)),
    "000010000.jpg": ("train", ("cat",)),
    "000010001.jpg": ("train", ("dog",)),
    "000000002.jpg": ("test", ("cat",)),
    "000010002.jpg": ("test", ("cat",)),
}


def test_shards_of_img2dataset(tmp_path: Path) -> None:
    data = open_dataset(img2dataset(tmp_path))
    assert labels(data) == EXPECTED
    assert list(labels(data)) == list(EXPECTED)
    assert data.warnings == ()
    assert not data.multi_label
    assert all(item.source() == JPEG for item in data.items)
    for pattern in (
        f"wds:{tmp_path}",
        f"wds:{tmp_path}/*.tar",
        f"wds:{tmp_path}/{{00001,00000}}.tar",
    ):
        assert labels(open_dataset(pattern)) == EXPECTED
    batches = canvas_batches(data.items, batch_size=4)
    assert sum(int(batch.valid.sum()) for batch in batches) == 6
    digests = Contents()
    assert digests.now(data.items[0]) == hashlib.sha256(JPEG).hexdigest()
    [watched] = digests.watched(data.items[:1])
    watched.source()
    assert digests.read([watched]) == {watched.id: hashlib.sha256(JPEG).hexdigest()}


def test_shards_of_webdataset_itself(tmp_path: Path) -> None:
    """Written by the library that the format is named after."""
    wds = pytest.importorskip("webdataset")
    for split, count in (("train", 3), ("val", 2)):
        with wds.TarWriter(str(tmp_path / f"set-{split}-000000.tar")) as writer:
            for n in range(count):
                picture = {"png": smooth(8 + n, 9), "cls": 10 * (n % 2)}
                writer.write({"__key__": f"{split}/{n:06d}", **picture})
    data = open_dataset(f"wds:{tmp_path}/set-{{train,val}}-000000.tar")
    assert data.classes == ("0", "10")
    assert [(i.id, i.split, i.labels) for i in data.items] == [
        ("train/000000.png", "train", (0,)),
        ("train/000001.png", "train", (1,)),
        ("train/000002.png", "train", (0,)),
        ("val/000000.png", "test", (0,)),
        ("val/000001.png", "test", (1,)),
    ]
    assert data.name == "set"
    assert any("'val' is test" in note for note in data.notes)
    [batch] = canvas_batches(data.items[1:2], batch_size=1)
    assert np.array_equal(batch.canvas[0, :9, :9], smooth(9, 9))
    flipped = open_dataset(f"wds:{tmp_path}", split_train="val", split_test="train")
    assert [item.split for item in flipped.items] == ["train"] * 2 + ["test"] * 3
    line = mistake(f"wds:{tmp_path}", split_train="extra")
    assert line.endswith("no split 'extra'; there are 'train', 'val'")


def test_labels_of_several_kinds(tmp_path: Path) -> None:
    lists = {
        "a.jpg": JPEG,
        "a.json": {"tags": ["x", "y"], "part": "train"},
        "b.webp": encoded(Image.fromarray(smooth(9, 9)), "WEBP"),
        "b.json": {"tags": [], "part": "train"},
        "c.d.png": PNG,  # extension "d.png": no picture
        "c.png": PNG,
        "c.json": {"tags": ["y"], "part": "val"},
        "__meta__.json": {"x": 1},
        "folder/.hidden.jpg": JPEG,
    }
    place = shard(tmp_path / "multi.tar", lists)
    data = open_dataset(f"wds:{place}", label_field="tags", split_field="part")
    assert data.multi_label
    assert labels(data) == {
        "a.jpg": ("train", ("x", "y")),
        "b.webp": ("train", ()),
        "c.png": ("test", ("y",)),
    }
    line = mistake(f"wds:{place}")
    assert "3 of 3 pictures have no label; 'a' in" in line
    assert line.endswith("has the fields 'tags', 'part'; name the field with --label-field")
    unlabelled = open_dataset(f"wds:{place}", to_train=False, split_field="part")
    assert [item.labels for item in unlabelled.items] == [(), (), ()]
    numbers = {f"{n}.jpg": JPEG for n in range(12)} | {f"{n}.cls": str(n % 11) for n in range(12)}
    counted = open_dataset(f"wds:{shard(tmp_path / 'n.tar', numbers)}", test_fraction=0.5)
    assert counted.classes == tuple(map(str, range(11)))
    assert sorted(item.split for item in counted.items) == ["test"] + ["train"] * 11


def test_mistakes_are_named(tmp_path: Path) -> None:
    one = {"a.jpg": JPEG, "a.cls": "x"}
    first, second = shard(tmp_path / "0.tar", one), shard(tmp_path / "1.tar", one)
    assert mistake(f"wds:{tmp_path}").endswith(
        f"1 name(s) are there twice; it is 'a' in {first} and {second}"
    )
    both = shard(tmp_path / "two" / "0.tar", {"a.jpg": JPEG, "a.png": PNG, "a.cls": "x"})
    assert "1 sample(s) have several pictures; first 'a.jpg' and 'a.png'" in mistake(f"wds:{both}")
    assert mistake(f"wds:{tmp_path}/none").endswith("no such file")
    assert mistake(f"wds:{tmp_path}/x*.tar").endswith("no tar fits this pattern")
    assert "unbalanced braces" in mistake(f"wds:{tmp_path}/{{0..1.tar")
    assert "write wds:PATTERN" in mistake("wds:")
    assert mistake(f"wds:{tmp_path}/{{0,0}}.tar").endswith("0.tar twice")
    bad = shard(tmp_path / "bad" / "0.tar", {"a.jpg": JPEG, "a.json": "{"})
    assert "'a': its .json is damaged" in mistake(f"wds:{bad}")
    odd = shard(tmp_path / "odd" / "0.tar", {"a.jpg": JPEG, "a.json": {"label": 0.5}})
    assert "its label is 0.5, no class" in mistake(f"wds:{odd}")
    assert "are for data of wds:" in mistake(tmp_path, label_field="x")
    only = {"a.jpg": JPEG, "a.cls": "x", "b.cls": "x", "c.jpg": JPEG, "c.cls": "x"}
    data = open_dataset(f"wds:{shard(tmp_path / 'part' / '0.tar', only)}")
    assert data.warnings == ("1 sample(s) without a picture left out, first 'b'",)


def test_tars_that_are_cut_short_or_packed(tmp_path: Path) -> None:
    """They are refused before any work is done, wherever they end."""
    whole = tar_bytes({"a.jpg": JPEG, "a.cls": "x", "b.jpg": JPEG, "b.cls": "x"})
    place = tmp_path / "0.tar"
    second = 512 + -(-len(JPEG) // 512) * 512 + 1024  # where b.jpg begins
    for end in (100, 700, second, second + 200, second + 512, second + 600):
        place.write_bytes(whole[:end])
        line = mistake(f"wds:{place}")
        assert f"1 of 1 tar(s) cannot be used; it is {place}: " in line, line
        assert "cut short" in line or "damaged" in line
    place.write_bytes(whole[:second] + b"\xff" * 512 + whole[second + 512 :])
    assert "its last whole file is 'a.cls'" in mistake(f"wds:{place}")
    place.write_bytes(gzip.compress(whole))
    assert "packed with gzip" in mistake(f"wds:{place}")
    place.write_bytes(b"")
    assert "it is" in mistake(f"wds:{place}")


def test_shards_at_an_address(far: Far, tmp_path: Path) -> None:
    """The same as local ones, whatever fails on the way; tars are read through once only."""
    local = open_dataset(img2dataset(tmp_path / "here"))
    there = far.put_folder(tmp_path / "here", "set")
    far.fault = lambda method, path, before: "500" if method == "GET" and not before else None
    data = open_dataset(f"wds:{there}/{{00000..00001}}.tar")
    assert [(i.id, i.labels, i.split) for i in data.items] == [
        (i.id, i.labels, i.split) for i in local.items
    ]
    assert [item.source() for item in data.items] == [JPEG] * 6
    read = data.items[0].read
    assert isinstance(read, FarPicture)
    assert read.address == f"s3://{BUCKET}/set/00000.tar"
    far.asked.clear()
    again = open_dataset(f"wds:{there}/*.tar")
    assert labels(again) == EXPECTED
    assert [method for method, path in far.asked if path.endswith(".tar")] == ["HEAD"] * 2
    far.put(
        "set/00001.tar", tar_bytes({"z.jpg": JPEG, "z.json": {"label": "cat", "split": "test"}})
    )
    assert labels(open_dataset(f"wds:{there}"))["z.jpg"] == ("test", ("cat",))
    assert f"s3://{BUCKET}/set/00002.tar: no such file" in mistake(
        f"wds:{there}/{{00001..00002}}.tar"
    )


def test_names_that_are_like_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain tars that begin as packed ones do, and what an operating system leaves in tars."""
    files = {"BZh91.jpg": JPEG, "BZh91.cls": "x", "._BZh91.jpg": b"mac", ".DS_Store": b"mac"}
    shard(tmp_path / "0.tar", files)
    monkeypatch.chdir(tmp_path)
    data = open_dataset("wds:0.tar", to_train=False)
    assert (list(labels(data)), data.warnings) == (["BZh91.jpg"], ())
    (item,) = data.items
    monkeypatch.chdir("/")  # as workers may be
    assert item.source() == JPEG
    for pack in (gzip, bz2, lzma):
        (tmp_path / "0.tar").write_bytes(pack.compress(b"x"))
        assert "a tar packed with" in mistake(f"wds:{tmp_path}/0.tar")
