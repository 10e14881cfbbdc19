"""The paper's notation for representations, "A(B)": pooling A of the activations of layer B.

    mpp                 variant, of the run's own layer
    mpp(pool5)          of another layer of the network
    mpp(fc7,pool5)      of two layers, stacked
    mpp(fc7,pool5)+sp   a spatial grid for what stands before it: sp is sp1x1_3x1, the paper's four
                        cells (whole, top, middle, bottom); sp1x1_2x2, sp3x3 ...
    mpp+avg             finished representations stacked (and L2-normalised)
    mpp+dsfl            stacked with features that were computed elsewhere
    nfk(sift), or ifk   of dense SIFT descriptors
    best                whichever stack of ap10, avg and mpp does best in cross-validation of the
                        training pictures, ap10 unless another is surely better
                        (`mpp_jax.runs.choosing`); best(fc7,mpp,mpp(pool5)) of others

Case does not matter, and a layer may carry the network's name as in the paper's tables,
"MPP(Alex-FC7,Pool5)+SP", "MPP(CNNS-FC7,FC8)", "Alex-FC7" (the plain activation).
"""

import itertools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from mpp_jax.describe.dense import DEFAULT, SIFT
from mpp_jax.nets.checks import ANY_NETWORK
from mpp_jax.nets.registry import NETWORKS
from mpp_jax.nets.spec import NetSpec
from mpp_jax.pooling.protocol import POOLINGS, Pooling, get_pooling

PAPER_GRID = "sp1x1_3x1"
ALIASES = {"ifk": f"nfk({SIFT})"}
BEST = "best"
MEMBERS = ("ap10", "avg", "mpp")
"""What "best" stacks: one crop's view, the mean over places, and what stands out at some places."""
MOST_MEMBERS = 5

Cell = tuple[float, float, float, float]

_GRID = re.compile(r"sp(\d+x\d+(?:_\d+x\d+)*)?")
_STORED = re.compile(r"(.+)-(sp\d+x\d+(?:_\d+x\d+)*)")
_TERM = re.compile(r"([^()+,]+)(?:\(([^()+]+)\))?")
_BEST = re.compile(rf"{BEST}(?:\((.+)\))?")
_MEMBER = re.compile(r"(?:[^(),]|\([^()]*\))+")


@dataclass(frozen=True)
class Atom:
    """One stored representation: a variant of one source of descriptors, perhaps on a grid.

    Attributes:
        variant: its name; or that of external features.
        layer: of the network, or "sift"; None for the run's own layer.
        grid: "sp1x1_3x1" and the like, or None.
        external: whether it is read from a file instead of computed.
    """

    variant: str
    layer: str | None = None
    grid: str | None = None
    external: bool = False

    @property
    def name(self) -> str:
        """As in manifests and file names: "mpp-sp1x1_3x1(pool5)"."""
        grid = f"-{self.grid}" if self.grid else ""
        return f"{self.variant}{grid}" + (f"({self.layer})" if self.layer else "")

    @property
    def source(self) -> str:
        """Where its descriptors come from: the layer's name, "default" or "sift"."""
        return self.layer or DEFAULT

    @property
    def pooling(self) -> Pooling:
        """The registered variant; raises a ValueError where there is none."""
        return get_pooling(self.variant)

    @property
    def codebook(self) -> str | None:
        """The key of its codebook, "pool5.fisher"; None where it needs none."""
        recipe = None if self.external else self.pooling.codebook
        return None if recipe is None else f"{self.source}.{recipe.name}"


def grid_cells(grid: str) -> tuple[Cell, ...]:
    """Return the cells (top, left, bottom, right) of a grid, level by level, row by row."""
    cells: list[Cell] = []
    for level in grid.removeprefix("sp").split("_"):
        rows, columns = map(int, level.split("x"))
        cells += [
            (i / rows, j / columns, (i + 1) / rows, (j + 1) / columns)
            for i in range(rows)
            for j in range(columns)
        ]
    return tuple(cells)


def parse(text: str, external: Collection[str] = (), own: str | None = None) -> tuple[Atom, ...]:
    """Return the atoms that a representation stacks, in order; of "best" all that it may stack.

    Args:
        text: as in this module's docstring.
        external: names of features that are read from files.
        own: the run's own layer, which atoms do not name.

    Raises:
        ValueError: bad notation, an unknown variant, or one stacked with itself.
    """
    if chosen := members(text):
        return parse_all(chosen, external, own)
    atoms: list[Atom] = []
    term: list[Atom] = []
    for part in text.lower().split("+"):
        part = ALIASES.get(part, part)
        if grid := _GRID.fullmatch(part):
            _check_grid(text, part, term)
            name = PAPER_GRID if grid[1] is None else part
            term[:] = [replace(atom, grid=name) for atom in term]
            continue
        atoms += term
        found = _TERM.fullmatch(part)
        if found is None:
            raise ValueError(f"pooling: cannot read {text!r}; write mpp, mpp(pool5)+sp or mpp+avg")
        term = _term(found[1], found[2], external)
    atoms = [_owned(atom, own) for atom in (*atoms, *term)]
    if len(set(atoms)) != len(atoms):
        raise ValueError(f"pooling: {text!r} stacks a representation with itself")
    return tuple(atoms)


