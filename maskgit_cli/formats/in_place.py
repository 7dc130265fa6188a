"""Files of known size that are filled in place, in any order."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def reserve(path: Path) -> None:
    """Allocate the disk blocks of a whole file, so that a full disk shows at once.

    Raises:
        OSError: the disk is full.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    file = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(file, 0, os.fstat(file).st_size)
    except OSError as error:
        # Some file systems cannot; a full disk then shows when the file is filled.
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
    finally:
        os.close(file)


def check_space(path: Path, size: int) -> None:
    """Check that a file of ``size`` bytes fits, for a library that fails badly on a full disk.

    The space is allocated and freed at once; another process may take it meanwhile.

    Raises:
        OSError: the disk is full.
    """
    try:
        with open(path, "wb") as file:
            file.truncate(size)
        reserve(path)
    finally:
        path.unlink(missing_ok=True)


def write_at(file: int, data: bytes, offset: int) -> None:
    """Write all of ``data`` at an offset of an open file, in as many calls as the system needs.

    Unlike a memory map, which ends the process on a full disk, this raises an error.

    Raises:
        OSError: the disk is full.
    """
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written
