"""List, import and verify: what the command line does with weight files."""

import jax
import numpy as np
import pytest
from helpers.nets_files import torch_zip

from mpp_jax.files import file_digest, folder_digests
from mpp_jax.nets import NETWORKS, random_network
from mpp_jax.weights import (
    PLACES,
    download_weights,
    import_weights,
    list_weights,
    save_network,
    verify_weights,
)
from mpp_jax.weights.load import load_network
from mpp_jax.weights.source import WeightsError


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MPP_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def weight_file(shared_dir):
    return shared_dir / "data" / "squeezenet" / "compressed_SqueezeNet.net"


def state(name):
    return next(row["state"] for row in list_weights() if row["name"] == name)


def test_list_says_what_is_here(cache, weight_file):
    assert [row["name"] for row in list_weights()] == ["caffenet_mini", *PLACES]
    assert {name: state(name) for name in PLACES} == dict.fromkeys(PLACES, "absent")
    assert state("caffenet_mini") == "packaged"
    cache.mkdir()
    (cache / weight_file.name).write_bytes(weight_file.read_bytes())
    assert state("squeezenet") == "here"
    (cache / weight_file.name).write_bytes(weight_file.read_bytes()[:-1])
    assert state("squeezenet") == "damaged"


def test_a_file_in_the_cache_is_used_without_a_network(cache, weight_file):
    cache.mkdir()
    (cache / weight_file.name).write_bytes(weight_file.read_bytes())
    assert download_weights("squeezenet") == cache / weight_file.name
    assert load_network("squeezenet").weights_sha256 == file_digest(weight_file)
    with pytest.raises(ValueError, match="'resnet' is unknown; take one of squeezenet, caffenet"):
        download_weights("resnet")


def test_an_imported_network_is_used_where_no_file_is_given(cache, weight_file):
    folder, audit = import_weights(weight_file, "squeezenet")
    assert folder == cache / "networks" / "squeezenet"
    assert "1,248,424 parameters" in str(audit)
    assert state("squeezenet (imported)") == "imported"
    ours, theirs = load_network("squeezenet"), load_network("squeezenet", weight_file)
    assert ours.spec == theirs.spec
    assert ours.weights_sha256 == theirs.weights_sha256
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_import_elsewhere(tmp_path, weight_file):
    folder, _ = import_weights(weight_file, "squeezenet", tmp_path / "mine")
    assert folder == tmp_path / "mine"
    assert load_network("squeezenet", folder).spec.name == "squeezenet"
    with pytest.raises(WeightsError, match="a Deep Compression file of network 'squeezenet', not"):
        import_weights(weight_file, "vgg16", tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_verify_recognises_the_published_file(weight_file):
    found = verify_weights(weight_file)
    assert found.published == "squeezenet"
    assert found.networks == ("squeezenet",)
    assert found.problem is None
    assert found.sha256 == PLACES["squeezenet"].digest
    assert len(found.audit.rows) == 52
    wrong = verify_weights(weight_file, "caffenet")
    assert wrong.audit is None
    assert "Deep Compression file of network 'squeezenet', not 'caffenet'" in wrong.problem


def test_verify_distrusts_a_changed_file_of_a_public_name(tmp_path, weight_file):
    data = bytearray(weight_file.read_bytes())
    data[-100_000] ^= 1
    path = tmp_path / weight_file.name
    path.write_bytes(data)
    found = verify_weights(path)
    assert found.published is None
    assert "named like the public file 'squeezenet', but its sha256 is" in found.problem
    renamed = path.rename(tmp_path / "mine.net")
    assert verify_weights(renamed).problem is None


def test_verify_says_why_a_file_is_useless(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(torch_zip({"layer.weight": np.zeros((3, 3), np.float32)}))
    found = verify_weights(path)
    assert found.networks == ()
    assert found.audit is None
    assert found.problem == "it fits no network: its arrays are 'layer.weight' ..."
    path.write_bytes(b"not weights at all")
    assert "not a weight file of a known format" in verify_weights(path).problem
    path.write_bytes(b"")
    assert "0 bytes are no size for a weight file" in verify_weights(path).problem
    with pytest.raises(WeightsError, match="No such file"):
        verify_weights(tmp_path / "nothing")
    with pytest.raises(ValueError, match="'lenet' is unknown"):
        verify_weights(path, "lenet")


def test_verify_a_network_folder(tmp_path, monkeypatch):
    network = random_network(jax.random.key(0), NETWORKS["squeezenet"])
    folder = save_network(network, tmp_path / "own")
    found = verify_weights(folder)
    assert found.networks == ("squeezenet",)
    assert found.problem is None
    assert "holds network 'squeezenet', not 'vgg16'" in verify_weights(folder, "vgg16").problem
    with monkeypatch.context() as patch:
        patch.delitem(NETWORKS, "squeezenet")
        assert "holds network 'squeezenet', which is unknown" in verify_weights(folder).problem
    arrays = sorted(p for p in (folder / "arrays").rglob("*") if p.is_file())
    largest = max(arrays, key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    damaged = verify_weights(folder)
    assert damaged.networks == ()
    assert damaged.problem
    with pytest.raises(WeightsError, match="the folder holds no network"):
        verify_weights(tmp_path)
    (folder / "network.json").write_text("{}")
    assert "own: network.json is not of this package" in verify_weights(folder).problem


def test_what_was_there_survives_a_write_that_fails(tmp_path, monkeypatch):
    old, new = (random_network(jax.random.key(i), NETWORKS["squeezenet"]) for i in range(2))
    folder = save_network(old, tmp_path / "own")
    before = folder_digests(folder)

    def full(_):
        raise OSError(28, "No space left on device")

    def forbidden(_):
        raise OSError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("mpp_jax.weights.native.seal", forbidden)
        with pytest.raises(WeightsError, match=r"cannot write .*own: Permission denied"):
            save_network(new, folder)
        patch.setattr("mpp_jax.weights.native.seal", full)
        with pytest.raises(OSError, match=r"No space left on device: .*own"):
            save_network(new, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
    assert folder_digests(folder) == before
    (tmp_path / ".own.partial").mkdir()  # what a killed program leaves
    save_network(new, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
    assert folder_digests(folder) != before
