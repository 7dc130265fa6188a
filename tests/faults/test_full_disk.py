"""A disk that is full or fails: one line names the user's path, nothing is lost, and the rerun completes."""

import errno
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from faults.child import PLAIN, WRITES, Call, Fault
from faults.processes import Outcome, finish
from faults.stages import STAGES
from faults.undisturbed import Undisturbed
from faults.verdict import Finding, judge

REFUSALS, LIMITS, DISKS = 5, 2, 1
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)
# Names under which something is written before it has the user's.
TEMPORARY = re.compile(r"\.tmp\b|\.partial\b|\.incomplete\b|\.[0-9a-f]{12}\b")
BOTH = pytest.mark.parametrize("overwrite", [False, True], ids=["fresh", "overwrite"])
EACH = pytest.mark.parametrize("name", STAGES)


def said(done: Outcome, cwd: Path, undisturbed: Undisturbed, case: str) -> list[Finding]:
    """What is wrong with how a call ended that could not write."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    line = " ".join(lines)
    if done.status != 1:
        return [Finding("status", case, str(done))]
    if "--debug" in line or "Traceback" in line:
        return [Finding("unforeseen", case, str(done))]
    if len(lines) != 1:
        return [Finding("lines", case, str(done))]
    if TEMPORARY.search(line.replace(str(cwd), "")):
        return [Finding("temporary", case, line)]
    if not any(text in line for text in (undisturbed.stage.out, f"{cwd.name}-home")):
        return [Finding("unnamed", case, line)]
    return []


def refused(undisturbed: Undisturbed, cwd: Path, call: Call, overwrite: bool, case: str) -> list[Finding]:
    """Make a call that cannot write, then the same with all the space there is."""
    plain = {**call.environment, **PLAIN}
    done = finish(call.but(environment=plain))
    free = call.but(fault=None, file_size=None)
    if done.status == 0:  # what failed was not needed
        return undisturbed.result(cwd, case)
    return said(done, cwd, undisturbed, case) + undisturbed.check(cwd, free, overwrite, case)


@BOTH
@EACH
def test_an_operation_fails(name, overwrite, results, seeds, request):
    undisturbed, findings = results[name], []
    points = seeds.some(list(range(1, undisturbed.writes + 1)), REFUSALS)
    for number, at in enumerate(points):
        fault = Fault("refuse", at, argument=ERRORS[number % len(ERRORS)], operations=WRITES)
        with undisturbed.case(overwrite) as (cwd, call):
            findings += refused(undisturbed, cwd, call.but(fault=fault), overwrite, f"{name}, {fault}")
    judge(request, findings, len(points))


@BOTH
@EACH
def test_files_may_not_grow(name, overwrite, results, seeds, request):
    """RLIMIT_FSIZE, which the libraries below Python meet too."""
    undisturbed, findings, taken = results[name], [], seeds.take(LIMITS)
    for seed in taken:
        size = 1000 + int(random.Random(f"{name} {seed}").random() * (undisturbed.largest - 1000))
        with undisturbed.case(overwrite) as (cwd, call):
            case = f"{name}, seed {seed}: files of at most {size} of {undisturbed.largest} bytes"
            findings += refused(undisturbed, cwd, call.but(file_size=size), overwrite, case)
    judge(request, findings, len(taken))


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of so many bytes at ``folder``; grows when it is asked to."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("a file system cannot be mounted here: that takes Linux and the right to")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@BOTH
@EACH
def test_a_small_disk(name, overwrite, results, seeds, request, tmp_path):
    undisturbed, findings, taken = results[name], [], seeds.take(DISKS)
    files = [p for p in (undisturbed.new, *undisturbed.new.rglob("*")) if p.is_file()]
    needed = sum(4096 + file.stat().st_size for file in files)
    for seed in taken:
        size = int(random.Random(f"{name} {seed} disk").uniform(0.1, 0.9) * needed)
        case = f"{name}, seed {seed}: {size} of {needed} bytes free"
        disk = tmp_path / str(seed)
        with small_disk(disk, 2**28), undisturbed.case(overwrite) as (cwd, call):
            work = disk / cwd.name
            shutil.copytree(cwd, work)
            used = shutil.disk_usage(disk).used
            subprocess.run(["mount", "-o", f"remount,size={used + size}", str(disk)], check=True)
            done = finish(call.but(cwd=work, environment={**call.environment, **PLAIN}))
            if done.status != 0:
                findings += said(done, work, undisturbed, case) + undisturbed.cut_off(work, overwrite, case)
            subprocess.run(["mount", "-o", "remount,size=256m", str(disk)], check=True)
            if done.status != 0:
                findings += undisturbed.rerun(work, call.but(cwd=work), case)
    judge(request, findings, len(taken))
