"""Reader of MATLAB 5 MAT-files (`save -v6`, `-v7`) that trusts nothing a file declares.

A file is a 128-byte header and a sequence of elements, each a tag (type, number of bytes) and its
data; type 15 wraps one zlib-compressed element, type 14 is an array. Arrays hold flags (class),
dimensions, a name and their contents; cells and structs hold arrays. Numbers may be stored in a
smaller type than their class. ("MAT-File Format", The MathWorks.) Every size is checked against
the bytes that are there, and all memory that is handed out against a budget.
"""

import math
import struct
import zlib
from typing import Any

import numpy as np

from mpp_jax.weights.source import WeightsError

HEADER = 128
MATRIX, COMPRESSED = 14, 15
STORED = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
    16: "u1",  # UTF-8
    17: "u2",  # UTF-16
}
CLASSES = {
    6: "f8",
    7: "f4",
    8: "i1",
    9: "u1",
    10: "i2",
    11: "u2",
    12: "i4",
    13: "u4",
    14: "i8",
    15: "u8",
}
CELL, STRUCT, OBJECT, CHAR = 1, 2, 3, 4
MAX_DEPTH = 24
MAX_ARRAYS = 200_000
MAX_AXES = 32

# numeric arrays, text, cells (list, column-major), struct arrays (list of dicts), None: other.
Value = Any


def looks_like_mat5(data: bytes) -> bool:
    """Return whether the bytes begin with the header of a MAT-file (version 5 or 7.3)."""
    return len(data) >= HEADER and data[:6] == b"MATLAB"


def read_mat5(data: bytes, budget: int) -> dict[str, Value]:
    """Read all variables of a MAT-file.

    Args:
        data: the file.
        budget: bytes that arrays and decompression may take together.

    Returns:
        Name -> value: numeric array in MATLAB's shape, `str`, `list` of a cell's values in
        column-major order, `list` of `dict` for a struct array, None for anything else.

    Raises:
        WeightsError: damaged, truncated, beyond the budget, or HDF5 (version 7.3).
    """
    if data[:10] == b"MATLAB 7.3" or data[512:520] == b"\x89HDF\r\n\x1a\n":
        raise WeightsError(
            "a MATLAB 7.3 (HDF5) file is not read; in MATLAB: load it and save it with '-v7'"
        )
    if not looks_like_mat5(data) or data[126:128] not in (b"IM", b"MI"):
        raise WeightsError("not a MATLAB 5 file")
    reader = _Reader("<" if data[126:128] == b"IM" else ">", budget)
    try:
        return reader.variables(memoryview(data))
    except (struct.error, UnicodeDecodeError, RecursionError) as error:
        raise WeightsError("the MATLAB file is damaged") from error


