"""Files whose size is known from the start and that are filled in place, in any order."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def reserve(path: Path) -> None:
    """Have the file system set the blocks of a whole file aside, so that a full disk shows at once.

    Raises:
        OSError: there is no space for them.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    file = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(file, 0, os.fstat(file).st_size)
    except OSError as error:
        # Some file systems cannot; then a full disk shows when the file is filled.
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
    finally:
        os.close(file)


def check_space(path: Path, size: int) -> None:
    """Find out whether a file of ``size`` bytes fits, before a library begins one and fails badly.

    The space is set aside and given back at once; what others write meanwhile is not our knowledge.

    Raises:
        OSError: there is no space.
    """
    try:
        with open(path, "wb") as file:
            file.truncate(size)
        reserve(path)
    finally:
        path.unlink(missing_ok=True)


def write_at(file: int, data: bytes, offset: int) -> None:
    """Write all of ``data`` at a place of an open file, whatever the system takes at a time.

    Unlike a memory map, which ends the process when the disk is full, this raises an error.

    Raises:
        OSError: the disk is full.
    """
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written
