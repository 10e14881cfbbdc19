"""The figures, galleries and thumbnails of report.html."""

import base64
import io
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from helpers.report_page import CLASSES, Page, example, jpeg, multi_label_example, picture
from PIL import Image

from mpp_jax.report.certainty import wilson_interval
from mpp_jax.report.page import write_report


def test_headline_and_comparison(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, **example()))
    (header,) = page.of("header")
    assert page.of("div", class_="big") == ["75.0 %"]
    for part in ("of mpp", "on 8 test pictures", "squeezenet", "e4ab6960ae8c", "1,500", "77.8"):
        assert part in header
    low, high = wilson_interval(0.75, 8)
    assert f"{100 * low:.1f}–{100 * high:.1f}" in header
    assert "Best method" not in header  # the primary method is the best
    rows = page.rows("methods")
    assert rows[1] == ["mpp", "75.0", "77.8", "73.4", "–", "–"]
    assert rows[2] == ["fc7", "50.0", "52.8", "61.2", "−25.0 (−55.0 to +5.0)", "+0 / −2"]
    assert page.of("p", class_="verdict")[0].startswith("No other representation here is above mpp")
    bars = [held for tag, held in page.tags if tag == "rect" and held["class"] == "bar"]
    assert [bar["width"] for bar in bars] == ["75.00%", "50.00%"]
    assert page.of("g", class_="primary") == ["mpp · primary 75.0"]
    assert not page.of("p", class_="alert")


def test_a_better_method_than_the_primary_is_named(tmp_path: Path) -> None:
    given = example() | {"method": "fc7"}
    page = Page(write_report(tmp_path, **given))
    assert page.of("div", class_="big") == ["50.0 %"]
    assert "Best method" in page.of("dt")
    assert "mpp 75.0 %" in page.of("dd")
    assert page.rows("methods")[1][-2:] == ["+25.0 (−5.0 to +55.0)", "+2 / −0"]
    said = "Above fc7, which may be chance: mpp by +25.0 (−5.0 to +55.0)."
    assert page.of("p", class_="verdict")[0].startswith(said)


def test_per_class_table(tmp_path: Path) -> None:
    rows = Page(write_report(tmp_path, **example())).rows("classes")
    assert rows == [
        ["Class", "Test pictures", "mpp", "fc7"],
        ["bed", "3", "66.7", "33.3"],
        ["coast", "2", "100.0", "50.0"],
        ["forest", "3", "66.7", "66.7"],
        ["Mean over classes", "", "77.8", "52.8"],
    ]


def test_confusion_matrix(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, **example()))
    rows = page.rows("confusion")
    assert rows[:4] == [
        ["true \\ predicted", *CLASSES],
        ["bed", "2", "1", ""],
        ["coast", "", "2", ""],
        ["forest", "1", "", "2"],
    ]
    assert rows[4:] == [
        ["True", "Predicted", "Pictures", "Of the class, %"],
        ["bed", "coast", "1", "33.3"],
        ["forest", "bed", "1", "33.3"],
    ]
    cells = {held["title"]: held for tag, held in page.tags if tag == "td" and "title" in held}
    wrong = cells["true bed, predicted coast: 1 of 3 (33.3%)"]
    assert wrong["class"] == "w"
    assert wrong["style"] == f"--o:{(1 / 3) ** 0.5:.2f}"
    assert cells["true coast, predicted coast: 2 of 2 (100.0%)"]["class"] == "r deep"
    assert len(cells) == 5


def test_most_confident_rights_and_wrongs(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, **example()))
    figures = page.of("figcaption")
    # Margins of the rights: bed 0.5, 2.0; coast 0.75, 3.5; forest 0.1, 4.0 (limit 12/3 = 4 each).
    rights, wrongs = figures[:6], figures[6:]
    assert [text.split()[:2] for text in rights] == [
        ["forest", "4.00"],
        ["coast", "3.50"],
        ["bed", "2.00"],
        ["coast", "0.75"],
        ["bed", "0.50"],
        ["forest", "0.10"],
    ]
    assert wrongs == ["bed true: forest 2.25 picture 7", "coast true: bed 1.25 picture 2"]
    assert "less that of the runner-up" in page.section("rights")


def test_one_class_does_not_fill_the_rights(tmp_path: Path) -> None:
    given = example()
    labels = np.repeat(np.arange(3), (50, 10, 2))
    scores = np.zeros((62, 3))
    scores[np.arange(62), labels] = np.linspace(9, 1, 62)  # the 50 of class 0 are the surest
    given |= {"labels": labels, "scores": {"mpp": scores, "fc7": scores}}
    given["test_paths"] = [picture] * 62
    page = Page(write_report(tmp_path, **given))
    shown = [text.split()[0] for text in page.of("figcaption")]
    assert shown == ["bed"] * 4 + ["coast"] * 4 + ["forest"] * 2
    assert "At most 4 of each class" in page.section("rights")
    assert "No picture is wrong" in page.section("wrongs")


