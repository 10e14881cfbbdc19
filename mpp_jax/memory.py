"""Keep freed memory in the process (glibc), for programs that encode picture after picture.

The activations of one scale are tens of megabytes. glibc maps such blocks anew each time and gives
them back when freed, and the kernel zeroes every page again: on some machines more than half of the
time of a network's first layer. One arena for all threads is part of the cure: the arenas of other
threads than the main one cannot hold blocks of more than 64 MB, which are mapped instead.
`experiments/bench_dense.py` measures the difference. It changes the whole process, so only
programs ask for it, the library never.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask glibc not to return freed memory to the system; return whether it agreed.

    To be called before the first computation, when JAX's threads do not have arenas yet.
    Elsewhere (macOS, Windows, musl) nothing is done and the answer is False.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _LARGEST))
    answers = [bool(mallopt(name, value)) for name, value in settings]
    return all(answers)
