"""The house: imports go left only, and pure modules import nothing that reads or writes.

As a program it prints the rooms, their floors and the imports between them::

    python tests/test_house.py
"""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "mpp_jax"
ROOMS = (
    *("config", "numerics", "devices", "files", "checkpoint", "progress", "memory", "metrics"),
    *("intervals",),
    *("data", "stats", "encoders", "svm", "nets", "weights", "describe", "pooling"),
    *("storage", "runs", "maps", "report", "cli", "sklearn_api", "__main__"),
)
PURE = ("numerics", "stats", "encoders", "svm", "nets", "describe.pyramid", "describe.dense")
PURE += ("pooling", "maps.confidence", "maps.accumulation", "maps.pointing")
IMPURE = ("pooling.plugins",)
OUTSIDE = {"os", "pathlib", "json", "PIL", "click", "tqdm"}


def imports() -> dict[str, set[str]]:
    """Return what each module imports, anywhere in it: dotted names, ours without `mpp_jax.`."""
    found = {}
    for file in ROOT.rglob("*.py"):
        names: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{file}: a relative import"
                inside = (
                    node.module == "mpp_jax" or (ROOT / Path(*node.module.split(".")[1:])).is_dir()
                )
                names |= {f"{node.module}.{a.name}" if inside else node.module for a in node.names}
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[module] = {name.removeprefix("mpp_jax.") for name in names if name}
    del found["__init__"]  # the public face, which loads everything when asked
    return found


def room(module: str) -> str | None:
    """Return the room of a module; None for one of others."""
    name = module.split(".")[0]
    return name if name in ROOMS else None


def test_imports_go_left_only() -> None:
    for module, names in imports().items():
        assert room(module) is not None, f"{module}: in no room of the house"
        for name in names:
            if room(name) not in (None, room(module)):
                right = ROOMS.index(room(name)) >= ROOMS.index(room(module))
                assert not right, f"{module} imports {name}, which does not lie to its left"


def test_pure_modules_neither_read_nor_write() -> None:
    for module, names in imports().items():
        if module.startswith(PURE) and module not in IMPURE:
            outside = {name.split(".")[0] for name in names} & OUTSIDE
            assert not outside, f"{module} is pure and imports {', '.join(sorted(outside))}"


def main() -> None:
    """Print rooms, floors and arrows."""
    modules = imports()
    arrows = Counter(
        (room(module), room(name))
        for module, names in modules.items()
        for name in names
        if room(name) not in (None, room(module))
    )
    floors: dict[str, int] = {}
    for name in ROOMS:
        below = [floors[target] for source, target in arrows if source == name]
        floors[name] = 1 + max(below, default=0)
    for name in ROOMS:
        files = [m for m in modules if room(m) == name]
        lines = sum(
            len((ROOT / Path(*m.split("."))).with_suffix(".py").read_text().splitlines())
            for m in files
            if (ROOT / Path(*m.split("."))).with_suffix(".py").exists()
        )
        to = ", ".join(f"{end} {n}" for (start, end), n in arrows.items() if start == name)
        print(f"{floors[name]:>2}  {name:<12}{len(files):>3} modules {lines:>6} lines  -> {to}")
    print(f"{len(arrows)} arrows between {len(ROOMS)} rooms on {max(floors.values())} floors")


if __name__ == "__main__":
    main()
