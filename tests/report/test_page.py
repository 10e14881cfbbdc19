"""report.html: escaping, self-containment, determinism, refusals."""

import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from helpers.report_page import NAMES, Page, example, multi_label_example, picture
from hypothesis import strategies as st

from mpp_jax.report.page import write_report


def test_configuration_timings_and_skipped(tmp_path: Path) -> None:
    given = example()
    page = Page(write_report(tmp_path, **given))
    configuration = page.rows("configuration")
    assert ["weights_sha256", given["metrics"]["weights_sha256"]] in configuration
    assert ["scales", "1, 2, 3"] in configuration
    assert ["seed", "7"] in configuration
    assert ["resize.square", "true"] in configuration
    assert page.rows("timings")[1:] == [
        ["decode+dense (train)", "5 min 12 s", "99.0", ""],
        ["pca", "3.10 s", "1.0", ""],
        ["Total", "5 min 15 s", "", ""],
    ]
    assert page.rows("skipped")[1:] == [["train/bed/cut.jpg", "truncated: 3 of 41 KB"]]

    given["metrics"]["pictures"]["skipped"] = []
    given["metrics"]["seconds"] = {"total": 7300.0, "svm": 3650.0}
    given["metrics"]["waiting"] = {"svm": {"decoding": 365.0}}
    page = Page(write_report(tmp_path, **given))
    assert "None: every picture was read." in page.section("skipped")
    assert page.rows("timings")[1:] == [
        ["svmwaited 10% for decoding", "1 h 01 min", "50.0", ""],
        ["Total", "2 h 02 min", "", ""],
    ]


def test_nothing_outside_the_file_is_named(tmp_path: Path) -> None:
    for given in (example(), multi_label_example()):
        page = Page(write_report(tmp_path, **given))
        for tag, held in page.tags:
            assert tag not in ("link", "iframe", "object", "embed", "base")
            for name, value in held.items():
                assert not name.startswith("on"), f"<{tag} {name}>"
                if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
                    assert (value or "").startswith(("data:image/jpeg;base64,", "#")), value
        assert "://" not in page.source
        assert "url(" not in page.source
        assert "@import" not in page.source
        policy = [held["content"] for tag, held in page.tags if "http-equiv" in held]
        assert policy[0] is not None
        assert "default-src 'none'" in policy[0]
        anchors = {(held["href"] or "")[1:] for tag, held in page.tags if tag == "a"}
        assert anchors == {held["id"] for tag, held in page.tags if tag == "section"}


def test_names_are_escaped(tmp_path: Path) -> None:
    given = example()
    evil = "<script>alert(1)</script>"
    quote = "\" onload='x' <b>"
    given["classes"] = [evil, quote, "a & b"]
    metrics = given["metrics"]
    for result in metrics["results"].values():
        values = result["per_class"].values()
        result["per_class"] = dict(zip(given["classes"], values, strict=True))
    metrics["data"] = "<i>data</i>"
    metrics["config"] = {"<u>key</u>": "<u>value</u>"}
    metrics["seconds"] = {"<u>stage</u>": 1.0}
    metrics["pictures"]["skipped"] = [{"path": "</td><img src=x>", "reason": evil}]
    metrics["results"]["<em>m</em>"] = metrics["results"].pop("fc7")
    given["scores"]["<em>m</em>"] = given["scores"].pop("fc7")
    given["test_paths"] = ['/x/"><svg onload=alert(1)>.jpg'] * 8
    page = Page(write_report(tmp_path, **given))
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 1  # ours
    assert tags.count("svg") == 1
    assert not {"u", "em", "img"} & set(tags)
    assert tags.count("i") == 2  # the two colours of the legend
    assert [row[0] for row in page.rows("classes")[1:4]] == given["classes"]
    assert page.rows("confusion")[0][1:] == given["classes"]
    assert page.rows("skipped")[1] == ["</td><img src=x>", evil]
    assert page.of("title")[0].startswith("<i>data</i>")
    assert '"><svg onload=alert(1)>.jpg' in page.of("span", class_="file")


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(st.lists(NAMES, min_size=2, max_size=4, unique=True))
def test_any_class_name_survives(names: list[str]) -> None:
    given = example() | {"classes": names, "labels": np.arange(len(names))}
    given["scores"] = {"mpp": np.eye(len(names))[::-1]}
    given["test_paths"] = [picture] * len(names)
    with tempfile.TemporaryDirectory() as folder:
        page = Page(write_report(folder, **given))
    assert [row[0] for row in page.rows("classes")[1:-1]] == names
    assert page.rows("confusion")[0][1:] == names


def test_same_input_same_bytes(tmp_path: Path) -> None:
    for name, build in (("one", example), ("many", multi_label_example)):
        first = write_report(tmp_path / "a" / name, **build()).read_bytes()
        given = build()
        given["scores"] = {key: given["scores"][key] for key in reversed(given["scores"])}
        results = given["metrics"]["results"]
        given["metrics"]["results"] = {key: results[key] for key in reversed(results)}
        again = write_report(tmp_path / "b" / name, **given)
        assert again.read_bytes() == first
        assert [p.name for p in again.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"method": "nfk"}, ValueError, r"'nfk' is not in metrics\['results'\].*'fc7', 'mpp'"),
        ({"scores": {"fc7": np.zeros((8, 3))}}, ValueError, "'mpp' is not in scores"),
        ({"classes": []}, ValueError, "classes is empty"),
        ({"labels": np.zeros(7, int)}, ValueError, r"labels has shape \(7,\); want \(8,\)"),
        ({"labels": np.zeros(8)}, TypeError, "labels.*float64; want integers"),
        ({"labels": np.full(8, 3)}, ValueError, "labels run from 3 to 3; want 0 to 2"),
        ({"labels": np.full(8, -1)}, ValueError, "labels run from -1 to -1"),
        ({"labels": np.full((8, 3), 2)}, ValueError, r"must be -1, 0 \(ignored\) or \+1"),
        ({"scores": {"mpp": np.zeros((8, 4))}}, ValueError, r"scores\['mpp'\] has shape \(8, 4\)"),
        ({"scores": {"mpp": np.full((8, 3), np.nan)}}, ValueError, "holds NaN or infinity"),
        ({"test_paths": ["a.jpg"] * 5}, ValueError, r"labels has shape \(8,\); want \(5,\)"),
    ],
)
def test_bad_input(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        write_report(tmp_path, **(example() | change))
    assert list(tmp_path.iterdir()) == []
