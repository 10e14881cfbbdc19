"""Ctrl-C and SIGTERM: what is done is kept, and the second one is obeyed at once."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED, TERMINATED = 130, 143
"""Exit statuses: 128 and the number of the signal, as shells have it."""
MESSAGE = "interrupted; what was done is kept, run the command again"


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM, as schedulers do."""


def status_of(error: KeyboardInterrupt) -> int:
    """Return the exit status of an interrupted command."""
    return TERMINATED if isinstance(error, Terminated) else INTERRUPTED


@contextmanager
def obeyed() -> Iterator[None]:
    """Raise `KeyboardInterrupt` on SIGINT and `Terminated` on SIGTERM while the body runs.

    One that arrives in a garbage collector callback, where exceptions are lost, is sent again.
    The process ends at once, as by a kill, where an exception would not arrive or be answered:
    while a module is imported (JAX's import runs callbacks that swallow exceptions, and nothing of
    ours is under way), and at the second signal. Code in C that is interrupted may raise a
    `KeyboardInterrupt` of its own for either; the signal decides.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = last = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked, last
        asked, last = asked + 1, number
        if asked > 1 or _importing(frame):
            if asked == 1:
                print(MESSAGE, file=sys.stderr, flush=True)
            os._exit(TERMINATED if number == signal.SIGTERM else INTERRUPTED)
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    def swallowed(unraisable: "sys.UnraisableHookArgs") -> None:
        """Send the signal again where its exception fell into a callback that cannot raise."""
        nonlocal asked
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            hook(unraisable)
            return
        asked = 0
        terminated = isinstance(unraisable.exc_value, Terminated)
        number = signal.SIGTERM if terminated else signal.SIGINT
        threading.Timer(0.02, os.kill, (os.getpid(), number)).start()

    hook, sys.unraisablehook = sys.unraisablehook, swallowed
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    for number, old in zip(numbers, before, strict=True):
        if old is not signal.SIG_IGN:  # as of a shell's background jobs
            signal.signal(number, handle)
    try:
        yield
    except KeyboardInterrupt as error:
        if last != signal.SIGTERM or isinstance(error, Terminated):
            raise
        terminated = Terminated()
        for note in getattr(error, "__notes__", []):
            terminated.add_note(note)
        raise terminated from error
    finally:
        sys.unraisablehook = hook
        for number, old in zip(numbers, before, strict=True):
            signal.signal(number, signal.SIG_DFL if old is None else old)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
