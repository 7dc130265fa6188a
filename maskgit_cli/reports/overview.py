"""What ``maskgit`` alone shows: the newest tokens, run and samples of a folder, and the likely next command.

It reads names, times and a few small records, at most :data:`MOST_ENTRIES` of a folder, and checks nothing,
so that it answers at once wherever it is called; ``maskgit info`` checks an artifact.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from maskgit_cli.errors import counted
from maskgit_cli.formats.runs import CONFIG_FILE
from maskgit_cli.formats.samples import SCORES_FILE, SETTINGS_FILE
from maskgit_cli.formats.token_index import TOKENS_FORMAT

# Entries of a folder that are looked at, and bytes of a record or index that is read.
MOST_ENTRIES, MOST_BYTES = 2000, 1 << 20
PARTIAL = ".partial"
# What changes in a run: its record when it starts, the folder of its checkpoints with each of them.
RUN_FILES = (CONFIG_FILE, "checkpoints")

START = (
    ("maskgit tokenize imagenet/ tokens.h5", "images to tokens, once"),
    ("maskgit train tokens.h5", "a model of the tokens, in runs/"),
    ("maskgit sample", "images by the newest run, or by the built-in model"),
)
HELP = "maskgit --help lists the commands, maskgit COMMAND --help explains one, maskgit demo shows them all"


class Overview(NamedTuple):
    """What is in a folder.

    Attributes:
        found: the newest of a kind: its kind, its path, and facts about it.
        commands: what to call next, each with a word about it.
        cut: whether a folder has more entries than are looked at.
    """

    found: list[tuple[str, Path, str]]
    commands: list[tuple[str, str]]
    cut: bool


def overview(folder: Path = Path()) -> Overview:
    """The newest token file, run and sample directory of a folder, and the likely next command."""
    tokens, cut_tokens = _newest(folder, (".h5", ".h5" + PARTIAL), ())
    run, cut_runs = _newest(folder / "runs", (), RUN_FILES)
    samples, cut_samples = _newest(folder / "samples", (), (SETTINGS_FILE,))
    found = []
    if tokens is not None:
        found.append(("tokens", tokens, _tokens(tokens)))
    if run is not None:
        found.append(("run", run, _run(run)))
    if samples is not None:
        found.append(("samples", samples, _samples(samples)))
    commands = _next(tokens, run, samples) if found else list(START)
    return Overview(found, commands, cut_tokens or cut_runs or cut_samples)


def lines_of(overview: Overview) -> list[str]:
    """The overview as text."""
    width = max(len(command) for command, _ in overview.commands)
    lines = [f"{kind:<8} {path}  ({facts})" for kind, path, facts in overview.found]
    if overview.cut:
        lines.append(f"         of the first {MOST_ENTRIES:,} entries of a folder")
    lines += ["", "next:"] if overview.found else ["Nothing here yet. The way from images to new ones:"]
    lines += [f"  {command:<{width}}  {word}" for command, word in overview.commands]
    return [*lines, "", HELP]


def _newest(folder: Path, endings: tuple[str, ...], records: tuple[str, ...]) -> tuple[Path | None, bool]:
    """The newest of the files with an ending, or of the folders with a record; whether some were left out."""
    best: tuple[float, str] | None = None
    try:
        with os.scandir(folder) as entries:
            seen = list(islice(entries, MOST_ENTRIES + 1))
    except OSError:
        return None, False
    for entry in seen[:MOST_ENTRIES]:
        if entry.name.startswith(".") or (endings and not entry.name.endswith(endings)):
            continue
        path = folder / entry.name
        changed = max(_time(path / name) for name in records) if records else _time(path)
        if changed and (records or entry.is_file()):
            best = max(best, (changed, entry.name)) if best else (changed, entry.name)
    return folder / best[1] if best else None, len(seen) > MOST_ENTRIES


# --- facts ------------------------------------------------------------------------------------------


def _record(path: Path) -> dict[str, Any]:
    """A JSON object; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _value(record: dict[str, Any], *keys: str) -> Any:
    """A value of nested objects; None if it is not there."""
    value: Any = record
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _age(path: Path) -> str:
    """How long ago a file was changed."""
    try:
        seconds = max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return "just now"
    for unit, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= unit:
            count = int(seconds // unit)
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"


def _facts(*facts: str | None) -> str:
    return ", ".join(fact for fact in facts if fact)


def _tokens(path: Path) -> str:
    if path.name.endswith(PARTIAL):
        return _facts("unfinished", _age(path))
    index: dict[str, Any] = {}
    try:
        with path.open("rb") as file:
            name, _, length, _ = file.readline(200).split()
            if name.decode() == TOKENS_FORMAT:
                index = json.loads(file.read(min(int(length), MOST_BYTES)))
    except (OSError, ValueError, RecursionError):
        return _facts("not read", _age(path))
    images, side = _value(index, "datasets", "codes", "shape"), _value(index, "attributes", "resolution")
    count = (
        counted(images[0], "image")
        if isinstance(images, list) and images and isinstance(images[0], int)
        else None
    )
    return _facts(count, f"{side} px" if isinstance(side, int) else None, _age(path))


def _steps(run: Path) -> tuple[int, int | None]:
    """Steps of the newest checkpoint, and in all if they are known."""
    found = [0]
    try:
        with os.scandir(run / "checkpoints") as entries:
            names = [entry.name for entry in islice(entries, MOST_ENTRIES)]
    except OSError:
        names = []
    found += [int(name[5:]) for name in names if name.startswith("step-") and name[5:].isdecimal()]
    total = _value(_record(run / CONFIG_FILE), "settings", "steps")
    return max(found), total if isinstance(total, int) else None


def _run(path: Path) -> str:
    done, total = _steps(path)
    return _facts(f"step {done:,}" + (f" of {total:,}" if total else ""), _age(path / CONFIG_FILE))


def _samples(path: Path) -> str:
    record = _record(path / SETTINGS_FILE)
    images = record.get("images")
    scores = _value(_record(path / SCORES_FILE), "metrics")
    first = next(iter(scores.items()), None) if isinstance(scores, dict) else None
    scored = f"{first[0]} {first[1]:.4g}" if first and isinstance(first[1], int | float) else None
    return _facts(
        counted(images, "image") if isinstance(images, int) else None,
        None if record.get("complete") is True else "unfinished",
        scored,
        _age(path / SETTINGS_FILE),
    )


# --- the next command -------------------------------------------------------------------------------


def _next(tokens: Path | None, run: Path | None, samples: Path | None) -> list[tuple[str, str]]:
    """The likely next command, by what is there."""
    if samples is not None and (run is None or _time(samples / SETTINGS_FILE) >= _run_time(run)):
        name = shlex.quote(str(samples))
        if _record(samples / SETTINGS_FILE).get("complete") is not True:
            return [("maskgit sample", "with the same options: resumes the unfinished samples")]
        if _record(samples / SETTINGS_FILE).get("stage") == "inpaint":
            return [(f"maskgit info {name}", "how they were made; the images are in its folder images/")]
        if not (samples / SCORES_FILE).exists():
            return [
                (f"maskgit fid {name} --ref IMAGES", "how far they are from real images"),
                (f"maskgit info {name}", "their settings"),
            ]
        model = shlex.quote(str(run)) if run is not None else "builtin"
        return [(f"maskgit sweep {model} --cfg 0:6:1 --ref IMAGES", "the settings with the best scores")]
    if run is not None and (tokens is None or _steps(run)[0] > 0 or _run_time(run) >= _time(tokens)):
        done, total = _steps(run)
        if done and (total is None or done >= total):
            return [(f"maskgit sample {shlex.quote(str(run))}", "images by the run")]
        resume = ("maskgit train TOKENS.h5", "with the same options: resumes the run")
        return [resume, *([(f"maskgit sample {shlex.quote(str(run))}", "images so far")] if done else [])]
    assert tokens is not None
    if tokens.name.endswith(PARTIAL):
        finished = shlex.quote(str(tokens)[: -len(PARTIAL)])
        return [(f"maskgit tokenize IMAGES {finished}", "with the same options: resumes the token file")]
    return [(f"maskgit train {shlex.quote(str(tokens))}", "a model of the tokens, in runs/")]


def _run_time(run: Path) -> float:
    return max(_time(run / name) for name in RUN_FILES)


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
