# ruff: noqa: RUF012 (class attributes are how a builder is described)
"""Sets as TFDS's own builders prepare them, `voc/2007` and `oxford_flowers102`, as they are."""

import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from mpp_jax.data import Box, decode_picture, open_dataset
from mpp_jax.data.flowers102 import CLASSES as FLOWERS

pytest.importorskip("array_record")  # TFDS requires it on Linux only

VOC_NAMES = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
]
POSES = ["frontal", "rear", "left", "right", "unspecified"]
# By split: file -> objects (class, whether difficult).
OBJECTS = {
    "train": {
        "000012": [("car", False), ("person", False)],
        "000017": [("person", True), ("horse", False)],
    },
    "validation": {"000005": [("chair", True), ("chair", False), ("car", True)]},
    "test": {"000001": [("person", False), ("car", True)], "000002": []},
}


def picture(number: int) -> io.BytesIO:
    stream = io.BytesIO()
    Image.fromarray(np.full((30, 20, 3), number, np.uint8)).save(stream, "JPEG")
    stream.seek(0)
    return stream


class Voc(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The features, configuration, version and splits of TFDS's builder of this name."""

    name = "voc"
    code_path = Path(__file__)
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=y, version="5.0.0") for y in ("2007", "2012")]

    def _info(self):
        label = tfds.features.ClassLabel
        objects = {
            "label": label(names=VOC_NAMES),
            "bbox": tfds.features.BBoxFeature(),
            "pose": label(names=POSES),
            "is_truncated": np.bool_,
            "is_difficult": np.bool_,
        }
        features = {
            "image": tfds.features.Image(),
            "image/filename": tfds.features.Text(),
            "objects": tfds.features.Sequence(objects),
            "labels": tfds.features.Sequence(label(names=VOC_NAMES)),
            "labels_no_difficult": tfds.features.Sequence(label(names=VOC_NAMES)),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(found) for split, found in OBJECTS.items()}

    def _generate_examples(self, found):
        for name, objects in found.items():
            yield (
                name,
                {
                    "image": picture(int(name)),
                    "image/filename": f"{name}.jpg",
                    "objects": [
                        {
                            "label": label,
                            "bbox": tfds.features.BBox(0.1 * n, 0.0, 0.5, 1.0),
                            "pose": "left",
                            "is_truncated": False,
                            "is_difficult": difficult,
                        }
                        for n, (label, difficult) in enumerate(objects)
                    ],
                    "labels": sorted({label for label, _ in objects}),
                    "labels_no_difficult": sorted({label for label, hard in objects if not hard}),
                },
            )


class OxfordFlowers102(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The features, version and splits of TFDS's builder of this name."""

    name = "oxford_flowers102"
    code_path = Path(__file__)
    VERSION = tfds.core.Version("2.1.1")

    def _info(self):
        features = {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=FLOWERS),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        splits = {"train": (1, 2), "test": (3, 4, 5), "validation": (6, 7)}
        return {split: self._generate_examples(numbers) for split, numbers in splits.items()}

    def _generate_examples(self, numbers):
        for number in numbers:
            name = f"image_{number:05d}.jpg"
            yield name, {"image": picture(number), "label": number % 2, "file_name": name}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    place = tmp_path_factory.mktemp("tfds")
    Voc(data_dir=place, config="2007", file_format="array_record").download_and_prepare()
    OxfordFlowers102(data_dir=place, file_format="array_record").download_and_prepare()
    return place


@pytest.mark.parametrize("spec", ["voc/2007", "voc:2007", "voc", "voc/2007:5.0.0"])
def test_voc(spec, data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    data = open_dataset(f"tfds:{spec}")
    assert data.multi_label
    # Those that some picture surely shows; "person" and "chair" are difficult elsewhere.
    with_label = {name for split in OBJECTS.values() for o in split.values() for name, hard in o}
    assert set(data.classes) == with_label
    shown = {
        int(decode_picture(item.source()).mean().round()): item for item in data.split("train")
    }
    assert len(shown) == 3

    def named(labels):
        return {data.classes[label] for label in labels}

    assert (named(shown[12].labels), named(shown[12].ignored)) == ({"car", "person"}, set())
    assert (named(shown[17].labels), named(shown[17].ignored)) == ({"horse"}, {"person"})
    assert (named(shown[5].labels), named(shown[5].ignored)) == ({"chair"}, {"car"})
    column = data.targets("train")[:, data.classes.index("car")]
    assert sorted(column) == [-1, 0, 1]
    assert shown[17].boxes is not None
    boxes = shown[17].boxes()
    assert [(box.name, box.difficult) for box in boxes] == [("person", True), ("horse", False)]
    assert boxes[1] == Box("horse", (pytest.approx(0.1), 0.0, 0.5, 1.0), False)
    assert "3 times a picture has a class only as 'difficult': ignored for it" in data.notes
    # TFDS mixes the records: the names of ours tell one from another.
    assert {item.id.split("/")[0] for item in data.items} == {"train", "validation", "test"}


def test_flowers(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    data = open_dataset("tfds:oxford_flowers102")
    assert data.classes == FLOWERS[:2]
    assert (len(data.split("train")), len(data.split("test"))) == (4, 3)
    assert sorted(item.labels[0] for item in data.split("test")) == [0, 1, 1]
    paper = open_dataset("tfds:oxford_flowers102", split_train="train", split_test="validation")
    assert (len(paper.split("train")), len(paper.split("test"))) == (2, 2)
