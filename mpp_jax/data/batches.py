"""Pictures of any size to uint8 canvases of few sizes.

A compiled program has static shapes, so a folder of differently sized pictures must not become as
many programs. Every picture is laid, unscaled, into the top left corner of the smallest square
canvas of a geometric series that holds it; its true size travels along, and the resize on the
device reads only the true part. One queue per canvas side (*bucket*), emitted when full.

The order of batches depends on the order of the items and the parameters alone: decoding runs in
threads, but results are taken in order, with a bounded look-ahead.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from mpp_jax.data.dataset import Item
from mpp_jax.data.decode import DecodeError, PictureSource, decode_picture, reduce_array

Picture: TypeAlias = Item | PictureSource | np.ndarray

#: Canvas sides: steps of about 1.26 up to 2048, then 1.41. Most folders meet one to four of them.
DEFAULT_BUCKETS: Final = (256, 320, 416, 512, 640, 832, 1024, 1280, 1664, 2048, 2880, 4096)


class Batch(NamedTuple):
    """Pictures of one bucket.

    Attributes:
        canvas: ``(B, S, S, 3)`` uint8 RGB, pictures top left, zero elsewhere.
        sizes: ``(B, 2)`` int32, true (height, width); (1, 1) in padding rows.
        index: ``(B,)`` int64, position of the picture among the items; -1 in padding rows.
    """

    canvas: np.ndarray
    sizes: np.ndarray
    index: np.ndarray  # type: ignore[assignment]  # hides tuple.index, which nobody needs here

    @property
    def valid(self) -> np.ndarray:
        """``(B,)`` bool, false in padding rows. Padding rows always come last."""
        return self.index >= 0


class Skipped(NamedTuple):
    """A picture that could not be decoded.

    Attributes:
        position: Its position among the items.
        path: Its id, or path as given.
        reason: One line that says why.
    """

    position: int
    path: str
    reason: str


class CanvasBatches:
    """Iterable of :class:`Batch`; see :func:`canvas_batches`.

    Attributes:
        skipped: What could not be decoded, in item order; filled while iterating, and emptied
            when a new iteration starts.
    """

    def __init__(
        self,
        items: Sequence[Picture],
        *,
        batch_size: int,
        buckets: Sequence[int],
        decode: Callable[..., np.ndarray],
        threads: int,
        max_side: int,
        canvas_bytes: int,
        flush_every: int | None,
    ) -> None:
        self._items = items
        self._sides = tuple(buckets)
        self._rows = {side: rows_of(side, batch_size, canvas_bytes) for side in self._sides}
        self._decode = decode
        self._threads = threads
        self._max_side = max_side
        self._flush_every = flush_every
        self.skipped: list[Skipped] = []

    def __iter__(self) -> Iterator[Batch]:
        self.skipped.clear()
        queues: dict[int, list[tuple[int, np.ndarray]]] = {side: [] for side in self._sides}
        for position, picture in enumerate(self._decoded()):
            if isinstance(picture, Skipped):
                self.skipped.append(picture)
            else:
                longer = max(picture.shape[:2])
                side = next(side for side in self._sides if side >= longer)
                queues[side].append((position, picture))
                if len(queues[side]) == self._rows[side]:
                    yield self._emit(side, queues)
            if self._flush_every is not None and (position + 1) % self._flush_every == 0:
                yield from self._flush(queues)
        yield from self._flush(queues)

    def _flush(self, queues: dict[int, list[tuple[int, np.ndarray]]]) -> Iterator[Batch]:
        for side in self._sides:
            if queues[side]:
                yield self._emit(side, queues)

    def _emit(self, side: int, queues: dict[int, list[tuple[int, np.ndarray]]]) -> Batch:
        rows = self._rows[side]
        batch = Batch(
            canvas=np.zeros((rows, side, side, 3), np.uint8),
            sizes=np.ones((rows, 2), np.int32),
            index=np.full(rows, -1, np.int64),
        )
        for row, (position, picture) in enumerate(queues[side]):
            height, width = picture.shape[:2]
            batch.canvas[row, :height, :width] = picture
            batch.sizes[row] = height, width
            batch.index[row] = position
        queues[side] = []
        return batch

    def _decoded(self) -> Iterator[np.ndarray | Skipped]:
        """Decoded pictures in item order, at most ``2 * threads`` of them ahead."""
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        ahead: deque[Future[np.ndarray | Skipped]] = deque()
        try:
            for position, item in enumerate(self._items):
                ahead.append(pool.submit(self._one, position, item))
                if len(ahead) > 2 * self._threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            # Also where the consumer stops early or is interrupted.
            pool.shutdown(wait=True, cancel_futures=True)

    def _one(self, position: int, item: Picture) -> np.ndarray | Skipped:
        try:
            source: Any = item.source() if isinstance(item, Item) else item
            if isinstance(source, np.ndarray):
                return reduce_array(_checked(source), self._max_side)
            return self._decode(source, max_side=self._max_side)
        except DecodeError as error:
            path = item.id if isinstance(item, Item) else error.path
            return Skipped(position, path, error.reason)


def canvas_batches(
    items: Sequence[Picture],
    *,
    batch_size: int,
    buckets: Sequence[int] = DEFAULT_BUCKETS,
    decode: Callable[..., np.ndarray] = decode_picture,
    threads: int = 2,
    max_side: int | None = None,
    canvas_bytes: int = 2**28,
    flush_every: int | None = None,
) -> CanvasBatches:
    """Decodes pictures and groups them into canvases of few static shapes.

    Args:
        items: Items of a dataset, paths, file contents, or ``(H, W, 3)`` uint8 arrays.
        batch_size: Pictures of a batch.
        buckets: Canvas sides S in pixels, rising. A picture takes the smallest ``S >= max(H, W)``.
        decode: ``decode(path_or_bytes, max_side=...) -> (H, W, 3)`` uint8, raising
            :class:`~mpp_jax.data.decode.DecodeError`.
        threads: Decoding threads; the result does not depend on it.
        max_side: Longer sides are reduced to this; the largest bucket by default.
        canvas_bytes: Most bytes of one canvas: large buckets hold fewer than ``batch_size``
            pictures (a fixed number for each bucket, at least 1).
        flush_every: Emit all partial batches after every so many items, so that consecutive blocks
            of items never share a batch (what resuming needs); by default only at the end.

    Returns:
        An iterable of :class:`Batch` with an attribute ``skipped``. Each iteration decodes anew.

    Raises:
        ValueError: An argument out of range, named.
    """
    sides = tuple(int(side) for side in buckets)
    if not sides or sides[0] < 1 or any(low >= high for low, high in itertools.pairwise(sides)):
        raise ValueError(f"buckets must be rising positive canvas sides, got {tuple(buckets)}")
    for name, value in (("batch_size", batch_size), ("threads", threads)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if flush_every is not None and flush_every < 1:
        raise ValueError(f"flush_every must be at least 1 or None, got {flush_every}")
    max_side = sides[-1] if max_side is None else max_side
    if not 1 <= max_side <= sides[-1]:
        raise ValueError(f"max_side must lie in 1..{sides[-1]}, the largest bucket; got {max_side}")
    return CanvasBatches(
        items,
        batch_size=batch_size,
        buckets=sides,
        decode=decode,
        threads=threads,
        max_side=max_side,
        canvas_bytes=canvas_bytes,
        flush_every=flush_every,
    )


def decodable(item: Item) -> bool:
    """Whether a picture can be decoded now; it is, to find out."""
    batches = canvas_batches([item], batch_size=1, threads=1)
    return any(True for _ in batches)


def rows_of(side: int, batch_size: int, canvas_bytes: int = 2**28) -> int:
    """Pictures in one canvas of this side: ``batch_size``, or fewer where memory says so."""
    return max(1, min(batch_size, canvas_bytes // (3 * side * side)))


def _checked(picture: np.ndarray) -> np.ndarray:
    shape, dtype = picture.shape, picture.dtype
    if dtype != np.uint8 or picture.ndim != 3 or shape[2] != 3 or 0 in shape:
        raise ValueError(
            f"a picture array must be (H, W, 3) uint8 RGB, got shape {shape} of {dtype}"
        )
    return picture
