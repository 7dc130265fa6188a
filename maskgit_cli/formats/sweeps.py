"""Sweep directories (``maskgit-sweep``, version 2): scores of samples over combinations of settings.

``sweep.json`` is written first, after every point, and last with ``complete`` true; a point without scores
in it is still to be done. Everything else in the directory follows from it, but for the bootstrap replicates
of the scores, which are written before the point's scores.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from maskgit_cli.errors import ArtifactError, InputError
from maskgit_cli.formats.atomic import (
    CREATED_BY,
    check_format,
    read_json,
    remove_leftovers_below,
    sha256_bytes,
    write_bytes,
    write_json,
)
from maskgit_cli.formats.claim import Found, OutputKind, is_empty_folder, new_path
from maskgit_cli.formats.npz import NPZ_ERRORS, npz_names, read_array
from maskgit_cli.formats.records import Record

SWEEP_FORMAT, SWEEP_VERSION = "maskgit-sweep", 2
SWEEP_KEYS = {
    "complete": bool,
    "settings": dict,
    "points": list,
    "best": list,
    "warnings": list,
    "parents": list,
}
SWEEP_FILE, TABLE_FILE, REFERENCE_FILE = "sweep.json", "sweep.csv", "reference.npz"
POINTS, PLOTS, BOOTSTRAP = "points", "plots", "bootstrap"
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
    nothing = {"n": None, "metrics": None, "spread": None, "left_out": None, "seconds": None}
    return {
        "format": SWEEP_FORMAT,
        "version": SWEEP_VERSION,
        "created_by": CREATED_BY,
        "complete": False,
        "settings": dict(settings),
        "points": [{**point, **nothing} for point in points],
        "best": [],
        "warnings": [],
        "parents": [dict(source) for source in parents],
    }


def read_sweep(path: Path) -> dict[str, Any]:
    """The checked ``sweep.json`` of a sweep directory, finished or not.

    Raises:
        ArtifactError: it is missing, damaged, or of another format or version.
    """
    record = read_json(path / SWEEP_FILE, SWEEP.what)
    check_format(record, path, SWEEP_FORMAT, SWEEP_VERSION, SWEEP_KEYS)
    if not isinstance(record["settings"].get("swept"), dict):
        raise ArtifactError(f"{path / SWEEP_FILE} is damaged: it does not name the swept settings")
    for point in record["points"]:
        if not (isinstance(point, dict) and point.keys() >= POINT_KEYS):
            raise ArtifactError(f"{path / SWEEP_FILE} is damaged: a point has missing keys")
    return record


def _find(path: Path) -> Found | None:
    if not (path / SWEEP_FILE).exists():
        return None
    record = read_sweep(path)
    return Found(record, record["complete"])


def _start(path: Path, record: Record) -> None:
    write_json(path / SWEEP_FILE, record)


def _compared(record: Record) -> Record:
    """Settings with the swept values as they are typed, a digest of all points, and the parents."""
    settings, swept = dict(record["settings"]), record["settings"]["swept"]
    settings["swept"] = {name: ",".join(map(str, map(_cell, values))) for name, values in swept.items()}
    resolved = json.dumps([[point["name"], point["sampler"]] for point in record["points"]], sort_keys=True)
    settings["points"] = sha256_bytes(resolved.encode())[:12]
    return {"settings": settings, "parents": record["parents"]}


def _own(path: Path) -> Iterator[Path]:
    names = {point["name"] for point in read_sweep(path)["points"]} if (path / SWEEP_FILE).exists() else set()
    yield from (point for point in (path / POINTS).glob("*") if point.name in names)
    yield from (path / PLOTS).glob("*.png")
    yield from (file for file in map(partial(replicates_path, path), names) if file.exists())
    folders = (path / POINTS, path / PLOTS, path / BOOTSTRAP)
    yield from (folder for folder in folders if is_empty_folder(folder))
    yield from (path / TABLE_FILE, path / REFERENCE_FILE, path / SWEEP_FILE)


SWEEP = OutputKind("a sweep", _find, compared=_compared, start=_start, draft=new_path, own=_own, out="--out")


def write_sweep(path: Path, record: Mapping[str, Any]) -> None:
    """Write ``sweep.json`` and the table that follows from it; with a complete one, remove temporary files.

    Raises:
        OutputError: the disk is full or not writable.
    """
    write_bytes(path / TABLE_FILE, sweep_table(record))
    if record["complete"]:
        remove_leftovers_below(path)
        if (path / POINTS).is_dir() and not any((path / POINTS).iterdir()):
            (path / POINTS).rmdir()
    write_json(path / SWEEP_FILE, record)


def replicates_path(path: Path, point: str) -> Path:
    """The file of the bootstrap replicates of a point's scores."""
    return path / BOOTSTRAP / f"{point}.npz"


def write_replicates(path: Path, point: str, replicates: Mapping[str, np.ndarray]) -> None:
    """Write bootstrap replicates, float64 (B,), of a point's scores by their names, atomically.

    Raises:
        OutputError: the disk is full or not writable.
    """
    content, arrays = io.BytesIO(), cast("dict[str, Any]", dict(replicates))
    np.savez(content, **arrays)
    write_bytes(replicates_path(path, point), content.getvalue())


def read_replicates(path: Path, point: str) -> dict[str, np.ndarray]:
    """What :func:`write_replicates` wrote.

    Raises:
        ArtifactError: the file is damaged.
    """
    file = replicates_path(path, point)
    try:
        return {name: read_array(file, name) for name in sorted(npz_names(file))}
    except (InputError, *NPZ_ERRORS) as error:
        raise ArtifactError(f"{file} is damaged; remove it and run the same command again") from error


def sweep_table(record: Mapping[str, Any]) -> bytes:
    """``sweep.csv``: one line per finished point, with its swept values, its scores and its seconds."""
    done = [point for point in record["points"] if point["metrics"] is not None]
    metrics = list(dict.fromkeys(name for point in done for name in point["metrics"]))
    spread = list(dict.fromkeys(name for point in done for name in point.get("spread") or {}))
    bounds = [f"{name}_{end}" for name in spread for end in ("low", "high")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["point", *record["settings"]["swept"], "n", *metrics, *bounds, "seconds"])
    for point in done:
        values = (_cell(value) for value in point["values"].values())
        scores = (point["metrics"].get(name, "") for name in metrics)
        intervals = (end for name in spread for end in (point.get("spread") or {}).get(name, ("", "")))
        writer.writerow([point["name"], *values, point["n"], *scores, *intervals, f"{point['seconds']:.3f}"])
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    """A value as the table shows it: an interval as it is typed."""
    return ":".join(f"{x:g}" for x in value) if isinstance(value, list | tuple) else value
