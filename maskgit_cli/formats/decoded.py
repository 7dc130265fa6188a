"""Folders of decoded images (``maskgit-images``, version 1): PNGs of a token file, and their record.

``decoded.json`` is written first, with ``complete`` false, and last, with ``complete`` true. Each PNG is
written atomically, so that one that exists need not be decoded again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskgit_cli.formats.atomic import (
    CREATED_BY,
    check_format,
    disk_errors,
    read_json,
    remove_leftovers_below,
    write_json,
)
from maskgit_cli.formats.claim import Found, OutputKind, new_path
from maskgit_cli.formats.records import Record

DECODED_FORMAT, DECODED_VERSION = "maskgit-images", 2
DECODED_KEYS = {"complete": bool, "images": int, "settings": dict, "parents": list}
DECODED_FILE = "decoded.json"


def decoded_record(
    settings: Mapping[str, Any], parents: Sequence[Mapping[str, str]], images: int
) -> dict[str, Any]:
    """What ``decoded.json`` holds before the images are complete.

    Args:
        settings: as JSON values.
        parents: the token file and the tokenizer.
        images: number of images.
    """
    return {
        "format": DECODED_FORMAT,
        "version": DECODED_VERSION,
        "created_by": CREATED_BY,
        "complete": False,
        "images": images,
        "settings": dict(settings),
        "parents": [dict(source) for source in parents],
    }


def read_decoded(path: Path) -> dict[str, Any]:
    """The checked ``decoded.json`` of a folder of decoded images, finished or not.

    Raises:
        ArtifactError: it is missing, damaged, or of another format or version.
    """
    record = read_json(path / DECODED_FILE, DECODED.what)
    check_format(record, path, DECODED_FORMAT, DECODED_VERSION, DECODED_KEYS)
    return record


def _find(path: Path) -> Found | None:
    if not (path / DECODED_FILE).exists():
        return None
    record = read_decoded(path)
    return Found(record, record["complete"])


def _start(path: Path, record: Record) -> None:
    write_json(path / DECODED_FILE, record)


def _compared(record: Record) -> Record:
    return {key: record[key] for key in ("settings", "parents")}


def _own(path: Path) -> list[Path]:
    return [*path.glob("[0-9]*.png"), path / DECODED_FILE]


DECODED = OutputKind(
    "a folder of decoded images", _find, compared=_compared, start=_start, draft=new_path, own=_own
)


def finish_decoded(path: Path, record: Mapping[str, Any]) -> None:
    """Mark the images as complete, and remove temporary files of killed processes.

    Raises:
        OutputError: the disk is full or not writable.
    """
    with disk_errors(path):
        remove_leftovers_below(path)
    write_json(path / DECODED_FILE, {**record, "complete": True})
