"""Batches to the device and results back: how many pictures at once, and what if it is too many.

A pool of threads decodes (`mpp_jax.data.canvas_batches`). A CPU describes a few pictures side by
side, each in a thread; an accelerator is given the next batches while it works on one, and is
waited for only where a result is needed.
"""

import logging
import os
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from mpp_jax.config import Pyramid
from mpp_jax.data import Batch, Item, Skipped, canvas_batches
from mpp_jax.describe.planning import Plan, plan
from mpp_jax.devices import current_mesh, device_count, on_mesh, replicated, spread
from mpp_jax.nets import Network
from mpp_jax.progress import waiting

DEVICE = "the device"
"""What is waited for while programs are compiled and run."""

Result = TypeVar("Result")

_LOG = logging.getLogger(__name__)


_PLANS: dict[Hashable, Plan] = {}
"""By what they were made for. Once: other sizes are other programs, and other last bits of what
they compute."""
_DECIDED: dict[Hashable, int] = {}
"""Pictures of a batch over all devices: the plan's, or fewer where these were too many."""


def batch_size(network: Network, pyramid: Pyramid) -> int:
    """Return the pictures of a batch, over all devices; the same throughout a process.

    That is, until a batch turns out to be too large for the device's memory.
    """
    return _DECIDED.setdefault(
        _key(network, pyramid), planned(network, pyramid).batch * device_count()
    )


def planned(network: Network, pyramid: Pyramid) -> Plan:
    """Return how pictures go to each device; the same plan throughout a process."""
    key = _key(network, pyramid)
    if key not in _PLANS:
        _PLANS[key] = plan(network, pyramid)
    return _PLANS[key]


def pictures_at_once(network: Network, pyramid: Pyramid, k: int) -> int | None:
    """Return how many pictures of a batch a device describes at once at scale k; None for all."""
    found = planned(network, pyramid)
    most = dict(found.parts).get(k, found.batch)
    return None if most >= found.batch else most


def crops_at_once(network: Network, pyramid: Pyramid) -> int | None:
    """Return how many crops of a batch a device describes at once; None for all, on a CPU."""
    return None if jax.default_backend() == "cpu" else planned(network, pyramid).crops


def _key(network: Network, pyramid: Pyramid) -> Hashable:
    return network.spec, np.dtype(network.dtype).name, pyramid, device_count()


def batches_at_once() -> int:
    """Return how many batches are described side by side.

    A CPU's programs have stretches that run on one core; several pictures at once fill the others.
    """
    return min(os.cpu_count() or 1, 4) if jax.default_backend() == "cpu" else 1


def over_batches(
    function: Callable[[Network, Batch], Result],
    network: Network,
    items: Sequence[Item],
    pyramid: Pyramid,
    *,
    on_skip: Callable[[Skipped], object] | None = None,
) -> Iterator[Result]:
    """Decode pictures and yield what a function makes of each batch, in order.

    Where the device has not enough memory, the batch is halved, and those after it: a line of the
    log says so.

    Args:
        function: of the network and a batch, both on the devices of `mpp_jax.devices`, to arrays.
        network: the network.
        items: pictures.
        pyramid: sizes of batches.
        on_skip: is told of every picture that could not be decoded.

    Raises:
        jax.errors.JaxRuntimeError: not even one picture fits into the memory of each device.
    """
    mesh = current_mesh()
    whole = replicated(network, mesh)

    def one(batch: Batch) -> Result:
        with on_mesh(mesh):
            return function(whole, _shares(batch, mesh))

    batches = canvas_batches(items, batch_size=batch_size(network, pyramid))
    told = 0
    # Programs of several devices wait for one another: one at a time.
    workers = batches_at_once() if mesh is None else 1
    line = _Line(one, workers, least=device_count(), key=_key(network, pyramid))
    for result in line.over(batches):
        yield result
        told = _tell(batches.skipped, told, on_skip)
    _tell(batches.skipped, told, on_skip)


class _TooLarge:
    """In the place of a result: the device's memory did not hold it."""


class _Entry:
    """A batch under way, and the plan by which it was started."""

    def __init__(self, batch: Batch, future: Future[Any], plan: Plan) -> None:
        self.batch = batch
        self.future: Future[Any] | None = future
        self.plan = plan

    def take(self) -> Any:
        """Return what came out, once; nobody else keeps it."""
        future, self.future = self.future, None
        assert future is not None  # once
        return future.result()


