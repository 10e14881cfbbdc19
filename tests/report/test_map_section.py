"""The report's confidence maps: present, self-contained, empty and filled."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from helpers.report_page import Page, example, multi_label_example, picture
from PIL import Image

from mpp_jax.data import Box
from mpp_jax.report.map_section import MapExample, MapGallery, Overlay, map_rows
from mpp_jax.report.page import write_report

BED, COAST = Box("bed", (0.1, 0.2, 0.5, 0.6)), Box("coast", (0.6, 0.0, 1.0, 0.25))


def map_example() -> MapExample:
    """Return a picture with a bed and a coast; the peak of the coast's map misses."""
    return MapExample(
        id="test/000007",
        pixels=picture(90, 30, 60),
        present=frozenset({"bed", "coast"}),
        overlays=(
            Overlay("bed", 1.25, picture(10, 30, 60), (0.3, 0.4)),
            Overlay("coast", -0.5, picture(20, 30, 60), (0.3, 0.4)),
            Overlay("forest", 0.125, picture(30, 30, 60), (0.9, 0.9)),
        ),
        boxes=(BED, COAST),
    )


def test_rows_count_the_peaks_in_boxes_of_classes_that_are_there() -> None:
    found = map_rows(MapGallery("mpp", "sum", (map_example(),)))
    assert (found["hits"], found["counted"]) == (1, 2)
    (row,) = found["rows"]
    assert row.aspect == "2.0000"
    kinds = [(panel.kind, panel.title, panel.verdict) for panel in row.panels]
    assert kinds == [
        ("picture", "", ""),
        ("held", "bed", "peak inside"),
        ("held", "coast", "peak outside"),
        ("other", "forest", ""),
    ]
    assert [len(panel.boxes) for panel in row.panels] == [2, 1, 1, 0]
    assert row.panels[1].boxes[0] == ("bed", "top:10.00%;left:20.00%;width:40.00%;height:40.00%")
    assert row.panels[1].peak == "top:30.00%;left:40.00%"
    assert row.panels[2].score == "-0.50"
    payload = base64.b64decode(row.panels[3].image.split(",")[1])
    shown = np.asarray(Image.open(io.BytesIO(payload)))
    assert shown.shape == (30, 60, 3)
    assert abs(int(shown[5, 5, 0]) - 30) <= 2


def test_without_boxes_nothing_is_judged() -> None:
    entry = map_example()
    bare = MapExample(entry.id, entry.pixels, entry.present, entry.overlays)
    found = map_rows(MapGallery("mpp", "sum", (bare,)))
    assert (found["hits"], found["counted"]) == (0, 0)
    assert all(not panel.boxes and not panel.verdict for panel in found["rows"][0].panels)


@pytest.mark.parametrize("build", [example, multi_label_example])
def test_a_filled_section(tmp_path: Path, build: object) -> None:
    assert callable(build)
    maps = MapGallery("mpp+sp", "vote", (map_example(), map_example()))
    page = Page(write_report(tmp_path, **build(), maps=maps))
    text = page.section("maps")
    assert "Where the evidence of mpp+sp lies" in text
    assert "(vote)" in text
    assert "Of the 4 maps of objects with boxes, 2 have it in a box of their class." in text
    assert "not in the picture" in text
    rows = [held for tag, held in page.tags if tag == "div" and held.get("class") == "maprow"]
    assert len(rows) == 2
    assert len(page.of("span", class_="box")) == 8
    assert len(page.of("span", class_="peak")) == 6
    sources = [held["src"] for tag, held in page.tags if tag == "img"]
    assert len(sources) >= 8
    assert all((source or "").startswith("data:image/jpeg;base64,") for source in sources)
    assert "://" not in page.source
    again = write_report(tmp_path / "again", **build(), maps=maps)
    assert again.read_bytes() == (tmp_path / "report.html").read_bytes()


def test_an_empty_section_says_why(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, **example()))
    assert page.section("maps").startswith("Confidence maps None were made; mpp-jax run --maps N")
    maps = MapGallery(reason="None: <b>crops</b> only.")
    page = Page(write_report(tmp_path, **example(), maps=maps))
    assert page.section("maps") == "Confidence maps None: <b>crops</b> only."
    assert not page.of("span", class_="peak")


def test_names_in_it_are_escaped(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script>'
    entry = MapExample(
        evil,
        picture(),
        frozenset({evil}),
        (Overlay(evil, 0.0, picture(), (0.5, 0.5)),),
        (Box(evil, (0.0, 0.0, 1.0, 1.0)),),
    )
    page = Page(write_report(tmp_path, **example(), maps=MapGallery("mpp", "sum", (entry,))))
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert evil in page.section("maps")
