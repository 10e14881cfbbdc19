"""Runs that share a folder of activations."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.toy_run import CONFIG, Finished, finished_run, know_toy, quiet

from mpp_jax.cli import stages
from mpp_jax.describe import disk_cache
from mpp_jax.runs.settings import Extras
from mpp_jax.storage.store import Store


@pytest.fixture
def done(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Finished:
    know_toy(monkeypatch)
    return finished_run(tmp_path_factory)


def test_runs_share_one_pass(done: Finished, tmp_path: Path, monkeypatch: Any) -> None:
    """Two runs of different codebooks and methods: the network works once."""
    asked: list[int] = []
    describe = disk_cache.describe_items

    def counted(network: Any, items: Any, *rest: Any, **options: Any) -> Any:
        asked.append(len(items))
        return describe(network, items, *rest, **options)

    monkeypatch.setattr(disk_cache, "describe_items", counted)
    cache = Extras(cache=tmp_path / "cache")
    config = replace(CONFIG, pooling=("mpp", "avg"))
    assert stages.run(done.job(tmp_path / "one", config, extras=cache), quiet()) == 0
    pictures = sum(asked)
    assert pictures == len(done.dataset.items)
    other = replace(
        config, pooling=("vlad", "mpp+sp"), encoder=replace(config.encoder, components=3)
    )
    assert stages.run(done.job(tmp_path / "two", other, extras=cache), quiet()) == 0
    assert sum(asked) == pictures
    # As without a cache, to float16.
    for method in ("mpp", "avg"):
        ours = Store.open(tmp_path / "one" / "encodings").vectors(method, "test")
        np.testing.assert_allclose(ours, done.store.vectors(method, "test"), atol=0.02)
