"""``comparison.html``: several runs on one page, and the same in tables for other programs.

The page is one file and fetches nothing, as `mpp_jax.report.page` has it.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from mpp_jax.intervals import Interval
from mpp_jax.report import comparison_tables as text
from mpp_jax.report.comparison import TITLES, Row, Table
from mpp_jax.report.finished_runs import FinishedRun
from mpp_jax.report.metrics_json import write_text
from mpp_jax.report.page import is_page, render

PAGE = "comparison.html"
NO_LINKS: Mapping[str, str] = MappingProxyType({})
FILES = {
    "rows.csv": text.rows_csv,
    "classes.csv": text.classes_csv,
    "differences.csv": text.pairs_csv,
    "comparison.md": text.as_markdown,
    "comparison.tex": text.as_latex,
}
"""What is written beside the page."""


def check_comparison_place(folder: Path) -> None:
    """Raise unless a comparison may be written to a folder: none of its files there, or ours.

    Raises:
        ValueError: one of somebody else.
    """
    page = folder / PAGE
    if page.exists() and is_page(page):
        return
    theirs = [folder / name for name in (PAGE, *FILES) if (folder / name).exists()]
    if theirs:
        raise ValueError(
            f"{theirs[0]}: is there already, and was not made by this program; give another --out"
        )


def write_comparison(folder: Path, tables: Sequence[Table]) -> list[Path]:
    """Write page, CSV, Markdown and LaTeX; return their paths, the page first."""
    page = write_page(folder / PAGE, tables)
    return [page, *(write_text(folder / name, make(tables)) for name, make in FILES.items())]


def write_page(file: Path, tables: Sequence[Table], links: Mapping[str, str] = NO_LINKS) -> Path:
    """Write the page alone, with links (relative addresses by name); return its path."""
    view = {
        "title": " · ".join(dict.fromkeys(table.data for table in tables)),
        "tables": [_view(table) for table in tables],
        "overview": _overview(tables),
        "links": links,
        "runs": [_run_view(run) for table in tables for run in table.runs],
    }
    return write_text(file, render("comparison.html.jinja", view))


def _run_view(run: FinishedRun) -> dict[str, Any]:
    pictures = run.metrics["pictures"]
    return {
        "folder": str(run.folder),
        "data": run.data,
        "network": run.metrics["network"],
        "weights": (run.metrics["weights_sha256"] or "–")[:12],
        "seed": run.seed,
        "train": pictures["train"],
        "test": pictures["test"],
        "skipped": len(pictures["skipped"]),
        "methods": ", ".join(run.methods),
    }


def _overview(tables: Sequence[Table]) -> dict[str, Any] | None:
    """Return methods by data sets; None for one set alone."""
    if len(tables) < 2:
        return None
    names = dict.fromkeys(row.name for table in tables for row in table.rows)
    lines = []
    for name in names:
        found = [next((r for r in t.rows if r.name == name), None) for t in tables]
        cells = [
            ("–", False) if row is None else (text.shown(row.value), table.is_best(row))
            for row, table in zip(found, tables, strict=True)
        ]
        lines.append((name, cells))
    return {"head": [(t.data, TITLES[t.figure]) for t in tables], "lines": lines}


def _view(table: Table) -> dict[str, Any]:
    """Return what the template shows of a table."""
    settings = any(row.label for row in table.rows)
    short = {row.name: table.short(row) for row in table.rows}
    order = sorted(table.rows, key=lambda row: -(row.value.mean or -1.0))
    gains = {
        row.name: None if row is table.baseline else row.minus(table.baseline) for row in order
    }
    return {
        "data": table.data,
        "title": TITLES[table.figure],
        "explained": text.explained(table),
        "notes": table.notes,
        "baseline": short[table.baseline.name],
        "settings": settings,
        "seeds": any(len(row.seeds) > 1 for row in table.rows),
        "rows": [_row_view(table, row, short, gains[row.name]) for row in order],
        "spans": _axis(
            [(row.name, _reach(row)) for row in order if row.value.mean is not None], short
        ),
        "shifts": _axis([(name, gain) for name, gain in gains.items() if gain], short, zero=True),
        "classes": [_class_view(table, k, short) for k in range(len(table.classes))],
        "precisions": table.figure.startswith("map"),
        "matrix": _matrix(table, short),
    }


def _row_view(
    table: Table, row: Row, short: Mapping[str, str], gain: Interval | None
) -> dict[str, Any]:
    return {
        "name": short[row.name],
        "label": row.label,
        "seeds": text.seeds_shown(row),
        "baseline": row is table.baseline,
        "best": table.is_best(row),
        "value": text.shown(row.value),
        "interval": text.shown_interval(row.interval),
        "gain": text.shown_difference(gain),
        "verdict": _verdict(gain),
        "marked": gain is not None and not row.paired(table.baseline),
    }


def _verdict(gain: Interval | None) -> str:
    """Return "up" or "down" for a difference whose interval leaves zero out, else nothing."""
    if gain is None or np.isnan(gain.low):
        return ""
    return "up" if gain.low > 0 else "down" if gain.high < 0 else ""


def _reach(row: Row) -> Interval:
    """Return what a row's line spans: its interval, or mean ± deviation, or the figure alone."""
    mean, deviation = row.value
    assert mean is not None  # `_view` asks of no others
    if row.interval is not None and not np.isnan(row.interval.low):
        return row.interval
    return Interval(mean, mean - (deviation or 0.0), mean + (deviation or 0.0))