class _Reader:
    def __init__(self, order: str, budget: int) -> None:
        self.order, self.budget, self.arrays = order, budget, 0

    def variables(self, view: memoryview) -> dict[str, Value]:
        found: dict[str, Value] = {}
        at = HEADER
        while at < len(view):
            kind, contents, at = self.element(view, at)
            if kind == COMPRESSED:
                kind, contents = self.inflate(contents)
            if kind == MATRIX:
                name, value = self.matrix(contents, 0)
                found[name] = value
        return found

    def charge(self, size: int) -> None:
        self.budget -= size
        if self.budget < 0:
            raise WeightsError("the MATLAB file declares more data than any network needs")

    def element(self, view: memoryview, at: int) -> tuple[int, memoryview, int]:
        """Return type and contents of the element at an offset, and the offset of the next."""
        if at + 8 > len(view):
            raise WeightsError("the MATLAB file is truncated")
        (word,) = struct.unpack_from(self.order + "I", view, at)
        if word >> 16:  # small element: type, size and up to four bytes in eight
            size, kind = word >> 16, word & 0xFFFF
            if size > 4:
                raise WeightsError("the MATLAB file is damaged")
            return kind, view[at + 4 : at + 4 + size], at + 8
        (size,) = struct.unpack_from(self.order + "I", view, at + 4)
        end = at + 8 + size
        if end > len(view):
            raise WeightsError(
                f"the MATLAB file is truncated or damaged: an element announces {size} bytes, "
                f"{len(view) - at - 8} are left"
            )
        following = end if word == COMPRESSED else at + 8 + -(-size // 8) * 8
        return word, view[at + 8 : end], following

    def inflate(self, packed: memoryview) -> tuple[int, memoryview]:
        inflater = zlib.decompressobj()
        try:
            data = inflater.decompress(packed, max(1, self.budget + 1))
        except zlib.error as error:
            raise WeightsError(f"the MATLAB file is damaged: {error}") from error
        self.charge(len(data))
        if not inflater.eof:
            raise WeightsError("the MATLAB file is truncated")
        kind, contents, _ = self.element(memoryview(data), 0)
        return kind, contents

    def expect(self, view: memoryview, at: int, kinds: tuple[int, ...]) -> tuple[memoryview, int]:
        kind, contents, at = self.element(view, at)
        if kind not in kinds:
            raise WeightsError("the MATLAB file is damaged: an array lacks one of its parts")
        return contents, at

    def matrix(self, view: memoryview, depth: int) -> tuple[str, Value]:
        """Return name and value of an array."""
        self.arrays += 1
        if depth > MAX_DEPTH or self.arrays > MAX_ARRAYS:
            raise WeightsError("the MATLAB file is nested too deeply or has too many arrays")
        if len(view) == 0:
            return "", np.zeros((0, 0))
        flags, at = self.expect(view, 0, (6,))
        kind = struct.unpack_from(self.order + "I", flags, 0)[0] & 0xFF
        if kind not in (CELL, STRUCT, OBJECT, CHAR) and kind not in CLASSES:
            return "", None
        raw, at = self.expect(view, at, (5, 6))
        dims = [] if len(raw) % 4 else np.frombuffer(raw, self.order + "i4").tolist()
        if not 2 <= len(dims) <= MAX_AXES or min(dims) < 0:
            raise WeightsError("the MATLAB file is damaged: impossible dimensions")
        raw, at = self.expect(view, at, (1, 2, 16))
        name = bytes(raw).decode("ascii", "replace")
        count = math.prod(dims)
        if kind in CLASSES:
            return name, self.numbers(view, at, tuple(dims), CLASSES[kind])
        if kind == CHAR:
            return name, self.text(view, at, count)
        if kind == CELL:
            return name, self.cells(view, at, count, depth)[0]
        if kind == OBJECT:
            _, at = self.expect(view, at, (1, 2))
        return name, self.structs(view, at, count, depth)

    def stored(self, view: memoryview, at: int, count: int) -> np.ndarray:
        kind, contents, _ = self.element(view, at)
        if kind not in STORED:
            raise WeightsError("the MATLAB file is damaged: unknown number type")
        dtype = np.dtype(self.order + STORED[kind])
        if len(contents) != count * dtype.itemsize:
            raise WeightsError(
                f"the MATLAB file is damaged: an array of {count} numbers holds "
                f"{len(contents) // dtype.itemsize}"
            )
        return np.frombuffer(contents, dtype)

    def numbers(self, view: memoryview, at: int, dims: tuple[int, ...], to: str) -> np.ndarray:
        raw = self.stored(view, at, math.prod(dims))
        self.charge(raw.size * np.dtype(to).itemsize)
        return raw.astype(to).reshape(dims, order="F")

    def text(self, view: memoryview, at: int, count: int) -> str:
        kind, contents, _ = self.element(view, at)
        self.charge(4 * len(contents))
        if kind in (1, 2, 16):
            return bytes(contents).decode("utf-8", "replace")
        if kind not in (4, 17):
            raise WeightsError("the MATLAB file is damaged: unknown text type")
        codec = "utf-16-le" if self.order == "<" else "utf-16-be"
        return bytes(contents).decode(codec, "replace")

    def check_count(self, count: int, left: int) -> None:
        """Refuse arrays inside an array of which `left` bytes cannot hold so many."""
        if count > left // 8:  # the shortest array is a tag of eight bytes
            raise WeightsError("the MATLAB file is damaged: a cell holds fewer than it declares")
        if count > MAX_ARRAYS - self.arrays:
            raise WeightsError("the MATLAB file is nested too deeply or has too many arrays")

    def cells(self, view: memoryview, at: int, count: int, depth: int) -> tuple[list[Value], int]:
        self.check_count(count, len(view) - at)
        values = []
        for _ in range(count):
            contents, at = self.expect(view, at, (MATRIX,))
            values.append(self.matrix(contents, depth + 1)[1])
        return values, at

    def structs(self, view: memoryview, at: int, count: int, depth: int) -> list[dict[str, Value]]:
        raw, at = self.expect(view, at, (5,))
        (width,) = struct.unpack_from(self.order + "i", raw, 0)
        raw, at = self.expect(view, at, (1, 2))
        if width <= 0 or len(raw) % width:
            raise WeightsError("the MATLAB file is damaged: impossible field names")
        if count == 0:
            return []
        self.check_count(count * (len(raw) // width), len(view) - at)  # before names are objects
        names = [
            bytes(raw[i : i + width]).split(b"\0")[0].decode("ascii", "replace")
            for i in range(0, len(raw), width)
        ]
        if not names:
            return []
        values, _ = self.cells(view, at, count * len(names), depth)
        rows = range(0, len(values), len(names))
        return [dict(zip(names, values[i : i + len(names)], strict=True)) for i in rows]
