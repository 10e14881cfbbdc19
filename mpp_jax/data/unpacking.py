"""Archives of other people, unpacked: whole or not at all, and nothing outside the folder."""

import lzma
import tarfile
import zipfile
import zlib
from pathlib import Path

from mpp_jax.data.dataset import DataError

_BLOCK = 512  # of a tar file; one of zeros ends it
_PIECE = 2**20


def unpack(file: Path, folder: Path) -> None:
    """Unpack a tar file (plain, gzip, bzip2 or xz) or a zip file; its content tells which.

    Args:
        file: the archive.
        folder: where to; what other archives left there stays.

    Raises:
        DataError: no archive, a damaged or truncated one, or one that would write elsewhere.
        OSError: it cannot be read, or the folder not be written.
    """
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                archive.extractall(folder)
            return
        with tarfile.open(file) as tar:
            tar.extractall(folder, filter="data")
            _check_end(tar)
    except tarfile.FilterError as error:
        raise DataError(f"{file}: holds what does not belong into a folder ({error})") from error
    except tarfile.ReadError as error:
        if "not a" in str(error) or "could not be opened" in str(error):
            raise DataError(f"{file}: neither a tar nor a zip file, or cut short") from error
        raise _damaged(file, error) from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise _damaged(file, error) from error
    except (EOFError, RuntimeError) as error:  # cut short; a zip file with a password or the like
        raise _damaged(file, error) from error
    except OSError as error:
        if error.errno is not None:
            raise  # the system's word
        raise _damaged(file, error) from error


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise where a tar file stops without saying that it ends, or its compression does.

    `tarfile` takes a header that is cut short, or none, for the end.
    """
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    last = tar.fileobj.read(_BLOCK)
    if len(last) < _BLOCK or any(last):
        raise EOFError(f"it stops at byte {tar.offset:,} without an end")
    while tar.fileobj.read(_PIECE):  # the checksum of a compressed stream stands at its end
        pass


def _damaged(file: Path, error: Exception) -> DataError:
    what = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{file}: truncated or damaged archive ({what}); get it again")
