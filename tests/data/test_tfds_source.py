# ruff: noqa: RUF012 (class attributes are how a builder is described)
"""Prepared TFDS data, generated and read without TensorFlow."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers import REPOSITORY
from PIL import Image

from mpp_jax.data import (
    DataError,
    DecodeError,
    canvas_batches,
    decode_picture,
    open_dataset,
    tfds_source,
)

pytest.importorskip("array_record")  # TFDS requires it on Linux only


def pixels(number: int) -> np.ndarray:
    return np.full((8 + number, 9, 3), 10 * number, np.uint8)


def png(number: int) -> io.BytesIO:
    stream = io.BytesIO()
    Image.fromarray(pixels(number)).save(stream, "PNG")
    stream.seek(0)
    return stream


class _Tiny(tfds.core.GeneratorBasedBuilder):
    """Splits and labels from class attributes; the picture shows its number."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = Path(__file__)  # else TFDS looks for it with a package that it does not require
    SPLITS: dict[str, list] = {}
    FEATURE = ("label", tfds.features.ClassLabel(names=["sea", "hill"]))

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            self.FEATURE[0]: self.FEATURE[1],
        }
        if self.FEATURE[0] == "labels":
            features["labels_no_difficult"] = self.FEATURE[1]
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.SPLITS}

    def _generate_examples(self, split):
        for number, value in enumerate(self.SPLITS[split]):
            example = {"image": png(number)}
            if self.FEATURE[0] == "labels":
                example["labels"], example["labels_no_difficult"] = value
            else:
                example[self.FEATURE[0]] = value
            yield number, example


class TinySplits(_Tiny):
    SPLITS = {"train": [0, 1, 0, 1, 0], "validation": [1, 0], "test": [0, 1, 1]}


class TinyNoTest(_Tiny):
    SPLITS = {"train": [0, 1, 0], "validation": [1, 0]}


class TinyTrainOnly(_Tiny):
    SPLITS = {"train": [0, 1] * 5}


class TinyWithheld(_Tiny):
    SPLITS = {"train": [0, 1, 0], "validation": [1, 0], "test": [-1, -1]}


class TinyVoc(_Tiny):
    FEATURE = ("labels", tfds.features.Sequence(tfds.features.ClassLabel(names=["a", "b", "c"])))
    SPLITS = {
        "train": [([0, 1, 1], [1]), ([2], [2]), ([0], [0])],
        "test": [([0, 2], [0, 2])],
    }


class TinyOther(_Tiny):
    FEATURE = ("text", tfds.features.Text())
    SPLITS = {"train": ["x"]}


class TinyConfigured(_Tiny):
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=n, version="2.0.0") for n in ("one", "two")]
    SPLITS = {"train": [0, 1], "test": [0, 1]}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    place = tmp_path_factory.mktemp("tfds")
    for cls in (TinySplits, TinyNoTest, TinyTrainOnly, TinyWithheld, TinyVoc, TinyOther):
        cls(data_dir=place, file_format="array_record").download_and_prepare()
    TinyConfigured(data_dir=place, config="two", file_format="array_record").download_and_prepare()
    return place


@pytest.fixture(autouse=True)
def _environment(monkeypatch, data_dir):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))


