"""What the commands search and index do."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpp_jax.cli.console import DONE, Console
from mpp_jax.cli.opening import open_network
from mpp_jax.cli.queries import answer
from mpp_jax.data import Item, Skipped
from mpp_jax.files import exclusive
from mpp_jax.pooling import members
from mpp_jax.progress import one_line
from mpp_jax.runs.indexing import Plan, check_index_place, make_index
from mpp_jax.runs.provenance import Provenance, load_codebooks, open_codebooks_of
from mpp_jax.runs.retrieval import retrieval_figures
from mpp_jax.runs.search import Neighbour, Searchable, StoredVectors, nearest
from mpp_jax.runs.vectors import encode_whole
from mpp_jax.stats.codebook import Codebooks
from mpp_jax.storage.index import CODEBOOK, Index, is_index
from mpp_jax.storage.store import Store

QUERY_BYTES = 2**27
"""Bytes of the queries that one pass over the stored vectors answers, at most."""


def _open(folder: Path, method: str | None) -> tuple[Searchable, Codebooks, Provenance]:
    """Open a store or an index, with what its vectors were made with."""
    if is_index(folder):
        found = Index.open(folder)
        codebooks, made = load_codebooks(folder / CODEBOOK)
        if method is not None and made.method_name(method) != found.method:
            raise ValueError(f"method: {folder} is an index of {found.method}, not {method!r}")
        return found, codebooks, made
    store = Store.open(folder)
    codebooks, made = open_codebooks_of(store)
    return StoredVectors(store, _asked(made, method)), codebooks, made


def _asked(made: Provenance, method: str | None) -> str:
    """Return the representation that is searched by; unless named, the first that is no choice.

    "best" is chosen by training, which a store knows nothing of; alone it is all that it stacks.
    """
    if method is not None:
        return method.lower()
    names = made.config.pooling
    return next((name for name in names if not members(name)), "+".join(members(names[0])))


def search(
    folder: Path,
    items: Sequence[Item],
    weights: str | None,
    method: str | None,
    top: int,
    as_json: bool,
    console: Console,
) -> int:
    """Find the stored pictures that are most similar to new ones."""
    searched, codebooks, made = _open(folder, method)
    network = open_network(made.network, made.find_weights(weights), made.config.dtype, console)
    made.check_network(network)
    skipped: list[Skipped] = []
    found: list[list[Neighbour]] = []
    rows = max(1, QUERY_BYTES // (4 * searched.dimension))
    for first in range(0, len(items), rows):
        part = items[first : first + rows]
        vectors = np.zeros((len(part), searched.dimension), np.float32)

        def skip(entry: Skipped, first: int = first) -> None:
            skipped.append(entry._replace(position=first + entry.position))

        for index, encoded in encode_whole(
            network, part, codebooks, made.config, searched.method, on_skip=skip
        ):
            vectors[index] = encoded
        found += nearest(searched, vectors, top)
    left_out = {entry.position for entry in skipped}

    def entry(i: int) -> dict[str, Any]:
        return {"neighbours": [] if i in left_out else [_entry(n, searched) for n in found[i]]}

    def lines(i: int) -> str:
        text = [f"{one_line(items[i].id)}:"]
        for neighbour in (_entry(n, searched) for n in found[i]):
            classes = f"  ({', '.join(neighbour['classes'])})" if searched.classes else ""
            place = one_line(neighbour["path"])
            text.append(f"  {neighbour['similarity']:.4f}  {place}{classes}")
        return "\n".join(text)

    return answer(items, skipped, made, entry, lines, as_json, console)


def _entry(neighbour: Neighbour, searched: Searchable) -> dict[str, Any]:
    """Return a neighbour as JSON values."""
    entry, similarity = neighbour
    return {
        "path": entry.id,
        "split": entry.split,
        "classes": [searched.classes[label] for label in entry.labels],
        "similarity": similarity,
    }


def figures(
    folder: Path, method: str | None, queries: int | None, as_json: bool, console: Console
) -> int:
    """Say how well the stored pictures find each other."""
    searched, _, made = _open(folder, method)
    found = retrieval_figures(searched, queries=queries, seed=made.config.seed, watcher=console)
    if as_json:
        console.result(json.dumps({"method": searched.method, **found.to_dict()}, indent=1))
        return DONE
    what = "each other" if found.leave_one_out else "training pictures"
    console.result(
        f"{searched.method}: mAP {_percent(found.mean)} of {found.queries} pictures that ask for "
        f"{what} ({found.ranked} ranked)"
    )
    for name, value in found.per_class.items():
        console.result(f"  {_percent(value)}  {one_line(name)}")
    return DONE


def _percent(value: float | None) -> str:
    return "    -" if value is None else f"{100 * value:5.2f}"


def index(
    folder: Path, out: Path, method: str | None, options: Mapping[str, Any], console: Console
) -> int:
    """Compress stored vectors into an index."""
    plan = Plan(**options)
    store = Store.open(folder)
    _, made = open_codebooks_of(store)
    check_index_place(out)
    name = _asked(made, method)
    with exclusive(out):
        found = make_index(store, name, out, plan, watcher=console)
    record = found.record
    recall = ", ".join(f"{value:.3f} at {k}" for k, value in record["recall"]["at"].items())
    console.say(
        f"{name}: {record['dimension']} numbers to {record['compressed']}, {record['bytes']} bytes "
        f"a picture in place of {4 * record['dimension']}"
    )
    console.result(f"recall against exact search: {recall}")
    console.wrote("index", out)
    return DONE
