"""The machine: where shared data lies, and what a result file says of where and how it was made."""

import datetime
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import jax

SHARED = "MPP_JAX_SHARED"
"""Variable that names the folder of shared data; default: ``shared`` beside the repository."""


def shared_data() -> Path:
    """Return the folder of shared data, there or not, whatever the working directory."""
    folder = Path(os.environ.get(SHARED) or Path(__file__).resolve().parents[2] / "shared")
    return folder.expanduser().resolve() / "data"


def shared(name: str) -> Path:
    """Return the place of shared data.

    Args:
        name: below the folder's ``data``, as in "scene15/test".

    Raises:
        SystemExit: it is not there; one line says where it was looked for.
    """
    place = shared_data() / name
    if not place.exists():
        raise SystemExit(
            f"error: {place} is not there: let {SHARED} name the folder that holds data/{name}, "
            "or name your own (--help)"
        )
    return place


def weights_of(network: str, given: str | None) -> str | None:
    """Return a network's weight file: the given one, SqueezeNet's shared one, or the library's."""
    if given is None and network == "squeezenet":
        return str(shared("squeezenet/compressed_SqueezeNet.net"))
    return given or None


def provenance() -> dict[str, Any]:
    """Return command, date, processor and versions, as JSON values."""
    return {
        "command": "python " + shlex.join([os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }


def processor() -> str:
    """Return the processor's name, with its widest vector instructions where the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            text = file.read()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    flags = named.get("flags", "").split()
    widest = next((f for f in ("avx512f", "avx2") if f in flags), "")
    return f"{named.get('model name', platform.machine())} {widest}".strip()