def mistake(spec: str, **options: str) -> str:
    with pytest.raises(DataError) as caught:
        open_dataset(spec, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_validation_joins_training(data_dir):
    data = open_dataset("tfds:tiny_splits")
    assert data.name == "tiny_splits"
    assert data.classes == ("sea", "hill")
    assert not data.multi_label
    assert len(data.split("train")) == 7
    assert len(data.split("test")) == 3
    assert sorted(i.labels[0] for i in data.split("test")) == [0, 1, 1]
    assert data.items[0].id == "train/000000"
    assert data.split("train")[-1].id == "validation/000001"
    assert any("'validation' together" in note for note in data.notes)
    assert open_dataset("tfds:tiny_splits").split("train")[0].id == "train/000000"
    folder = data_dir / "tiny_splits" / "1.0.0"
    assert [i.id for i in open_dataset(f"tfds:{folder}").items] == [i.id for i in data.items]


def test_pictures_pass_through_the_one_decode_rule():
    data = open_dataset("tfds:tiny_splits")
    for item in data.split("train")[:5]:
        source = item.source()
        assert isinstance(source, bytes)
        picture = decode_picture(source)
        number = picture.shape[0] - 8
        np.testing.assert_array_equal(picture, pixels(number))
        assert item.labels == (TinySplits.SPLITS["train"][number],)
    batches = canvas_batches(data.items, batch_size=4, threads=3)
    assert sum(int(batch.valid.sum()) for batch in batches) == 10
    assert batches.skipped == []


def test_validation_is_test_where_test_is_absent_or_withheld():
    data = open_dataset("tfds:tiny_no_test")
    assert [i.id.split("/")[0] for i in data.split("test")] == ["validation"] * 2
    assert len(data.split("train")) == 3
    data = open_dataset("tfds:tiny_withheld")
    assert [i.id.split("/")[0] for i in data.split("test")] == ["validation"] * 2
    assert any("withheld" in note for note in data.notes)


def test_splits_that_the_user_names():
    data = open_dataset("tfds:tiny_splits", split_test="validation")
    assert data.name == "tiny_splits (train: train, test: validation)"
    assert [i.id.split("/")[0] for i in data.items] == ["train"] * 5 + ["validation"] * 2
    data = open_dataset("tfds:tiny_splits", split_train="train+test", split_test="validation")
    assert len(data.split("train")) == 8
    assert "no split 'dev', only 'train', " in mistake("tfds:tiny_splits", split_train="dev")
    line = mistake("tfds:tiny_splits", split_train="train+validation", split_test="validation")
    assert "'validation' is named twice (train, test)" in line
    assert "without label (-1)" in mistake("tfds:tiny_withheld", split_train="train")


def test_train_only_is_split_by_seed():
    data = open_dataset("tfds:tiny_train_only", test_fraction=0.4)
    assert sorted(i.labels for i in data.split("test")) == [(0,), (0,), (1,), (1,)]
    assert len(data.split("train")) == 6
    limited = open_dataset("tfds:tiny_train_only", test_fraction=0.4, limit_per_class=1)
    assert len(limited.items) == 4


def test_multi_label_with_difficult_ones_ignored():
    data = open_dataset("tfds:tiny_voc")
    assert data.multi_label
    by_height = {decode_picture(i.source()).shape[0] - 8: i for i in data.split("train")}
    assert (by_height[0].labels, by_height[0].ignored) == ((1,), (0,))
    assert (by_height[1].labels, by_height[1].ignored) == ((2,), ())
    np.testing.assert_array_equal(data.targets("test"), [[1, -1, 1]])


@pytest.mark.parametrize(
    "spec",
    ["tfds:tiny_configured:two", "tfds:tiny_configured/two", "tfds:tiny_configured/two:2.0.0"],
)
def test_configurations(spec):
    data = open_dataset(spec)
    assert data.name == "tiny_configured/two"
    assert len(data.items) == 4


def test_mistakes(tmp_path, monkeypatch):
    assert "no dataset name" in mistake("tfds:")
    message = mistake("tfds:absent_set")
    assert "not prepared in" in message
    assert "file_format='array_record').download_and_prepare()" in message
    assert "builder('absent_set/conf'" in mistake("tfds:absent_set:conf")
    assert "not prepared" in mistake("tfds:tiny_configured:three")
    assert "no picture classification" in mistake("tfds:tiny_other")
    assert "'text'" in mistake("tfds:tiny_other")


def test_files_that_only_tensorflow_reads(tmp_path, monkeypatch):
    TinySplits(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    (info,) = tmp_path.rglob("dataset_info.json")  # TensorFlow alone can write real ones
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    message = mistake("tfds:tiny_splits")
    assert "tfrecord" in message
    assert "file_format='array_record'" in message


def test_damaged_record_files(tmp_path, monkeypatch):
    TinySplits(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for path in tmp_path.rglob("*.array_record*"):
        path.write_bytes(path.read_bytes()[:100])
    assert "cannot be read" in mistake("tfds:tiny_splits")


def test_a_record_that_fails_later_is_a_skipped_picture():
    class Failing:
        def __getitem__(self, number):
            raise OSError("disk\ngone")

    with pytest.raises(DecodeError, match="cannot be read: disk"):
        tfds_source._bytes(Failing(), 3, "image")


def test_neither_generating_nor_reading_imports_tensorflow(data_dir):
    program = (
        "import sys; from mpp_jax.data import open_dataset, decode_picture; "
        "data = open_dataset('tfds:tiny_splits'); "
        "decode_picture(data.items[0].source()); "
        "assert 'tensorflow' not in sys.modules"
    )
    environment = os.environ | {"TFDS_DATA_DIR": str(data_dir)}
    subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        timeout=120,
    )
