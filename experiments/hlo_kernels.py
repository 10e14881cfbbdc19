"""What a compiled program for a GPU consists of: kernels, the bytes they move, their operations.

Read off the text of XLA's optimised HLO. Every instruction of the entry computation that is not
bookkeeping is a kernel (or a library's); it reads its operands and writes its result once. That is
the least that it can move; caches may not hold what a kernel reads twice. Operations are those of
products and convolutions, a multiplication and an addition are two.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

WIDTHS = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2}
"""Bytes of an entry; of other types one."""
BOOKKEEPING = {"parameter", "constant", "get-tuple-element", "bitcast", "tuple"}

_SHAPE = re.compile(r"\b(pred|bf16|[a-z]\d+)\[([\d,]*)\]")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{$")


class Kernel(NamedTuple):
    """A kernel of a program.

    Attributes:
        name: XLA's, with that of the library's function where it is one's.
        nbytes: of operands and result, all the times that it runs.
        flop: of its products and convolutions, likewise.
        exact: whether the products are of float32 at full precision.
        runs: how many times.
    """

    name: str
    nbytes: int
    flop: float
    exact: bool
    runs: int


class Instruction(NamedTuple):
    """A line of a computation."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str


Computations = dict[str, list[Instruction]]
ENTRY = "ENTRY"


def kernels(text: str) -> list[Kernel]:
    """Return the kernels of a program in XLA's text form, in order; of a branch, the longer way."""
    computations = parse(text)
    return list(_kernels(computations, ENTRY, 1))


def branches(text: str) -> int:
    """Return how often a program's host waits for the device: for branches and open-ended loops."""
    waits = re.findall(r" (?:conditional|while)\(.*", text)
    return sum("known_trip_count" not in line for line in waits)


def parse(text: str) -> Computations:
    """Return the computations of a program, its entry under `ENTRY`."""
    found: Computations = {}
    current: list[Instruction] = []
    for line in text.splitlines():
        begun = _COMPUTATION.match(line)
        if begun:
            current = found[ENTRY if begun[1] else begun[2]] = []
        elif line.startswith(" ") and (match := _INSTRUCTION.match(line)):
            name, shape, opcode, rest = match.groups()
            operands, attributes = _closed(rest)
            names = tuple(re.findall(r"%([\w.\-]+)", operands))
            current.append(Instruction(name, shape, opcode, names, attributes))
    return found


def _closed(text: str) -> tuple[str, str]:
    """Return what stands before the bracket that closes, and what after it."""
    depth = 1
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return text[:i], text[i + 1 :]
    return text, ""


def shape_bytes(shape: str) -> int:
    """Return the bytes of arrays, as HLO writes their shapes."""
    return sum(WIDTHS.get(kind, 1) * math.prod(dims) for kind, dims in shapes(shape))


def shapes(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """Return (type, dimensions) of the arrays in a text."""
    return [
        (kind, tuple(int(d) for d in dims.split(",") if d)) for kind, dims in _SHAPE.findall(text)
    ]


def _kernels(computations: Computations, name: str, runs: int) -> Iterator[Kernel]:
    known: dict[str, str] = {}
    for line in computations[name]:
        known[line.name] = line.shape
        if line.opcode in BOOKKEEPING:
            continue
        if line.opcode == "while":
            times = re.search(r'"known_trip_count":\{"n":"(\d+)"', line.attributes)
            yield from _kernels(
                computations, called(line, "body"), runs * (int(times[1]) if times else 1)
            )
            continue
        if line.opcode == "conditional":
            ways = re.findall(r"(?:true|false)_computation=%([\w.\-]+)", line.attributes)
            listed = re.search(r"branch_computations=\{([^}]*)\}", line.attributes)
            ways += re.findall(r"%([\w.\-]+)", listed[1]) if listed else []
            found = [list(_kernels(computations, way, runs)) for way in ways]
            yield from max(found, key=lambda way: sum(k.nbytes for k in way))
            continue
        moved = shape_bytes(line.shape) + sum(shape_bytes(known.get(o, "")) for o in line.operands)
        flop, exact = _flop(computations, line, known)
        target = re.search(r'custom_call_target="([^"]+)"', line.attributes)
        title = f"{line.name} ({target[1]})" if target else line.name
        yield Kernel(title, runs * moved, runs * flop, exact, runs)


def called(line: Instruction, attribute: str) -> str:
    """Return the name of the computation that an instruction names in an attribute."""
    match = re.search(rf"{attribute}=%([\w.\-]+)", line.attributes)
    if match is None:
        raise ValueError(f"{line.name}: no {attribute}")
    return match[1]


def _flop(
    computations: Computations, line: Instruction, known: dict[str, str]
) -> tuple[float, bool]:
    if line.opcode == "fusion":
        total, exact, inside = 0.0, False, {}
        for part in computations[called(line, "calls")]:
            inside[part.name] = part.shape
            flop, highest = _flop(computations, part, inside)
            total, exact = total + flop, exact or highest
        return total, exact
    exact = "highest" in line.attributes
    operands = [shapes(known.get(name, "")) for name in line.operands]
    output = shapes(line.shape)
    # XLA's own product, or that of cuBLAS, which has its axes in a JSON text.
    contracted = re.search(
        r'lhs_contracting_dim(?:s=\{|ensions":\[)([\d,"]*)[\}\]]', line.attributes
    )
    if contracted:
        dims = [int(d) for d in re.findall(r"\d+", contracted[1])]
        depth = math.prod(operands[0][0][1][d] for d in dims)
        return 2.0 * math.prod(output[0][1]) * depth, exact
    labels = re.search(r"dim_labels=\w+_(\w+)->", line.attributes)
    if labels:
        kernel = operands[1][0][1]
        features = kernel[labels[1].index("o")]
        return 2.0 * math.prod(output[0][1]) * math.prod(kernel) / features, exact
    return 0.0, False
