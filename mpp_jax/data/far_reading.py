"""Pictures elsewhere are fetched ahead of whoever decodes them, many at once.

A network answers late and an answer takes no processor; two decoding threads that also waited for
it would leave everything idle.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np

from mpp_jax.data.dataset import Item

FETCHES: Final = 16
"""Files that are fetched at once; twice as many are held at most."""

Source = Path | bytes | np.ndarray


def sources(items: Iterable[Item]) -> Generator[Callable[[], Source], None, None]:
    """Yield what gives each picture's source (`Item.source`), in order; raises are its own.

    Those elsewhere are under way by then; others are read when they are asked for.
    """
    pool = ThreadPoolExecutor(FETCHES, thread_name_prefix="fetch")  # no thread before it is needed
    ahead: deque[Callable[[], Source]] = deque()
    try:
        for item in items:
            ahead.append(pool.submit(item.source).result if item.far else item.source)
            if len(ahead) > 2 * FETCHES:
                yield ahead.popleft()
        while ahead:
            yield ahead.popleft()
    finally:
        # Also where the consumer stops early or is interrupted.
        pool.shutdown(wait=True, cancel_futures=True)
