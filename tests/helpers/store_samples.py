"""A small data set, vectors that depend on the picture alone, and stores of them."""

import filecmp
import hashlib
import json
import os
from dataclasses import replace

import numpy as np
import pytest

from mpp_jax.data import Dataset, Item
from mpp_jax.storage.store import StoreError, StoreWriter
from mpp_jax.storage.store_format import StoredItem, array_name, read_head, sealed
from mpp_jax.storage.store_reading import read_held

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


def listed(path) -> list[StoredItem]:
    """Return the pictures of a store, finished or not, by its records."""
    held = read_held(path, read_head(path))
    assert not held.lost
    return [*held.items]


def skipped_of(path) -> list[tuple[str, str | None]]:
    """Return (id, reason) of what was skipped."""
    return [(item.id, item.reason) for item in listed(path) if item.status == "skipped"]


def complete(path) -> bool:
    return all(item.status != "pending" for item in listed(path))


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


def rewritten(path, change) -> None:
    """Change a sealed JSON file, and seal it again."""
    entries = json.loads(path.read_text())
    del entries["seal"]
    change(entries)
    path.write_bytes(sealed(entries))


def known(items, version="1"):
    """Digests of contents, as whoever read the pictures leaves them."""
    return {item.id: digest(f"{version}{item.id}") for item in items}


def content_of(version="1"):
    return lambda item: digest(f"{version}{item.id}")


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


NEW = digest("new")


def encoded(path, data=None, **changes):
    """A finished store that knows its pictures' contents."""
    writer = writer_of(path, data, content=content_of(), **changes)
    writer.put(writer.remaining, vectors_of(writer.remaining), known(writer.remaining))
    return writer


def without(data, *ids, **changes):
    return replace(data, items=tuple(i for i in data.items if i.id not in ids), **changes)


def files_of(path):
    return {name: (path / name).read_bytes() for name in os.listdir(path)}


def as_version_1(path, *, first_programs: bool = False) -> None:
    """Turn a store into what programs wrote before records; the first ones without digests."""
    head, items = read_head(path), listed(path)
    held = read_held(path, head)
    arrays = {
        array_name(shard, method): file.sha256
        for shard, files in held.files.items()
        for method, file in files.items()
    }
    optional = ("cause", "sha256")
    entries = [{name: getattr(item, name) for name in StoredItem.__slots__} for item in items]
    new = {"list_sha256", "shards", "seal", "dtype"}
    manifest = {key: value for key, value in head.items() if key not in new} | {
        "version": 1,
        "methods": DIMENSIONS,
        "complete": complete(path),
        "arrays": arrays,
        "items": [
            {k: v for k, v in e.items() if v is not None or k not in optional} for e in entries
        ],
    }
    for record in path.glob("shard-*.json"):
        record.unlink()
    if first_programs:
        del manifest["arrays"]
        (path / "manifest.json").write_text(json.dumps(manifest))
    else:
        (path / "manifest.json").write_bytes(sealed(manifest))
