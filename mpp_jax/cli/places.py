"""Folders that the user names by path or address: copied here before the work, sent after it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click

from mpp_jax.remote.addresses import is_address

WRITTEN = "out"
"""The option that names what is written; all others are read."""


class Address(str):
    """A folder at an address, not copied yet."""


class PlaceType(click.ParamType):
    """A path, or an address where a command can do with one."""

    name = "path"

    def __init__(self, addresses: bool) -> None:
        """Take addresses or not."""
        self.addresses = addresses

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> Path | Address:
        """Return a `Path` or an `Address`."""
        if isinstance(value, Path | Address) or not is_address(value):
            return value if isinstance(value, Address) else Path(value)
        if not self.addresses:
            self.fail(f"{value}: must be on this machine; give a path", parameter, context)
        return Address(value)


PATH = PlaceType(addresses=False)
"""A file or folder on this machine."""
PLACE = PlaceType(addresses=True)
"""A folder here or at an address."""


@contextmanager
def at_hand(options: dict[str, Any]) -> Iterator[None]:
    """Put local copies in the place of the addresses among options; send what is written to one.

    Raises:
        RemoteError: nothing is there, or it cannot be copied or sent.
        BusyError: another job on this machine is writing there.
    """
    with ExitStack() as stack:
        for name, value in options.items():
            if isinstance(value, tuple):
                options[name] = tuple(_copied(one, name, stack) for one in value)
            else:
                options[name] = _copied(value, name, stack)
        yield


def _copied(value: Any, name: str, stack: ExitStack) -> Any:
    if not isinstance(value, Address):
        return value
    from mpp_jax.remote.mirror import Mirror

    mirror = Mirror(value)
    return stack.enter_context(mirror.written()) if name == WRITTEN else mirror.fetched()
