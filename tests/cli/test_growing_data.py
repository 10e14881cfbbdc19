"""Data that change after they were encoded: what is gone, moved, relabelled or new."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import toy
from helpers.toy_cli import cli, ok, refused
from helpers.toy_run import OPTIONS, Finished, store_bytes

from mpp_jax.runs.provenance import load_codebooks
from mpp_jax.storage.store import Store

pytestmark = pytest.mark.usefixtures("toy_known")


@pytest.fixture
def data(done: Finished, tmp_path: Path) -> Path:
    return shutil.copytree(done.data, tmp_path / "data")


def run_command(data: Path, out: Path, done: Finished) -> list[Any]:
    return ["run", data, "--out", out, *OPTIONS, "--weights", done.weights, "--pooling", "mpp,avg"]


def encode_command(data: Path, out: Path, done: Finished) -> list[Any]:
    book = done.out / "codebook"
    return ["encode", data, "--codebook", book, "--pooling", "mpp,avg", "--out", out]


def pictures(out: Path) -> dict[str, Any]:
    return json.loads((out / "metrics.json").read_text())["pictures"]


def test_a_run_survives_pictures_that_are_gone_and_a_folder_that_moved(
    done: Finished, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ok(*run_command(data, out, done))
    before = store_bytes(out / "encodings")
    moved = Path(shutil.move(data, tmp_path / "elsewhere"))
    assert "are not among" not in ok(*run_command(moved, out, done)).stderr
    assert json.loads((out / "metrics.json").read_text())["data"] == "elsewhere"
    kept = (moved / "train/red/03.png").read_bytes()
    (moved / "train/red/03.png").unlink()
    (moved / "test/blue/00.png").unlink()
    for _ in range(2):
        said = ok(*run_command(moved, out, done)).stderr
        assert "that are no training pictures any more: 1 (train/red/03.png for one)" in said
        assert pictures(out) == {"train": 14, "test": 8, "skipped": []}
    (moved / "train/red/03.png").write_bytes(kept)
    shutil.copy(done.data / "test/blue/00.png", moved / "test/blue/00.png")
    assert "among the data again" in ok(*run_command(moved, out, done)).stderr
    after = store_bytes(out / "encodings")
    assert {n for n in before if before[n] != after[n]} == {"manifest.json"}  # the folder's name
    # Vectors were never made again, and the codebook is the first one.
    assert "now " in refused(*run_command(moved, out, done), "--pca", "5")


def test_other_training_pictures_are_another_set(
    done: Finished, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ok(*run_command(data, out, done))
    before = store_bytes(out / "encodings")
    shutil.move(data / "test/red/01.png", data / "train/red/99.png")
    line = refused(*run_command(data, out, done))
    assert "training pictures that it was not fitted to: 1 (train/red/99.png for one)" in line
    assert store_bytes(out / "encodings") == before


def test_a_picture_that_became_a_test_picture_stays_in_the_codebook(
    done: Finished, data: Path, tmp_path: Path
) -> None:
    """As a seeded split has it when a test picture of one-level folders is gone."""
    out = tmp_path / "out"
    ok(*run_command(data, out, done))
    (data / "test/red/02.png").unlink()
    shutil.move(data / "train/red/03.png", data / "test/red/99.png")
    for _ in range(2):
        said = ok(*run_command(data, out, done)).stderr
        assert "that are no training pictures any more: 1 (train/red/03.png for one)" in said
        assert pictures(out) == {"train": 14, "test": 9, "skipped": []}


def test_renamed_and_reordered_lists_are_the_same_set(
    done: Finished, data: Path, tmp_path: Path
) -> None:
    """Absolute paths in a list, of a folder that moves; and its lines in another order."""
    out, table = tmp_path / "out", tmp_path / "list.csv"

    def write(root: Path, step: int) -> None:
        paths = [*sorted(root.glob("train/*/*")), *sorted(root.glob("test/*/*"))][::step]
        rows = [f"{p},{p.parent.name},{p.parent.parent.name}" for p in paths]
        table.write_text("\n".join(rows) + "\n")

    write(data, 1)
    ok(*run_command(table, out, done))
    before = store_bytes(out / "encodings")
    write(data, -1)
    ok(*run_command(table, out, done))
    moved = Path(shutil.move(data, tmp_path / "elsewhere"))
    write(moved, 1)
    said = ok(*run_command(table, out, done)).stderr
    assert "known under another name or place" in said
    assert pictures(out) == {"train": 15, "test": 9, "skipped": []}
    after = store_bytes(out / "encodings")
    assert all(before[name] == after[name] for name in before if name.endswith("npy"))


def test_encodings_grow_by_new_pictures(done: Finished, data: Path, tmp_path: Path) -> None:
    """From a folder of new pictures alone; searched, trained on and scored with the others."""
    store, new = tmp_path / "store", toy.write_folder(tmp_path / "new", train=1, test=2, seed=7)
    for path in sorted(new.rglob("*.png")):
        path.rename(path.with_name(f"new-{path.name}"))
    ok(*encode_command(data, store, done))
    before = store_bytes(store)
    said = ok(*encode_command(new, store, done), "--append").stderr
    assert "9 pictures (train/blue/new-00.png for one) are new, and added to the store" in said
    after = store_bytes(store)
    assert {name: after[name] for name in before if name != "manifest.json"} == {
        name: content for name, content in before.items() if name != "manifest.json"
    }
    grown = Store.open(store)
    assert (len(grown.items("train")), len(grown.items("test"))) == (18, 15)
    ok(*encode_command(new, tmp_path / "alone", done))
    alone = Store.open(tmp_path / "alone")
    for split in ("train", "test"):
        number = len(alone.items(split))
        np.testing.assert_array_equal(
            grown.vectors("mpp", split)[-number:], alone.vectors("mpp", split)
        )
    assert load_codebooks(store / "codebook")[1].dataset == data.name
    found = ok("search", store, new / "test/red/new-00.png", "--weights", done.weights, "--json")
    assert json.loads(found.stdout)[0]["neighbours"][0]["path"] == "test/red/new-00.png"
    ok("train", store, "--out", tmp_path / "model")
    ok("evaluate", tmp_path / "model", store, "--out", tmp_path / "results")
    assert pictures(tmp_path / "results") == {"train": 18, "test": 15, "skipped": []}
    # Once more is no more; the first folder, without --append, is the store's again.
    ok(*encode_command(new, store, done), "--append")
    assert store_bytes(store) == after
    assert "9 pictures (train/blue/new-00.png for one) are not among the data" in (
        ok(*encode_command(data, store, done)).stderr
    )
    assert len(Store.open(store).items("test")) == 9


def test_append_begins_a_store_too(done: Finished, data: Path, tmp_path: Path) -> None:
    ok(*encode_command(data, tmp_path / "a", done), "--append")
    ok(*encode_command(data, tmp_path / "b", done))
    assert store_bytes(tmp_path / "a") == store_bytes(tmp_path / "b")


def test_a_broken_new_picture_is_skipped_and_tried_again(
    done: Finished, data: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    ok(*encode_command(data, store, done))
    (data / "test/red/new.png").write_bytes(b"no picture")
    for _ in range(2):
        said = cli(*encode_command(data, store, done), "--append")
        assert said.exit_code == 1
        assert "test/red/new.png" in said.stderr
    shutil.copy(data / "test/red/01.png", data / "test/red/new.png")
    ok(*encode_command(data, store, done), "--append")
    red = Store.open(store).vectors("mpp", "test")
    np.testing.assert_allclose(
        red[-1],
        red[[i.id for i in Store.open(store).items("test")].index("test/red/01.png")],
        atol=1e-6,
    )


def test_corrected_labels_reach_a_finished_store(done: Finished, tmp_path: Path) -> None:
    paths = [*sorted((done.data / "train").rglob("*.png")), *sorted(done.data.glob("test/*/*"))]
    rows = [[str(p), p.parent.name, p.parent.parent.name] for p in paths]
    table, store = tmp_path / "list.csv", tmp_path / "store"
    table.write_text("\n".join(",".join(row) for row in rows) + "\n")
    ok(*encode_command(table, store, done))
    before = store_bytes(store)
    rows[0][1] = "crimson"
    table.write_text("\n".join(",".join(row) for row in rows) + "\n")
    assert "of other classes or another split" in ok(*encode_command(table, store, done)).stderr
    assert Store.open(store).classes == ("blue", "crimson", "green", "red")
    after = store_bytes(store)
    changed = [name for name in before if before[name] != after[name]]
    assert changed == ["manifest.json", "shard-00000.json"]


def test_an_unclear_class_of_a_new_list_is_that_of_the_store(
    done: Finished, data: Path, tmp_path: Path
) -> None:
    """Also where no picture of the new list surely shows it; other such classes are not known."""
    table, store = tmp_path / "list.csv", tmp_path / "store"
    new = shutil.copy(data / "test/red/00.png", tmp_path / "new.png")
    ok(*encode_command(data, store, done))
    table.write_text(f"{new},blue;?red;?violet,train\n")
    said = ok(*encode_command(table, store, done), "--append").stderr
    assert "classes 'red', 'violet' unclear wherever named" in said
    grown = Store.open(store)
    assert grown.classes == ("blue", "green", "red")
    np.testing.assert_array_equal(grown.targets("train")[-1], [1, -1, 0])


def test_rounded_and_other_activations_do_not_mix(
    done: Finished, data: Path, tmp_path: Path
) -> None:
    """What comes from a folder of activations is rounded to float16: other vectors."""
    cached = ["--cache", tmp_path / "cache"]
    ok(*encode_command(data, tmp_path / "plain", done))
    before = store_bytes(tmp_path / "plain")
    line = refused(*encode_command(data, tmp_path / "plain", done), *cached)
    assert 'config.activations was null, now "float16"' in line
    assert store_bytes(tmp_path / "plain") == before
    ok(*encode_command(data, tmp_path / "rounded", done), *cached)
    ok("train", tmp_path / "rounded", "--out", tmp_path / "model")
    for store in ("plain", "rounded"):  # each is one of its own, and of use to either's model
        ok("evaluate", tmp_path / "model", tmp_path / store, "--out", tmp_path / f"{store}-results")


def test_a_broken_training_picture_that_is_taken_away_is_no_loss(
    done: Finished, data: Path, tmp_path: Path
) -> None:
    """What usually happens to one: the codebook never knew it."""
    out = tmp_path / "out"
    (data / "train/red/00.png").write_bytes(b"no picture")
    assert cli(*run_command(data, out, done)).exit_code == 1
    (data / "train/red/00.png").unlink()
    said = ok(*run_command(data, out, done)).stderr
    assert "codebook: taken from" in said
    assert "no training pictures any more" not in said
    assert pictures(out) == {"train": 14, "test": 9, "skipped": []}


def test_renamed_data_with_pictures_that_are_none(
    done: Finished, data: Path, tmp_path: Path
) -> None:
    """What cannot be decoded is known by its content as well; so is a file without any."""
    out, book, store = tmp_path / "out", tmp_path / "book", tmp_path / "store"
    (data / "train/red/00.png").write_bytes(b"no picture")
    (data / "train/red/01.png").write_bytes(b"")
    (data / "test/blue/00.png").write_bytes(b"no picture either")
    fit = ["fit", data, "--out", book, *OPTIONS, "--weights", done.weights, "--pooling", "mpp"]
    commands = [run_command(data, out, done), fit, encode_command(data, store, done)]
    for command in commands:
        assert cli(*command).exit_code == 1
    before = store_bytes(out / "encodings")
    for path in [*data.rglob("*.png")]:
        path.rename(path.with_stem(f"new-{path.stem}"))
    for command in commands:
        found = cli(*command)
        assert found.exit_code == 1, found.stderr
        assert "skipped train/red/new-00.png: " in found.stderr
        assert "skipped train/red/new-01.png: " in found.stderr
        assert "fitted again" not in found.stderr
    assert len(pictures(out)["skipped"]) == 3
    after = store_bytes(out / "encodings")
    assert all(before[name] == after[name] for name in before if name.endswith("npy"))
    shutil.copy(done.data / "train/red/00.png", data / "train/red/new-00.png")
    found = cli(*fit)
    assert "not fitted to: 1 (train/red/new-00.png for one); it is fitted again" in found.stderr
