"""Boxes of VOC pictures from one JSON file, where the annotations are not at hand.

Parts of VOC are passed on without ``Annotations``, with a file ``boxes*.json`` in the year's folder
instead::

    {"000012": {"boxes5": [["car", xmin, ymin, xmax, ymax], ...], ...}, ...}

Any entry of a picture whose name begins with "boxes" holds its boxes, in the development kit's
coordinates: pixels counted from 1, the last one included. Classes that stand nowhere have no boxes,
which says nothing about where they are.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from mpp_jax.data.archives import Archive
from mpp_jax.data.dataset import Box, DataError


def json_boxes(archive: Archive) -> dict[str, Callable[[], tuple[Box, ...]]]:
    """Return what gives the boxes of pictures, by id; nothing where there is no such file.

    Raises:
        DataError: the file is damaged, or there are several.
    """
    names = sorted(
        name
        for name in archive.names_in(archive.root)
        if name.startswith("boxes") and name.endswith(".json")
    )
    if not names:
        return {}
    if len(names) > 1:
        archive.fail(f"several files of boxes: {', '.join(names)}; leave one")
    file = archive.root / names[0]
    try:
        held = json.loads(archive.content(file))
        rows = {name: _rows(entry) for name, entry in held.items()}
    except (ValueError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        archive.fail(
            f"{archive.named(file)} is not {{id: {{'boxes': [[class, xmin, ymin, xmax, ymax]]}}}} "
            f"({error})"
        )
    return {
        name: partial(_boxes, archive.root / "JPEGImages" / f"{name}.jpg", found)
        for name, found in rows.items()
        if found
    }


Row = tuple[str, float, float, float, float]


def _rows(entry: dict[str, Any]) -> tuple[Row, ...]:
    """Return the boxes of a picture's entry; of another form it raises."""
    rows = []
    for key, part in entry.items():
        for name, xmin, ymin, xmax, ymax in part if key.startswith("boxes") else ():
            rows.append((str(name), float(xmin), float(ymin), float(xmax), float(ymax)))
    return tuple(rows)


def _boxes(picture: Path, rows: tuple[Row, ...]) -> tuple[Box, ...]:
    """Return boxes as shares of the picture's sides."""
    with Image.open(picture) as opened:
        width, height = opened.size
    return tuple(
        Box(
            name,
            (
                min(max((ymin - 1) / height, 0), 1),
                min(max((xmin - 1) / width, 0), 1),
                min(max(ymax / height, 0), 1),
                min(max(xmax / width, 0), 1),
            ),
        )
        for name, xmin, ymin, xmax, ymax in rows
    )
