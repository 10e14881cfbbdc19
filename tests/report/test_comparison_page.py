"""What a comparison writes: the page, and CSV, Markdown and LaTeX that say the same."""

import csv
import re

import pytest
from helpers.fake_runs import METHODS, fake_run
from helpers.report_page import Page
from hypothesis import given, settings
from hypothesis import strategies as st

from mpp_jax.report.comparing import compare
from mpp_jax.report.comparison_page import FILES, PAGE, check_comparison_place, write_comparison
from mpp_jax.report.comparison_tables import as_text, markdown, tex
from mpp_jax.report.finished_runs import read_runs

ODD = r"50% of_{x} & a|b\c <i>^~#$"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two data sets, one of them with two settings of two seeds and an old run; odd names."""
    place = tmp_path_factory.mktemp("runs")
    runs = [
        *(fake_run(place / f"a{seed}", seed=seed) for seed in (0, 1)),
        *(fake_run(place / f"b{seed}", seed=seed, network="big_net") for seed in (0, 1)),
        fake_run(place / "old", scores=False, scales=(0,)),
        fake_run(place / "c", data=ODD, several=False, classes=("<b>", "x & y"), scales=(0, 1)),
    ]
    tables = compare(read_runs(runs), draws=100)
    return tables, write_comparison(place / "out", tables)


def test_page_is_whole_and_fetches_nothing(written):
    tables, (path, *_) = written
    page = Page(path)
    assert path.name == PAGE
    assert not re.search(r"(?:src|href)=\"(?!#|data:)", page.source)
    assert "://" not in page.source
    assert page.of("h1") == [f"VOC2007 · {ODD}"]
    assert page.of("h2") == ["Overview", "VOC2007", ODD, "Runs"]
    assert "<b>" in page.of("h4")
    texts = page.of("td")
    row = tables[0].rows[3]  # of the other network
    assert f"{100 * row.value.mean:.2f} ± {100 * row.value.deviation:.2f}" in texts
    gain = row.minus(tables[0].baseline)
    assert any(text.endswith(f"{100 * gain.high:.2f}]".replace("-", "−")) for text in texts)
    assert "baseline" in texts
    assert any("for want of a scores.npz" in text for text in page.of("li"))
    # A bar for every figure of a class: 2 seeds are one row, classes of two sets.
    assert len(page.of("rect", class_="bar")) == 3 * 9 + 2 * 3


def test_pairs_stand_in_the_matrix_and_in_a_file(written):
    tables, (path, *_) = written
    folder = path.parent
    with (folder / "differences.csv").open(newline="") as file:
        pairs = list(csv.DictReader(file))
    assert len(pairs) == 6 * 5 + 3 * 2
    one, other = tables[0].rows[4], tables[0].rows[1]
    (line,) = (
        p
        for p in pairs
        if (p["method"], p["setting"]) == (one.method, one.label)
        and (p["less_method"], p["less_setting"]) == (other.method, other.label)
    )
    gain = one.minus(other)
    assert [float(line[name]) for name in ("difference", "low", "high")] == pytest.approx(
        list(gain), abs=1e-6
    )
    assert line["paired"] == "yes"
    assert f"{one.name} − {other.name}: " in Page(path).source


def test_rows_and_classes_in_files(written):
    tables, (path, *_) = written
    with (path.parent / "rows.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    rows = [row for table in tables for row in table.rows]
    assert [line["method"] for line in lines] == [row.method for row in rows]
    for line, row in zip(lines, rows, strict=True):
        assert float(line["value"]) == pytest.approx(row.value.mean, abs=1e-6)
        assert (line["low"] == "") == (row.interval is None)
        assert line["seeds"].split() == [str(seed) for seed in row.seeds]
    assert lines[-1]["data"] == ODD
    with (path.parent / "classes.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * 9 + 2 * 3
    assert float(lines[1]["value"]) == pytest.approx(rows[0].per_class[1], abs=1e-6)


def test_markdown_and_latex_say_the_same(written):
    tables, (path, *_) = written
    shown = [f"{100 * row.value.mean:.2f}" for row in tables[0].rows]
    for name in ("comparison.md", "comparison.tex"):
        text = (path.parent / name).read_text()
        assert all(value in text for value in shown)
    text = (path.parent / "comparison.md").read_text()
    grid = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in grid[:11]}) == 1
    text = (path.parent / "comparison.tex").read_text()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 4
    for columns, body in re.findall(
        r"\\begin{tabular}{([lr]+)}(.*?)\\end{tabular}", text, re.DOTALL
    ):
        for line in re.findall(r"^(.*) \\\\$", body, re.MULTILINE):
            assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1
    assert r"\textbf{" in text
    assert as_text(tables).count("\n") > 10


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=20) | st.just(ODD))
def test_latex_takes_any_text(text):
    """Nothing special is left outside of a command of ours, and lines stay whole."""
    made = tex(text)
    assert "\n" not in made
    bare = re.sub(r"\\text[a-z]+\{\}|\\[&%$#_{}]|\$(?:\\pm|-)\$", "", made)
    assert not set(bare) & set("&%$#_{}\\~^<>|")


def test_markdown_takes_any_text():
    assert markdown("a|b_c*") == r"a\|b\_c\*"
    assert "\n" not in markdown("a\nb")


def test_nothing_of_others_is_written_over(tmp_path):
    check_comparison_place(tmp_path / "new")
    (tmp_path / "rows.csv").write_text("mine")
    with pytest.raises(ValueError, match=r"rows.csv: is there already, and was not made by this"):
        check_comparison_place(tmp_path)
    (tmp_path / "rows.csv").unlink()
    (tmp_path / PAGE).write_text("<html>mine")
    with pytest.raises(ValueError, match=r"comparison.html: is there already"):
        check_comparison_place(tmp_path)


def test_the_same_runs_give_the_same_bytes(tmp_path, written):
    tables, paths = written
    assert {path.name for path in paths} == {PAGE, *FILES}
    again = write_comparison(tmp_path, tables)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]
    check_comparison_place(tmp_path)
    assert len(METHODS) == 3
