"""Reader of torch state dicts (``.pth``, ``.pt``) without torch and without running a pickle.

A pickle is a program. Here it is never run: ``pickletools`` splits it into instructions, and the
few that a state dict consists of are interpreted on plain data. Names are only ever compared with
an allow-list; nothing is imported and nothing is called.

Two containers exist. Since torch 1.6 a file is a zip with ``<any>/data.pkl`` and one entry
``<any>/data/<key>`` per storage. Before, it was five pickles in a row (magic number, protocol,
system, object, storage keys) and then, per key, an int64 count and the numbers.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import pickletools
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from mpp_jax.weights.source import SourceWeights, WeightsError

MAX_PICKLE_BYTES = 8 << 20
MAX_INSTRUCTIONS = 500_000
MAX_ENTRIES = 20_000
MAX_AXES = 32
# torch stores; other tools that rewrite the archive deflate.
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

# What a storage's numbers are; bfloat16 is widened by hand.
STORAGES = {
    "torch FloatStorage": "<f4",
    "torch DoubleStorage": "<f8",
    "torch HalfStorage": "<f2",
    "torch BFloat16Storage": "bfloat16",
    "torch LongStorage": "<i8",
    "torch IntStorage": "<i4",
    "torch ShortStorage": "<i2",
    "torch CharStorage": "<i1",
    "torch ByteStorage": "<u1",
    "torch BoolStorage": "<u1",
}
ORDERED_DICT = "collections OrderedDict"
REBUILD_TENSOR = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor")
REBUILD_PARAMETER = "torch._utils _rebuild_parameter"
ALLOWED = {*STORAGES, ORDERED_DICT, *REBUILD_TENSOR, REBUILD_PARAMETER}


@dataclasses.dataclass(frozen=True)
class _Name:
    """An allow-listed global name: a word, not the object behind it."""

    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str
    numel: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_MARK = object()


def looks_like_torch(data: bytes) -> bool:
    """Whether the bytes begin like a zip archive or like a legacy torch file."""
    return data[:4] == b"PK\x03\x04" or _is_legacy(data)


def _is_legacy(data: bytes) -> bool:
    return data[:1] == b"\x80" and LEGACY_MAGIC.to_bytes(10, "little") in data[:32]


def read_torch(data: bytes, budget: int) -> SourceWeights:
    """Decode a torch state dict.

    Args:
        data: the file.
        budget: bytes that the tensors may take.

    Raises:
        WeightsError: damaged, not a state dict, or a pickle with anything but tensors in it.
    """
    read = _read_legacy if _is_legacy(data) else _read_zip
    tensors, fetch = read(data, budget)
    arrays, spent = {}, 0
    for key, tensor in tensors.items():
        spent += 8 * math.prod(tensor.shape)
        if spent > budget:
            raise WeightsError("the torch file declares more data than any network needs")
        arrays[key] = _array(key, tensor, fetch(tensor.storage))
    return SourceWeights("torch", "torchvision", arrays)


Fetch = Callable[[_Storage], bytes]


def _read_zip(data: bytes, budget: int) -> tuple[dict[str, _Tensor], Fetch]:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError) as error:
        raise WeightsError("the torch file is damaged: no readable zip archive") from error
    entries = {info.filename: info for info in archive.infolist()}
    if any(info.compress_type not in COMPRESSIONS for info in entries.values()):
        raise WeightsError("the torch file is compressed in a way that torch never uses")
    if len(entries) > MAX_ENTRIES or sum(info.file_size for info in entries.values()) > budget:
        raise WeightsError("the torch file declares more data than any network needs")
    programs = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
    if len(programs) != 1:
        raise WeightsError("the zip archive is no torch file: it has no 'data.pkl'")
    folder = programs[0].removesuffix("data.pkl")
    if entries[programs[0]].file_size > MAX_PICKLE_BYTES:
        raise WeightsError("the torch file's pickle is too long for a state dict")

    def read(name: str) -> bytes:
        if name not in entries:
            raise WeightsError(f"the torch file is damaged: it has no entry {name!r}")
        try:
            with archive.open(entries[name]) as file:
                # One byte beyond what is declared is enough to catch a lie, and all that is read.
                raw = file.read(entries[name].file_size + 1)
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            ValueError,
            RuntimeError,
            NotImplementedError,
            OSError,
        ) as error:
            reason = str(error)[:100] or type(error).__name__
            raise WeightsError(f"the torch file is damaged: entry {name!r}: {reason}") from error
        if len(raw) != entries[name].file_size:
            raise WeightsError(f"the torch file is damaged: entry {name!r} has the wrong length")
        return raw

    if f"{folder}byteorder" in entries and read(f"{folder}byteorder") != b"little":
        raise WeightsError("the torch file is big-endian")
    tensors = _state_dict(_interpret(io.BytesIO(read(programs[0]))).stack[0])
    # Tensors may share a storage; each is unpacked once, whatever the file says.
    return tensors, functools.cache(lambda storage: read(f"{folder}data/{storage.key}"))


def _read_legacy(data: bytes, budget: int) -> tuple[dict[str, _Tensor], Fetch]:
    file = io.BytesIO(data)
    magic, protocol, _ = (_interpret(file).stack[0] for _ in range(3))
    program = _interpret(file)
    keys = _interpret(file).stack[0]
    if magic != LEGACY_MAGIC or protocol != 1001 or not isinstance(keys, list):
        raise WeightsError("the torch file is damaged: unknown legacy header")
    tensors = _state_dict(program.stack[0])
    # The numbers of everything in the file follow, also of what stands beside the state dict.
    sizes = program.storages
    found: dict[str, bytes] = {}
    for key in keys:
        if not isinstance(key, str) or key not in sizes:
            raise WeightsError("the torch file is damaged: a storage belongs to no tensor")
        count = int.from_bytes(file.read(8), "little", signed=True)
        size = count * _itemsize(sizes[key].dtype)
        if count != sizes[key].numel or not 0 <= size <= len(data) - file.tell():
            raise WeightsError(f"the torch file is truncated or damaged at storage {key!r}")
        found[key] = file.read(size)

    def fetch(storage: _Storage) -> bytes:
        if storage.key not in found:
            raise WeightsError(f"the torch file is damaged: it has no storage {storage.key!r}")
        return found[storage.key]

    return tensors, fetch


def _itemsize(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _array(key: str, tensor: _Tensor, raw: bytes) -> np.ndarray:
    size, half = _itemsize(tensor.storage.dtype), tensor.storage.dtype == "bfloat16"
    flat = np.frombuffer(raw[: len(raw) // size * size], "<u2" if half else tensor.storage.dtype)
    steps = zip(tensor.shape, tensor.strides, strict=True)
    last = tensor.offset + sum((n - 1) * stride for n, stride in steps)
    # Expanded tensors (stride 0) are larger than their storage; the caller bounds their size.
    inside = 0 in tensor.shape or last < flat.size
    if flat.size != tensor.storage.numel or not inside:
        raise WeightsError(
            f"the torch file is damaged: tensor {key!r} of shape {tensor.shape} does not fit its "
            f"storage of {flat.size} numbers"
        )
    strides = tuple(s * flat.itemsize for s in tensor.strides)
    view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides)
    # Only the tensor is widened: thousands of them may share one large storage.
    return np.asarray(view.astype("<u4") << 16).view("<f4") if half else np.array(view)


def _state_dict(obj: Any) -> dict[str, _Tensor]:
    if isinstance(obj, dict) and isinstance(obj.get("state_dict"), dict):
        obj = obj["state_dict"]
    if not isinstance(obj, dict) or not obj:
        raise WeightsError("the torch file holds no state dict (save model.state_dict())")
    for key, value in obj.items():
        if not isinstance(key, str) or not isinstance(value, _Tensor):
            raise WeightsError(f"the torch file's entry {str(key)[:80]!r} is no tensor")
    # Parallel training prefixes every key; one key of many is a stranger for the audit to name.
    prefix = "module." if all(key.startswith("module.") for key in obj) else ""
    return {key.removeprefix(prefix): value for key, value in obj.items()}


def _interpret(file: io.BytesIO) -> _Machine:
    """One pickle's end: on the stack its only value, of plain data and allow-listed names."""
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > MAX_INSTRUCTIONS:
                raise WeightsError("the torch file's pickle is too long for a state dict")
            machine.step(opcode.name, argument)
    except WeightsError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeError) as error:
        raise WeightsError("the torch file's pickle is damaged") from error
    if len(machine.stack) != 1:
        raise WeightsError("the torch file's pickle is damaged")
    return machine


