"""What a stage makes when nothing happens to it, and what something that happens may leave behind."""

import functools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from faults.child import WRITES, Call, Fault
from faults.processes import finish
from faults.stages import (
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
from faults.verdict import Finding


def _without(tree: Tree, pattern: str) -> Tree:
    return {name: content for name, content in tree.items() if not fnmatch(name, pattern)}


class Undisturbed:
    """The results of a stage that nothing happens to, with what it does to the disk on the way."""

    def __init__(self, stage: Stage, place: Place, root: Path) -> None:
        self.stage, self.place, self.root = stage, place, root
        self.old, _, _ = self._make("old", line=stage.old)
        self.new, self.operations, self.seconds = self._make("new")
        self.new_tree, self.old_tree = contents(self.new), contents(self.old)
        assert self.new_tree != self.old_tree, "old and new must differ"

    def _make(self, name: str, line: str | None = None) -> tuple[Path, int, float]:
        cwd = self.root / name
        cwd.mkdir()
        done = finish(self.stage.call(self.place, cwd, line=line).but(fault=Fault()))
        assert done.status == 0, f"{self.stage.name}: {done}"
        return cwd / self.stage.out, len(done.operations), done.seconds

    @functools.cached_property
    def writes(self) -> int:
        """How often the stage calls one of ``WRITES``."""
        with self.case(overwrite=False) as (_, call):
            return len(finish(call.but(fault=Fault(operations=WRITES))).operations)

    @property
    def largest(self) -> int:
        """Bytes of the largest file of the result."""
        files = [self.new] if self.new.is_file() else [p for p in self.new.rglob("*") if p.is_file()]
        return max(file.stat().st_size for file in files)

    @contextmanager
    def case(self, overwrite: bool = False) -> Iterator[tuple[Path, Call]]:
        """A working directory, in which the old result lies or nothing, and the call in it."""
        with tempfile.TemporaryDirectory(dir=self.root) as work:
            cwd = Path(work, "work")
            cwd.mkdir()
            if overwrite:
                copy_result(self.old, cwd / self.stage.out)
            yield cwd, self.stage.call(self.place, cwd, "--overwrite" * overwrite)

    def check(self, cwd: Path, call: Call, overwrite: bool, case: str, but: str = "") -> list[Finding]:
        """What is wrong after a call that was cut off, and after the rerun, ``but`` for names like that."""
        return self.cut_off(cwd, overwrite, case) + self.rerun(cwd, call, case, but)

    def rerun(self, cwd: Path, call: Call, case: str, but: str = "") -> list[Finding]:
        """What is wrong with the result of the same call made again, or of one that nothing disturbs."""
        again = finish(call)
        findings = [] if again.status == 0 else [Finding("rerun", case, str(again))]
        return findings + self.result(cwd, case, but)

    def result(self, cwd: Path, case: str, but: str = "") -> list[Finding]:
        """How what is there differs from the undisturbed result."""
        findings, out = [], cwd / self.stage.out
        found, wanted = (
            _without(tree, but) for tree in (contents(out) if out.exists() else {}, self.new_tree)
        )
        left = difference(found, wanted) if out.exists() else f"no {out.name}"
        if left:
            findings.append(Finding("differs", case, f"in the end: {left}"))
        if others := strays(cwd, self.stage):
            findings.append(Finding("stray", case, f"left in the end: {', '.join(others)}"))
        return findings

    def cut_off(self, cwd: Path, overwrite: bool, case: str) -> list[Finding]:
        """What is wrong with what a call left behind that was cut off: a false claim, or a loss."""
        out = cwd / self.stage.out
        found: Tree = contents(out) if out.exists() else {}
        whole = {"new": self.new_tree, "old": self.old_tree}
        is_whole = any(tree.items() <= found.items() for tree in whole.values())
        if out.exists() and not is_whole and claims_to_be_complete(out):
            return [Finding("claims", case, f"complete, but {difference(found, self.new_tree)}")]
        kept = [contents(p) for p in cwd.iterdir() if not is_lock(p)] if overwrite else []
        if overwrite and not any(tree.items() <= k.items() for tree in whole.values() for k in kept):
            return [Finding("lost", case, f"neither old nor new in {sorted(p.name for p in cwd.iterdir())}")]
        return []
