"""A small data set, vectors that depend on the picture alone, and stores of them."""

import filecmp
import json
import os

import numpy as np
import pytest

from mpp_jax.data import Dataset, Item
from mpp_jax.storage.store import StoreError, StoreWriter
from mpp_jax.storage.store_format import read_manifest

METHODS = ("fc7", "mpp")
DIMENSIONS = {"fc7": 3, "mpp": 5}


def dataset(train: int = 7, test: int = 6, classes=("a", "b"), multi_label=False) -> Dataset:
    items = [
        Item(f"{split}/{n:03d}.jpg", (n % len(classes),), split)
        for split, count in (("train", train), ("test", test))
        for n in range(count)
    ]
    return Dataset("toy", tuple(classes), tuple(items), multi_label=multi_label)


def vectors_of(items) -> dict[str, np.ndarray]:
    """Return unit vectors that depend on the item alone."""
    made = {}
    for method, dimension in DIMENSIONS.items():
        rows = []
        for item in items:
            rng = np.random.default_rng([*f"{item.id}{method}".encode()])
            row = rng.standard_normal(dimension)
            rows.append(row / np.linalg.norm(row))
        made[method] = np.array(rows, np.float32).reshape(len(items), dimension)
    return made


def writer_of(path, data=None, **changes) -> StoreWriter:
    options = {
        "methods": METHODS,
        "network": "squeezenet",
        "weights_sha256": "e4ab",
        "codebook_sha256": "00ff",
        "config": {"scales": (1, 2, 3), "encoder": {"components": 256, "pca": 128}, "seed": 0},
        "shard_size": 4,
    }
    return StoreWriter(path, data or dataset(), **(options | changes))


BAD = {"train/002.jpg": "truncated", "test/004.jpg": "empty file (0 bytes)"}


def fill(writer: StoreWriter, stop_after: int | None = None, order=None) -> None:
    """Encode what remains, one picture at a time; stop like an interruption."""
    with writer:
        remaining = writer.remaining if order is None else [writer.remaining[i] for i in order]
        for count, item in enumerate(remaining):
            if count == stop_after:
                return
            if item.id in BAD:
                writer.skip(item, BAD[item.id])
            else:
                writer.put([item], vectors_of([item]))


def skipped_of(path) -> list[tuple[str, str | None]]:
    """Return (id, reason) of what was skipped, by the manifest, of a finished store or not."""
    return [(item.id, item.reason) for item in read_manifest(path)[1] if item.status == "skipped"]


def complete(path) -> bool:
    return read_manifest(path)[0]["complete"]


def same_files(one, two) -> None:
    names = sorted(os.listdir(one))
    assert names == sorted(os.listdir(two))
    equal, different, errors = filecmp.cmpfiles(one, two, names, shallow=False)
    assert (different, errors) == ([], [])
    assert equal == names


def refusal(function, *arguments, **options) -> str:
    with pytest.raises(StoreError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def unsealed(text: str) -> str:
    """A manifest as earlier versions wrote it: without digests of arrays and of itself."""
    held = json.loads(text)
    del held["seal"], held["arrays"]
    return json.dumps(held)
