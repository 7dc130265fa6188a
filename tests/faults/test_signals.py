"""Asked to end: status 130, one line, and an equal rerun. Output that goes nowhere harms no result."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from faults.child import PLAIN, Call, Fault
from faults.processes import Outcome, finish, start
from faults.stages import STAGES, contents, difference
from faults.undisturbed import Undisturbed
from faults.verdict import Finding, judge

SIGNALS = {"INT": signal.SIGINT, "TERM": signal.SIGTERM, "HUP": signal.SIGHUP}
POINTS, MOMENTS, INTERRUPTED = 3, 2, 130


def said(done: Outcome, case: str) -> list[Finding]:
    """What is wrong with how a call ended that was asked to."""
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith("warning: ")]
    if done.status == 0:  # it came too late
        return []
    if done.status != INTERRUPTED:
        return [Finding("status", case, str(done))]
    return [] if len(lines) == 1 and "interrupted" in lines[0] else [Finding("lines", case, str(done))]


def after(undisturbed: Undisturbed, cwd: Path, call: Call, case: str) -> list[Finding]:
    """What is wrong afterwards. A training has a checkpoint of where it was stopped in place of another."""
    earlier = {"train": "checkpoints/step-0000000[123]*", "train-vqgan": "checkpoints/step-00000001*"}
    return undisturbed.check(cwd, call, False, case, but=earlier.get(undisturbed.stage.name, ""))


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("name", STAGES)
def test_a_signal_at_a_change_of_the_disk(name, number, results, seeds, request):
    undisturbed, findings = results[name], []
    points = seeds.some(list(range(1, undisturbed.operations + 1)), POINTS)
    for at in points:
        fault = Fault("signal", at, argument=SIGNALS[number])
        with undisturbed.case() as (cwd, call):
            done = finish(call.but(fault=fault, environment={**call.environment, **PLAIN}))
            findings += said(done, f"{name}, SIG{number}, {fault}")
            findings += after(undisturbed, cwd, call, f"{name}, SIG{number}, {fault}")
    judge(request, findings, len(points))


@pytest.mark.parametrize("name", STAGES)
def test_a_signal_at_a_random_moment(name, results, seeds, request):
    undisturbed, findings, taken = results[name], [], seeds.take(MOMENTS)
    for seed in taken:
        source = random.Random(f"{name} {seed} signal")
        number, moment = source.choice(list(SIGNALS)), source.random() * undisturbed.seconds
        case = f"{name}, seed {seed}: SIG{number} at {moment:.3f} s"
        with undisturbed.case() as (cwd, call):
            process = start(call.but(environment={**call.environment, **PLAIN}))
            time.sleep(0.05 + moment)  # Python's handlers are in place
            process.kill(SIGNALS[number])
            findings += said(process.wait(), case) + after(undisturbed, cwd, call, case)
    judge(request, findings, len(taken))


# --- where output goes ------------------------------------------------------------------------------

STREAMS = {
    "stdout-full": ("> /dev/full", {1}),
    "stdout-closed": (">&-", {0, 1}),
    "stderr-full": ("2> /dev/full", {0, 1}),
    "stderr-closed": ("2>&-", {0, 1}),
    "pipe-closed": ("| true", {0}),
}
LINES = {"list": "pull --list", "export": "export @run out --quiet"}


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("name", LINES)
def test_output_that_goes_nowhere(name, stream, place, results, tmp_path, request):
    """With the interpreter as users start it, since it writes at its end too."""
    redirection, statuses = STREAMS[stream]
    words = LINES[name].replace("@", f"{place.workshop}/")
    line = f'"{sys.executable}" -m maskgit_cli {words} {redirection}'
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "MASKGIT_OFFLINE": "1"}
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=tmp_path,
        env={**os.environ, **PLAIN, **paths},
        capture_output=True,
        text=True,
    )
    findings = []
    if done.returncode not in statuses:
        findings.append(Finding("status", line, f"{done.returncode}: {done.stderr[-400:]}"))
    noise = [line for line in done.stderr.splitlines() if not line.startswith("maskgit: ")]
    if (
        "Traceback" in done.stderr
        or "Exception ignored" in done.stderr
        or (done.returncode and len(noise) > 1)
    ):
        findings.append(Finding("lines", line, done.stderr[-600:]))
    with contextlib.suppress(FileNotFoundError):
        if name == "export" and (left := difference(contents(tmp_path / "out"), results["export"].new_tree)):
            findings.append(Finding("differs", line, left))
    judge(request, findings)
