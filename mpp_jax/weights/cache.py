"""The cache folder: downloads that resume, are verified by digest, and replace nothing good.

A download is written to ``FILE.part`` beside its destination and moved there in one step, after
its digest was found right. An interrupted one leaves its part, which the next call continues.
"""

import contextlib
import http.client
import os
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from mpp_jax.files import (
    CACHE_VARIABLE,
    cache_folder,
    file_digest,
    full_disk_named,
    is_full,
    is_open_file,
    try_lock,
)
from mpp_jax.nets.weight_files import WeightPlace
from mpp_jax.weights.source import WeightsError

MAX_DOWNLOAD_BYTES = 2 << 30
BLOCK = 1 << 16
USER_AGENT = "mpp-jax"


def cached_path(place: WeightPlace, folder: Path | None = None) -> Path:
    """Return where the file of a place is kept, whether or not it is there."""
    return (cache_folder() if folder is None else folder) / place.filename


def matches(path: Path, place: WeightPlace) -> bool:
    """Return whether a file is there and has the place's digest."""
    return os.path.isfile(path) and file_digest(path, place.algorithm).startswith(place.digest)


def fetch(
    place: WeightPlace,
    *,
    folder: Path | None = None,
    progress: bool = True,
    timeout: float = 20.0,
) -> Path:
    """Return the verified local file of a place, downloaded where it is not there yet.

    Args:
        place: which file.
        folder: cache folder; None: `cache_folder`.
        progress: show a bar on standard error.
        timeout: seconds without an answer after which a mirror is given up.

    Returns:
        Its path.

    Raises:
        WeightsError: no mirror gave the right file; what was there before is untouched.
        OSError: the disk is full; what was had of the file is kept.
    """
    target = cached_path(place, folder)
    failures = []
    try:
        if matches(target, place):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with full_disk_named(target.parent), _part_file(target) as part:
            for url in place.urls:
                try:
                    _download(url, part, place, progress, timeout)
                except (OSError, http.client.HTTPException, WeightsError) as error:
                    if is_full(error):
                        raise
                    failures.append(f"{url}: {_reason(error)}")
                else:
                    os.replace(part, target)
                    return target
    except OSError as error:
        if is_full(error):
            raise
        raise WeightsError(
            f"cannot write to the cache folder {target.parent}: {_reason(error)}; "
            f"set {CACHE_VARIABLE} to another"
        ) from error
    raise WeightsError(
        f"could not download {place.filename} ({'; '.join(failures)}). Without a network: get the "
        f"file elsewhere, then give its path as the weights, or put it at {target}"
    )


@contextlib.contextmanager
def _part_file(target: Path) -> Iterator[Path]:
    """Give a path to download to; one of its own where somebody else holds the usual one."""
    part = target.with_name(target.name + ".part")
    with part.open("ab") as handle:
        # Whoever held it may have moved the file to its destination since it was opened here.
        if try_lock(handle.fileno()) and is_open_file(handle.fileno(), part):
            try:
                yield part
            finally:
                if is_open_file(handle.fileno(), part) and part.stat().st_size == 0:
                    part.unlink()
            return
    with tempfile.TemporaryDirectory(prefix=target.name + ".", dir=target.parent) as own:
        yield Path(own) / part.name


def _download(url: str, part: Path, place: WeightPlace, progress: bool, timeout: float) -> None:
    """Complete a part from a url; a continued one that turns out wrong is begun anew."""
    if not url.startswith(("http://", "https://")):
        raise WeightsError("only http and https addresses are taken")
    resumed = part.exists() and part.stat().st_size > 0
    _transfer(url, part, place, progress, timeout)
    if matches(part, place):
        return
    if resumed:
        _truncate(part)
        _transfer(url, part, place, progress, timeout)
        if matches(part, place):
            return
    got = file_digest(part, place.algorithm)
    _truncate(part)
    raise WeightsError(f"{place.algorithm} is {got}, wanted {place.digest}")


def _transfer(url: str, part: Path, place: WeightPlace, progress: bool, timeout: float) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": USER_AGENT})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing beyond what is here: let the digest decide
            return
        raise
    with response, part.open("ab") as file:
        start, total = _extent(response, have)
        if start == 0:
            file.truncate(0)
        elif start != have:
            raise WeightsError(f"the server continues at byte {start}, not {have}")
        bar = tqdm(
            desc=place.filename,
            initial=start,
            total=total,
            unit="B",
            unit_scale=True,
            disable=not progress,
        )
        with bar:
            done = start
            while block := response.read(BLOCK):
                done += len(block)
                if done > MAX_DOWNLOAD_BYTES:
                    raise WeightsError(f"more than {MAX_DOWNLOAD_BYTES} bytes came")
                file.write(block)
                bar.update(len(block))
    if total is not None and done < total:
        raise WeightsError(f"the connection ended after {done} of {total} bytes")


def _extent(response: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """Return the first byte that the answer holds, and the whole file's size where it is told."""
    length = response.headers.get("Content-Length", "")
    size = int(length) if length.isdigit() else None
    if response.status != 206:
        return 0, size
    told = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    start = int(told.group(1)) if told else have
    return start, None if size is None else start + size


def _truncate(part: Path) -> None:
    with part.open("wb"):
        pass


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}"
    if isinstance(error, urllib.error.URLError):
        return _reason(error.reason) if isinstance(error.reason, OSError) else str(error.reason)
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return str(error) or type(error).__name__
