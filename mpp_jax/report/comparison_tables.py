"""Compared runs as CSV, Markdown and LaTeX.

CSV files hold fractions, and a line for each row, class or pair; the other two hold per cent as
they are printed: ``mean ± deviation over seeds``, and ``[low, high]`` of the 95% interval.
"""

import csv
import io
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mpp_jax.intervals import Interval
from mpp_jax.progress import one_line
from mpp_jax.report.comparison import TITLES, Deviating, Row, Table

TEX_MAKER = "% made by mpp-jax compare"
"""First line of a LaTeX file of ours."""

_TEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "–": "--",
    "−": "$-$",
}


def tex(text: str) -> str:
    """Return text as LaTeX prints it."""
    return "".join(_TEX.get(c, c) for c in one_line(text))


def markdown(text: str) -> str:
    """Return text as Markdown shows it, also within a table."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#~" else c for c in one_line(text))


def shown(value: Deviating) -> str:
    """Return a figure in per cent, with its deviation where there are several seeds."""
    if value.mean is None:
        return "–"
    text = f"{100 * value.mean:.2f}"
    return text if value.deviation is None else f"{text} ± {100 * value.deviation:.2f}"


def shown_interval(interval: Interval | None) -> str:
    """Return ``[low, high]`` in per cent."""
    if interval is None or np.isnan(interval.low):
        return "–"
    return f"[{100 * interval.low:.2f}, {100 * interval.high:.2f}]"


def shown_difference(interval: Interval | None) -> str:
    """Return a difference in points and its interval, signed."""
    if interval is None or np.isnan(interval.value):
        return "–"
    value, low, high = (signed(100 * part) for part in interval)
    return f"{value} [{low}, {high}]"


def signed(points: float) -> str:
    """Return points with their sign."""
    text = f"{points:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")


def seeds_shown(row: Row) -> str:
    """Return a row's seeds."""
    return ", ".join(map(str, row.seeds))


# ------------------------------------------------------------------------------ CSV


def rows_csv(tables: Sequence[Table]) -> str:
    """Return a line for each method of each setting."""
    head = (
        *("data", "figure", "method", "setting", "network", "seeds", "test_pictures"),
        *("value", "deviation", "low", "high"),
        *("baseline", "difference", "difference_low", "difference_high", "paired"),
    )
    lines: list[Sequence[object]] = []
    for table in tables:
        for row in table.rows:
            gain = row.minus(table.baseline)
            lines.append(
                (
                    *_named(table, row),
                    *(row.network, " ".join(map(str, row.seeds)), table.test_pictures),
                    *map(_number, row.value),
                    *_bounds(row.interval)[1:],
                    table.baseline.name,
                    *_bounds(gain),
                    "" if gain is None else _yes(row.paired(table.baseline)),
                )
            )
    return _csv(head, lines)


def classes_csv(tables: Sequence[Table]) -> str:
    """Return a line for each class of each row: average precision, or accuracy within it."""
    head = ("data", "figure", "method", "setting", "class", "value", "low", "high")
    return _csv(
        head,
        (
            (
                *_named(table, row),
                *(name, _number(row.per_class[k])),
                *_bounds(row.class_interval(k))[1:],
            )
            for table in tables
            for row in table.rows
            for k, name in enumerate(table.classes)
        ),
    )


def pairs_csv(tables: Sequence[Table]) -> str:
    """Return a line for each pair of rows on the same data: the first less the other."""
    head = (
        *("data", "figure", "method", "setting", "less_method", "less_setting"),
        *("difference", "low", "high", "paired"),
    )
    return _csv(
        head,
        (
            (
                *_named(table, row),
                *(other.method, other.label),
                *_bounds(row.minus(other)),
                _yes(row.paired(other)),
            )
            for table in tables
            for row, other in itertools.permutations(table.rows, 2)
            if row.minus(other) is not None
        ),
    )


def _named(table: Table, row: Row) -> tuple[str, str, str, str]:
    return table.data, table.figure, row.method, row.label


def _number(value: float | None) -> str:
    return "" if value is None or np.isnan(value) else f"{value:.6f}"


def _bounds(interval: Interval | None) -> tuple[str, str, str]:
    return ("", "", "") if interval is None else tuple(map(_number, interval))  # type: ignore[return-value]


def _yes(held: bool) -> str:
    return "yes" if held else "no"


