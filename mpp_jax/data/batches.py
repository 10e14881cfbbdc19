"""Pictures of any size to uint8 canvases of few sizes.

A compiled program has static shapes, so a folder of differently sized pictures must not become as
many programs. Every picture is laid, unscaled, into the top left corner of the smallest square
canvas of a geometric series that holds it; its true size travels along, and the resize on the
device reads only the true part. One queue per canvas side (*bucket*), emitted when full.

The order of batches depends on the order of the items and the parameters alone: decoding runs in
threads, but results are taken in order, with a bounded look-ahead.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from mpp_jax.data.content import DecodeError
from mpp_jax.data.dataset import Item
from mpp_jax.data.decode import PictureSource, decode_picture, reduce_array
from mpp_jax.data.far_reading import sources

Picture: TypeAlias = Item | PictureSource | np.ndarray

DEFAULT_BUCKETS: Final = (256, 320, 416, 512, 640, 832, 1024, 1280, 1664, 2048, 2880, 4096)
"""Canvas sides: steps of about 1.26 up to 2048, then 1.41. Most folders meet one to four."""
CANVAS_BYTES: Final = 2**28
"""Most bytes of one canvas."""


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
        position: its position among the items.
        path: its id, or path as given.
        reason: one line that says why.
        permanent: whether its content is broken for good, see `DecodeError`.
    """

    position: int
    path: str
    reason: str
    permanent: bool = False


class CanvasBatches:
    """Iterable of `Batch`; see `canvas_batches`.

    Attributes:
        skipped: what could not be decoded, in item order; filled while iterating, and emptied
            when a new iteration starts.
    """

    def __init__(
        self,
        items: Sequence[Picture],
        *,
        batch_size: int,
        buckets: Sequence[int],
        threads: int,
    ) -> None:
        self._items = items
        self._sides = tuple(buckets)
        self._rows = {side: rows_of(side, batch_size) for side in self._sides}
        self._threads = threads
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
        """Yield decoded pictures in item order, at most ``2 * threads`` of them ahead."""
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        given = sources(item for item in self._items if isinstance(item, Item))
        ahead: deque[Future[np.ndarray | Skipped]] = deque()
        try:
            for position, item in enumerate(self._items):
                source = next(given) if isinstance(item, Item) else partial(_itself, item)
                ahead.append(pool.submit(self._one, position, item, source))
                if len(ahead) > 2 * self._threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            # Also where the consumer stops early or is interrupted.
            pool.shutdown(wait=True, cancel_futures=True)
            given.close()

    def _one(self, position: int, item: Picture, read: Callable[[], Any]) -> np.ndarray | Skipped:
        try:
            source = read()
            if isinstance(source, np.ndarray):
                return reduce_array(_checked(source), self._sides[-1])
            return decode_picture(source, max_side=self._sides[-1])
        except DecodeError as error:
            path = item.id if isinstance(item, Item) else error.path
            return Skipped(position, path, error.reason, error.permanent)


def canvas_batches(
    items: Sequence[Picture],
    *,
    batch_size: int,
    buckets: Sequence[int] = DEFAULT_BUCKETS,
    threads: int = 2,
) -> CanvasBatches:
    """Decode pictures and group them into canvases of few static shapes.

    Args:
        items: items of a dataset, paths, file contents, or ``(H, W, 3)`` uint8 arrays.
        batch_size: pictures of a batch; fewer in the largest buckets, see `rows_of`.
        buckets: canvas sides S in pixels, rising. A picture takes the smallest ``S >= max(H, W)``;
            one that is longer than the largest is reduced to it.
        threads: decoding threads; the result does not depend on it.

    Returns:
        An iterable of `Batch` with an attribute `skipped`. Each iteration decodes anew.

    Raises:
        ValueError: an argument out of range, named.
    """
    sides = tuple(int(side) for side in buckets)
    if not sides or sides[0] < 1 or any(low >= high for low, high in itertools.pairwise(sides)):
        raise ValueError(f"buckets must be rising positive canvas sides, got {tuple(buckets)}")
    for name, value in (("batch_size", batch_size), ("threads", threads)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    return CanvasBatches(items, batch_size=batch_size, buckets=sides, threads=threads)


def decodable(item: Item) -> bool:
    """Return whether a picture can be decoded now; it is, to find out."""
    batches = canvas_batches([item], batch_size=1, threads=1)
    return any(True for _ in batches)


def rows_of(side: int, batch_size: int) -> int:
    """Return how many pictures a canvas of this side holds: ``batch_size``, fewer to save memory.

    It is a fixed number for each bucket, at least 1.
    """
    return max(1, min(batch_size, CANVAS_BYTES // (3 * side * side)))


def _itself(picture: Any) -> Any:
    return picture


def _checked(picture: np.ndarray) -> np.ndarray:
    shape, dtype = picture.shape, picture.dtype
    if dtype != np.uint8 or picture.ndim != 3 or shape[2] != 3 or 0 in shape:
        raise ValueError(
            f"a picture array must be (H, W, 3) uint8 RGB, got shape {shape} of {dtype}"
        )
    return picture
