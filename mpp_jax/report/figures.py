r"""The figures, tables and thumbnails of ``report.html``.

With ``S (N, L)`` a method's scores and ``y`` the labels:

- predicted class ``p_i = argmax_l S_il`` (the first of equals), confusions
  ``M_ab = #{i : y_i = a, p_i = b}``; a cell's colour is its row share ``M_ab / sum_b M_ab``;
- margin ``m_i = S_i,p_i - max_{l != p_i} S_il``, by which rights and wrongs are ranked
  (with one class there is no runner-up: the score itself);
- intervals of figures and of differences are of `mpp_jax.report.certainty`;
- with several labels a picture (targets +1, -1 and 0 = ignored): for each class the pictures
  with target -1 that score highest, and their rank among all pictures that are not ignored.
"""

import base64
import dataclasses
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mpp_jax.report.certainty import Certainty, shown_lead
from mpp_jax.runs.training import Trained

PictureSource = str | Path | Callable[[], Any]
"""A picture's path, or a function that returns its path, its encoded bytes or uint8 (H, W, 3)."""

THUMBNAIL_SIDE = 240  # stored pixels; shown at up to 160 CSS pixels, so sharp on dense screens
GALLERY_SIZE = 12
CONFUSIONS_LISTED = 12


class Card(NamedTuple):
    """One picture of a gallery, as the template shows it."""

    image: str | None  # data URI; None: no thumbnail could be made
    problem: str  # why there is none
    name: str
    place: str  # folder/name, shown on hover
    truth: str
    predicted: str
    score: str
    rank: int


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of the confusion matrix."""

    count: int
    opacity: str
    deep: bool  # colour so deep that the text must be light
    diagonal: bool
    title: str


def ranking(results: Mapping[str, Any], key: str) -> list[str]:
    """Return methods from best to worst by ``key``; those without a figure last, equals by name."""
    value = {name: results[name][key] for name in results}
    return sorted(value, key=lambda name: (value[name] is None, -(value[name] or 0.0), name))


def comparison(
    metrics: Mapping[str, Any],
    order: Sequence[str],
    method: str,
    labels: np.ndarray,
    scores: Mapping[str, np.ndarray],
    certainty: Mapping[str, Certainty],
) -> list[dict[str, Any]]:
    """Return a row for each method, best first: how sure it is, and what it wins and loses."""
    rows = []
    for name in order:
        result = metrics["results"][name]
        value = result["map11"] if labels.ndim == 2 else result["top1"]
        row: dict[str, Any] = {"name": name, "value": value, "result": result}
        row["primary"] = name == method
        row["won"] = row["lost"] = None
        row["interval"], lead = certainty.get(name, Certainty())
        row["lead"] = shown_lead(lead)
        if labels.ndim == 1 and len(labels) and name in scores and name != method:
            right = scores[name].argmax(axis=1) == labels
            reference = scores[method].argmax(axis=1) == labels
            row["won"] = int((right & ~reference).sum())
            row["lost"] = int((~right & reference).sum())
        rows.append(row)
    return rows


def contradictions(
    metrics: Mapping[str, Any], method: str, labels: np.ndarray, scores: Mapping[str, np.ndarray]
) -> list[str]:
    """Return contradictions between metrics and scores: shown, so that none goes unseen."""
    notes = []
    stated = metrics["pictures"]["test"]
    if stated is not None and stated != len(labels):
        notes.append(f"The metrics count {stated} test pictures, the scores {len(labels)}.")
    for name, value in scores.items():
        top1 = metrics["results"].get(name, {}).get("top1")
        if labels.ndim == 1 and len(labels) and top1 is not None:
            found = float((value.argmax(axis=1) == labels).mean())
            if abs(found - top1) > 1e-6:
                notes.append(
                    f"{name}: the metrics state a top-1 accuracy of {top1:.2%}, "
                    f"its scores give {found:.2%}."
                )
    return notes


def per_class_table(
    metrics: Mapping[str, Any], order: Sequence[str], classes: Sequence[str], labels: np.ndarray
) -> dict[str, Any]:
    """Return a row for each class: its test pictures, and every method's figure, best marked."""
    n = len(classes)
    counts = (labels > 0).sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=n)
    ignored = (labels == 0).sum(axis=0) if labels.ndim == 2 else np.zeros(n, int)
    per_class = {name: metrics["results"][name]["per_class"] or {} for name in order}
    rows = []
    for i, label in enumerate(classes):
        values = [per_class[name].get(label) for name in order]
        known = [v for v in values if v is not None]
        best = max(known) if len(known) > 1 and min(known) < max(known) else None
        cells = list(zip(order, values, [v is not None and v == best for v in values], strict=True))
        rows.append(
            {"name": label, "count": int(counts[i]), "ignored": int(ignored[i]), "cells": cells}
        )
    unjudged = [row["name"] for row in rows if not row["count"]]
    any_ignored = bool(ignored.any())
    return {"methods": [*order], "rows": rows, "any_ignored": any_ignored, "unjudged": unjudged}


