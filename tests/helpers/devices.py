"""Accelerators, as far as a CPU can pass for one."""

from types import SimpleNamespace

import jax
import pytest


def say_memory(monkeypatch: pytest.MonkeyPatch, free: int, count: int = 1) -> None:
    """Give the process accelerators that say how much memory they have free, of 1,000 more."""
    stats = {"bytes_limit": free + 1000, "bytes_in_use": 1000}
    device = SimpleNamespace(memory_stats=lambda: stats)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [device] * count)
