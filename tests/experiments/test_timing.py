"""The clocks of the benchmarks."""

import jax
import pytest


@pytest.mark.parametrize(("backend", "queue"), [("cpu", 1), ("gpu", 50)])
def test_calls_under_way_together(
    backend: str, queue: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An accelerator is given many short calls at once, a CPU never."""
    import timing

    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    calls: list[int] = []
    first, steady = timing.first_and_steady(lambda: calls.append(1), repeats=3, least=1.0)
    alone = 1 if backend == "cpu" else 2  # the first, and one to see how long it lasts
    assert len(calls) == alone + 3 * queue
    assert first > 0
    assert steady > 0