class _Machine:
    """The instructions that state dicts are made of."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, _Storage] = {}

    def step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memo[argument])
        elif name in ("PROTO", "FRAME", "STOP"):
            pass
        else:
            handler = getattr(self, f"_{name.lower()}", None)
            if handler is None:
                raise WeightsError(
                    f"the torch file's pickle uses {name}, which no state dict needs"
                )
            handler(argument)

    def _since_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:  # an empty stack is an IndexError: damaged
            at -= 1
            if at < 0:
                raise ValueError("no mark on the stack")
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("stack underflow")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def _global(self, argument: str) -> None:
        self._name(argument)

    def _stack_global(self, _: None) -> None:
        module, name = self._pop(2)
        self._name(f"{module} {name}")

    def _name(self, name: str) -> None:
        if name not in ALLOWED:
            shown = name.replace(" ", ".")[:100]
            raise WeightsError(
                f"the torch file's pickle wants to use {shown!r}, which no state dict needs; "
                "nothing was run. Save model.state_dict() instead"
            )
        self.stack.append(_Name(name))

    def _tuple(self, _: None) -> None:
        self.stack.append(tuple(self._since_mark()))

    def _tuple1(self, _: None) -> None:
        self.stack.append(tuple(self._pop(1)))

    def _tuple2(self, _: None) -> None:
        self.stack.append(tuple(self._pop(2)))

    def _tuple3(self, _: None) -> None:
        self.stack.append(tuple(self._pop(3)))

    def _list(self, _: None) -> None:
        self.stack.append(self._since_mark())

    def _append(self, _: None) -> None:
        (value,) = self._pop(1)
        self._top(list).append(value)

    def _appends(self, _: None) -> None:
        values = self._since_mark()
        self._top(list).extend(values)

    def _setitem(self, _: None) -> None:
        self._store(self._pop(2))

    def _setitems(self, _: None) -> None:
        self._store(self._since_mark())

    def _store(self, values: list[Any]) -> None:
        # Hashing a deeply nested tuple would overrun the C stack: plain keys only.
        if not all(type(key) in (str, int) for key in values[::2]):
            raise ValueError("a key is neither text nor a number")
        self._top(dict).update(zip(values[::2], values[1::2], strict=True))

    def _build(self, _: None) -> None:
        self._pop(1)  # a state dict's attributes (version numbers) carry no weights
        self._top(dict)

    def _top(self, kind: type) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise ValueError("unexpected value on the stack")
        return self.stack[-1]

    def _binpersid(self, _: None) -> None:
        (identifier,) = self._pop(1)
        # ("storage", type, key, location, numel), in legacy files and a view (None).
        ok = isinstance(identifier, tuple) and len(identifier) in (5, 6)
        if not ok or identifier[0] != "storage" or any(v is not None for v in identifier[5:]):
            raise WeightsError("the torch file's pickle refers to something that is no storage")
        _, kind, key, _, numel = identifier[:5]
        if not isinstance(kind, _Name) or kind.name not in STORAGES:
            raise WeightsError("the torch file's pickle refers to a storage of unknown type")
        if not isinstance(key, str) or not _count(numel):
            raise ValueError("malformed storage")
        storage = _Storage(STORAGES[kind.name], key, numel)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError("a storage of two types or sizes")
        self.stack.append(storage)

    def _reduce(self, _: None) -> None:
        name, arguments = self._pop(2)
        if not isinstance(name, _Name) or not isinstance(arguments, tuple):
            raise ValueError("malformed reduction")
        if name.name == ORDERED_DICT and arguments in ((), ([],)):
            self.stack.append({})
        elif name.name == REBUILD_PARAMETER and arguments and isinstance(arguments[0], _Tensor):
            self.stack.append(arguments[0])
        elif name.name in REBUILD_TENSOR and len(arguments) >= 4:
            storage, offset, shape, strides = arguments[:4]
            sizes = (shape, strides)
            ok = isinstance(storage, _Storage) and _count(offset)
            if not ok or not all(isinstance(v, tuple) and all(map(_count, v)) for v in sizes):
                raise ValueError("malformed tensor")
            if len(shape) != len(strides) or len(shape) > MAX_AXES:
                raise ValueError("malformed tensor")
            self.stack.append(_Tensor(storage, offset, shape, strides))
        else:
            raise WeightsError("the torch file's pickle holds something that is no tensor")

    def _mark(self, _: None) -> None:
        self.stack.append(_MARK)


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 40


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_LITERALS = {
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "INT",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "UNICODE",
    "SHORT_BINSTRING",
    "BINSTRING",
}
