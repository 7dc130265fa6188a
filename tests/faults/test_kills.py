"""A process killed at any moment: no half result is taken for a whole one, none is lost, and the rerun ends the same."""

import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from faults.child import Call, Fault
from faults.processes import finish, start
from faults.stages import (
    STAGES,
    Place,
    Stage,
    Tree,
    claims_to_be_complete,
    contents,
    copy_result,
    difference,
    is_lock,
    strays,
)
from faults.verdict import Finding, judge

POINTS, OVERWRITES, MOMENTS = 12, 8, 3


class Undisturbed:
    """The results of a stage that nothing happens to, with what it does to the disk on the way."""

    def __init__(self, stage: Stage, place: Place, root: Path) -> None:
        self.stage, self.place, self.root = stage, place, root
        self.old, _, _ = self._make("old", line=stage.old)
        self.new, self.operations, self.seconds = self._make("new")
        self.new_tree, self.old_tree = contents(self.new), contents(self.old)
        assert self.new_tree != self.old_tree, "the two are to be told apart"

    def _make(self, name: str, line: str | None = None) -> tuple[Path, int, float]:
        cwd = self.root / name
        cwd.mkdir()
        done = finish(self.stage.call(self.place, cwd, line=line).but(fault=Fault()))
        assert done.status == 0, f"{self.stage.name}: {done}"
        return cwd / self.stage.out, len(done.operations), done.seconds

    @contextmanager
    def case(self, overwrite: bool) -> Iterator[tuple[Path, Call]]:
        """A working directory, in which the old result lies or nothing, and the call in it."""
        with tempfile.TemporaryDirectory(dir=self.root) as work:
            cwd = Path(work, "work")
            cwd.mkdir()
            if overwrite:
                copy_result(self.old, cwd / self.stage.out)
            yield cwd, self.stage.call(self.place, cwd, "--overwrite" * overwrite)

    def check(self, cwd: Path, call: Call, overwrite: bool, case: str) -> list[Finding]:
        """What is wrong after a kill, and after the rerun."""
        out = cwd / self.stage.out
        findings = self._after_kill(cwd, out, overwrite, case)
        again = finish(call)
        if again.status != 0:
            findings.append(Finding("rerun", case, str(again)))
        left = difference(contents(out), self.new_tree) if out.exists() else f"no {out.name}"
        if left:
            findings.append(Finding("differs", case, f"after the rerun: {left}"))
        if others := strays(cwd, self.stage):
            findings.append(Finding("stray", case, f"left after the rerun: {', '.join(others)}"))
        return findings

    def _after_kill(self, cwd: Path, out: Path, overwrite: bool, case: str) -> list[Finding]:
        found: Tree = contents(out) if out.exists() else {}
        whole = {"new": self.new_tree, "old": self.old_tree}
        is_whole = any(tree.items() <= found.items() for tree in whole.values())
        if out.exists() and not is_whole and claims_to_be_complete(out):
            return [Finding("claims", case, f"complete, but {difference(found, self.new_tree)}")]
        kept = [contents(p) for p in cwd.iterdir() if not is_lock(p)] if overwrite else []
        if overwrite and not any(tree.items() <= k.items() for tree in whole.values() for k in kept):
            return [Finding("lost", case, f"neither old nor new in {sorted(p.name for p in cwd.iterdir())}")]
        return []


@pytest.fixture(scope="module")
def results(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Undisturbed]]:
    """Undisturbed results by stage, made when they are first asked for."""
    made: dict[str, Undisturbed] = {}

    class Results(dict):
        def __missing__(self, name: str) -> Undisturbed:
            self[name] = Undisturbed(STAGES[name], place, tmp_path_factory.mktemp(name))
            return self[name]

    yield Results(made)


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
            finish(call.but(fault=fault))
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
    at_a_change = f"test_kills.py::test_killed_at_a_change_of_the_disk[{request.node.callspec.id}]"
    judge(request, findings, len(taken), known_as=at_a_change)
