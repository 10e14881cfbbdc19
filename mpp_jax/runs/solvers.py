"""Which way machines are trained: by the memory that each way takes and that there is.

With N training vectors of D dimensions, L classes:

    gram        all vectors in memory, one Gram matrix of them        4 N D + 20 N^2 + 256 N L
    streamed    the Gram matrix from vectors that are read by blocks  20 N^2 + 256 N L
    primal      mini-batches that are read from disk, no matrix       48 N L + 6144 D

bytes, and for each 40 L D for the weights and 0.8 GB for blocks, buffers and programs. "auto" takes
the first of them that `SHARE` of the free memory holds, and where none does the one that takes
least. With a Gram matrix there are two or three copies of it at a time (20 bytes for each pair of
vectors covers the float64 one for vectors of unequal scale too), and some thirty arrays (N, L) of
the solver; each representation that "best" may stack has a matrix more (4 bytes). Where the device
has its own memory, matrix and solver lie there. Measured by `tests/runs/test_large_sets.py`.

All three reach the same optimum within the tolerance and certify it in float64; the first is the
fastest and, on one machine, has always the same bytes.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from mpp_jax.config import AUTO, Svm
from mpp_jax.svm.blocks import CHUNK_BYTES

Way = Literal["gram", "streamed", "primal"]

SHARE = 0.8
"""Of the free memory, what a way may take."""
PAIR_BYTES = 20
MEMBER_BYTES = 4
STATE_BYTES = 256
PRIMAL_BYTES = 48
BATCH_BYTES = 6144
WEIGHT_BYTES = 40
FIXED_BYTES = 3 * 2**28

WAYS: dict[Way, str] = {
    "gram": "a Gram matrix from vectors in memory",
    "streamed": "a Gram matrix from vectors read by blocks",
    "primal": "mini-batches read from disk, no Gram matrix",
}


class Problem(NamedTuple):
    """What is to be trained.

    Attributes:
        pictures: N.
        dimension: D, the largest of the representations'.
        classes: L.
        members: representations whose Gram matrices are held while "best" is chosen among them.
    """

    pictures: int
    dimension: int
    classes: int
    members: int = 0


class Plan(NamedTuple):
    """The way that was taken.

    Attributes:
        solver: "gram", "streamed" or "primal".
        reason: one line that says why.
        columns: folds times classes that are trained at once in cross-validation.
        resident_bytes: of vectors, while the others are read for a Gram matrix.
    """

    solver: Way
    reason: str
    columns: int
    resident_bytes: int


class Need(NamedTuple):
    """Bytes that a way takes of the host's memory, and of the device's if it has its own."""

    host: int
    device: int


def need(way: Way, problem: Problem, svm: Svm, device_free: int | None = None) -> Need:
    """Return what a way takes; the device's part is the host's where it has no memory of its own.

    Args:
        way: "gram", "streamed" or "primal".
        problem: its size.
        svm: settings.
        device_free: bytes of the device's own memory; None where it has none.
    """
    n, d, classes, members = problem
    host, device = WEIGHT_BYTES * classes * d + FIXED_BYTES, 0
    if svm.cross_validated:  # the scores of held-out pictures at each C
        host += 8 * n * classes * (len(svm.cs) if svm.c == AUTO else 1)
    if way == "primal":
        return Need(host + PRIMAL_BYTES * n * classes + BATCH_BYTES * d, device)
    host += 4 * n * d if way == "gram" else 2 * CHUNK_BYTES
    device += (PAIR_BYTES + MEMBER_BYTES * members) * n * n + STATE_BYTES * n * classes
    if device_free is not None:
        # Vectors go to the device where a quarter of it holds them (`mpp_jax.svm.blocks.resident`);
        # a Gram matrix that is put together of tiles lies on the host until it is whole.
        there = 4 * n * d if way == "gram" and 4 * n * d <= device_free // 4 else 0
        tiles = 4 * n * n if way == "streamed" else 0
        return Need(host + tiles, device + there + FIXED_BYTES)
    return Need(host + device, 0)


def plan_training(problem: Problem, svm: Svm, free: int, device: int | None = None) -> Plan:
    """Return the way that is asked for, or the best one for which there is memory.

    Args:
        problem: its size.
        svm: settings.
        free: bytes of memory, see `mpp_jax.memory.available_memory`.
        device: bytes of the device's own memory; None where it has none.
    """
    own = device is not None
    room = Need(int(SHARE * free), int(SHARE * (device or 0)))
    needs = {way: need(way, problem, svm, device) for way in WAYS}
    fits = {way: all(n <= r for n, r in zip(needs[way], room, strict=True)) for way in WAYS}
    if svm.solver != AUTO:
        way, why = svm.solver, "as asked"
        if not fits[way]:
            why = f"as asked, although it needs {_amounts(needs[way])}"
    else:
        least: Way = min(WAYS, key=lambda way: sum(needs[way]))
        way = next((way for way in WAYS if fits[way]), least)
        lost = [*_before(way)]
        why = f"needs {_amounts(needs[way])}"
        if not fits[way]:
            why += ", which is more than there is, but the others need more"
        elif lost:
            last = lost[-1]
            why += f"; {WAYS[last]} would need {_amounts(needs[last])}"
    n, d, classes, _ = problem
    there = f"{_size(free)} free" + (f", {_size(device)} on the device" if device else "")
    reason = f"solver {way} ({WAYS[way]}) for {n:,} x {d:,}: {why} ({there})"
    spare = (room.device - needs[way].device) if own else (room.host - needs[way].host)
    columns = max(classes, classes + spare // (STATE_BYTES * n))
    if way == "primal":
        columns = classes
    resident = max(CHUNK_BYTES, (room.host - needs[way].host) // 4)
    return Plan(way, reason, columns, resident)


def _before(way: Way) -> Iterator[Way]:
    for other in WAYS:
        if other == way:
            return
        yield other


def _amounts(wanted: Need) -> str:
    device = f" and {_size(wanted.device)} of the device" if wanted.device else ""
    return f"about {_size(wanted.host)}{device}"


def _size(number: int) -> str:
    for unit, size in (("TB", 10**12), ("GB", 10**9)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number / 10**6:.0f} MB"
