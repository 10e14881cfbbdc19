"""The clutter scenes through TFDS: prepared and read back without TensorFlow."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import REPOSITORY

from mpp_jax.data import decode_picture, open_dataset
from mpp_jax.data.clutter import CLASSES, Clutter, open_clutter, scene

pytest.importorskip("array_record")  # TFDS requires it on Linux only

SIZES = ["--train", "12", "--test", "5", "--seed", "3"]
SET = Clutter(train=12, test=5, seed=3)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare the set by the command, in a process that must not load TensorFlow."""
    place = tmp_path_factory.mktemp("tfds")
    program = (
        "import sys; from mpp_jax.data.clutter_tfds import main; "
        "main(sys.argv[1:], standalone_mode=False); assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *SIZES],
        env=os.environ | {"TFDS_DATA_DIR": str(place)},
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    folder = place / "clutter" / "1.0.0"
    assert f"prepared: {folder}" in done.stdout
    return folder


def test_read_back_equals_rendered(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared.parent.parent))
    stored, rendered = open_dataset("tfds:clutter"), open_clutter(SET)
    assert stored.classes == rendered.classes
    assert stored.multi_label
    assert len(stored.items) == len(rendered.items) == 17
    for one, other in zip(stored.items, rendered.items, strict=True):
        assert (one.id, one.labels, one.split) == (other.id, other.labels, other.split)
        content = one.source()
        assert isinstance(content, bytes)
        np.testing.assert_array_equal(decode_picture(content), other.source())
        assert one.boxes is not None
        assert other.boxes is not None
        for mine, wanted in zip(one.boxes(), other.boxes(), strict=True):
            assert mine.name == wanted.name
            assert mine.place == pytest.approx(wanted.place, abs=1e-7)
    np.testing.assert_array_equal(stored.targets("test"), rendered.targets("test"))


def test_boxes_are_features(prepared: Path) -> None:
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(os.fspath(prepared))
    assert builder.info.features["labels"].feature.names == list(CLASSES)
    for index, example in enumerate(builder.as_data_source(split="test")):
        picture, objects = scene(SET, "test", index)
        np.testing.assert_array_equal(example["image"], picture)
        held = example["objects"]
        np.testing.assert_array_equal(held["label"], [entry.label for entry in objects])
        np.testing.assert_allclose(held["bbox"], [entry.box for entry in objects], atol=1e-7)
        np.testing.assert_allclose(held["size"], [entry.size for entry in objects], rtol=1e-6)


def test_how_to_prepare_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match=r"python -m mpp_jax\.data\.clutter_tfds"):
        open_dataset("tfds:clutter")
