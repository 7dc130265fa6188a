"""Sweep directories (``maskgit-sweep``, version 1): the scores of samples drawn with many settings.

``sweep.json`` is written first, again after every point, and last with ``complete`` true; a point that
has no scores in it has yet to be finished. Everything else in the directory follows from it.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskgit_cli.errors import ArtifactError, OutputError
from maskgit_cli.formats.atomic import (
    CREATED_BY,
    check_format,
    disk_errors,
    read_json,
    remove_leftovers_below,
    sha256_bytes,
    write_bytes,
    write_json,
)
from maskgit_cli.formats.samples import record_difference

SWEEP_FORMAT, SWEEP_VERSION = "maskgit-sweep", 1
RECORD_FILE, TABLE_FILE, REFERENCE_FILE = "sweep.json", "sweep.csv", "reference.npz"
POINTS, PLOTS = "points", "plots"
WHAT = "a sweep"
POINT_KEYS = {"name", "values", "sampler", "n", "metrics", "left_out", "seconds"}


def sweep_record(
    settings: Mapping[str, Any], points: Sequence[Mapping[str, Any]], parents: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    """What ``sweep.json`` holds before the first point is scored.

    Args:
        settings: all that the scores depend on besides the points, as JSON values.
        points: their names, swept values and resolved samplers.
        parents: models, and the reference if it is one file.
    """
    nothing = {"n": None, "metrics": None, "left_out": None, "seconds": None}
    return {
        "format": SWEEP_FORMAT,
        "version": SWEEP_VERSION,
        "created_by": CREATED_BY,
        "complete": False,
        "settings": dict(settings),
        "points": [{**point, **nothing} for point in points],
        "best": [],
        "warnings": [],
        "parents": [dict(parent) for parent in parents],
    }


def read_sweep(path: Path) -> dict[str, Any]:
    """The checked ``sweep.json`` of a sweep directory, finished or not.

    Raises:
        ArtifactError: it is missing, damaged, or of another format or version.
    """
    record = read_json(path / RECORD_FILE, WHAT)
    check_format(record, path, SWEEP_FORMAT, SWEEP_VERSION)
    kinds = {"settings": dict, "points": list, "best": list, "warnings": list, "parents": list}
    for key, kind in {**kinds, "complete": bool}.items():
        if not isinstance(record.get(key), kind):
            raise ArtifactError(f"{path / RECORD_FILE} is damaged: it has no {key}")
    if not isinstance(record["settings"].get("swept"), dict):
        raise ArtifactError(f"{path / RECORD_FILE} is damaged: it does not say what was swept")
    for point in record["points"]:
        if not (isinstance(point, dict) and point.keys() >= POINT_KEYS):
            raise ArtifactError(f"{path / RECORD_FILE} is damaged: a point lacks some of its keys")
    return record


def settle_sweep(path: Path, record: Mapping[str, Any], overwrite: bool) -> dict[str, Any]:
    """Make ``path`` the sweep that ``record`` begins, or find that one there that goes on.

    Args:
        path: the directory.
        record: from :func:`sweep_record`.
        overwrite: remove another sweep that is there, and a complete one.

    Returns:
        The record to go on from: ``record``, or the one that is there.

    Raises:
        OutputError: the place holds something else, or a sweep with other settings.
        ArtifactError: its ``sweep.json`` is damaged.
    """
    if not (path / RECORD_FILE).exists():
        if path.exists() and not (path.is_dir() and all(x.name.startswith(".") for x in path.iterdir())):
            raise OutputError(f"{path} exists and is not {WHAT}; choose another place with --out")
        write_json(path / RECORD_FILE, record)
        return dict(record)
    old = read_sweep(path)
    difference = record_difference(_identity(old), _identity(record))
    if overwrite and (difference or old["complete"]):
        _clear(path, old)
        write_json(path / RECORD_FILE, record)
        return dict(record)
    if difference:
        begun = "holds a sweep made" if old["complete"] else "was begun"
        raise OutputError(
            f"{path} {begun} with {difference}; use the same, another --out, or --overwrite to begin anew"
        )
    return old


def _identity(record: Mapping[str, Any]) -> dict[str, Any]:
    """What two sweeps must have in common to be one, as :func:`record_difference` takes it."""
    settings, swept = dict(record["settings"]), record["settings"]["swept"]
    settings["swept"] = {name: ",".join(map(str, map(_cell, values))) for name, values in swept.items()}
    resolved = json.dumps([[point["name"], point["sampler"]] for point in record["points"]], sort_keys=True)
    settings["points"] = sha256_bytes(resolved.encode())[:12]
    # Of several models, each counts.
    numbered = enumerate(record["parents"], start=1)
    parents = [{**parent, "kind": f"{parent['kind']} {i} {parent['name']}"} for i, parent in numbered]
    return {"settings": settings, "parents": parents}


def _clear(path: Path, old: Mapping[str, Any]) -> None:
    """Remove a sweep's files, and nothing that isn't ours; its record last."""
    write_json(path / RECORD_FILE, {**old, "complete": False})
    with disk_errors(path):
        for point in old["points"]:
            shutil.rmtree(path / POINTS / point["name"], ignore_errors=True)
        for file in (*(path / PLOTS).glob("*.png"), path / TABLE_FILE, path / REFERENCE_FILE):
            file.unlink(missing_ok=True)


def write_sweep(path: Path, record: Mapping[str, Any]) -> None:
    """Write ``sweep.json`` and the table that follows from it; a complete one leaves no temporary files.

    Raises:
        OutputError: the disk is full or not writable.
    """
    write_bytes(path / TABLE_FILE, sweep_table(record))
    if record["complete"]:
        remove_leftovers_below(path)
        if (path / POINTS).is_dir() and not any((path / POINTS).iterdir()):
            (path / POINTS).rmdir()
    write_json(path / RECORD_FILE, record)


def sweep_table(record: Mapping[str, Any]) -> bytes:
    """``sweep.csv``: a line a finished point, with its swept values, its scores and its seconds."""
    done = [point for point in record["points"] if point["metrics"] is not None]
    metrics = list(dict.fromkeys(name for point in done for name in point["metrics"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["point", *record["settings"]["swept"], "n", *metrics, "seconds"])
    for point in done:
        values = (_cell(value) for value in point["values"].values())
        scores = (point["metrics"].get(name, "") for name in metrics)
        writer.writerow([point["name"], *values, point["n"], *scores, f"{point['seconds']:.3f}"])
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    """A value as it stands in the table: an interval as it is typed."""
    return ":".join(f"{x:g}" for x in value) if isinstance(value, list | tuple) else value
