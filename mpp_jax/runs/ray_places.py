"""What all machines of a cluster must have in common, checked before they work: places of data.

A picture that one worker cannot read would be skipped there, and with it thousands. So whoever
begins looks for the folders and tars that are there on the machine of the command, and asks each
server once; what is missing is refused in one line.
"""

import itertools
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from mpp_jax.data import Item
from mpp_jax.data.content import FarPicture
from mpp_jax.files import without_secrets
from mpp_jax.remote.addresses import entry, is_address

MOST = 1000
"""Places that are looked for, each once a worker."""


class Places(NamedTuple):
    """What a worker must have.

    Attributes:
        seen: folders and files, by whole paths.
        reached: an address at each server that pictures come from.
    """

    seen: tuple[Path, ...] = ()
    reached: tuple[str, ...] = ()


def places_of(items: Iterable[Item]) -> Places:
    """Return where pictures are: their folders, or the tars that they are in, and their servers.

    Places that are not there now are left out: their pictures would be skipped here as well.
    """
    folders: dict[Path, None] = {}
    servers: dict[str, FarPicture] = {}
    for item in items:
        if item.path is not None:
            folders[item.path.absolute().parent] = None
        elif isinstance(item.read, FarPicture):
            address = item.read.address
            if is_address(address):
                parts = urlsplit(address)
                servers.setdefault(f"{parts.scheme}://{parts.netloc}", item.read)
            else:
                folders[Path(address).absolute()] = None
    there = itertools.islice((place for place in folders if place.exists()), MOST)
    return Places(tuple(there), tuple(itertools.islice(_answering(servers.values()), MOST)))


def _answering(pictures: Iterable[FarPicture]) -> Iterator[str]:
    for picture in pictures:
        if picture.size is None:  # neither a listing nor a tar has told of it
            try:
                entry(picture.address)
            except OSError:
                continue
        yield picture.address


def check_places(places: Places) -> None:
    """Raise unless all places can be had from this machine.

    Raises:
        ValueError: one that cannot.
    """
    for place in places.seen:
        check_seen(place)
    for address in places.reached:
        try:
            entry(address)
        except OSError as error:  # `RemoteError` is one
            name = without_secrets(address)
            why = str(error).removeprefix(f"{name}: ") or "no such file"
            raise ValueError(
                f"{here()} cannot read {name} ({why}); give every machine of the cluster what this "
                "one reads it with: packages, network, credentials and settings of fsspec, in the "
                "environment or home folder of its Ray"
            ) from error


def check_seen(place: Path) -> None:
    """Raise unless a file or folder is there.

    Raises:
        ValueError: it is not.
    """
    if not place.exists():
        raise ValueError(
            f"{here()} does not see {place}; pictures, output and cache must lie in folders that "
            "all machines of the cluster share, or at addresses (but for the cache)"
        )


def here() -> str:
    """Return who is speaking."""
    return f"the worker on {socket.gethostname()}"
