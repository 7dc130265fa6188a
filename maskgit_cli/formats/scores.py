"""``scores.json``: scores of samples against a reference, and their settings and parents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskgit_cli.formats.atomic import check_format, read_json, write_json
from maskgit_cli.formats.claim import Found, OutputKind
from maskgit_cli.formats.records import Record

SCORES_FORMAT, SCORES_VERSION = "maskgit-scores", 3
SCORES_KEYS = {"features": dict, "metrics": dict, "settings": dict, "warnings": list, "parents": list}


def write_scores(path: Path, record: Mapping[str, Any]) -> None:
    """Write a scores file atomically.

    Raises:
        OutputError: the file system refuses.
    """
    write_json(path, record)


def read_scores(path: Path) -> dict[str, Any]:
    """Read and check a scores file.

    Raises:
        ArtifactError: it is missing, damaged, or of another format or version.
    """
    record = read_json(path, "scores")
    check_format(record, path, SCORES_FORMAT, SCORES_VERSION, SCORES_KEYS)
    return record


def _find(path: Path) -> Found:
    return Found(read_scores(path), True)


def _compared(record: Record) -> Record:
    """What scores depend on; the rest of a record is the result."""
    return {key: record.get(key) for key in ("settings", "parents", "features", "protocol", "resolution")}


SCORES = OutputKind("a scores file", _find, compared=_compared, folder=False, out="--out", suffix=".json")
