"""Every wrong call ends soon, with 1 or 2 and a line or two that names what is wrong, and changes nothing."""

import os
import shlex
import shutil
from pathlib import Path

import pytest
from published import DATA

from faults.child import PLAIN, Call
from faults.processes import finish
from faults.stages import is_lock
from faults.verdict import Finding, judge, limit, refusal
from faults.wrong_calls import BASES, WRONG_CALLS

PIPES = (
    "fifo",
    "fifo.csv",
    "fifo.npz",
    "fifo.h5",
    "fifo.json",
    "fifo.yaml",
    "fifo.safetensors",
    "piped/config.json",
)


class Room:
    """A copy of the workshop, with things that are no files in it."""

    def __init__(self, workshop: Path, root: Path) -> None:
        self.workshop, self.path = workshop, root / "room"
        self._make()

    def _make(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(self.workshop, self.path)
        for name in PIPES:
            (self.path / name).parent.mkdir(exist_ok=True)
            os.mkfifo(self.path / name)
        (self.path / "loop").symlink_to("loop")
        (self.path / "locked.pth").mkdir()
        shutil.copy(DATA / "faults" / "hang.h5", self.path)
        self.before = self._state()

    def _state(self) -> dict[str, tuple[int, ...]]:
        found = {}
        for path in self.path.rglob("*"):
            facts = path.lstat()
            if not is_lock(path):
                moment = (
                    0 if path.is_dir() else facts.st_mtime_ns
                )  # a lock that comes and goes changes a folder's
                found[path.relative_to(self.path).as_posix()] = (
                    facts.st_ino,
                    facts.st_size * bool(moment),
                    moment,
                )
        return found

    def changes(self) -> list[str]:
        """What differs from the beginning; the room is made again if anything does."""
        after = self._state()
        names = {k for k in self.before.keys() | after.keys() if self.before.get(k) != after.get(k)}
        if names:
            self._make()
        return sorted(names)


@pytest.fixture(scope="module")
def room(place, tmp_path_factory) -> Room:
    return Room(place.workshop, tmp_path_factory.mktemp("wrong"))


@pytest.mark.parametrize("wrong", WRONG_CALLS, ids=[wrong.name for wrong in WRONG_CALLS])
def test_wrong_call(wrong, room, request):
    cache = str(room.path.parent / "cache")
    environment = {**PLAIN, "HF_HOME": cache, "TORCH_HOME": cache}
    call = Call(
        (*shlex.split(wrong.line), "--quiet"), room.path, seconds=limit(request), environment=environment
    )
    findings = refusal(wrong.line, finish(call), wrong.named)
    if changes := room.changes():
        findings.append(Finding("changed", wrong.line, ", ".join(changes[:6])))
    judge(request, findings)


def test_calls_are_right_without_the_wrong_option(place, tmp_path):
    """So that it is the option that each is refused for."""
    for name, line in BASES.items():
        cwd = tmp_path / name
        shutil.copytree(place.workshop, cwd)
        done = finish(Call((*shlex.split(line), "--quiet"), cwd, seconds=60))
        assert done.status == 0, f"{line}: {done}"


def test_the_table_is_large_and_leaves_no_command_out():
    from maskgit_cli.cli import COMMANDS

    assert len(WRONG_CALLS) >= 200
    assert len({wrong.name for wrong in WRONG_CALLS}) == len(WRONG_CALLS)
    words = [shlex.split(wrong.line) for wrong in WRONG_CALLS]
    assert set(COMMANDS) <= {line[0] for line in words if line}
