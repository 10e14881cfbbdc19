"""A worker of a cluster: a process that holds the network and its compiled programs.

It samples training pictures for a codebook and writes shards, each as one process alone would.
"""

import importlib
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mpp_jax import __version__
from mpp_jax.config import Run
from mpp_jax.data import Item
from mpp_jax.data.features import Features
from mpp_jax.describe.disk_cache import DiskCache
from mpp_jax.describe.extraction import ActivationSource, DescriptorSample, Extractor
from mpp_jax.devices import current_mesh, replicated, using_devices
from mpp_jax.nets import Network
from mpp_jax.nets.network import plain, with_forms
from mpp_jax.pooling import load_plugin
from mpp_jax.runs.contents import Contents
from mpp_jax.runs.ray_places import Places, check_places, check_seen, here
from mpp_jax.runs.shards import Encoding, Sampling, blocks
from mpp_jax.stats.codebook import Codebooks
from mpp_jax.storage.store_format import MANIFEST
from mpp_jax.storage.store_shard import ShardTask, ShardWriter, shard_files
from mpp_jax.weights.forms_file import tuned_forms

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is told to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # as Ray will have it; else it warns
}


def ray_module(**settings: str) -> Any:
    """Return the module, as the commands use it.

    Args:
        settings: environment variables that Ray reads when it is loaded.

    Raises:
        ValueError: it is not installed.
    """
    for name, value in (SETTINGS | settings).items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ValueError(
            "--engine ray: needs the package ray; pip install 'mpp-jax[ray]'"
        ) from error


@dataclass(frozen=True)
class Setup:
    """What a worker is made of.

    Attributes:
        version: of this package.
        network: with NumPy arrays, and no kernel prepared for a device.
        config: settings.
        cache: folder of stored activations, or None.
        devices: over how many devices a worker spreads its work.
        places: what it must see or reach.
        around: is entered before the first computation, and left when the worker ends.
    """

    version: str
    network: Network
    config: Run
    cache: Path | None
    devices: int
    places: Places
    around: Callable[[], AbstractContextManager[Any]]


class Sampled(NamedTuple):
    """The descriptors of some training pictures.

    Attributes:
        done: number of the pictures that were sampled.
        samples: by source, of these pictures alone.
        digests: of the pictures' contents, by id.
        marks: of those that lie elsewhere, with their digests, see `Contents`.
        skipped: (position, id, reason) of every picture that could not be decoded.
    """

    done: int
    samples: dict[str, DescriptorSample]
    digests: dict[str, str]
    marks: dict[str, str]
    skipped: list[tuple[int, str, str]]


class Encoded(NamedTuple):
    """A shard that was written.

    Attributes:
        done: number of its pictures that were encoded or skipped.
        skipped: (path, reason) of every one that could not be decoded.
        marks: as of `Sampled`.
        files: the shard's, where they are handed back (`mpp_jax.storage.store_shard.shard_files`).
    """

    done: int
    skipped: list[tuple[str, str]]
    marks: dict[str, str]
    files: dict[str, bytes | None]


class Worker:
    """A process that samples and encodes; each method is given what it is to be set up with."""

    def __init__(self) -> None:
        """Start with nothing: what is needed comes with the first call, also to one born again."""
        self._open: tuple[Setup, Network, ActivationSource] | None = None
        self._stack = ExitStack()

    def begin(self, given: tuple[Sequence[Path], Any]) -> None:
        """Set up: load plug-ins, put the network on the device.

        Args:
            given: plug-in files, and Ray's reference to a pickled `Setup`.

        Raises:
            ValueError: another version of this package, a folder that is not seen from here, a
                server that does not answer, a plug-in that fails, or too few devices.
        """
        if self._open is not None:
            return
        plugins, reference = given
        for file in plugins:  # first, for the others may be made of what they define
            load_plugin(file)
        setup: Setup = pickle.loads(ray_module().get(reference))
        if setup.version != __version__:
            raise ValueError(
                f"{here()} has mpp-jax {__version__}, this is {setup.version}; install the same"
            )
        check_places(setup.places)
        self._stack.enter_context(setup.around())
        with using_devices(setup.devices):
            network, pyramid = unpacked(setup.network), setup.config.pyramid
            activations: ActivationSource = Extractor(network, pyramid)
            if setup.cache is not None:
                activations = DiskCache(setup.cache, network, pyramid)
        self._open = setup, network, activations

    def sample(
        self, given: Any, items: Sequence[Item], first: int, samples: dict[str, DescriptorSample]
    ) -> Sampled:
        """Take descriptors of consecutive pictures, see `Sampling`.

        Args:
            given: see `begin`.
            items: the pictures.
            first: position of the first one.
            samples: by source, blank.
        """
        setup, _, activations = self._opened(given)
        contents, skipped = Contents(), list[tuple[int, str, str]]()
        sampling = Sampling(activations, setup.config.pyramid.scales, contents)
        with using_devices(setup.devices):
            sampling.block(
                first, items, samples, lambda n: None, lambda *entry: skipped.append(entry)
            )
        done = len(items) - len(skipped)
        return Sampled(done, samples, contents.read(items), contents.marks, skipped)

    def encode(
        self,
        given: Any,
        items: Sequence[Item],
        task: ShardTask,
        codebooks: Codebooks,
        features: Mapping[str, Features],
        hand_back: bool,
    ) -> Encoded:
        """Write a shard.

        Args:
            given: see `begin`.
            items: the pending pictures of the shard.
            task: what to write.
            codebooks: by key.
            features: those that representations stack with, by name.
            hand_back: whether the files are handed back, instead of written into the store.
        """
        setup, network, activations = self._opened(given)
        contents = Contents()
        encoding = Encoding(network, codebooks, setup.config, activations, features, contents)
        skipped, files = list[tuple[str, str]](), dict[str, bytes | None]()
        with ExitStack() as stack:
            if hand_back:
                folder = Path(stack.enter_context(TemporaryDirectory(prefix="mpp_jax-")))
                task = replace(task, folder=folder)
            else:
                check_seen(task.folder / MANIFEST)
            stack.enter_context(using_devices(setup.devices))
            writer = ShardWriter(task)
            for block in blocks(items, lambda item: task.shard):
                encoding.block(block, writer, lambda n: None, lambda *entry: skipped.append(entry))
            if hand_back:
                files = shard_files(task)
        return Encoded(len(items), skipped, contents.marks, files)

    def end(self) -> None:
        """Leave what surrounds the computations."""
        self._stack.close()

    def _opened(self, given: Any) -> tuple[Setup, Network, ActivationSource]:
        self.begin(given)
        assert self._open is not None
        return self._open


def packed(network: Network) -> Network:
    """Return a network as it is sent: in NumPy, without what was prepared for this device."""
    sent: Network = jax.tree.map(np.asarray, plain(network))
    return sent


def unpacked(network: Network) -> Network:
    """Return a `packed` network, ready on the devices that are used here."""
    there: Network = jax.tree.map(jnp.asarray, network)
    forms = tuned_forms(there.dtype, there.precision)
    return replicated(with_forms(there, forms), current_mesh())
