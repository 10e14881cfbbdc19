"""The paper's tables as data, and how a filled one is printed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lab


@dataclass(frozen=True)
class Row:
    """A method of part (a) of a table.

    Attributes:
        method: as the paper prints it.
        pooling: ours; {own}, {lower} and {above} are layers.
        paper: its accuracy or mAP in per cent.
        cnn_s: whether it is of the paper's second network.
        per_class: AP of the classes in the table's order.
    """

    method: str
    pooling: str
    paper: float
    cnn_s: bool = False
    per_class: tuple[float, ...] = ()


@dataclass(frozen=True)
class Cited:
    """A method of others, as the paper cites it: who, what, its figure, and AP by class."""

    who: str
    what: str
    paper: float
    per_class: tuple[float, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        name: of the result file.
        title: for people.
        prefix: of the archive, a key of `ARCHIVES`.
        rows: methods of part (a).
        cited: methods of part (b).
        pairs: methods, by the paper's names, that are compared by bootstrap, the better one first.
        classes: those of ``per_class``, in order, as the archive calls them.
    """

    name: str
    title: str
    prefix: str
    rows: tuple[Row, ...]
    cited: tuple[Cited, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    classes: tuple[str, ...] = ()


def report(table: Table, made: Mapping[str, Any]) -> str:
    """Return a record as Markdown, in per cent."""
    networks = ", ".join(f"{name} {one['layer']}" for name, one in made["networks"].items())
    lines = [
        f"## {table.title}",
        f"\n{made['data']}: {made['pictures']['train']:,} training and "
        f"{made['pictures']['test']:,} test pictures, {made['classes']} classes. Ours: {networks}.",
    ]
    if made["departures"]:
        lines.append(f"Not as in the paper (theirs): {', '.join(made['departures'])}.")
    lines += [f"{note[0].upper()}{note[1:]}." for note in made["notes"]]
    lines += ["", *_main_table(made)]
    if made["pairs"]:
        lines += ["", *_pairs_table(made)]
    if table.classes:
        lines += ["", *_class_table(table, made)]
    if table.cited:
        lines += ["", "Others, as the paper cites them:", "", *_cited_table(table, made)]
    return "\n".join(lines)


def _main_table(made: Mapping[str, Any]) -> list[str]:
    figure = "mAP" if made["measure"] == "map11" else "top-1"
    seeds = len(made["seeds"]) > 1
    accuracy = made["measure"] == "top1"
    head = ["method", f"paper, {figure}", f"ours, {figure}", "difference"]
    head += ["seeds' deviation"] * seeds + ["mean class accuracy"] * accuracy
    rows = []
    for row in made["rows"]:
        cells = [row["method"], f"{row['paper']:.2f}"]
        if "not_run" in row:
            rows.append([*cells, f"not run: {row['not_run']}", *[""] * (len(head) - 3)])
            continue
        cells += [f"{row['ours']:.2f}", f"{row['difference']:+.2f}"]
        if seeds:
            cells.append(f"{row['deviation']:.2f}" if "deviation" in row else "")
        if accuracy:
            cells.append(f"{row['mean_class_accuracy']:.2f}")
        rows.append(cells)
    return [lab.markdown(head, rows)]


def _pairs_table(made: Mapping[str, Any]) -> list[str]:
    rows = [
        [" - ".join(pair["methods"]), f"{pair['paper']:+.2f}", lab.shown(pair)]
        for pair in made["pairs"]
    ]
    return [lab.markdown(["difference", "paper", "ours, 95% paired bootstrap"], rows)]


def _class_table(table: Table, made: Mapping[str, Any]) -> list[str]:
    """Return the classes line by line: the paper's AP, ours and the difference of each method."""
    ran = [row for row in made["rows"] if row.get("per_class")]
    head = ["class", *(f"{row['method']}: paper, ours, difference" for row in ran)]
    rows = []
    for name in table.classes:
        entries = [row["per_class"].get(name) for row in ran]
        if any(entries):
            rows.append([name, *(_three(entry) for entry in entries)])
    rows.append(["mean", *(_three(row) for row in ran)])
    return [lab.markdown(head, rows)]


def _three(entry: Mapping[str, float] | None) -> str:
    if entry is None:
        return ""
    return f"{entry['paper']:.1f}, {entry['ours']:.1f}, {entry['difference']:+.1f}"


def _cited_table(table: Table, made: Mapping[str, Any]) -> list[str]:
    figure = "mAP" if made["measure"] == "map11" else "top-1"
    if not table.classes:
        rows = [[one.who, one.what, f"{one.paper:.2f}"] for one in table.cited]
        return [lab.markdown(["who", "what", figure], rows)]
    rows = [
        [name, *(f"{one.per_class[i]:.1f}" for one in table.cited)]
        for i, name in enumerate(table.classes)
    ]
    rows.append(["mean", *(f"{one.paper:.1f}" for one in table.cited)])
    return [lab.markdown(["class", *(f"{one.who}, {one.what}" for one in table.cited)], rows)]
