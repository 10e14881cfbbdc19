"""Compiled programs are kept for the next command: JAX's compilation cache, as `mpp-jax` has it.

JAX believes what it finds in its cache, and runs it. Therefore

- the folder is the user's alone: made with mode 0700 below the cache folder, one for each kind of
  processor and number of cores, whose programs may not run on another. One that others could write
  to is not used;
- a command that ends seals what is there: `SEALS` holds the SHA-256 of every file. The next one
  removes what is not as it was sealed, and programs without a seal (their command was killed, or is
  still at work); they are compiled again;
- what is oldest goes when there are more than `MOST_BYTES`. (JAX's own bound wants another package,
  takes a lock for every program, and never replaces one that is damaged.)

`VARIABLE` names another folder, or says "off". Where JAX was given a folder already, as by
``JAX_COMPILATION_CACHE_DIR``, that one is used as it is. The library keeps nothing.
"""

import contextlib
import hashlib
import json
import logging
import os
import platform
import re
import stat
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mpp_jax.files import cache_folder, expanded, file_digest, write_file

VARIABLE = "MPP_JAX_COMPILATION_CACHE"
"""Environment variable: a folder, or "off"."""
SEALS = "seals.json"
MOST_BYTES = 256 << 20
SINCE = (0, 10, 2)
"""The first JAX that loads a CPU's programs without an error message for each (its issue 38445)."""
SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,  # a hundred small ones take seconds too
    "jax_persistent_cache_min_entry_size_bytes": -1,
    # Results of autotuning; the other one, "all", adds what JAX has not switched on by itself.
    "jax_persistent_cache_enable_xla_caches": "xla_gpu_per_fusion_autotune_cache_dir",
}
_PROGRAM = "-cache"
_FAILED = re.compile(r"Error (?:reading|writing) persistent compilation cache entry for '(.*?)'")
_PROCESSOR = re.compile(r"(vendor_id|model name|flags|Features|CPU (implementer|part))\s*:")

log = logging.getLogger(__name__)


@contextlib.contextmanager
def programs_kept(say: Callable[[str], object]) -> Iterator[None]:
    """Let JAX keep what it compiles meanwhile, and take what earlier commands compiled.

    To be entered before the first computation. Where there is no place for it, things go on without
    it; ``say`` is told only what the user could mend.
    """
    folder = _place(say)
    if folder is None:
        yield
        return
    try:
        believed = check(folder)
    except OSError as error:  # what is damaged could not be removed
        log.debug("compiled programs are not kept: %s", error)
        yield
        return
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, value in SETTINGS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    with _failures() as failed:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                seal(folder, believed, failed)


def _place(say: Callable[[str], object]) -> Path | None:
    """Return the folder, there and private; None where there is to be none or cannot be one."""
    chosen = os.environ.get(VARIABLE, "")
    if chosen.lower() == "off":
        return None
    import jax

    given = getattr(jax.config, "jax_compilation_cache_dir", None)
    if given is not None or jax.__version_info__ < SINCE:
        return None
    try:
        above = expanded(chosen) if chosen else cache_folder() / "compiled"
        folder = above.resolve() / processor_kind()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        why = exposed(folder)
    except (OSError, ValueError, RuntimeError) as error:
        log.debug("compiled programs are not kept: %s", error)
        if chosen:
            say(f"{VARIABLE}={chosen}: compiled programs are not kept there ({error})")
        return None
    if why is not None:
        say(f"compiled programs are not kept: {why}; let {VARIABLE} name a private folder, or off")
        return None
    return folder


def exposed(folder: Path) -> str | None:
    """Return how somebody else could put files into a folder; None where nobody can.

    Args:
        folder: resolved.
    """
    if not hasattr(os, "geteuid"):  # Windows: the users' own folders are closed otherwise
        return None
    user = os.geteuid()
    for place in (folder, *folder.parents):
        state = place.stat()
        if state.st_uid != user and (place == folder or state.st_uid != 0):
            return f"{place} is another user's"
        writers = stat.S_IWGRP | stat.S_IWOTH
        if place != folder:
            if state.st_mode & stat.S_ISVTX:  # as in /tmp: nobody moves what is another's
                continue
            if state.st_gid == state.st_uid:  # a group of one, by the custom of many systems
                writers = stat.S_IWOTH
        if state.st_mode & writers:
            return f"others may write to {place}"
    return None


def processor_kind() -> str:
    """Return a name for the kind of processor here and the cores that may be used of it.

    Programs are compiled for both. Where the system tells no kind, the machine's own name is taken.
    """
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        first = ""
    lines = [line for line in first.splitlines() if _PROCESSOR.match(line)] or [platform.node()]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kind = hashlib.sha256("|".join(lines).encode()).hexdigest()[:12]
    return f"{platform.machine()}-{kind}-{cores}"


def check(folder: Path) -> dict[str, str]:
    """Remove what is not as it was sealed, and programs without a seal.

    Returns:
        The seals of what is left, by name.

    Raises:
        OSError: something cannot be removed.
    """
    try:
        seals = json.loads((folder / SEALS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        seals = {}
    believed = {}
    for name, path in _files(folder).items():
        sealed = seals.get(name) if isinstance(seals, dict) else None
        if sealed is None and not name.endswith(_PROGRAM):
            continue  # the compiler's own, which another command may be writing
        if sealed is not None and sealed == _digest(path):
            believed[name] = sealed
        else:
            path.unlink(missing_ok=True)
    return believed


def seal(folder: Path, believed: dict[str, str], failed: set[str]) -> None:
    """Write down the digests of what is there, after what is too much or broken was removed.

    Args:
        folder: of the programs.
        believed: what `check` returned.
        failed: programs that JAX could not read or write, by their names in JAX.

    Raises:
        OSError: it cannot be written.
    """
    files = _files(folder)
    for name in [n for n in files if n.rsplit("-", 2)[0] in failed]:
        files.pop(name).unlink(missing_ok=True)
    states = {}
    for name, path in files.items():
        with contextlib.suppress(FileNotFoundError):  # by another command
            states[name] = path.stat()
    size = sum(state.st_size for state in states.values())
    for name in sorted(states, key=lambda name: states[name].st_mtime_ns):
        if size <= MOST_BYTES:
            break
        size -= states.pop(name).st_size
        files[name].unlink(missing_ok=True)
    digests = {name: believed.get(name) or _digest(files[name]) for name in states}
    seals = {name: digest for name, digest in digests.items() if digest}
    if seals != believed:
        write_file(folder / SEALS, json.dumps(seals, indent=0).encode())


def _digest(path: Path) -> str | None:
    """Return the digest of a file; None where another command has removed it meanwhile."""
    try:
        return file_digest(path)
    except FileNotFoundError:
        return None


def _files(folder: Path) -> dict[str, Path]:
    """Return all files but the seals, by name relative to the folder."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {name: path for name, path in found.items() if name != SEALS and path.is_file()}


@contextlib.contextmanager
def _failures() -> Iterator[set[str]]:
    """Gather the names of programs that JAX could not read or write, instead of its warnings."""
    failed: set[str] = set()
    usual = warnings.showwarning

    def show(message: Warning | str, *where: Any, **more: Any) -> None:
        found = _FAILED.match(str(message))
        if found is None:
            usual(message, *where, **more)
        else:
            failed.add(found[1])

    warnings.showwarning = show
    try:
        yield failed
    finally:
        warnings.showwarning = usual
