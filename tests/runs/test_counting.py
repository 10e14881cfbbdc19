"""One program a scale, named on the CPU: statistics instead of activations, the same vectors."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.toy_run import CONFIG, Finished, quiet

from mpp_jax.describe.extraction import Extractor
from mpp_jax.describe.memory_cache import MemoryCache
from mpp_jax.pooling import Atom, parse_all
from mpp_jax.pooling.batched import countable
from mpp_jax.runs import pipeline, vectors
from mpp_jax.runs.vectors import atoms_of, count_items, encode_from, encode_items, wanted_of
from mpp_jax.stats import mixture
from mpp_jax.stats.codebook import Codebooks, settled_codebooks
from mpp_jax.storage.store import Store

pytestmark = pytest.mark.usefixtures("toy_known")

NAMES = ("mpp", "nfk", "csf", "mpp-entropy", "fv2", "mpp(conv1)")
COUNTED = replace(CONFIG, pooling=NAMES)


def always(methods: Sequence[Atom]) -> bool:
    return bool(methods) and all(map(countable, methods))


def test_what_can_be_counted() -> None:
    methods = parse_all(["mpp", "fc7", "mpp+sp", "vlad", "ap10", "fv3", "nfk(conv1)", "sv"])
    assert [atom.name for atom in methods if countable(atom)] == ["mpp", "fv3", "nfk(conv1)"]
    assert not vectors.counts_only(parse_all(["mpp"]))  # of a CPU


@pytest.mark.parametrize("skip_first", [False, True])
def test_counted_equals_described(done: Finished, skip_first: bool) -> None:
    config = replace(COUNTED, encoder=replace(COUNTED.encoder, skip_first=skip_first))
    books, _ = pipeline.fit(done.dataset, done.network, config, watcher=quiet())
    items, atoms = done.dataset.items[::4], atoms_of(config)
    found = {}
    for name, way in (("counted", count_items), ("described", encode_items)):
        rows = list(way(done.network, items, books, config, atoms))
        index = np.concatenate([index for index, _ in rows])
        assert sorted(index) == list(range(len(items)))
        found[name] = {
            atom.name: np.concatenate([part[atom.name] for _, part in rows])[np.argsort(index)]
            for atom in atoms
        }
    for atom, wanted in found["described"].items():
        np.testing.assert_allclose(found["counted"][atom], wanted, atol=2e-6, err_msg=atom)


def test_programs_of_accelerators_have_no_branches(
    done: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host of a GPU would wait for each: a mixture is looked at before the first batch."""
    books, _ = pipeline.fit(done.dataset, done.network, COUNTED, watcher=quiet())
    assert settled_codebooks(books) is books  # on a CPU
    items, atoms = done.dataset.items[:6], atoms_of(COUNTED)
    wanted = list(encode_items(done.network, items, books, COUNTED, atoms))

    def settle(books: Codebooks) -> Codebooks:
        with monkeypatch.context() as patch:
            patch.setattr(jax, "default_backend", lambda: "gpu")
            return settled_codebooks(books)

    def branch(*_: object) -> None:
        pytest.fail("a branch")

    monkeypatch.setattr(vectors, "settled_codebooks", settle)
    monkeypatch.setattr(mixture.lax, "cond", branch)
    extractor = Extractor(done.network, COUNTED.pyramid)
    for counts in (True, False):
        monkeypatch.setattr(vectors, "counts_only", lambda _, counts=counts: counts)
        ways = (
            encode_items(done.network, items, books, COUNTED, atoms),
            encode_from(extractor, done.network, items, books, COUNTED, atoms, on_skip=print),
        )
        for way in ways:
            for (index, found), (numbers, want) in zip(way, wanted, strict=True):
                np.testing.assert_array_equal(index, numbers)
                for name, rows in want.items():
                    np.testing.assert_allclose(found[name], rows, atol=2e-6)


def test_kept_activations_are_used_and_the_rest_is_counted(
    done: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `run` does it: positions and skipped pictures are those of the whole list."""
    monkeypatch.setattr(vectors, "counts_only", always)
    config = replace(CONFIG, pooling=("mpp", "nfk"))
    job = done.job(done.folder / "unused", config)
    atoms = atoms_of(config)
    cache = MemoryCache(job.activations, 1 << 30, wanted_of(atoms, config.pyramid.scales))
    books, _ = pipeline.fit(
        done.dataset, done.network, config, activations=cache.recorder, watcher=quiet()
    )
    assert cache.kept == {item.id for item in done.dataset.split("train")}
    broken = replace(done.dataset.items[20], path=None, read=lambda: b"no picture")
    items = [*done.dataset.items[:8], *done.dataset.items[15:20], broken, done.dataset.items[21]]
    skipped = []
    rows = list(
        encode_from(cache, done.network, items, books, config, atoms, on_skip=skipped.append)
    )
    index = np.concatenate([index for index, _ in rows])
    assert sorted(index) == [n for n in range(len(items)) if n != 13]
    assert [(entry.position, entry.path) for entry in skipped] == [(13, broken.id)]
    mpp = np.concatenate([part["mpp"] for _, part in rows])[np.argsort(index)]
    store = done.store
    there = {
        item.id: row
        for split in ("train", "test")
        for item, row in zip(store.items(split), store.vectors("mpp", split), strict=True)
    }
    wanted = [there[item.id] for n, item in enumerate(items) if n != 13]
    np.testing.assert_allclose(mpp, wanted, atol=2e-6)


def test_a_store_of_counted_pictures(
    done: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "counts_only", always)
    config = replace(CONFIG, pooling=("mpp", "csf"))
    books, _ = pipeline.fit(done.dataset, done.network, config, watcher=quiet())
    store = pipeline.encode_dataset(
        done.dataset, done.network, books, config, tmp_path / "store", watcher=quiet()
    )
    assert isinstance(store, Store)
    for split in ("train", "test"):
        for method in ("mpp", "csf"):
            np.testing.assert_allclose(
                store.vectors(method, split), done.store.vectors(method, split), atol=2e-6
            )
