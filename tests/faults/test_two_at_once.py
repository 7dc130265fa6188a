"""Two processes on one output: one does the work, the other reports who holds it, the result is right."""

import random
import re
import time

import pytest

from faults.child import PLAIN, Fault
from faults.processes import Outcome, start
from faults.stages import STAGES
from faults.verdict import Finding, judge

PAUSES, PAIRS = 3, 2
BOTH = pytest.mark.parametrize("overwrite", [False, True], ids=["fresh", "overwrite"])
EACH = pytest.mark.parametrize("name", STAGES)
# To say who holds it takes no longer than a call that does nothing.
AT_ONCE = 5.0


def says_who_holds_it(done: Outcome, holder: int, case: str) -> list[Finding]:
    """What is wrong with how the second of two processes ended."""
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith("warning: ")]
    if done.status is None or done.seconds > AT_ONCE:
        return [Finding("slow", case, str(done))]
    if done.status != 1 or len(lines) != 1 or not re.search(rf"\b{holder}\b", lines[0]):
        return [Finding("holder", case, f"process {holder} is not named: {done}")]
    return []


@BOTH
@EACH
def test_the_second_of_two(name, overwrite, results, seeds, request):
    """The first one pauses in the middle of its work, and continues when the second has ended."""
    undisturbed, findings = results[name], []
    points = seeds.some(list(range(1, undisturbed.operations)), PAUSES)
    for at in points:
        fault = Fault("pause", at)
        case = f"{name}, {fault}"
        with undisturbed.case(overwrite) as (cwd, call):
            call = call.but(environment={**call.environment, **PLAIN})
            first = start(call.but(fault=fault))
            if not first.paused():
                findings.append(Finding("harness", case, f"it did not pause: {first.wait()}"))
                continue
            second = start(call).wait(10.0)
            first.release()
            done = first.wait()
            findings += says_who_holds_it(second, first.pid, case)
            if done.status != 0:
                findings.append(Finding("first", case, f"the first one failed: {done}"))
            findings += undisturbed.result(cwd, case)
    judge(request, findings, len(points))


@EACH
def test_both_at_the_same_moment(name, results, seeds, request):
    """At least one ends well; the other too, or it says who holds the output."""
    undisturbed, findings, taken = results[name], [], seeds.take(PAIRS)
    for seed in taken:
        delay = random.Random(f"{name} {seed}").random() * 0.5 * undisturbed.seconds
        case = f"{name}, seed {seed}: {delay:.3f} s apart"
        with undisturbed.case() as (cwd, call):
            call = call.but(environment={**call.environment, **PLAIN})
            first = start(call)
            time.sleep(delay)
            second = start(call)
            ends = first.wait(), second.wait()
            if all(done.status != 0 for done in ends):
                findings.append(Finding("first", case, f"both failed: {ends[0]}; {ends[1]}"))
            for done, other in ((ends[0], second), (ends[1], first)):
                if done.status != 0:
                    findings += says_who_holds_it(done, other.pid, case)
            findings += undisturbed.result(cwd, case)
    judge(request, findings, len(taken))