def _csv(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    return text.getvalue()


# ------------------------------------------------------------------------------ tables of text


@dataclass(frozen=True)
class Grid:
    """A table of text.

    Attributes:
        title: what it shows.
        head: of its columns.
        lines: its rows.
        words: how many columns, from the left, are words; the others are numbers.
        bold: places (row, column) that stand out.
    """

    title: str
    head: tuple[str, ...]
    lines: list[tuple[str, ...]]
    words: int
    bold: frozenset[tuple[int, int]]


def grids(tables: Sequence[Table]) -> list[tuple[Table, list[Grid]]]:
    """Return what is printed of each table: its rows, then its classes."""
    return [(table, [_main(table), _classes(table)]) for table in tables]


def _main(table: Table) -> Grid:
    settings = any(row.label for row in table.rows)
    seeds = any(len(row.seeds) > 1 for row in table.rows)
    head = ("method", *(["setting"] if settings else []), *(["seeds"] if seeds else []))
    lines = [
        (
            table.short(row),
            *([row.label] if settings else []),
            *([seeds_shown(row)] if seeds else []),
            shown(row.value),
            shown_interval(row.interval),
            "–" if row is table.baseline else shown_difference(row.minus(table.baseline)),
        )
        for row in table.rows
    ]
    words = len(head)
    columns = (*head, "%", "95% interval", f"minus {table.short(table.baseline)}")
    bold = frozenset((i, words) for i, row in enumerate(table.rows) if table.is_best(row))
    return Grid(f"{table.data}: {TITLES[table.figure]}", columns, lines, words, bold)


def _classes(table: Table) -> Grid:
    what = "Average precision" if table.figure.startswith("map") else "Accuracy"
    lines, bold = [], set()
    for k, name in enumerate(table.classes):
        values = [row.per_class[k] for row in table.rows]
        lines.append((name, *("–" if np.isnan(v) else f"{100 * v:.2f}" for v in values)))
        known = [value for value in values if not np.isnan(value)]
        if len(known) > 1 and min(known) < max(known):
            bold |= {(k, 1 + i) for i, value in enumerate(values) if value == max(known)}
    head = ("class", *map(table.short, table.rows))
    return Grid(f"{table.data}: {what} of each class, %", head, lines, 1, frozenset(bold))


def as_markdown(tables: Sequence[Table]) -> str:
    """Return all tables as Markdown."""
    parts = ["# Comparison"]
    for table, both in grids(tables):
        for grid in both:
            parts.append(f"## {markdown(grid.title)}")
            parts.append(_markdown_grid(grid))
        parts += [f"- {markdown(note)}" for note in table.notes]
        parts.append(markdown(explained(table)))
    return "\n\n".join(parts) + "\n"


def _markdown_grid(grid: Grid) -> str:
    rules = ["---"] * grid.words + ["---:"] * (len(grid.head) - grid.words)
    cells = _cells(grid, markdown, lambda text: f"**{text}**")
    lines = [[markdown(name) for name in grid.head], rules, *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_text(tables: Sequence[Table]) -> str:
    """Return the rows of all tables as aligned lines, for a terminal."""
    parts = []
    for table, (main, _) in grids(tables):
        lines = [main.head, *main.lines]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        parts.append(main.title)
        parts += [
            "  ".join(
                f"{cell:<{width}}" if k < main.words else f"{cell:>{width}}"
                for k, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        parts += table.notes
    return "\n".join(parts)


def as_latex(tables: Sequence[Table]) -> str:
    """Return all tables as LaTeX, which needs no package."""
    parts = [TEX_MAKER]
    for table, both in grids(tables):
        for grid in both:
            columns = "l" * grid.words + "r" * (len(grid.head) - grid.words)
            lines = _cells(grid, tex, lambda text: rf"\textbf{{{text}}}")
            head = [tex(name) for name in grid.head]
            body = "\n".join(f"{' & '.join(line)} \\\\" for line in lines)
            parts.append(
                f"\\begin{{table}}\n\\centering\n\\caption{{{tex(grid.title)}}}\n"
                f"\\begin{{tabular}}{{{columns}}}\n\\hline\n{' & '.join(head)} \\\\\n\\hline\n"
                f"{body}\n\\hline\n\\end{{tabular}}\n\\end{{table}}"
            )
        parts += [f"% {one_line(note)}" for note in (*table.notes, explained(table))]
    return "\n".join(parts) + "\n"


def _cells(
    grid: Grid, escape: Callable[[str], str], strong: Callable[[str], str]
) -> list[list[str]]:
    return [
        [
            strong(escape(cell)) if (i, j) in grid.bold else escape(cell)
            for j, cell in enumerate(line)
        ]
        for i, line in enumerate(grid.lines)
    ]


def explained(table: Table) -> str:
    """Return what the numbers of a table mean, in a sentence or two."""
    text = f"{TITLES[table.figure]} of {table.test_pictures:,} test pictures, in per cent."
    if any(len(row.seeds) > 1 for row in table.rows):
        text += " Mean ± sample deviation over the seeds."
    if any(row.resampled is not None for row in table.rows):
        draws = next(len(r.resampled.draws) for r in table.rows if r.resampled is not None)
        text += (
            f" Intervals: 95%, bootstrap over the test pictures ({draws:,} draws); the same "
            "pictures are drawn for every method, so that differences are paired."
        )
        if table.figure in ("map11", "map_area"):
            text += (
                " Copies of a drawn picture rank together, so that intervals of average precision "
                "lie somewhat high where a class has few pictures; those of differences hardly do."
            )
    return text
