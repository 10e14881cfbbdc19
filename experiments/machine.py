"""What a result file says about where, when and how it was made."""

import datetime
import os
import platform
import shlex
import sys
from typing import Any

import jax


def provenance() -> dict[str, Any]:
    """Command, date, processor and versions, as JSON values."""
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
    """Name of the processor, with its widest vector instructions where the system tells."""
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
