"""Interrupted and damaged: the same command goes on, to the same bytes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.store_samples import listed
from helpers.toy_run import (
    CONFIG,
    Finished,
    assert_same_run,
    quiet,
    store_bytes,
    tree_bytes,
)

from mpp_jax.cli import stages
from mpp_jax.runs import pipeline, vectors
from mpp_jax.runs.provenance import load_codebooks
from mpp_jax.storage.store import Store, StoreError

pytestmark = pytest.mark.usefixtures("toy_known")


def run(done: Finished, out: Path, **changes: Any) -> int:
    return stages.run(done.job(out, replace(CONFIG, **changes)), quiet())


def interrupt_after(monkeypatch: pytest.MonkeyPatch, count: int) -> Callable[[], int]:
    """Let the encoding of picture ``count + 1`` be interrupted; return how many were asked for."""
    encode, calls = vectors.encode_described, 0

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count + 1:
            raise KeyboardInterrupt
        return encode(*arguments)

    monkeypatch.setattr(vectors, "encode_described", counted)
    return lambda: calls


@pytest.mark.parametrize("room", [0, 2**30])
@pytest.mark.parametrize("pictures", [5, 10, 20])
def test_interrupted_run_goes_on(done: Finished, tmp_path: Path, room: int, pictures: int) -> None:
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as monkeypatch:
        interrupt_after(monkeypatch, pictures)
        with pytest.raises(KeyboardInterrupt):
            run(done, out, cache_bytes=room)
    book = tree_bytes(out / "codebook")
    items = listed(out / "encodings")
    finished = [item for item in items if item.status == "done"]
    # Shards hold 8 train, 7 train and a test, 8 test pictures; training pictures come first.
    assert len(finished) == {5: 0, 10: 8, 20: 16}[pictures]
    with pytest.raises(StoreError, match=r"unfinished, \d+ of 24 pictures are not encoded yet"):
        Store.open(out / "encodings")
    with pytest.MonkeyPatch.context() as monkeypatch:
        asked = interrupt_after(monkeypatch, 10**6)
        assert run(done, out, cache_bytes=room) == 0
        assert asked() == 24 - len(finished)
    assert tree_bytes(out / "codebook") == book  # not fitted again
    assert_same_run(out, done.out)


def test_damaged_shard_is_made_again(done: Finished, tmp_path: Path) -> None:
    codebooks, _ = load_codebooks(done.out / "codebook")
    folder = tmp_path / "store"

    def encode() -> None:
        pipeline.encode_dataset(
            done.dataset, done.network, codebooks, CONFIG, folder, watcher=quiet()
        )

    encode()
    shard = folder / "shard-00001.mpp.npy"
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(StoreError, match=r"shard-00001.mpp.npy: missing or damaged"):
        Store.open(folder).vectors("mpp", "train")
    with pytest.MonkeyPatch.context() as monkeypatch:
        asked = interrupt_after(monkeypatch, 10**6)
        encode()
        assert asked() == 8
    assert store_bytes(folder) == store_bytes(done.out / "encodings")
