"""One finished run of the toy network, shared by several test modules."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from helpers import toy
from mpp_jax.cli import stages
from mpp_jax.cli.console import Console
from mpp_jax.config import Encoder, Pyramid, Run
from mpp_jax.data import Dataset, open_dataset
from mpp_jax.nets import NETWORKS, Network
from mpp_jax.runs import pipeline
from mpp_jax.runs.model import Model, open_model
from mpp_jax.runs.provenance import load_codebooks
from mpp_jax.runs.settings import Job
from mpp_jax.storage.bundle import arrays_digest
from mpp_jax.storage.store import Store
from mpp_jax.weights.load import load_network

METHODS = ("mpp", "nfk", "csf", "avg", "fc7", "ap10", "mpp+avg")
CONFIG = Run(
    pyramid=Pyramid(scales=(0, 1, 2), layer="fire2"),
    encoder=Encoder(pca=6, components=4, samples=200),
    pooling=METHODS,
)
OPTIONS = [
    *("--network", "toy", "--scales", "1-3", "--pca", "6", "--components", "4"),
    *("--samples", "200"),
]
"""CONFIG on the command line, without its pooling."""
SHARD = 8


@dataclass(frozen=True)
class Finished:
    """A run's input and output; 15 training and 9 test pictures, three shards."""

    folder: Path
    data: Path
    weights: Path
    out: Path
    dataset: Dataset
    network: Network

    def job(self, out: Path, config: Run = CONFIG, **changes: Any) -> Job:
        """The same job elsewhere, or another one on the same pictures."""
        network = self.network
        if config.dtype == "bfloat16":
            network = load_network("toy", self.weights, dtype=config.dtype)
        given = {"data": self.dataset, "network": network, "weights": str(self.weights)}
        return Job(**given | changes, config=config, out=out)

    @property
    def store(self) -> Store:
        return Store.open(self.out / "encodings")

    @property
    def model(self) -> Model:
        return open_model(self.out / "model")

    @property
    def metrics(self) -> dict[str, Any]:
        return json.loads((self.out / "metrics.json").read_text())


def know_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the toy network among the networks, make shards small, leave malloc alone."""
    monkeypatch.setitem(NETWORKS, "toy", toy.TOY)
    monkeypatch.setattr(pipeline, "SHARD_SIZE", SHARD)
    monkeypatch.setattr("mpp_jax.memory.keep_freed_memory", lambda: False)


def quiet() -> Console:
    """A console that says nothing and has counted nothing."""
    return Console(quiet=True)


_made: list[Finished] = []


def finished_run(factory: pytest.TempPathFactory) -> Finished:
    """The run, made once a session."""
    if not _made:
        _made.append(_make(factory.mktemp("finished")))
    return _made[0]


def _make(folder: Path) -> Finished:
    with pytest.MonkeyPatch.context() as monkeypatch:
        know_toy(monkeypatch)
        data = toy.write_folder(folder / "data")
        weights = toy.write_weights(folder / "toy.safetensors")
        dataset, network = open_dataset(data), load_network("toy", weights)
        out = folder / "out"
        assert stages.run(Job(dataset, network, CONFIG, out, str(weights)), quiet()) == 0
    return Finished(folder, data, weights, out, dataset, network)


def store_bytes(folder: Path) -> dict[str, bytes]:
    """Head, records and arrays."""
    files = [folder / "manifest.json", *sorted(folder.glob("shard-*"))]
    assert len(files) > 2
    return {file.name: file.read_bytes() for file in files}


def tree_bytes(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file of a folder and when it was written."""
    return {
        str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def assert_same_run(a: Path, b: Path) -> None:
    """Encodings byte for byte; codebook and machines bit for bit; figures to the last digit."""
    assert store_bytes(a / "encodings") == store_bytes(b / "encodings")
    assert codebook_digest(a / "codebook") == codebook_digest(b / "codebook")
    assert svm_digest(a / "model") == svm_digest(b / "model")
    assert results(a) == results(b)


def codebook_digest(folder: Path) -> str:
    codebooks, _ = load_codebooks(folder)
    return arrays_digest(codebooks)


def svm_digest(folder: Path) -> str:
    return arrays_digest(open_model(folder).svms)


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())["results"]
