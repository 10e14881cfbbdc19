"""A strict session: rank promotion raises, warnings are errors, float32 stays float32."""

import os
from pathlib import Path

import jax
import pytest
from helpers.toy_run import Finished, finished_run, know_toy

jax.config.update("jax_numpy_rank_promotion", "raise")
# No command of a test, in this process or another, writes into the user's own cache of programs.
os.environ["MPP_JAX_COMPILATION_CACHE"] = "off"

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Small arrays computed by VLFeat 0.9.21 (see ``tests/golden/README.md``)."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with the pretrained SqueezeNet file and the Scene-15 pictures."""
    place = Path(os.environ.get("MPP_JAX_SHARED", REPOSITORY / ".." / "shared")).resolve()
    if not (place / "data").is_dir():
        pytest.skip(f"no shared data at {place}: set MPP_JAX_SHARED")
    return place


@pytest.fixture
def toy_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy network among the networks, and shards of a few pictures."""
    know_toy(monkeypatch)


@pytest.fixture
def done(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The toy network's finished run, made once a session."""
    return finished_run(tmp_path_factory)
