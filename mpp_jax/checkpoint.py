"""Dicts of NumPy arrays on disk, by orbax, whose errors are told apart here, once.

What orbax and tensorstore raise for damaged files is of any type, and so is what JAX raises where
there is no device. The first is a `CheckpointError`; the second, and whatever says nothing about
the files, comes through as it is. Relative paths are resolved, which orbax wants.
"""

import contextlib
import errno
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

Declared = dict[str, tuple[tuple[int, ...], np.dtype]]
"""Shape and dtype of each array, by name."""

SILENCE, MOST_SILENCE = 0.5, 5.0
"""Seconds without a complaint of a thread, and at most, that are waited for after a failure."""

OVERHEAD_BYTES = 128 << 10
"""At most what orbax writes beside the arrays."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be read."""


def check_devices() -> None:
    """Raise unless JAX has the devices that it was told to use.

    Raises:
        RuntimeError: it has not.
    """
    try:
        jax.devices()
    except AssertionError as error:  # jax 0.10 asserts where JAX_PLATFORMS names a missing GPU
        wanted = os.environ.get("JAX_PLATFORMS", "")
        raise RuntimeError(f"Unable to initialize backend {wanted!r}: no such device") from error


def save_arrays(folder: Path, arrays: Any) -> None:
    """Write a nested dict of NumPy arrays to a folder that is not there yet.

    Raises:
        OSError, ValueError: it cannot be written; tensorstore says so by a `ValueError`.
        RuntimeError: JAX has no device.
    """
    # Asked before: when tensorstore runs out of space, its threads go on complaining afterwards.
    needed = sum(array.nbytes for array in jax.tree.leaves(arrays))
    total, _, free = shutil.disk_usage(folder.parent)
    if total and needed + OVERHEAD_BYTES > free:  # some file systems tell nothing
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    with _quiet(), _checkpointer() as checkpointer:
        checkpointer.save(folder.resolve(), arrays)


def declared_arrays(folder: Path) -> Declared:
    """Return what a flat checkpoint says it holds, without reading the arrays.

    Raises:
        CheckpointError: it cannot be read.
        RuntimeError: JAX has no device.
    """
    with _checkpointer() as checkpointer, _damage():
        metadata = checkpointer.metadata(folder.resolve()).item_metadata.tree
        return {name: (tuple(m.shape), np.dtype(m.dtype)) for name, m in metadata.items()}


def restore_arrays(folder: Path) -> dict[str, Any]:
    """Read a nested dict of NumPy arrays.

    Raises:
        CheckpointError: it cannot be read.
        RuntimeError: JAX has no device.
    """
    with _checkpointer() as checkpointer, _damage():
        arrays: dict[str, Any] = jax.tree.map(np.asarray, checkpointer.restore(folder.resolve()))
        return arrays


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp  # takes a second: only where a folder is read or written

    check_devices()
    return ocp.PyTreeCheckpointer()


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # orbax and tensorstore raise whatever they like on damaged files
        if "RESOURCE_EXHAUSTED" in str(error):
            raise
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise CheckpointError(reason) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep threads of orbax and tensorstore from printing tracebacks of what is raised anyway."""
    logger, before = logging.getLogger("absl"), sys.unraisablehook
    heard: list[float] = []

    def hook(found: Any) -> None:
        if "Event loop is closed" in str(found.exc_value):
            heard.append(time.monotonic())
        else:
            before(found)

    logger.addFilter(_told_anyway)
    sys.unraisablehook = hook
    try:
        yield
        if sys.unraisablehook is hook:  # where writing failed, some threads have not ended yet
            sys.unraisablehook = before
    except Exception:  # raised again below, when no thread of the library complains any more
        failed = time.monotonic()  # a process that ends meanwhile has no hook any more
        while time.monotonic() < min(max([failed, *heard]) + SILENCE, failed + MOST_SILENCE):
            time.sleep(0.02)
        raise
    finally:
        logger.removeFilter(_told_anyway)


def _told_anyway(record: logging.LogRecord) -> bool:
    return "raised an exception" not in str(record.msg)
