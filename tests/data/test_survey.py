"""What is in a set: counts, odd pictures, duplicates by content."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.archives import jpeg, write_voc
from PIL import Image

from mpp_jax.data import Dataset, Item, open_dataset
from mpp_jax.data.survey import ClassCount, Survey, is_across, survey


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes with pictures of all kinds."""
    plain = np.random.default_rng(0).integers(0, 256, (200, 80, 3)).astype(np.uint8)
    save(tmp_path / "train/a/plain.png", plain)
    save(tmp_path / "train/a/again.png", plain, optimize=True)
    save(tmp_path / "test/b/again.webp", plain, lossless=True)
    save(tmp_path / "train/b/other.bmp", 255 - plain)
    (tmp_path / "train/b/copy.bmp").write_bytes((tmp_path / "train/b/other.bmp").read_bytes())
    save(tmp_path / "train/a/long.png", plain[:70].repeat(5, 1))
    save(tmp_path / "train/a/tiny.png", plain[:80, :63])
    jpeg(tmp_path / "test/a/cmyk.jpg", (1, 2, 3), "CMYK")
    jpeg(tmp_path / "test/a/turned.jpg", (4, 5, 6), turn=6)
    frames = [Image.fromarray(plain), Image.fromarray(255 - plain)]
    frames[0].save(tmp_path / "test/a/moving.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "test/a/cut.jpg").write_bytes((tmp_path / "test/a/cmyk.jpg").read_bytes()[:-300])
    (tmp_path / "test/b/empty.jpg").write_bytes(b"")
    return tmp_path


def save(place: Path, pixels: np.ndarray, **options) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(place, **options)


def test_odd_pictures_and_duplicates(root: Path) -> None:
    found = survey(open_dataset(root), threads=3)
    tiny = ["test/a/cmyk.jpg", "test/a/turned.jpg", "train/a/tiny.png"]
    assert {what: sorted(names) for what, names in found.odd.items()} == {
        "tiny (a side under 64 pixels)": tiny,
        "format BMP": ["train/b/copy.bmp", "train/b/other.bmp"],
        "format GIF": ["test/a/moving.gif"],
        "format WEBP": ["test/b/again.webp"],
        "long (sides differ 4 times)": ["train/a/long.png"],
        "mode CMYK": ["test/a/cmyk.jpg"],
        "mode P": ["test/a/moving.gif"],
        "several frames": ["test/a/moving.gif"],
        "turned by EXIF": ["test/a/turned.jpg"],
    }
    broken = dict(found.broken)
    assert set(broken) == {"test/a/cut.jpg", "test/b/empty.jpg"}
    assert "truncated" in broken["test/a/cut.jpg"]
    assert broken["test/b/empty.jpg"] == "empty file (0 bytes)"
    assert [sorted(item.id for item in group) for group in found.same] == [
        ["test/b/again.webp", "train/a/again.png", "train/a/plain.png"],
        ["train/b/copy.bmp", "train/b/other.bmp"],
    ]
    assert [is_across(group) for group in found.same] == [True, False]
    assert found.sides == {"height": (24, 200, 200), "width": (24, 80, 400)}
    assert [one.item for one in found.seen] == list(open_dataset(root).items)


def test_counts_tell_difficult_ones(tmp_path: Path) -> None:
    found = survey(open_dataset(f"voc:{write_voc(tmp_path)}"))
    assert found.classes == {
        "cat": {"train": ClassCount(2, 1), "test": ClassCount(1, 0)},
        "train": {"train": ClassCount(3, 1), "test": ClassCount(0, 1)},
    }
    (group,) = found.same  # the helper writes one picture eight times
    assert len(group) == 8


def test_as_json(root: Path) -> None:
    held = json.loads(json.dumps(survey(open_dataset(root)).as_json()))
    assert held["pictures"] == {"train": 6, "test": 6}
    assert held["classes"]["a"] == {
        "train": {"positives": 4, "difficult": 0},
        "test": {"positives": 4, "difficult": 0},
    }
    first = held["duplicates"][0]
    assert first["across"] is True
    assert {"id": "test/b/again.webp", "split": "test", "labels": ["b"]} in first["pictures"]
    assert {entry["id"] for entry in held["broken"]} == {"test/a/cut.jpg", "test/b/empty.jpg"}


def test_pictures_of_no_file_and_none_at_all(root: Path) -> None:
    def read() -> np.ndarray:
        return np.zeros((70, 80, 3), np.uint8)

    items = tuple(Item(name, (0,), "train", read=read) for name in "ab")
    found = survey(Dataset("drawn", ("x",), items))
    assert (found.odd, [len(group) for group in found.same]) == ({}, [2])
    assert found.sides == {"height": (70, 70, 70), "width": (80, 80, 80)}
    shutil.rmtree(root / "train")
    gone = survey(Dataset("gone", ("x",), (Item("g", (0,), "test", path=root / "train/g.jpg"),)))
    assert gone.broken == [("g", "no such file")]
    assert Survey(gone.dataset, gone.seen).sides == {}


@pytest.mark.slow
def test_scene15_has_pictures_twice(shared_dir: Path) -> None:
    """Its known exact copies: 16 in living_room, one mountain, one picture of two classes."""
    found = survey(open_dataset(f"scene15:{shared_dir}/data/scene15"))
    assert len(found.same) == 18
    assert sum(map(is_across, found.same)) == 11
    assert sum(len({item.labels for item in group}) > 1 for group in found.same) == 1
    assert found.broken == []
    assert found.sides == {"height": (200, 200, 200), "width": (200, 200, 200)}
