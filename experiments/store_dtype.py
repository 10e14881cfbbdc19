"""What storing vectors in float16 costs: accuracy, cosines, bytes, on a finished run's encodings.

    mpp-jax run shared/data/scene15 --network caffenet_mini --scales 1-3 --out OUT
    python experiments/store_dtype.py OUT/encodings

The encodings, stored as float32, are written again as float16; machines are trained and tested on
both. Figures are top-1 accuracy, or 11-point mAP where pictures have several classes; differences
(float16 less float32) have 95% intervals by paired bootstrap over the test pictures.

Expected: no figure moves by more than a picture or two, cosines are 1 to six digits, and the store
takes half of the bytes. Results: ``results/store_dtype.json``.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from dtype_cost import cosines, figure
from lab import paired_bootstrap
from machine import provenance

from mpp_jax.data import Dataset, Item
from mpp_jax.progress import Watcher
from mpp_jax.runs import pipeline
from mpp_jax.runs.provenance import open_codebooks_of
from mpp_jax.storage.store import Store, StoreWriter

RESULTS = Path(__file__).parent / "results"


def pictures(store: Store) -> Dataset:
    """Return the pictures of a store that are encoded, as a data set without contents."""
    items = tuple(
        Item(i.id, i.labels, i.split, ignored=i.ignored)
        for split in ("train", "test")
        for i in store.items(split)
    )
    name = str(store.manifest["dataset"])
    return Dataset(name, store.classes, items, multi_label=store.multi_label)


def rounded(store: Store, folder: Path) -> Store:
    """Write the vectors of a store again as float16."""
    head = store.manifest
    writer = StoreWriter(
        folder,
        pictures(store),
        methods=store.methods,
        network=head["network"],
        weights_sha256=head["weights_sha256"],
        codebook_sha256=head["codebook_sha256"],
        config=store.config,
        dtype="float16",
    )
    for split in ("train", "test"):
        items, start = store.items(split), 0
        data = {item.id: item for item in writer.remaining}
        for parts in zip(*(store.iter_vectors(m, split) for m in store.methods), strict=True):
            some = items[start : start + len(parts[0])]
            writer.put([data[i] for i in some.ids], dict(zip(store.methods, parts, strict=True)))
            start += len(some)
    return Store.open(folder)


def size(store: Store) -> int:
    """Return the bytes of a store's arrays."""
    return sum(path.stat().st_size for path in store.path.glob("shard-*.npy"))


def compare(store: Store, folder: Path) -> dict[str, Any]:
    """Return the figures of both ways by method."""
    half, data = rounded(store, folder), pictures(store)
    _, made = open_codebooks_of(store)
    quiet = Watcher(quiet=True)
    scores = [
        pipeline.score(
            pipeline.train(one, {}, made, store.methods, watcher=quiet)[0], one, watcher=quiet
        )
        for one in (store, half)
    ]
    rows = {}
    for method in store.methods:
        whole, other = scores[0][method], scores[1][method]
        vectors = [{s: one.vectors(method, s) for s in ("train", "test")} for one in (store, half)]
        for one in vectors:
            for split, rows_of in one.items():
                one[split] = rows_of / np.linalg.norm(rows_of, axis=1, keepdims=True)
        rows[method] = {
            "float32": figure(whole, data),
            "float16": figure(other, data),
            "float16_minus_float32": paired_bootstrap(other, whole, data),
            "cosine": cosines(*vectors),
            "largest_change_of_a_score": float(np.abs(other - whole).max()),
        }
    return {"bytes": {"float32": size(store), "float16": size(half)}, "methods": rows}


def main() -> None:
    """Compare, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("store", type=Path, help="finished encodings, stored as float32")
    parser.add_argument("--out", type=Path, default=RESULTS / "store_dtype.json")
    args = parser.parse_args()
    store = Store.open(args.store)
    with tempfile.TemporaryDirectory() as place:
        found = compare(store, Path(place) / "half")
    counts = {split: len(store.items(split)) for split in ("train", "test")}
    of = {"dataset": store.manifest["dataset"], "network": store.manifest["network"]}
    record = {"made": provenance(), **of, "pictures": counts, "config": store.config, **found}
    for method, row in found["methods"].items():
        change = row["float16_minus_float32"]
        print(
            f"{method}: {100 * row['float32']:.2f} -> {100 * row['float16']:.2f} "
            f"({100 * change['low']:+.2f} to {100 * change['high']:+.2f}), "
            f"smallest cosine {row['cosine']['smallest']:.7f}"
        )
    halves = found["bytes"]
    print(f"bytes: {halves['float32']:,} -> {halves['float16']:,}")
    record["made"]["command"] = "python experiments/store_dtype.py OUT/encodings"
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"results: {args.out}")


if __name__ == "__main__":
    main()
