"""Signals that C code answers with an exception of its own."""

import signal

import pytest

from mpp_jax.cli.signals import INTERRUPTED, TERMINATED, Terminated, obeyed, status_of


def plain_interrupt(number: signal.Signals | None) -> None:
    """Raise a plain `KeyboardInterrupt` whatever arrived meanwhile, as Ray does."""
    try:
        if number is not None:
            signal.raise_signal(number)
    except KeyboardInterrupt:
        pass
    error = KeyboardInterrupt()
    error.add_note("kept")
    raise error


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, TERMINATED), (signal.SIGINT, INTERRUPTED)]
)
def test_the_signal_decides(number: signal.Signals, status: int) -> None:
    with pytest.raises(KeyboardInterrupt) as raised, obeyed():
        plain_interrupt(number)
    assert status_of(raised.value) == status
    assert raised.value.__notes__ == ["kept"]


def test_no_signal_at_all() -> None:
    with pytest.raises(KeyboardInterrupt) as raised, obeyed():
        plain_interrupt(None)
    assert not isinstance(raised.value, Terminated)
