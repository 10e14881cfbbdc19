"""Search and index from the command line; recall and figures in what they print."""

import json
from pathlib import Path

import pytest
from helpers.toy_cli import ok, refused
from helpers.toy_run import Finished

pytestmark = pytest.mark.usefixtures("toy_known")


@pytest.fixture
def index(done: Finished, tmp_path: Path) -> Path:
    made = ok("index", done.out / "encodings", "--out", tmp_path / "index", "--pca", 8)
    assert made.stdout.startswith("recall against exact search: ")
    assert "48 numbers to 8, 16 bytes a picture in place of 192" in made.stderr
    return tmp_path / "index"


def test_an_index_answers_in_the_place_of_the_store(done: Finished, index: Path) -> None:
    picture = done.data / "train/red/00.png"
    asked = [picture, "--weights", done.weights, "--top", 2, "--json"]
    [exact] = json.loads(ok("search", done.out / "encodings", *asked).stdout)
    [found] = json.loads(ok("search", index, *asked).stdout)
    assert found["neighbours"][0]["path"] == exact["neighbours"][0]["path"] == "train/red/00.png"
    assert found["neighbours"][0]["similarity"] == pytest.approx(1, abs=1e-2)
    assert set(found) == set(exact)
    record = json.loads((index / "index.json").read_text())
    assert record["method"] == "mpp"
    assert set(record["recall"]["at"]) == {"1", "10"}
    assert "is an index of mpp, not 'nfk'" in refused("search", index, picture, "--method", "nfk")


def test_many_queries_are_answered_in_parts(
    done: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by its own neighbours, whichever pass over the vectors answers it."""
    pictures = [item.path for item in done.dataset.split("test")[:3]]
    asked = ["search", done.out / "encodings", *pictures, "--weights", done.weights, "--json"]
    whole = json.loads(ok(*asked).stdout)
    monkeypatch.setattr("mpp_jax.cli.similar.QUERY_BYTES", 1)
    for one, other in zip(json.loads(ok(*asked).stdout), whole, strict=True):
        assert one["neighbours"][0]["path"] == other["neighbours"][0]["path"]
        assert one["path"].endswith(one["neighbours"][0]["path"])  # it is stored itself


@pytest.mark.parametrize("what", ["store", "index"])
def test_figures(done: Finished, index: Path, what: str) -> None:
    place = {"store": done.out / "encodings", "index": index}[what]
    found = json.loads(ok("search", place, "--figures", "--json").stdout)
    assert (found["queries"], found["ranked"], found["leave_one_out"]) == (9, 15, False)
    assert set(found["per_class"]) == {"blue", "green", "red"}
    assert 0.4 < found["mean"] <= 1
    text = ok("search", place, "--figures", "--queries", 4).stdout
    assert text.startswith("mpp: mAP ")
    assert "of 4 pictures that ask for training pictures (15 ranked)" in text


def test_mistakes(done: Finished, index: Path, tmp_path: Path) -> None:
    store = done.out / "encodings"
    assert "name no others" in refused("search", store, "a.png", "--figures")
    assert "no encodings" in refused("index", store, "--out", tmp_path / "i", "--method", "vlad")
    assert "bytes need 256 pictures" in refused(
        "index", store, "--out", tmp_path / "i", "--quantise", 2
    )
    assert "not empty, and no earlier index" in refused("index", store, "--out", done.out)
    (index / "items.jsonl").write_text("[]")
    assert "items.jsonl: damaged; make the index anew" in refused("search", index, "a.png")


def test_what_is_searched_by_unless_it_is_named(done: Finished, tmp_path: Path) -> None:
    """Training chooses, the store does not know what: the first other one, or all of the choice."""
    options = ["--network", "toy", "--weights", done.weights, "--scales", "1-3"]
    for asked, method in (("best(fc7,avg),avg", "avg"), ("best(fc7,avg)", "fc7+avg")):
        out = tmp_path / method
        ok("run", done.data, "--out", out, *options, "--pooling", asked)
        picture = done.data / "train/red/00.png"
        found = ok("search", out / "encodings", picture, "--weights", done.weights, "--top", 1)
        assert "train/red/00.png" in found.stdout
        figures = ok("search", out / "encodings", "--figures", "--json").stdout
        assert json.loads(figures)["method"] == method
