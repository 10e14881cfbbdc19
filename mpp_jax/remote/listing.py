"""What lies at addresses: all files below a folder, or those that fit a pattern.

fsspec skips, file system by file system, folders that cannot be listed: a class or a shard would be
missing without a word. Here they are tried again, and then raise.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from mpp_jax.remote.addresses import Entry, entry_of, filesystem, is_address, patiently

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


def listing(folder: str) -> dict[str, Entry]:
    """Return every file below a folder by relative name; nothing where there is no such folder.

    Raises:
        RemoteError: it cannot be listed.
    """
    fs, path = filesystem(folder)
    root = path.rstrip("/") + "/"
    # Pages of web servers link to themselves in other orders, ?C=N;O=D.
    linked = "?" if root.lower().startswith(("http://", "https://")) else None
    try:
        found = (
            _walked(folder, fs, path) if _walks(fs) else patiently(folder, partial(_find, fs, path))
        )
    except FileNotFoundError:
        return {}
    return {
        name.removeprefix(root): entry_of(info)
        for name, info in sorted(found.items())
        if name.startswith(root) and not name.endswith("/") and not (linked and linked in name)
    }


def _find(fs: "AbstractFileSystem", path: str) -> dict[str, Any]:
    fs.invalidate_cache()
    found: dict[str, Any] = fs.find(path, detail=True)
    return found


def _walks(fs: "AbstractFileSystem") -> bool:
    """Return whether fsspec would find files folder by folder: it skips those that fail."""
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    if isinstance(fs, AsyncFileSystem):
        return type(fs)._find is AsyncFileSystem._find
    return type(fs).find is AbstractFileSystem.find


def _walked(
    address: str,
    fs: "AbstractFileSystem",
    path: str,
    enters: Callable[[str], bool] = lambda folder: True,
) -> dict[str, Any]:
    """Return what is known of every file below a path, by name; ``enters`` says in which folders.

    Raises:
        FileNotFoundError: there is no such folder.
        RemoteError: it, or a folder below, cannot be listed.
    """
    fs.invalidate_cache()
    found: dict[str, Any] = {}
    folders = [path.rstrip("/")]
    while folders:
        folder = folders.pop()
        try:
            entries = patiently(address, partial(fs.ls, folder, detail=True))
        except FileNotFoundError:
            if folder == path.rstrip("/"):
                raise
            continue  # it went meanwhile
        for info in entries:
            name = info["name"].rstrip("/")
            if info["type"] != "directory":
                found[info["name"]] = info
            elif name.startswith(f"{folder}/") and enters(name):
                folders.append(name)
    return found


def matching(pattern: str) -> list[str]:
    """Return the addresses (or local paths) that fit a glob pattern, sorted.

    Raises:
        RemoteError: they cannot be listed.
    """
    fs, path = filesystem(pattern)

    def ask() -> list[str]:
        fs.invalidate_cache()
        return sorted(fs.glob(path))

    if is_address(pattern) and _walks(fs):
        found = _globbed(pattern, fs, path)
    else:
        found = patiently(pattern, ask)
    return [fs.unstrip_protocol(name) if is_address(pattern) else name for name in found]


def _globbed(address: str, fs: "AbstractFileSystem", path: str) -> list[str]:
    """Return the files that fit a pattern, sorted, by looking into all folders that may hold some.

    Raises:
        RemoteError: one of these cannot be listed.
    """
    from fsspec.utils import glob_translate

    parts = path.split("/")
    magic = next(k for k, part in enumerate(parts) if re.search(r"[*\[]", part))

    def fits(name: str, count: int) -> bool:
        # As in fsspec a question mark is one: addresses have queries.
        wanted = "[?]".join("/".join(parts[:count]).split("?"))
        return re.match(glob_translate(wanted), name) is not None

    def enters(folder: str) -> bool:
        depth = folder.count("/") + 1
        return "**" in path or (depth < len(parts) and fits(folder, depth))

    try:
        found = _walked(address, fs, "/".join(parts[:magic]), enters)
    except FileNotFoundError:
        return []
    return sorted(name for name in found if fits(name, len(parts)))
