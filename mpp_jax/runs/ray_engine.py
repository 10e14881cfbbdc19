"""Ray as the engine: shards are described and encoded by workers on this machine or on many.

Ray (https://docs.ray.io) starts the workers (`mpp_jax.runs.ray_worker`), starts those again that
die, and carries what is sent. Ours is the line of units of work (`in_line`): a unit goes to a
worker that is free, and back into the line where its worker died. A unit is a shard, or as many
training pictures to sample; done twice it is the same (`mpp_jax.runs.shards`), so the result is
that of one process, byte for byte on machines of one kind. Everything else (fits, SVMs, reports) is
this process's own. If it dies, the same command goes on with the shards that are missing.

Pictures, the store and the cache are files that all machines see under the same paths; pictures may
lie at addresses that all reach as well (`mpp_jax.runs.ray_places`). Of a store that goes to an
address this machine alone has the copy: shards are handed back and written here. The network,
codebooks and features are sent.
"""

import contextlib
import os
import pickle
import socket
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from mpp_jax import __version__
from mpp_jax.config import Run
from mpp_jax.data import Dataset, Item
from mpp_jax.data.features import Features
from mpp_jax.describe.extraction import DescriptorSample
from mpp_jax.files import remove_leftovers, undisturbed
from mpp_jax.nets import Network
from mpp_jax.remote.digests import remember_digest
from mpp_jax.remote.mirror import is_copy
from mpp_jax.runs.contents import Contents
from mpp_jax.runs.ray_places import Places, places_of
from mpp_jax.runs.ray_worker import Setup, Worker, packed, ray_module
from mpp_jax.stats.codebook import Codebooks
from mpp_jax.storage.store_shard import put_files
from mpp_jax.storage.store_writer import StoreWriter

