"""Memory: how much there is to take, and how to keep what was freed.

`available_memory` and `available_device_memory` are what a choice between algorithms rests on.

`keep_freed_memory` keeps freed memory in the process (glibc), for programs that encode picture
after picture. The activations of one scale are tens of megabytes. glibc maps such blocks anew each
time and gives them back when freed, and the kernel zeroes every page again: on some machines more
than half of the time of a network's first layer. One arena for all threads is part of the cure: the
arenas of other threads than the main one cannot hold blocks of more than 64 MB, which are mapped
instead. `experiments/bench_dense.py` measures the difference. It changes the whole process, so only
programs ask for it, the library never.
"""

import ctypes
import math
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

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


def mapped_zeros(shape: tuple[int, ...]) -> np.ndarray:
    """Return zeros (any shape), float32, in pages of their own.

    They go back to the system when it is freed, also where freed memory is kept: holes of hundreds
    of megabytes would be filled with small things, and the next one be put behind them.
    """
    size = 4 * math.prod(shape)
    return np.frombuffer(mmap.mmap(-1, max(size, 1)), np.float32, math.prod(shape)).reshape(shape)


def available_memory(root: Path = Path("/")) -> int:
    """Return how many bytes this process can take without swapping or being killed.

    The least of what

    - the system has: free memory and caches that it would give up (psutil's ``available``);
    - each control group leaves that the process is in, of version 1 or 2, with all groups above it:
      its limit less what it uses, file caches that are not in use not counted. Containers and batch
      systems set such limits, which the system's own figure does not show;
    - the limit of the address space leaves (``ulimit -v``).

    What other processes will take, and what this one has freed but kept, nobody can say.

    Args:
        root: folder that holds ``proc`` and ``sys``; another one in tests.
    """
    rooms = [psutil.virtual_memory().available, *_groups_room(root), *_address_room()]
    return max(0, min(rooms))


def available_device_memory() -> int | None:
    """Return how many bytes the first device can still give; None where it uses the host's."""
    import jax

    stats = jax.local_devices()[0].memory_stats()
    if not stats or "bytes_limit" not in stats:
        return None
    return max(0, stats["bytes_limit"] - stats.get("bytes_in_use", 0))


def _groups_room(root: Path) -> Iterator[int]:
    """Yield what each control group of the process leaves, where it has a limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return  # not Linux
    base = root / "sys/fs/cgroup"
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        mounts: tuple[Path, ...]
        limits: tuple[str, ...]
        if number == "0":
            mounts, limits = (base, base / "unified"), ("memory.max", "memory.high")
            usage, cache = "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mounts, limits = (base / "memory",), ("memory.limit_in_bytes",)
            usage, cache = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        # In a container the path may be the host's: then only the mount itself is there.
        inside = Path(path.lstrip("/"))
        places = [mount / part for mount in mounts for part in (inside, *inside.parents)]
        for place in dict.fromkeys(places):
            used = _number(place / usage)
            if used is None:
                continue
            used -= min(used, _entry(place / "memory.stat", cache))
            for limit in limits:
                most = _number(place / limit)  # "max" is none, and so is version 1's 2**63 - 4096
                if most is not None:
                    yield most - used


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _entry(file: Path, name: str) -> int:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.split()[:1] == [name])
    except (OSError, ValueError, IndexError, StopIteration):
        return 0


def _address_room() -> Iterator[int]:
    try:
        import resource
    except ImportError:  # Windows
        return
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most != resource.RLIM_INFINITY:
        yield most - psutil.Process().memory_info().vms