def test_thumbnails_of_every_kind_of_source(tmp_path: Path) -> None:
    class Item:
        id = "test/coast/from_record.jpg"

        def source(self) -> bytes:
            return jpeg(picture(200, 300, 900))

    def fails() -> bytes:
        raise RuntimeError("disk <gone>")

    good, broken = tmp_path / "good.jpg", tmp_path / "broken.jpg"
    good.write_bytes(jpeg(picture(90)))
    broken.write_bytes(jpeg(picture(90))[:80])
    given = example()
    given["test_paths"] = [
        good, str(good), broken, Item().source, lambda: good, fails, lambda: picture(7), "absent",
    ]  # fmt: skip
    page = Page(write_report(tmp_path, **given))
    images = [held["src"] or "" for tag, held in page.tags if tag == "img"]
    assert len(images) == 5
    for uri in images:
        head, data = uri.split(",")
        assert head == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert max(image.size) <= 240
    boxes = page.of("div", class_="nothumb")
    assert len(boxes) == 3
    assert "no thumbnail RuntimeError: disk <gone>" in boxes
    assert "no thumbnail no such file" in boxes
    files = page.of("span", class_="file")
    assert {"good.jpg", "broken.jpg", "from_record.jpg", "picture 6", "absent"} <= set(files)
    assert str(tmp_path) not in page.source  # pages travel: no paths of this machine


def test_multi_label(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, **multi_label_example()))
    assert page.of("div", class_="big") == ["73.4 %"]
    assert "Mean average precision" in page.of("header")[0]
    ids = [held["id"] for tag, held in page.tags if tag == "section"]
    assert "confusion" not in ids
    assert page.of("p", class_="verdict")[0].startswith("No other representation here is above mpp")
    assert len([held for tag, held in page.tags if held.get("class") == "ci"]) == 2
    assert page.rows("classes") == [
        ["Class", "With the class", "Ignored", "mpp", "fc7"],
        ["bed", "1", "1", "66.7", "33.3"],
        ["coast", "2", "0", "100.0", "50.0"],
        ["forest", "3", "1", "–", "66.7"],
        ["Mean over classes", "", "", "73.4", "61.2"],
    ]
    # bed: picture 1 is ignored, so pictures 2 and 3 have ranks 2 and 3. coast: score order 3,2,1,0.
    assert page.of("figcaption") == [
        "rank 2 · 1.00 coast, forest picture 2",
        "rank 3 · 0.50 none of the classes picture 3",
        "rank 1 · 0.40 none of the classes picture 3",
        "rank 3 · 0.20 forest picture 1",
    ]
    assert "Every picture holds this class or is ignored" in page.section("false-positives")


def test_hundred_and_two_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n, size = 102, 800
    names = [f"flower number {i}" for i in range(n)]
    labels = rng.integers(n, size=size)
    scores = rng.normal(size=(size, n)) + 3.0 * np.eye(n)[labels]
    top1 = float((scores.argmax(1) == labels).mean())
    given = example()
    result = {"top1": top1, "mean_class_accuracy": None, "map11": None, "per_class": None}
    given["metrics"]["results"] = {"mpp": result}
    given["metrics"]["pictures"]["test"] = size
    given |= {"classes": names, "labels": jnp.asarray(labels), "scores": {"mpp": scores}}
    given["test_paths"] = ["absent.jpg"] * size
    path = write_report(tmp_path, **given)
    page = Page(path)
    rows = page.rows("confusion")
    matrix = np.array([[int(cell or 0) for cell in row[1:]] for row in rows[1 : n + 1]])
    wanted = np.zeros((n, n), int)
    np.add.at(wanted, (labels, scores.argmax(1)), 1)
    np.testing.assert_array_equal(matrix, wanted)
    assert len(rows) == n + 2 + 12  # matrix with its head, the listed confusions with theirs
    assert page.rows("classes")[1][2] == "–"
    assert path.stat().st_size < 500_000
    assert not page.of("p", class_="alert")


def test_contradictions_are_shown(tmp_path: Path) -> None:
    given = example()
    given["metrics"]["results"]["fc7"]["top1"] = 0.625
    given["metrics"]["pictures"]["test"] = 9
    alerts = Page(write_report(tmp_path, **given)).of("p", class_="alert")
    assert len(alerts) == 2
    assert "9 test pictures, the scores 8" in alerts[0]
    assert "fc7" in alerts[1]
    assert "62.50%" in alerts[1]
    assert "50.00%" in alerts[1]


def test_one_class_and_no_test_picture(tmp_path: Path) -> None:
    given = example()
    given |= {"classes": ["bed"], "labels": np.array([0]), "scores": {"mpp": np.array([[-0.5]])}}
    given["test_paths"] = [picture]
    page = Page(write_report(tmp_path, **given))
    assert page.of("figcaption") == ["bed -0.50 picture 0"]
    assert "with one class, the score itself" in page.section("rights")

    given |= {"labels": np.zeros(0, int), "scores": {"mpp": np.zeros((0, 1))}, "test_paths": []}
    for result in given["metrics"]["results"].values():
        result |= {"top1": None, "mean_class_accuracy": None, "map11": None, "per_class": None}
    page = Page(write_report(tmp_path, **given))
    assert page.of("div", class_="big") == ["– %"]
    assert page.rows("confusion")[1] == ["bed", ""]
