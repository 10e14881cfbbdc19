"""What is in a set of pictures: classes by split, odd pictures, pictures that are there twice.

Every picture is decoded by the package's own rule. Two are the same where they decode to the same
pixels, whatever their names, metadata or file formats; copies that were compressed again are not
found.
"""

import hashlib
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from mpp_jax.data.content import DecodeError
from mpp_jax.data.dataset import SPLITS, Dataset, Item
from mpp_jax.data.decode import decode_picture, header_oddities

TINY: Final = 64
"""A picture whose shorter side has fewer pixels is tiny."""
LONG: Final = 4.0
"""A picture whose sides differ by a larger factor is long."""


class ClassCount(NamedTuple):
    """Pictures of a class in a split.

    Attributes:
        positives: that show it.
        difficult: of which it is unclear whether they count; ignored in training and test.
    """

    positives: int
    difficult: int


class Seen(NamedTuple):
    """A picture, once looked at.

    Attributes:
        item: the picture.
        size: (height, width) of what it decodes to, in pixels; None where it does not.
        odd: what is unusual about it, one word or two each.
        reason: why it cannot be decoded; empty where it can.
        digest: of its pixels; empty where it cannot be decoded.
    """

    item: Item
    size: tuple[int, int] | None
    odd: tuple[str, ...]
    reason: str
    digest: str


@dataclass(frozen=True)
class Survey:
    """What was found in a set.

    Attributes:
        dataset: the set.
        seen: its pictures, in its order.
    """

    dataset: Dataset
    seen: tuple[Seen, ...]

    @property
    def classes(self) -> dict[str, dict[str, ClassCount]]:
        """Counts by class and split."""
        count: dict[str, Counter[tuple[str, int]]] = {"labels": Counter(), "ignored": Counter()}
        for item in self.dataset.items:
            count["labels"].update((item.split, label) for label in item.labels)
            count["ignored"].update((item.split, label) for label in item.ignored)
        return {
            name: {
                split: ClassCount(count["labels"][split, label], count["ignored"][split, label])
                for split in SPLITS
            }
            for label, name in enumerate(self.dataset.classes)
        }

    @property
    def odd(self) -> dict[str, list[str]]:
        """Ids of decodable pictures, by what is unusual about them; the most frequent first."""
        found: dict[str, list[str]] = {}
        for one in self.seen:
            for what in one.odd:
                found.setdefault(what, []).append(one.item.id)
        return dict(sorted(found.items(), key=lambda entry: (-len(entry[1]), entry[0])))

    @property
    def broken(self) -> list[tuple[str, str]]:
        """Pictures that cannot be decoded, and why."""
        return [(one.item.id, one.reason) for one in self.seen if one.reason]

    @property
    def same(self) -> list[tuple[Item, ...]]:
        """Pictures with the same pixels, two or more together, in the order of the first."""
        groups: dict[str, list[Item]] = {}
        for one in self.seen:
            if one.digest:
                groups.setdefault(one.digest, []).append(one.item)
        return [tuple(group) for group in groups.values() if len(group) > 1]

    @property
    def sides(self) -> dict[str, tuple[int, int, int]]:
        """Smallest, middle and largest height and width, in pixels; empty without a picture."""
        sizes = [one.size for one in self.seen if one.size is not None]
        if not sizes:
            return {}
        low, middle, high = np.percentile(sizes, (0, 50, 100), axis=0, method="lower").astype(int)
        return {
            name: (int(low[axis]), int(middle[axis]), int(high[axis]))
            for axis, name in enumerate(("height", "width"))
        }

    def as_json(self) -> dict[str, Any]:
        """Return everything as values of JSON."""
        classes = self.dataset.classes
        return {
            "data": self.dataset.name,
            "multi_label": self.dataset.multi_label,
            "pictures": {split: len(self.dataset.split(split)) for split in SPLITS},
            "classes": {
                name: {split: count._asdict() for split, count in splits.items()}
                for name, splits in self.classes.items()
            },
            "sides": self.sides,
            "odd": self.odd,
            "broken": [{"id": name, "reason": reason} for name, reason in self.broken],
            "duplicates": [
                {
                    "across": is_across(group),
                    "pictures": [
                        {
                            "id": item.id,
                            "split": item.split,
                            "labels": [classes[label] for label in item.labels],
                        }
                        for item in group
                    ],
                }
                for group in self.same
            ],
            "notes": list(self.dataset.notes),
            "warnings": list(self.dataset.warnings),
        }


def is_across(group: Iterable[Item]) -> bool:
    """Return whether pictures are in training and in test."""
    return len({item.split for item in group}) > 1


def look(dataset: Dataset, threads: int | None = None) -> Iterator[Seen]:
    """Yield what every picture of a set is, in the set's order.

    Args:
        dataset: the set.
        threads: that decode; None for one a processor.
    """
    count = threads or os.cpu_count() or 1
    pool = ThreadPoolExecutor(count, thread_name_prefix="look")
    ahead: deque[Future[Seen]] = deque()
    try:
        for item in dataset.items:
            ahead.append(pool.submit(_look, item))
            if len(ahead) > 2 * count:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _look(item: Item) -> Seen:
    odd: tuple[str, ...] = ()
    try:
        source = item.source()
        if isinstance(source, np.ndarray):
            pixels = source
        else:
            pixels = decode_picture(source)
            odd = header_oddities(source)
    except DecodeError as error:
        return Seen(item, None, (), error.reason, "")
    height, width = pixels.shape[:2]
    short, long = sorted((height, width))
    odd += (f"tiny (a side under {TINY} pixels)",) * (short < TINY)
    odd += (f"long (sides differ {LONG:g} times)",) * (long > LONG * short)
    content = hashlib.sha256(f"{height} {width} ".encode())
    content.update(pixels.tobytes())
    return Seen(item, (height, width), odd, "", content.hexdigest())


def survey(dataset: Dataset, threads: int | None = None) -> Survey:
    """Look at every picture of a set; see `Survey`.

    Args:
        dataset: the set.
        threads: that decode; None for one a processor.
    """
    return Survey(dataset, tuple(look(dataset, threads)))
