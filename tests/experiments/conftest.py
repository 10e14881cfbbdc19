"""The experiments, found as Python finds them when one of them is started."""

import sys
from collections.abc import Iterator

import pytest
from helpers import EXPERIMENTS

from mpp_jax.pooling import POOLINGS


@pytest.fixture(autouse=True)
def _experiments(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Scripts beside each other import each other; what they change in the process is undone."""
    monkeypatch.setattr(sys, "path", [str(EXPERIMENTS), *sys.path])
    import lab

    monkeypatch.setattr(lab, "keep_freed_memory", lambda: False)
    before = dict(POOLINGS)
    yield
    POOLINGS.clear()
    POOLINGS.update(before)