def members(text: str) -> tuple[str, ...]:
    """Return what "best" or "best(a,b)" may stack; nothing of any other representation.

    Raises:
        ValueError: one member alone, more than `MOST_MEMBERS`, or one that is itself a choice.
    """
    found = _BEST.fullmatch(text.strip().lower())
    if found is None:
        return ()
    if found[1] is None:
        return MEMBERS
    given = tuple(dict.fromkeys(name.strip() for name in _MEMBER.findall(found[1])))
    if not 2 <= len(given) <= MOST_MEMBERS or any(_BEST.fullmatch(name) for name in given):
        raise ValueError(
            f"pooling: {text!r}: name two to {MOST_MEMBERS} different representations to choose "
            "among, as in best(fc7,avg,mpp)"
        )
    return given


def candidates(text: str, external: Collection[str], own: str) -> dict[str, tuple[Atom, ...]]:
    """Return what "best" chooses among, the atoms of each by name: all stacks, the shortest first.

    Arguments are those of `parse`; of other representations there is none.
    """
    chosen = members(text)
    every = (itertools.combinations(chosen, n) for n in range(1, len(chosen) + 1))
    stacks = (parse("+".join(part), external, own) for part in itertools.chain(*every))
    return {format_atoms(atoms, own): atoms for atoms in stacks}


def parse_all(
    names: Sequence[str], external: Collection[str] = (), own: str | None = None
) -> tuple[Atom, ...]:
    """Return the atoms of several representations, each once, in order."""
    return tuple(dict.fromkeys(atom for name in names for atom in parse(name, external, own)))


def _owned(atom: Atom, own: str | None) -> Atom:
    return replace(atom, layer=None) if atom.layer is not None and atom.layer == own else atom


def _term(name: str, layers: str | None, external: Collection[str]) -> list[Atom]:
    if name in external:
        if layers is not None:
            raise ValueError(f"pooling: {name!r} are features of a file; they have no layer")
        return [Atom(name, external=True)]
    grid = None
    if stored := _STORED.fullmatch(name):
        name, grid = stored[1], stored[2]
    if layers is None and "-" in name and name not in POOLINGS and _is_network(name):
        return [Atom("fc7", name, grid)]  # "Alex-FC7", the plain activation
    get_pooling(name)
    given = [None] if layers is None else layers.split(",")
    return [Atom(name, layer, grid) for layer in given]


def _check_grid(text: str, grid: str, term: Sequence[Atom]) -> None:
    if not term:
        raise ValueError(f"pooling: {text!r}: a grid stands after what it divides, as in mpp+sp")
    for atom in term:
        if atom.external or atom.pooling.crops or atom.grid:
            raise ValueError(f"pooling: {text!r}: {atom.name!r} cannot be divided by {grid!r}")
    if re.search(r"(?<!\d)0", grid):
        raise ValueError(f"pooling: {text!r}: a grid has at least one row and one column")


def _is_network(name: str) -> bool:
    prefix = name.partition("-")[0]
    known = (name for spec in NETWORKS.values() for name in (spec.name, *spec.aliases))
    return prefix == ANY_NETWORK or prefix in known


def canonical(text: str, spec: NetSpec, own: str, external: Collection[str] = ()) -> str:
    """Return the name under which a representation is computed, stored and reported.

    Networks' names are checked and dropped, and layers are spelled as the network spells them:
    "MPP(Alex-FC7,Pool5)+SP" becomes "mpp(fc7,pool5)+sp", "MPP(Alex-FC7)" in a run of fc7 "mpp".

    Args:
        text: a representation.
        spec: of the run's network.
        own: the run's own layer.
        external: as for `parse`.

    Raises:
        ValueError: as `parse`, or a network or layer that the run does not have.
    """
    if chosen := members(text):
        names = tuple(canonical(name, spec, own, external) for name in chosen)
        parse("+".join(names), external, own)  # no two of them share a part
        return BEST if names == MEMBERS else f"{BEST}({','.join(names)})"
    atoms = [
        atom if atom.layer in (None, SIFT) else replace(atom, layer=_resolve(atom.layer, spec))
        for atom in parse(text, external)
    ]
    name = format_atoms([_owned(atom, own) for atom in atoms], own)
    parse(name, external, own)  # what was spelled differently may now be the same
    return name


def format_atoms(atoms: Sequence[Atom], own: str) -> str:
    """Return the notation of atoms, in order; the reverse of `parse`."""
    terms = []
    for (variant, grid), group in itertools.groupby(atoms, lambda a: (a.variant, a.grid)):
        layers = [atom.layer for atom in group]
        text = variant if layers == [None] else f"{variant}({','.join(x or own for x in layers)})"
        terms.append(text)
        if grid is not None:
            terms.append("sp" if grid == PAPER_GRID else grid)
    return "+".join(terms)


def _resolve(layer: str, spec: NetSpec) -> str:
    """Return the network's spelling of "Pool5" or "Alex-Pool5"."""
    names = {name.lower(): name for name in spec.descriptor_layers}
    if layer in names:
        return names[layer]
    prefix, dash, rest = layer.partition("-")
    if dash and rest in names:
        if prefix not in (ANY_NETWORK, spec.name, *spec.aliases):
            raise ValueError(f"pooling: {layer!r} is no layer of this run's network {spec.name!r}")
        return names[rest]
    raise ValueError(
        f"pooling: network {spec.name!r} has no descriptors of layer {layer!r}; it has "
        f"{', '.join(spec.descriptor_layers)}, and {SIFT}"
    )
