"""A parser of the report page, and small runs to report on."""

import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

VOID = {"meta", "img", "br", "link", "input", "hr"}
CLASSES = ["bed", "coast", "forest"]
NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1)


class Page(HTMLParser):
    """All tags with their attributes, the text of each, and whether every tag is closed in turn."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[list[str]] = []
        self._open: list[tuple[str, int]] = []
        self.feed(self.source)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> repeats an attribute: {names}"
        self.tags.append((tag, dict(attrs)))
        self.texts.append([])
        if tag not in VOID:
            self._open.append((tag, len(self.tags) - 1))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.texts.append([])

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop()[0] == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        for _, i in self._open:
            self.texts[i].append(data)

    def of(self, tag: str, **attributes: str) -> list[str]:
        """Return texts of the elements with this tag and these words in the named attributes."""
        return [
            " ".join("".join(text).split())
            for (name, held), text in zip(self.tags, self.texts, strict=True)
            if name == tag
            and all(
                word in (held.get(key.rstrip("_")) or "").split()
                for key, word in attributes.items()
            )
        ]

    def section(self, name: str) -> str:
        (text,) = self.of("section", id=name)
        return text

    def rows(self, section: str) -> list[list[str]]:
        """Return cell texts of every table row of a section."""
        found: list[list[str]] = []
        inside = False
        for (tag, held), text in zip(self.tags, self.texts, strict=True):
            if tag == "section":
                inside = held.get("id") == section
            elif inside and tag == "tr":
                found.append([])
            elif inside and tag in ("td", "th"):
                found[-1].append(" ".join("".join(text).split()))
        return found


def picture(value: int = 128, height: int = 30, width: int = 40) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def jpeg(pixels: np.ndarray) -> bytes:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, format="JPEG")
    return held.getvalue()


def example() -> dict[str, Any]:
    """Return eight pictures, three classes; mpp has six right, fc7 four."""
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    predicted = {"mpp": [0, 0, 1, 1, 1, 2, 2, 0], "fc7": [0, 1, 1, 1, 0, 2, 2, 0]}
    margins = np.array([0.5, 2.0, 1.25, 0.75, 3.5, 0.1, 4.0, 2.25])
    scores = {}
    for method, guesses in predicted.items():
        scores[method] = np.full((8, 3), -1.0)
        scores[method][np.arange(8), (np.array(guesses) + 1) % 3] = -2.0  # not the runner-up
        scores[method][np.arange(8), guesses] = margins - 1.0
    results = {
        "fc7": {
            "top1": 0.5,
            "mean_class_accuracy": 0.5 + 1 / 36,
            "map11": 0.612,
            "per_class": {"bed": 1 / 3, "coast": 0.5, "forest": 2 / 3},
        },
        "mpp": {
            "top1": 0.75,
            "mean_class_accuracy": 7 / 9,
            "map11": 0.734,
            "per_class": {"bed": 2 / 3, "coast": 1.0, "forest": 2 / 3},
        },
    }
    metrics = {
        "data": "scenes",
        "network": "squeezenet",
        "weights_sha256": "e4ab6960ae8cd815" + "0" * 48,
        "config": {"seed": 7, "pyramid": {"scales": (0, 1, 2), "resize": {"square": True}}},
        "results": results,
        "seconds": {"decode+dense (train)": 312.0, "pca": 3.1},
        "pictures": {
            "train": 1500,
            "test": 8,
            "skipped": [{"path": "train/bed/cut.jpg", "reason": "truncated: 3 of 41 KB"}],
        },
    }
    paths = [lambda i=i: picture(20 * i) for i in range(8)]
    return {
        "metrics": metrics,
        "classes": CLASSES,
        "method": "mpp",
        "labels": labels,
        "scores": scores,
        "test_paths": paths,
    }


def multi_label_example() -> dict[str, Any]:
    given = example()
    scores = np.array([[3.0, 0.1, -1.0], [2.0, 0.2, -2.0], [1.0, 0.3, -3.0], [0.5, 0.4, -4.0]])
    given["labels"] = np.array([[1, 1, 1], [0, -1, 1], [-1, 1, 1], [-1, -1, 0]], dtype=np.float32)
    given["scores"] = {"mpp": scores, "fc7": -scores}
    given["test_paths"] = given["test_paths"][:4]
    given["metrics"]["pictures"]["test"] = 4
    for result in given["metrics"]["results"].values():
        result["top1"] = result["mean_class_accuracy"] = None
    given["metrics"]["results"]["mpp"]["per_class"]["forest"] = float("nan")
    return given
