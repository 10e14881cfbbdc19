"""Pickles of torch state dicts, read without torch and without running them.

A pickle is a program. Here it is never run: `pickletools` splits it into instructions, and the few
that a state dict consists of are interpreted on plain data. Names are only ever compared with an
allow-list; nothing is imported and nothing is called.
"""

import dataclasses
import io
import pickletools
from collections.abc import Callable
from typing import Any

from mpp_jax.weights.source import WeightsError

MAX_INSTRUCTIONS = 500_000
MAX_AXES = 32
WRAPPERS = ("state_dict", "model_state_dict", "model")
MAX_WRAPPERS = 3

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
class Storage:
    """Numbers of one type, in a place of their own in the file."""

    dtype: str
    key: str
    numel: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage: offset and strides in numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_MARK = object()


def state_dict(obj: Any) -> dict[str, Tensor]:
    """Return the tensors of a pickled object by key, out of what training loops wrap around them.

    Raises:
        WeightsError: it is no state dict, or holds anything but tensors.
    """
    for _ in range(MAX_WRAPPERS):
        inner = [obj[word] for word in WRAPPERS if isinstance(obj, dict) and word in obj]
        obj = next((value for value in inner if isinstance(value, dict)), obj)
    if not isinstance(obj, dict) or not obj:
        raise WeightsError("the torch file holds no state dict (save model.state_dict())")
    for key, value in obj.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(f"the torch file's entry {str(key)[:80]!r} is no tensor")
    return obj


def interpret(file: io.BytesIO) -> tuple[Any, dict[str, Storage]]:
    """Follow one pickle of several in a row to its end.

    Returns:
        Its only value, of plain data and allow-listed names; and the storages that it refers to, by
        key.

    Raises:
        WeightsError: damaged, too long, or a pickle of anything but a state dict's ingredients.
    """
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
    return machine.stack[0], machine.storages


class _Machine:
    """The instructions that state dicts are made of."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

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
        storage = Storage(STORAGES[kind.name], key, numel)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError("a storage of two types or sizes")
        self.stack.append(storage)

    def _reduce(self, _: None) -> None:
        name, arguments = self._pop(2)
        if not isinstance(name, _Name) or not isinstance(arguments, tuple):
            raise ValueError("malformed reduction")
        if name.name == ORDERED_DICT and arguments in ((), ([],)):
            self.stack.append({})
        elif name.name == REBUILD_PARAMETER and arguments and isinstance(arguments[0], Tensor):
            self.stack.append(arguments[0])
        elif name.name in REBUILD_TENSOR and len(arguments) >= 4:
            storage, offset, shape, strides = arguments[:4]
            sizes = (shape, strides)
            ok = isinstance(storage, Storage) and _count(offset)
            if not ok or not all(isinstance(v, tuple) and all(map(_count, v)) for v in sizes):
                raise ValueError("malformed tensor")
            if len(shape) != len(strides) or len(shape) > MAX_AXES:
                raise ValueError("malformed tensor")
            self.stack.append(Tensor(storage, offset, shape, strides))
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
