"""A process killed at any moment: no half result passes for a whole one, none is lost, the rerun is equal."""

import random
import signal

import pytest

from faults.child import Fault
from faults.processes import finish, start
from faults.stages import STAGES
from faults.verdict import Finding, judge

POINTS, OVERWRITES, MOMENTS = 9, 6, 2


def kill_points(operations: int) -> list[Fault]:
    """Before and after each of so many changes of the disk."""
    return [Fault("kill", at, after) for at in range(1, operations + 1) for after in (False, True)]


@pytest.mark.parametrize("overwrite", [False, True], ids=["fresh", "overwrite"])
@pytest.mark.parametrize("name", STAGES)
def test_killed_at_a_change_of_the_disk(name, overwrite, results, seeds, request):
    undisturbed, findings = results[name], []
    points = seeds.some(kill_points(undisturbed.operations), OVERWRITES if overwrite else POINTS)
    for fault in points:
        with undisturbed.case(overwrite) as (cwd, call):
            done = finish(call.but(fault=fault))
            if done.status != -signal.SIGKILL:
                findings.append(Finding("harness", f"{name}, {fault}", f"it was not killed: {done}"))
            findings += undisturbed.check(cwd, call, overwrite, f"{name}, {fault}")
    judge(request, findings, len(points))


@pytest.mark.parametrize("overwrite", [False, True], ids=["fresh", "overwrite"])
@pytest.mark.parametrize("name", STAGES)
def test_killed_at_a_random_moment(name, overwrite, results, seeds, request):
    undisturbed, findings, taken = results[name], [], seeds.take(MOMENTS)
    for seed in taken:
        moment = random.Random(f"{name} {seed}").random() * undisturbed.seconds
        with undisturbed.case(overwrite) as (cwd, call):
            process = start(call)
            process.wait(moment)
            findings += undisturbed.check(cwd, call, overwrite, f"{name}, seed {seed}: at {moment:.3f} s")
    judge(request, findings, len(taken))
