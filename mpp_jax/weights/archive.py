"""Zip archives from anywhere: what they declare is bounded before anything is unpacked."""

import io
import zipfile
import zlib
from collections.abc import Callable

from mpp_jax.weights.source import WeightsError

MAX_ENTRIES = 20_000
# The formats store; tools that rewrite an archive deflate.
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def open_archive(
    data: bytes, budget: int, what: str
) -> tuple[dict[str, int], Callable[[str], bytes]]:
    """Return the sizes of an archive's entries by name, and a function that unpacks one of them.

    Args:
        data: the file.
        budget: bytes that all entries may take when unpacked.
        what: the format, for messages.

    Raises:
        WeightsError: damaged, or it declares more than the budget; the function raises it likewise.
    """
    try:
        # NotImplementedError is zipfile's word for versions and compressions that it does not know.
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError) as error:
        raise WeightsError(f"the {what} file is damaged: no readable zip archive") from error
    entries = {info.filename: info for info in archive.infolist()}
    if len(entries) != len(archive.infolist()):
        raise WeightsError(f"the {what} file is damaged: an entry occurs twice")
    if any(info.compress_type not in COMPRESSIONS for info in entries.values()):
        raise WeightsError(f"the {what} file is compressed in a way that {what} never uses")
    if len(entries) > MAX_ENTRIES or sum(info.file_size for info in entries.values()) > budget:
        raise WeightsError(f"the {what} file declares more data than any network needs")

    def read(name: str) -> bytes:
        if name not in entries:
            raise WeightsError(f"the {what} file is damaged: it has no entry {name!r}")
        try:
            with archive.open(entries[name]) as file:
                # One byte beyond what is declared is enough to catch a lie, and all that is read.
                raw = file.read(entries[name].file_size + 1)
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            ValueError,
            RuntimeError,
            NotImplementedError,
            OSError,
        ) as error:
            reason = str(error)[:100] or type(error).__name__
            raise WeightsError(f"the {what} file is damaged: entry {name!r}: {reason}") from error
        if len(raw) != entries[name].file_size:
            raise WeightsError(f"the {what} file is damaged: entry {name!r} has the wrong length")
        return raw

    return {name: info.file_size for name, info in entries.items()}, read
