"""The command `confidence`: what it writes, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
from helpers import toy
from helpers.toy_cli import cli, ok, refused
from helpers.toy_run import Finished
from PIL import Image, ImageOps

import mpp_jax as mpp
from mpp_jax.maps.picture_maps import free_names, map_pictures
from mpp_jax.runs.model import load_model, picture_item

pytestmark = pytest.mark.usefixtures("toy_known")


def halves(place: Path) -> Path:
    """Write a picture, 60 x 90, whose left third is green and the rest red."""
    rng = np.random.default_rng(3)
    parts = [toy.picture(rng, toy.COLOURS[name], 60, w) for name, w in (("green", 30), ("red", 60))]
    Image.fromarray(np.concatenate(parts, axis=1)).save(place)
    return place


def test_maps_point_at_the_colours(done: Finished, tmp_path: Path) -> None:
    picture, out = halves(tmp_path / "both.png"), tmp_path / "deep" / "out"
    mirrored = tmp_path / "mirrored.png"
    with Image.open(picture) as original:
        ImageOps.mirror(original).save(mirrored)
    result = ok(
        *("confidence", done.out / "model", picture, mirrored, "--out", out),
        *("--classes", "green, red", "--method", "avg", "--quiet"),
    )
    assert f"{picture}: {out / 'both'}.png (green " in result.stdout
    with np.load(out / "both.npz") as file:  # no pickles: NumPy alone reads it
        arrays = dict(file)
    assert arrays["classes"].tolist() == ["green", "red"]
    assert (arrays["maps"].shape, arrays["maps"].dtype) == ((2, 60, 90), np.float32)
    assert (arrays["size"].tolist(), arrays["reading"], arrays["method"]) == (
        [60, 90],
        "sum",
        "avg",
    )
    with np.load(out / "mirrored.npz") as file:
        other = file["maps"]
    # The same places of the picture, once green and once red.
    lead = (arrays["maps"][0] - arrays["maps"][1]) - (other[0] - other[1])
    assert lead[:, :25].mean() > 0 > lead[:, 65:].mean()
    predicted = load_model(done.out / "model").predict([picture], "avg")
    columns = [predicted.classes.index(name) for name in ("green", "red")]
    np.testing.assert_allclose(arrays["scores"], predicted.scores[0, columns], rtol=1e-5)
    with Image.open(out / "both.png") as sheet:
        assert sheet.size[0] == 3 * 96 + 2 * 8


def test_same_as_the_function(done: Finished) -> None:
    rng = np.random.default_rng(5)
    pixels = toy.picture(rng, toy.COLOURS["blue"], 41, 67)
    model = load_model(done.out / "model")
    settings = {"method": "mpp+avg", "bias": True, "reading": "sum"}
    [found] = map_pictures(model, [picture_item(0, pixels)], on_skip=print, **settings)
    scales = mpp.dense_descriptors(model.network, pixels[None], scales=range(3))
    order = [model.classes.index(name) for name in found.classes]
    svm, sizes = model.svms["mpp+avg"], [(41, 67)]
    maps = mpp.confidence_maps(scales, svm, model.codebook, sizes, classes=order, **settings)
    np.testing.assert_allclose(found.maps, maps[0, :, :41, :67], atol=1e-4)
    assert list(found.scores) == sorted(found.scores, reverse=True)


def test_large_and_odd_pictures_and_equal_names(done: Finished, tmp_path: Path) -> None:
    wide = tmp_path / "a" / "x.png"
    small = tmp_path / "b" / "x.png"
    rng = np.random.default_rng(6)
    for place, (height, width) in ((wide, (12, 20_000)), (small, (1, 1))):
        place.parent.mkdir()
        Image.fromarray(toy.picture(rng, toy.COLOURS["red"], height, width)).save(place)
    (tmp_path / "no.jpg").write_text("no picture")
    out = tmp_path / "out"
    pictures = (wide, tmp_path / "no.jpg", small, tmp_path / "gone.png")
    result = cli(
        *("confidence", done.out / "model", *pictures),
        *("--out", out, "--max-side", "200", "--top", "1", "--reading", "vote"),
    )
    assert result.exit_code == 1
    assert sorted(file.name for file in out.iterdir()) == ["x-2.npz", "x-2.png", "x.npz", "x.png"]
    with np.load(out / "x.npz") as file:
        assert file["maps"].shape == (1, 1, 200)
        assert file["size"].tolist() == [2, 4096]
        assert file["classes"].shape == file["scores"].shape == (1,)
    with np.load(out / "x-2.npz") as file:
        assert file["maps"].shape == (1, 1, 1)
    lines = [line for line in result.stderr.splitlines() if line.startswith("skipped")]
    assert [line.split(":")[0].split("/")[-1] for line in lines] == ["no.jpg", "gone.png"]


def test_names_of_files() -> None:
    assert free_names(["a/x.png", "x.jpg", "x-2.png", "X.png"]) == ["x", "x-2", "x-2-2", "X-3"]


def test_refusals(done: Finished, tmp_path: Path) -> None:
    picture = halves(tmp_path / "both.png")
    start = ("confidence", done.out / "model", picture)
    place = ("--out", tmp_path / "out")
    assert "'violet'" in refused(*start, *place, "--classes", "red,violet")
    assert "reads crops" in refused(*start, *place, "--method", "ap10")
    assert "whole picture" in refused(*start, *place, "--method", "fc7")
    assert "the model knows" in refused(*start, *place, "--method", "gem")
    assert "is a file" in refused(*start, "--out", picture)
    assert not (tmp_path / "out").exists()


def test_the_maps_of_a_model_whose_first_representation_has_none(
    done: Finished, tmp_path: Path
) -> None:
    """As where "best" came to crops: another one that has maps is shown, and it is said."""
    model, picture = tmp_path / "model", done.data / "train/red/00.png"
    ok("train", done.out / "encodings", "--out", model, "--pooling", "ap10,nfk,mpp")
    result = ok("confidence", model, picture, "--weights", done.weights, "--out", tmp_path / "maps")
    assert "method: ap10 has no maps; these are of nfk" in result.stderr
    with np.load(tmp_path / "maps" / "00.npz") as arrays:
        assert arrays["method"] == "nfk"
    asked = ("--method", "ap10", "--out", tmp_path / "other")
    assert "it has no map" in refused("confidence", model, picture, *asked)
