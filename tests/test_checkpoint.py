"""Checkpoints: relative paths, and whose fault an error is."""

import logging

import jax
import numpy as np
import pytest

from mpp_jax import checkpoint
from mpp_jax.checkpoint import (
    CheckpointError,
    check_devices,
    declared_arrays,
    restore_arrays,
    save_arrays,
)
from mpp_jax.nets import NETWORKS, random_network
from mpp_jax.storage.bundle import BundleError, read_bundle, write_bundle
from mpp_jax.weights import WeightsError, load_network, save_network

ARRAYS = {"a": np.arange(6, dtype=np.float32), "b": np.ones((2, 3), np.float32)}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def own(here):
    """A network folder and a bundle, given by relative paths."""
    write_bundle(here / "bundle", "mpp-jax-test", ARRAYS, {})
    network = random_network(jax.random.key(0), NETWORKS["squeezenet"])
    return save_network(network, "network").relative_to(here)


def test_relative_paths(here, own):
    place = (here / "arrays").relative_to(here)
    save_arrays(place, ARRAYS)
    assert declared_arrays(place)["b"] == ((2, 3), np.dtype(np.float32))
    jax.tree.map(np.testing.assert_array_equal, restore_arrays(place), ARRAYS)
    assert read_bundle((here / "bundle").relative_to(here), "mpp-jax-test")[0].keys() == {"a", "b"}
    assert load_network("squeezenet", own).spec.name == "squeezenet"


def test_a_relative_cache_folder(here, own, monkeypatch):
    monkeypatch.setenv("MPP_JAX_CACHE", "cache")
    (here / "cache" / "networks").mkdir(parents=True)
    own.rename("cache/networks/squeezenet")
    assert load_network("squeezenet").spec.name == "squeezenet"


@pytest.mark.parametrize(
    "fault", [AssertionError(), RuntimeError("Unable to initialize backend 'cuda': none")]
)
def test_where_there_is_no_device_sound_files_are_not_blamed(here, own, monkeypatch, fault):
    def missing():
        raise fault

    monkeypatch.setattr(jax, "devices", missing)
    for read in (
        check_devices,
        lambda: read_bundle(here / "bundle", "mpp-jax-test"),
        lambda: write_bundle(here / "bundle", "mpp-jax-test", ARRAYS, {}),
        lambda: load_network("squeezenet", own),
        lambda: load_network("caffenet_mini"),
        lambda: load_network("sift"),
    ):
        with pytest.raises(RuntimeError, match="Unable to initialize backend"):
            read()


def test_what_orbax_cannot_read_is_damage(here, own):
    save_arrays(here / "arrays", ARRAYS)
    (here / "arrays" / "_METADATA").write_text("{")
    for read in (declared_arrays, restore_arrays):
        with pytest.raises(CheckpointError):
            read(here / "arrays")
    with pytest.raises(CheckpointError):
        restore_arrays(here / "nothing")


@pytest.mark.parametrize("fault", [MemoryError(), ValueError("RESOURCE_EXHAUSTED: out of memory")])
def test_lack_of_memory_is_no_damage(here, own, monkeypatch, fault):
    class Reader:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def restore(self, _):
            raise fault

    monkeypatch.setattr(checkpoint, "_checkpointer", Reader)
    with pytest.raises(type(fault)) as caught:
        read_bundle(here / "bundle", "mpp-jax-test")
    assert not isinstance(caught.value, BundleError)


def test_whatever_else_goes_wrong_in_reading_is_damage_of_this_folder(here, own, monkeypatch):
    def broken(_):
        raise CheckpointError("impossible")

    monkeypatch.setattr("mpp_jax.storage.bundle.restore_arrays", broken)
    monkeypatch.setattr("mpp_jax.weights.native.restore_arrays", broken)
    with pytest.raises(BundleError, match=r"bundle: its arrays cannot be read \(impossible\)"):
        read_bundle(here / "bundle", "mpp-jax-test")
    with pytest.raises(WeightsError, match="network: the checkpoint is damaged"):
        load_network("squeezenet", own)


def test_orbax_logs_nothing_that_it_also_raises(here, caplog):
    (here / "file").touch()
    with caplog.at_level(logging.ERROR), pytest.raises((OSError, ValueError)):
        save_arrays(here / "file" / "arrays", ARRAYS)
    assert not caplog.records
