"""Picture folders (``maskgit-images``, version 1): PNGs decoded from a token file, and which one that was.

``decoded.json`` stands beside the PNGs. It is written first, with ``complete`` false, and last, with
``complete`` true; each PNG is written whole, so that what is there need not be decoded again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskgit_cli.errors import OutputError
from maskgit_cli.formats.atomic import CREATED_BY, check_format, disk_errors, read_json, write_json
from maskgit_cli.formats.samples import record_difference

PICTURES_FORMAT, PICTURES_VERSION = "maskgit-images", 1
RECORD_FILE = "decoded.json"
WHAT = "a folder of decoded pictures"


def pictures_record(
    settings: Mapping[str, Any], parents: Sequence[Mapping[str, str]], images: int
) -> dict[str, Any]:
    """What ``decoded.json`` holds before the pictures are complete.

    Args:
        settings: as JSON values.
        parents: the token file and the tokenizer.
        images: number of pictures.
    """
    return {
        "format": PICTURES_FORMAT,
        "version": PICTURES_VERSION,
        "created_by": CREATED_BY,
        "complete": False,
        "images": images,
        "settings": dict(settings),
        "parents": [dict(parent) for parent in parents],
    }


def settle_pictures(path: Path, record: Mapping[str, Any], overwrite: bool) -> bool:
    """Make ``path`` the folder that ``record`` describes, or find that it is that already.

    Args:
        path: the folder.
        record: from :func:`pictures_record`.
        overwrite: remove other decoded pictures that are there, and complete ones.

    Returns:
        True if the pictures are there, complete.

    Raises:
        OutputError: the place holds something else, or pictures of other codes.
        ArtifactError: its ``decoded.json`` is damaged.
    """
    file = path / RECORD_FILE
    if not file.exists():
        if path.exists() and not (path.is_dir() and all(x.name.startswith(".") for x in path.iterdir())):
            raise OutputError(f"{path} exists and is not {WHAT}; choose another place")
        write_json(file, record)
        return False
    old = read_json(file, WHAT)
    check_format(old, path, PICTURES_FORMAT, PICTURES_VERSION)
    difference = record_difference(old, record)
    complete = old.get("complete") is True
    if overwrite and (difference or complete):
        write_json(file, {**old, "complete": False})
        _remove(path, "[0-9]*.png")
        write_json(file, record)
        return False
    if difference:
        raise OutputError(
            f"{path} holds pictures decoded with {difference}; choose another place, or pass --overwrite"
        )
    return complete


def finish_pictures(path: Path, record: Mapping[str, Any]) -> None:
    """Say that all pictures are there, and remove what killed processes left.

    Raises:
        OutputError: the disk is full or not writable.
    """
    _remove(path, ".*.tmp")
    write_json(path / RECORD_FILE, {**record, "complete": True})


def _remove(path: Path, pattern: str) -> None:
    with disk_errors(path):
        for file in path.glob(pattern):
            file.unlink()