class _Line:
    """Batches under way, a few ahead of the consumer."""

    def __init__(
        self, function: Callable[[Batch], Any], workers: int, least: int, key: Hashable
    ) -> None:
        self.function = function
        self.workers = workers
        self.least = least
        self.key = key

    def over(self, batches: Iterable[Batch]) -> Iterator[Any]:
        """Map in order.

        The first batch on each canvas runs alone: threads that meet a new shape together would
        each compile it.
        """
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="describe")
        under_way: deque[_Entry] = deque()
        seen: set[tuple[int, ...]] = set()
        try:
            for batch in _awaited(batches):
                for part in self._parts(batch):
                    # How many devices there are is known to this context alone.
                    made = _PLANS[self.key]
                    future = pool.submit(copy_context().run, self._start, part)
                    under_way.append(_Entry(part, future, made))
                    if part.canvas.shape not in seen:
                        seen.add(part.canvas.shape)
                        with waiting(DEVICE):
                            future.exception()  # an error is raised in its turn, below
                    del future
                    if len(under_way) > self.workers:
                        yield from self._finished(under_way.popleft())
            while under_way:
                yield from self._finished(under_way.popleft())
        finally:
            # Also where the consumer stops early or is interrupted.
            pool.shutdown(wait=True, cancel_futures=True)

    def _start(self, batch: Batch) -> Any:
        # A CPU's threads are its queue; an accelerator has one of its own.
        wait = jax.default_backend() == "cpu"
        try:
            result = self.function(batch)
            return jax.block_until_ready(result) if wait else result
        except jax.errors.JaxRuntimeError as error:
            self._raise_unless_too_large(error, batch)
        return _TooLarge  # the error, and what it holds on to, is gone by now

    def _raise_unless_too_large(self, error: Exception, batch: Batch) -> None:
        crops = _PLANS[self.key].crops  # parts of one picture's, where there are any
        if "RESOURCE_EXHAUSTED" not in str(error) or (
            len(batch.index) <= self.least and crops <= 1
        ):
            raise error

    def _finished(self, entry: _Entry) -> list[Any]:
        batch = entry.batch
        with waiting(DEVICE):
            result = entry.take()
            if result is not _TooLarge:
                try:
                    return [jax.block_until_ready(result)]
                except jax.errors.JaxRuntimeError as error:
                    self._raise_unless_too_large(error, batch)
        del result  # scales that were done already take memory
        self._plan_less(entry)
        left, done = deque(self._parts(batch)), []
        while left:
            part = left.popleft()
            if len(part.index) > _DECIDED[self.key]:  # halved again meanwhile
                left.extendleft(reversed(self._parts(part)))
            else:
                made = _PLANS[self.key]
                done += self._finished(_Entry(part, _started(self._start, part), made))
        return done

    def _plan_less(self, entry: _Entry) -> None:
        """Halve what is described at once, unless that was done since the batch was started.

        Parts of the large scales; where there are none, batches; of single pictures, their crops.
        """
        now, rows = _PLANS[self.key], len(entry.batch.index)
        if now is not entry.plan:
            return
        less = _PLANS[self.key] = now.halved(rows // self.least)
        if rows <= self.least:
            fewer = f"{now.crops} crops at once; {less.crops}"
        elif now.divided:
            fewer = f"{now.sizes}; {less.sizes.removeprefix('batches of ')}"
        else:
            _DECIDED[self.key] = max(rows // 2, self.least)
            fewer = f"{rows} pictures at once; {_DECIDED[self.key]}"
        _LOG.warning("the device's memory does not hold %s from now on", fewer)

    def _parts(self, batch: Batch) -> list[Batch]:
        """Return a batch in pieces of the size that fits; those of padding alone are left out."""
        most = _DECIDED.get(self.key, len(batch.index))
        starts = range(0, len(batch.index), most)
        pieces = [Batch(*(array[i : i + most] for array in batch)) for i in starts]
        return [piece for piece in pieces if piece.valid.any()]


def _awaited(batches: Iterable[Batch]) -> Iterator[Batch]:
    rest = iter(batches)
    while True:
        with waiting("decoding"):
            batch = next(rest, None)
        if batch is None:
            return
        yield batch


def _started(function: Callable[[Batch], Any], batch: Batch) -> Future[Any]:
    future: Future[Any] = Future()
    try:
        future.set_result(function(batch))
    except jax.errors.JaxRuntimeError as error:
        future.set_exception(error)
    return future


def _shares(batch: Batch, mesh: Mesh | None) -> Batch:
    """Return a batch on the devices, with rows of padding so that each has as many."""
    if mesh is None:
        return batch
    short = -len(batch.index) % mesh.size
    padded = Batch(
        np.concatenate([batch.canvas, np.zeros((short, *batch.canvas.shape[1:]), np.uint8)]),
        np.concatenate([batch.sizes, np.ones((short, 2), batch.sizes.dtype)]),
        np.concatenate([batch.index, np.full(short, -1, batch.index.dtype)]),
    )
    canvas, sizes = spread((padded.canvas, padded.sizes), mesh)
    return Batch(canvas, sizes, padded.index)


def _tell(
    skipped: Sequence[Skipped], told: int, on_skip: Callable[[Skipped], object] | None
) -> int:
    if on_skip is not None:
        for entry in skipped[told:]:
            on_skip(entry)
    return len(skipped)
