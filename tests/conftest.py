"""A strict session: rank promotion raises, warnings are errors, float32 stays float32."""

import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from helpers import tolerance
from helpers.far import Far, far_bucket
from helpers.toy_run import Finished, finished_run, know_toy

from mpp_jax.nets import dtypes

jax.config.update("jax_numpy_rank_promotion", "raise")
# No command of a test, in this process or another, writes into the user's own cache of programs.
os.environ["MPP_JAX_COMPILATION_CACHE"] = "off"

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def tolerances() -> Iterator[None]:
    """The tolerances of the backend that the session computes on, and float32 as on a CPU."""
    with pytest.MonkeyPatch.context() as patch:
        if tolerance.factor() != 1:
            tolerance.widen(patch, tolerance.factor())
            patch.setattr(dtypes, "AUTO", {})  # what a test asks for by its name it still gets
        yield


@pytest.fixture
def accelerator() -> jax.Device:
    """A GPU or TPU; a test that asks for it has the marker of the same name."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        pytest.skip("needs a GPU or TPU: JAX found a CPU alone")
    return device


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


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Far]:
    """An empty bucket behind a proxy that fails when it is told to, and a cache of its own."""
    pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    monkeypatch.setenv("MPP_JAX_CACHE", str(tmp_path / "cache"))
    with far_bucket(monkeypatch) as bucket:
        yield bucket
