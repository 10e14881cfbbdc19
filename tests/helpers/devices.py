"""Accelerators, as far as a CPU can pass for one."""

from types import SimpleNamespace

import jax
import pytest


def say_memory(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Give the process an accelerator that says how many bytes it has free, of 1,000 more."""
    stats = {"bytes_limit": free + 1000, "bytes_in_use": 1000}
    device = SimpleNamespace(memory_stats=lambda: stats)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