def confusion(classes: Sequence[str], labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Return the confusion matrix as cells, and the confusions that happen most often."""
    n = len(classes)
    flat = labels * n + scores.argmax(axis=1)
    counts = np.bincount(flat, minlength=n * n).reshape(n, n)
    totals = counts.sum(axis=1)
    rows = []
    pairs = []
    for a in range(n):
        cells = []
        for b in range(n):
            count, total = int(counts[a, b]), int(totals[a])
            share = count / total if total else 0.0
            # Square root: a confusion of 2 % must still be seen beside a diagonal of 95 %.
            opacity = math.sqrt(share)
            title = ""
            if count:
                title = (
                    f"true {classes[a]}, predicted {classes[b]}: {count} of {total} ({share:.1%})"
                )
                if a != b:
                    pairs.append((-count, a, b, share))
            cells.append(Cell(count, f"{opacity:.2f}", opacity > 0.75, a == b, title))
        rows.append({"name": classes[a], "total": int(totals[a]), "cells": cells})
    listed = [
        {"truth": classes[a], "predicted": classes[b], "count": -minus, "share": share}
        for minus, a, b, share in sorted(pairs)[:CONFUSIONS_LISTED]
    ]
    return {"confusion": rows, "confused": listed, "confused_pairs": len(pairs)}


def galleries(
    classes: Sequence[str], labels: np.ndarray, scores: np.ndarray, thumbnails: "Thumbnails"
) -> dict[str, Any]:
    """Choose the most confident rights (spread over the classes) and the most confident wrongs."""
    if not len(labels):
        return {"rights": [], "wrongs": [], "rights_per_class": 1}
    predicted = scores.argmax(axis=1)
    top = np.sort(scores, axis=1)[:, ::-1]
    margin = top[:, 0] - top[:, 1] if len(classes) > 1 else top[:, 0]
    order = np.argsort(-margin, kind="stable")

    def card(i: int) -> Card:
        truth, guess = classes[labels[i]], classes[predicted[i]]
        return thumbnails.card(i, truth=truth, predicted=guess, score=f"{margin[i]:.2f}")

    # Without a limit one easy class would fill all twelve places.
    limit = -(-GALLERY_SIZE // len(classes))
    taken = np.zeros(len(classes), int)
    rights: list[Card] = []
    for i in order:
        if labels[i] == predicted[i] and taken[labels[i]] < limit and len(rights) < GALLERY_SIZE:
            taken[labels[i]] += 1
            rights.append(card(int(i)))
    wrong = [int(i) for i in order if labels[i] != predicted[i]]
    wrongs = [card(i) for i in wrong[:GALLERY_SIZE]]
    return {"rights": rights, "wrongs": wrongs, "rights_per_class": limit}


def false_positives(
    classes: Sequence[str], targets: np.ndarray, scores: np.ndarray, thumbnails: "Thumbnails"
) -> list[dict[str, Any]]:
    """Choose for each class the pictures without it that score highest."""
    shown = 4 if len(classes) <= 40 else 3
    blocks = []
    for c, label in enumerate(classes):
        counted = np.flatnonzero(targets[:, c] != 0)
        order = counted[np.argsort(-scores[counted, c], kind="stable")]
        cards: list[Card] = []
        for rank, i in enumerate(order, start=1):
            if targets[i, c] < 0 and len(cards) < shown:
                held = [classes[int(k)] for k in np.flatnonzero(targets[i] > 0)]
                score = f"{scores[i, c]:.2f}"
                truth = ", ".join(held) or "none of the classes"
                cards.append(thumbnails.card(int(i), truth, label, score, rank))
        blocks.append({"name": label, "cards": cards})
    return blocks


def config_groups(metrics: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the configuration as groups of (dotted name, value); plain values stand in "run".

    Scales are counted from 1, as on the command line. The last group, "trained", has each method's
    C and held-out folds, where ``metrics`` tell of them.
    """
    held = metrics["config"] if isinstance(metrics["config"], dict) else {}
    nested = {k: v for k, v in held.items() if isinstance(v, dict) and v}
    if scales := nested.get("pyramid", {}).get("scales"):
        nested["pyramid"] = nested["pyramid"] | {"scales": [scale + 1 for scale in scales]}
    run = {k: v for k, v in held.items() if k not in nested}
    run |= {key: metrics[key] for key in ("data", "network", "weights_sha256")}
    groups = [("run", _flat(run))] + [(name, _flat(nested[name])) for name in sorted(nested)]
    trained = metrics.get("training") or {}
    rows = [(name, Trained.from_dict(entry).summary(name)) for name, entry in trained.items()]
    return groups + ([("trained", rows)] if rows else [])


def _flat(held: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in sorted(held.items()):
        if isinstance(value, dict) and value:
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, _shown(value)))
    return rows


