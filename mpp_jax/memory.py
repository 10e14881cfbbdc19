"""Keep freed memory in the process (glibc), for programs that encode picture after picture.

The activations of one scale are tens of megabytes. glibc maps such blocks anew each time and gives
them back when freed, and the kernel zeroes every page again: on some machines more than half of the
time of a convolution's first layer. It changes the whole process, so only programs ask for it.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask glibc not to return freed memory to the system; return whether it agreed.

    Elsewhere (macOS, Windows, musl) nothing is done and the answer is False.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    mmap, trim = mallopt(_M_MMAP_THRESHOLD, _LARGEST), mallopt(_M_TRIM_THRESHOLD, _LARGEST)
    return bool(mmap) and bool(trim)