MOST_DEATHS = 5
"""Deaths for each worker, without any unit done between, after which it is given up."""
PATIENCE = 10
"""Seconds that a cluster's address has to answer in, and that workers have to end in."""
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""With this a cluster listens on 127.0.0.1 alone, on all systems."""
PASSED_ON = ("JAX_", "XLA_", "MPP_JAX_")
"""Beginnings of the environment variables that workers are given as they are here."""


# ---------------------------------------------------------------------------------- the line


class Unit(NamedTuple):
    """A unit of work: a method of `Worker`, pictures, and the arguments that follow them."""

    method: str
    items: Sequence[Item]
    arguments: tuple[Any, ...]


def in_line(
    ray: Any,
    workers: Sequence[Any],
    begin: Callable[[Any], Any],
    send: Callable[[Any, Unit], Any],
    units: Iterable[Unit],
    say: Callable[[str], object],
) -> Iterator[Any]:
    """Yield the results of units as they come.

    A worker has one unit at a time, and the first once it has begun; so one that never starts
    (another job has its GPU), or never again, holds up nothing.

    Args:
        ray: the module.
        workers: the actors.
        begin: lets a worker set up; returns Ray's reference to nothing.
        send: gives a worker a unit; returns Ray's reference to the result.
        units: the work.
        say: is told of workers that die.

    Raises:
        ValueError: workers keep dying.
        Exception: whatever a unit raises.
    """
    waiting = deque(units)
    left, deaths = len(waiting), 0
    free: list[Any] = []
    under_way: dict[Any, tuple[Any, Unit | None]] = {begin(w): (w, None) for w in workers}
    while left:
        [reference], _ = ray.wait([*under_way])
        worker, unit = under_way.pop(reference)
        try:
            result = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise _cause(error) from error
        except ray.exceptions.RayError as error:
            deaths += 1
            why = " ".join(str(error).split())
            if deaths > MOST_DEATHS * len(workers):
                raise ValueError(
                    f"workers died {deaths} times and nothing was done between; is memory too "
                    f"short for so many, or does a picture end the process? ({why[:300]})"
                ) from error
            say(f"a worker died and is started again ({why[:100]}...)")
            if unit is not None:
                waiting.append(unit)  # behind the others: if it is its fault, they come first
            under_way[begin(worker)] = worker, None
        else:
            free.append(worker)
            if unit is not None:
                left, deaths = left - 1, 0
                yield result
        while free and waiting:
            worker, unit = free.pop(), waiting.popleft()
            under_way[send(worker, unit)] = worker, unit


def _cause(error: Any) -> BaseException:
    """Return the exception that a worker raised, as it was there."""
    if isinstance(error.cause, Exception):
        return error.cause
    return RuntimeError(str(error).strip().splitlines()[-1])


# -------------------------------------------------------------------------------- the engine


@dataclass(frozen=True)
class Cluster:
    """Where workers run.

    Attributes:
        address: of a Ray cluster, as ``ray.init`` takes it; None: that of the environment variable
            RAY_ADDRESS, or else a cluster on this machine, for as long as it is needed.
        workers: how many; None for as many as the GPUs serve, or one for two CPU cores.
        devices: GPUs, or simulated devices of a CPU, of each worker.
        plugins: files that every worker loads.
    """

    address: str | None = None
    workers: int | None = None
    devices: int = 1
    plugins: tuple[Path, ...] = ()


class RayEngine:
    """Has pictures sampled and encoded by the workers of a Ray cluster.

    The cluster is reached, or started, when there is something to do. Used as a context manager,
    which ends the workers, and the cluster if it was started here. A cluster that the process is
    connected to already (``ray.init``) is used as it is.

    Args:
        cluster: where.
        data: pictures.
        network: the network.
        config: settings.
        cache: folder of stored activations, which all workers use; None for none.
        around: is entered by a worker before its first computation; can be pickled.
        say: is told of workers that die.
    """

    def __init__(
        self,
        cluster: Cluster,
        data: Dataset,
        network: Network,
        config: Run,
        *,
        cache: Path | None = None,
        around: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
        say: Callable[[str], object] = lambda line: None,
    ) -> None:
        """Start nothing yet."""
        self._cluster = cluster
        self._say = say
        self._items = data.items
        if cache is not None:
            cache = cache.absolute()
            cache.mkdir(parents=True, exist_ok=True)
        self._setup = Setup(
            __version__, packed(network), config, cache, cluster.devices, Places(), around
        )
        self._workers: list[Any] = []
        self._own = False
        self._given: tuple[tuple[Path, ...], Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._workers and not self._own:
            return
        ray = ray_module()
        with _silent():
            try:
                if self._workers and error is None:
                    ends = [worker.end.remote() for worker in self._workers]
                    ray.wait(ends, num_returns=len(ends), timeout=PATIENCE)
            finally:
                # Ray ends the process, with status 1, where half of its cluster is gone: a signal
                # has to wait, except a second one, which is obeyed at once everywhere.
                again = isinstance(error, KeyboardInterrupt)
                with contextlib.nullcontext() if again else undisturbed():
                    for worker in self._workers:
                        ray.kill(worker)
                    if self._own:
                        ray.shutdown()
        self._workers, self._own, self._given = [], False, None

    def sample(
        self,
        parts: Iterable[tuple[int, Sequence[Item]]],
        samples: Mapping[str, DescriptorSample],
        contents: Contents,
        done: Callable[[int], object],
        skip: Callable[[int, str, str], object],
    ) -> None:
        """Sample pictures, see `Sampling.block`, which does it for each part: (first, items).

        ``contents`` is left the digests of the pictures, as by `Sampling`.
        """
        blank = {source: sample.blank() for source, sample in samples.items()}
        units = [Unit("sample", items, (first, blank)) for first, items in parts]
        skipped: list[tuple[int, str, str]] = []
        with _silent():
            for found in self._results(units):
                for source, sample in samples.items():
                    sample.merge(found.samples[source])
                contents.note(found.digests)
                _remember(found.marks)
                skipped += found.skipped
                done(found.done)
        for entry in sorted(skipped):
            skip(*entry)

    def encode(
        self,
        writer: StoreWriter,
        codebooks: Codebooks,
        features: Mapping[str, Features],
        done: Callable[[int], object],
        skipped: Callable[[str, str], object],
    ) -> None:
        """Have the shards written that remain, see `Encoding.block`.

        Args:
            writer: of the store; it hears of nothing.
            codebooks: by key.
            features: those that representations stack with, by name.
            done: is told of how many pictures more were encoded or skipped.
            skipped: is told (path, reason) of every picture that could not be decoded.
        """
        if not writer.tasks:
            return
        self._start()
        items, hand_back = {item.id: item for item in writer.remaining}, is_copy(writer.path)
        shared = (ray_module().put(codebooks), ray_module().put(dict(features)))
        units = [
            Unit(
                "encode",
                [items[name] for name in task.pending],
                (replace(task, folder=task.folder.absolute()), *shared, hand_back),
            )
            for task in writer.tasks.values()
        ]
        with _silent():
            for found in self._results(units):
                put_files(writer.path, found.files)
                _remember(found.marks)
                for entry in found.skipped:
                    skipped(*entry)
                done(found.done)
        remove_leftovers(writer.path, seconds=0)  # of workers that died

    def _results(self, units: Sequence[Unit]) -> Iterator[Any]:
        """Yield the results of units."""
        if not units:
            return
        ray = ray_module()
        self._start()
        while len(self._workers) < min(self._most, len(units)):
            self._workers.append(self._actor.remote())

        def begin(worker: Any) -> Any:
            return worker.begin.options(max_task_retries=0).remote(self._given)

        def send(worker: Any, unit: Unit) -> Any:
            method = getattr(worker, unit.method).options(max_task_retries=0)
            try:
                return method.remote(self._given, _sent(unit.items), *unit.arguments)
            except (TypeError, pickle.PicklingError) as error:
                raise ValueError(
                    "--engine ray: pictures that are read in this process alone cannot be sent to "
                    f"workers ({' '.join(str(error).split())[:200]}); use the engine local"
                ) from error

        yield from in_line(ray, self._workers, begin, send, units, self._say)

    def _start(self) -> None:
        """Reach or start the cluster, and decide on the workers, once."""
        if self._given is not None:
            return
        cluster = self._cluster
        address = cluster.address or os.environ.get("RAY_ADDRESS") or "local"
        ray = ray_module(**(LOOPBACK if address == "local" else {}))
        if not ray.is_initialized():
            _connect(ray, address)
            self._own = True
        there = ray.cluster_resources()
        gpus, cpus = int(there.get("GPU", 0)), int(there.get("CPU", 0))
        on_gpus = gpus > 0 and os.environ.get("JAX_PLATFORMS", "").lower() != "cpu"
        most = gpus // cluster.devices if on_gpus else cpus
        if not 1 <= (cluster.workers or 1) <= most:
            what = f"{gpus} GPUs, {cluster.devices} for each worker" if on_gpus else f"{cpus} CPUs"
            raise ValueError(
                f"--workers {cluster.workers or 1}: the cluster has {what}; {most} workers at most"
            )
        self._most = cluster.workers or (most if on_gpus else max(1, cpus // 2))
        environment = {k: v for k, v in os.environ.items() if k.startswith(PASSED_ON)}
        # Restarts for ever, and calls wait for them; each call by itself is not repeated by Ray.
        self._actor = ray.remote(
            num_cpus=1,
            num_gpus=cluster.devices if on_gpus else 0,
            max_restarts=-1,
            max_task_retries=-1,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": environment},
        )(Worker)
        plugins = tuple(file.absolute() for file in cluster.plugins)
        places, cache = places_of(self._items), self._setup.cache
        if cache is not None:
            places = places._replace(seen=(*places.seen, cache))
        setup = replace(self._setup, places=places)
        self._given = plugins, ray.put(ray.cloudpickle.dumps(setup))


def _remember(marks: Mapping[str, str]) -> None:
    """Remember here what workers read elsewhere: the next command asks for the marks alone."""
    for mark, digest in marks.items():
        remember_digest(mark, digest)


def _sent(items: Sequence[Item]) -> list[Item]:
    """Return pictures for another process: whole paths, and no boxes, which no method sees."""
    return [
        replace(item, path=None if item.path is None else item.path.absolute(), boxes=None)
        for item in items
    ]


def _connect(ray: Any, address: str) -> None:
    """Connect to a cluster, or start one.

    Raises:
        ValueError: none answers at the address, or none can be started.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdecimal():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), PATIENCE).close()
        # What is forked becomes another program at once, whatever JAX and Python fear.
        with _silent(), warnings.catch_warnings(), undisturbed():  # nor does Ray set handlers
            warnings.filterwarnings("ignore", message=r".*\bfork\b")
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level="ERROR",
                **({"include_dashboard": False} if address == "local" else {}),
            )
    except Exception as error:  # Ray raises whatever it likes, plain ones where it starts slowly
        why = " ".join(str(error).split())[:300]
        if address == "local":
            raise ValueError(f"--engine ray: Ray cannot start on this machine ({why})") from error
        raise ValueError(
            f"--address {address}: no Ray cluster answers there ({why}); give that of its head as "
            "HOST:PORT, or leave it out for workers on this machine"
        ) from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep what Ray prints about workers from standard output, where results go."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