def _shown(value: Any) -> str:
    if value is None or value in ([], {}, ""):
        return "–"
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def timings(
    seconds: Mapping[str, Any], waiting: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """Return the stages in the order given, and the total: an entry of that name, or their sum.

    Args:
        seconds: by stage.
        waiting: by stage, the seconds of them that it waited for something.
    """
    stages = {name: s or 0.0 for name, s in seconds.items() if name != "total"}
    spent = sum(stages.values())
    total = seconds.get("total") or spent
    whole = max(total, spent) or 1.0
    rows = []
    for name, s in stages.items():
        waits = waiting.get(name, {})
        shares = [f"{100 * part / s:.0f}% for {what}" for what, part in waits.items() if s]
        rows.append((name, s, f"{s / whole:.4f}", f"waited {', '.join(shares)}" if shares else ""))
    return {"stages": rows, "total": total}


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share as a number of per cent, a dash for None."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def duration(seconds: float) -> str:
    """Return seconds in the units that people read: s, min, h."""
    if seconds < 120:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


# ------------------------------------------------------------------------------ thumbnails


class Thumbnails:
    """Small JPEGs of the pictures that are shown, each decoded once."""

    def __init__(self, sources: Sequence[PictureSource]) -> None:
        self._sources = sources
        self._made: dict[int, tuple[str | None, str]] = {}

    def card(self, i: int, truth: str, predicted: str, score: str, rank: int = 0) -> Card:
        """Return the card of picture ``i``."""
        if i not in self._made:
            self._made[i] = _thumbnail(self._sources[i])
        name, place = _file_name(self._sources[i], i)
        return Card(*self._made[i], name, place, truth, predicted, score, rank)


def _file_name(source: PictureSource, i: int) -> tuple[str, str]:
    """Return a picture's name, alone and with its folder; not its path, since pages travel."""
    if callable(source):
        # A bound method (``item.source``) is named after its object.
        owner = getattr(source, "__self__", source)
        given = getattr(owner, "id", None) or getattr(owner, "name", None)
        source = given if isinstance(given, str | Path) else f"picture {i}"
    parts = [p for p in str(source).split("/") if p] or [f"picture {i}"]
    return parts[-1], "/".join(parts[-2:])


def _thumbnail(source: PictureSource) -> tuple[str | None, str]:
    """Return (data URI, "") or (None, the reason)."""
    from PIL import Image

    from mpp_jax.data.decode import decode_picture

    try:
        content = source() if callable(source) else source
        if isinstance(content, np.ndarray):
            pixels = content
        else:
            pixels = np.asarray(decode_picture(content, max_side=THUMBNAIL_SIDE))
        image = Image.fromarray(pixels)
        image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        return jpeg_uri(np.asarray(image)), ""
    except Exception as error:  # any reader may fail in any way; the page must still be written
        # A DecodeError has its reason apart from the path.
        return None, str(getattr(error, "reason", f"{type(error).__name__}: {error}"))


def jpeg_uri(pixels: np.ndarray) -> str:
    """Return a picture (H, W, 3) uint8 as the data URI of a JPEG."""
    from PIL import Image

    held = io.BytesIO()
    Image.fromarray(pixels).save(held, format="JPEG", quality=80, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode("ascii")
