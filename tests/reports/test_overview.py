"""`maskgit` alone: what is shown of a folder, the next command, and that it is quick."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from maskgit_cli.config.stages import SampleConfig
from maskgit_cli.reports import overview as module
from maskgit_cli.reports.overview import START, lines_of, overview
from maskgit_cli.sampling.images import sample


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def aged(path, seconds):
    """Give a file or folder a time in the past."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_an_empty_folder_shows_the_three_lines(here, maskgit):
    done = maskgit()
    assert (done.status, done.stderr) == (0, "")
    assert [line.strip().split("  ")[0] for line in done.stdout.splitlines()[1:4]] == [
        "maskgit tokenize imagenet/ tokens.h5",
        "maskgit train tokens.h5",
        "maskgit sample",
    ]
    assert "maskgit --help" in done.stdout
    assert maskgit("--procs", 2).status == 2  # an option without a command is a mistake


def test_the_next_command_follows_what_is_there(here, tokens, run):
    (here / "new.h5.partial").touch()
    ((kind, path, facts),), commands, _ = overview()
    assert (kind, path.name) == ("tokens", "new.h5.partial")
    assert "unfinished" in facts
    assert commands[0][0] == "maskgit tokenize IMAGES new.h5"
    (here / "new.h5.partial").unlink()
    shutil.copy(tokens, "new.h5")
    ((_, _, facts),), commands, _ = overview()
    assert facts.startswith("24 images, 16 px")
    assert commands[0][0] == "maskgit train new.h5"
    shutil.copytree(run, "runs/mine")
    found, commands, _ = overview()
    assert [kind for kind, _, _ in found] == ["tokens", "run"]
    assert "step 6 of 6" in found[1][2]
    assert commands[0][0] == "maskgit sample runs/mine"
    for folder in ("runs/mine/config.json", "runs/mine/checkpoints"):
        aged(folder, 7200)
    done = sample(here / "runs" / "mine", here / "samples" / "a b", SampleConfig(n=2), device="cpu")
    found, commands, _ = overview()
    assert "2 hours ago" in found[1][2]
    assert found[2][2].startswith("2 images")
    assert commands[0][0] == "maskgit fid 'samples/a b' --ref IMAGES"
    (done.path / "scores.json").write_text(json.dumps({"metrics": {"fid": 12.3456}}))
    found, commands, _ = overview()
    assert "fid 12.35" in found[2][2]
    assert commands[0][0].startswith("maskgit sweep runs/mine ")
    settings = json.loads((done.path / "settings.json").read_text())
    (done.path / "settings.json").write_text(json.dumps(settings | {"complete": False}))
    assert "resumes" in overview().commands[0][1]


def test_damaged_and_foreign_files_are_shown_without_facts(here):
    (here / "a.h5").write_bytes(b"maskgit-tokens 2 9999999999 x\n{" + b"[" * 100_000)
    for name, record in (("runs", "config.json"), ("samples", "settings.json")):
        (here / name / "x").mkdir(parents=True)
        (here / name / "x" / record).write_text("[1]")
        (here / name / "note").touch()
    assert len(overview().found) == 3
    assert all("\n" not in line for line in lines_of(overview()))


def test_a_large_folder_takes_no_longer(here, monkeypatch):
    monkeypatch.setattr(module, "MOST_ENTRIES", 50)
    for i in range(60):
        (here / f"{i}.txt").touch()
    assert overview().cut
    assert overview().commands == list(START)
    assert not overview(here / "absent").cut


def test_torch_is_not_imported(here):
    code = """import sys
from maskgit_cli.cli import main
try:
    main([])
except SystemExit as end:
    assert end.code == 0
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
