"""Replaced pictures: same names, new contents. Never the old vectors, never a mixture."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import toy
from helpers.toy_cli import ok, refused
from helpers.toy_run import OPTIONS, Finished, store_bytes
from PIL import Image

from mpp_jax.runs.contents import Contents, joint_digest
from mpp_jax.runs.fitted_on import fitted_on
from mpp_jax.runs.provenance import load_codebooks
from mpp_jax.storage.store import Store

pytestmark = pytest.mark.usefixtures("toy_known")


@pytest.fixture
def data(done: Finished, tmp_path: Path) -> Path:
    return shutil.copytree(done.data, tmp_path / "data")


def command(name: str, data: Path, out: Path, done: Finished) -> list[Any]:
    return [name, data, "--out", out, *OPTIONS, "--weights", done.weights, "--pooling", "mpp,avg"]


def replace_picture(place: Path, seed: int = 9) -> None:
    rng = np.random.default_rng(seed)
    Image.fromarray(toy.picture(rng, (10, 220, 220), 50, 60)).save(place)


def test_a_replaced_test_picture_has_its_shard_made_again(
    done: Finished, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ok(*command("run", data, out, done))
    before = store_bytes(out / "encodings")
    replace_picture(data / "test" / "red" / "01.png")
    again = ok(*command("run", data, out, done))
    assert "1 pictures changed since they were encoded (test/red/01.png for one)" in again.stderr
    after = store_bytes(out / "encodings")
    assert [n for n in after if after[n] != before[n]] == [
        "shard-00002.avg.npy",
        "shard-00002.json",
        "shard-00002.mpp.npy",
    ]
    ok(*command("run", data, tmp_path / "fresh", done))
    assert after == store_bytes(tmp_path / "fresh" / "encodings")
    assert "changed" not in ok(*command("run", data, out, done)).stderr


def test_a_replaced_training_picture_is_the_codebooks_business(
    done: Finished, data: Path, tmp_path: Path
) -> None:
    out, book = tmp_path / "out", tmp_path / "book"
    ok(*command("run", data, out, done))
    ok(*command("fit", data, book, done))
    old = load_codebooks(book)[0]["default.fisher"].pca.mean
    digests = fitted_on(book).pictures
    assert digests is not None
    assert len(digests) == 15
    replace_picture(data / "train" / "blue" / "02.png")
    line = refused(*command("run", data, out, done))
    assert "1 training pictures changed since (train/blue/02.png for one)" in line
    refit = ok(*command("fit", data, book, done))
    assert "1 training pictures changed since (train/blue/02.png for one)" in refit.stderr
    now = fitted_on(book).pictures
    assert now is not None
    assert [n for n in digests if now[n] != digests[n]] == ["train/blue/02.png"]
    assert np.abs(load_codebooks(book)[0]["default.fisher"].pca.mean - old).max() > 0
    assert "taken from" in ok(*command("fit", data, book, done)).stderr


def test_a_folder_of_the_same_name_elsewhere_is_another(
    done: Finished, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ok(*command("run", data, out, done))
    other = toy.write_folder(tmp_path / "elsewhere" / "data", seed=5)
    assert "training pictures changed since" in refused(*command("run", other, out, done))
    moved = shutil.move(data, tmp_path / "moved" / "data")
    ok(*command("run", Path(moved), out, done))  # the same pictures, wherever they are
    # One that is gone leaves what is finished as it is.
    assert len(Store.open(out / "encodings").items("test")) == 9


def test_stopped_in_the_middle_old_and_new_are_not_mixed(
    done: Finished, data: Path, tmp_path: Path
) -> None:
    """An encoding of old contents goes on with new ones: nothing of the old is left."""
    encode = ["encode", data, "--codebook", done.out / "codebook", "--pooling", "mpp,avg", "--out"]
    ok(*encode, tmp_path / "store")
    for name in ("blue", "green", "red"):
        replace_picture(data / "train" / name / "00.png", seed=len(name))
    (tmp_path / "store" / "shard-00002.mpp.npy").unlink()  # as if it had never been written
    ok(*encode, tmp_path / "store")
    ok(*encode, tmp_path / "fresh")
    assert store_bytes(tmp_path / "store") == store_bytes(tmp_path / "fresh")


def test_digests_are_of_the_bytes_that_are_decoded(done: Finished, tmp_path: Path) -> None:
    contents, items = Contents(), done.dataset.items[:2]
    watched = contents.watched(items)
    assert contents.read(items) == {}
    for item in watched:
        item.source()
    found = contents.read(items)
    assert found == {item.id: contents.now(item) for item in items}
    assert joint_digest(items, found) != joint_digest(items[:1], found)
    assert joint_digest(items, {}) is None