def _axis(
    lines: Sequence[tuple[str, Interval]], short: Mapping[str, str], *, zero: bool = False
) -> dict[str, Any]:
    """Return places in per cent of the width, of lines on an axis with round ticks."""
    known = [one for _, one in lines if not np.isnan(one.low)]
    if not known:
        return {"lines": [], "ticks": []}
    low, high = min(one.low for one in known), max(one.high for one in known)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    step = _step(high - low)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = max(last, first + 1)

    def place(value: float) -> float:
        return 100 * (value / step - first) / (last - first)

    ticks = [(place(n * step), f"{100 * n * step:g}") for n in range(first, last + 1)]
    return {
        "lines": [
            {
                "name": short[name],
                "at": place(one.value),
                "low": place(one.low),
                "high": place(one.high),
                "verdict": _verdict(one) if zero else "",
                "text": text.signed(100 * one.value) if zero else f"{100 * one.value:.2f}",
            }
            for name, one in lines
            if not np.isnan(one.low)
        ],
        "ticks": ticks,
        "zero": place(0.0) if zero else None,
    }


def _step(span: float) -> float:
    """Return a round step, 1, 2 or 5 times a power of ten, of which about five make the span."""
    if span <= 0:
        return 0.01
    power: float = 10.0 ** math.floor(math.log10(span / 5))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= span / 5)


def _class_view(table: Table, k: int, short: Mapping[str, str]) -> dict[str, Any]:
    bars = []
    values = [row.per_class[k] for row in table.rows]
    for row, value in zip(table.rows, values, strict=True):
        known = not np.isnan(value)
        interval = row.class_interval(k)
        bars.append(
            {
                "name": short[row.name],
                "value": float(value) if known else None,
                "interval": interval if interval and not np.isnan(interval.low) else None,
                "best": known and value == np.nanmax(values) and value > np.nanmin(values),
                "baseline": row is table.baseline,
            }
        )
    return {
        "name": table.classes[k],
        "bars": bars,
        "known": any(b["value"] is not None for b in bars),
    }


def _matrix(table: Table, short: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the difference of every row to every other; None where there are none."""
    rows = [row for row in table.rows if row.resampled is not None]
    if len(rows) < 2:
        return None
    lines = []
    for row in rows:
        cells = []
        for other in rows:
            gain = None if row is other else row.minus(other)
            shown = text.shown_difference(gain)
            cells.append(
                {
                    "value": "" if gain is None else shown.split(" ")[0],
                    "title": "" if gain is None else f"{row.name} − {other.name}: {shown}",
                    "verdict": _verdict(gain),
                    "paired": row.paired(other),
                }
            )
        lines.append({"name": short[row.name], "cells": cells})
    return {"head": [short[row.name] for row in rows], "lines": lines}
