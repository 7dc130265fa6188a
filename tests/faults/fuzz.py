"""Readers of damaged artifacts, many in one process, which the system ends if one of them does not return."""

import json
import os
import random
import shutil
import signal
from pathlib import Path
from typing import NamedTuple

from faults.artifacts import ARTIFACTS, Artifact, fingerprint
from faults.child import Call
from faults.mutate import mutated
from faults.processes import finish
from maskgit_cli import MaskGITError

SECONDS = 5


class Reading(NamedTuple):
    """What came of a damaged artifact.

    Attributes:
        seed: of the damage.
        outcome: ``same`` data, ``refused`` by one clear error, ``silent`` (other data), ``other`` (the same
            where there is no checksum), ``unforeseen`` (another exception), ``hang`` or ``crash``.
        damage: what was done, in words.
        detail: what the reader said.
    """

    seed: int
    outcome: str
    damage: str
    detail: str = ""


def read_all(name: str, workshop: Path, work: Path, seeds: list[int]) -> list[Reading]:
    """Read an artifact once for each seed, damaged in another way each time."""
    readings: list[Reading] = []
    while len(readings) < len(seeds):
        left = seeds[len(readings) :]
        report = work / "report"
        report.write_text("")
        words = (name, workshop, work, left, report)
        done = finish(Call(words, work, function=run, seconds=60 + SECONDS + 2 * len(left)))
        lines = [json.loads(line) for line in report.read_text().splitlines()]
        ended = [Reading(*line) for line in lines if len(line) == 4]
        readings += ended
        if len(ended) == len(left):
            break
        started = [line for line in lines if len(line) == 2]
        assert len(started) == len(ended) + 1, f"{name}: {done}"
        outcome = "hang" if done.status in (None, -signal.SIGALRM) else "crash"
        readings.append(
            Reading(*started[-1][:1], outcome, started[-1][1], f"status {done.status} {done.stderr[-300:]}")
        )
    return readings


def run(name: str, workshop: Path, work: Path, seeds: list[int], report: Path) -> None:
    """In a process of its own: damage, read, and write down what happened, seed by seed."""
    artifact = ARTIFACTS[name]
    # Not a handler of Python's: a loop in a C library would never come back to it.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    log = os.open(report, os.O_WRONLY | os.O_APPEND)
    good = work / "good"
    if not good.exists():
        copy(artifact, workshop, good)
    wanted = fingerprint(artifact.read(_fresh(good, work, -1)))
    for seed in seeds:
        folder = _fresh(good, work, seed)
        damage = _damage(name, artifact, folder, seed)
        os.write(log, json.dumps([seed, damage]).encode() + b"\n")
        signal.alarm(SECONDS)
        outcome, detail = _read(artifact, folder, wanted)
        signal.alarm(0)
        os.write(log, json.dumps([seed, outcome, damage, detail]).encode() + b"\n")
        shutil.rmtree(folder)


def copy(artifact: Artifact, workshop: Path, folder: Path) -> None:
    """Put an artifact, and what goes with it, into a folder."""
    folder.mkdir(parents=True)
    for source in artifact.source:
        path = workshop / source
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        else:
            shutil.copy(path, folder)


def _fresh(good: Path, work: Path, seed: int) -> Path:
    folder = work / f"case-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    return folder


def _damage(name: str, artifact: Artifact, folder: Path, seed: int) -> str:
    files = sorted({path for pattern in artifact.files for path in folder.glob(pattern)})
    path = random.Random(f"{name} {seed}").choice(files)
    data, damage = mutated(path.read_bytes(), f"{name} {seed} bytes")
    path.write_bytes(data)
    return f"{path.relative_to(folder)}: {damage}"


def _read(artifact: Artifact, folder: Path, wanted: str) -> tuple[str, str]:
    try:
        found = fingerprint(artifact.read(folder))
    except MaskGITError as error:
        return "refused", str(error)[:300]
    except Exception as error:
        return "unforeseen", f"{type(error).__name__}: {error}"[:300]
    if found == wanted:
        return "same", ""
    return "silent" if artifact.checked else "other", ""
