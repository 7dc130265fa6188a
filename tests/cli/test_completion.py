"""Shell completion: what is offered, how quickly, and where its script is written."""

import os
import resource
import subprocess
import sys

import pytest
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from maskgit_cli.cli import COMMANDS, group
from maskgit_cli.config.catalogue import CATALOGUE
from maskgit_cli.config.networks import SIZE_NAMES
from maskgit_cli.config.samplers import PRESETS, SAMPLERS, SCHEDULES

COMPLETE = [sys.executable, "-m", "maskgit_cli"]


def offered(line: str) -> list[str]:
    """The completions of the last word of a line, which may be empty."""
    *arguments, incomplete = line.split(" ")
    complete = BashComplete(group, {}, "maskgit", "_MASKGIT_COMPLETE")
    return [item.value for item in complete.get_completions(arguments, incomplete)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", list(COMMANDS)),
        ("tr", ["train", "train-vqgan"]),
        ("--pr", ["--procs"]),
        ("--procs 2 exp", ["export"]),
        ("sample --sampler ", list(SAMPLERS)),
        ("sample --sampler h", ["halton"]),
        ("sample --schedule co", ["cosine"]),
        ("sample --schedule ", list(SCHEDULES)),
        ("sample --preset ", list(PRESETS)),
        ("train t.h5 --size ", list(SIZE_NAMES)),
        ("train t.h5 --warm", ["--warmup"]),
        ("fid --metrics ", ["fid", "sfid", "kid", "is", "prdc", "cmmd"]),
        ("fid --metrics fid,p", ["fid,prdc"]),
        ("sweep m --sampler confidence,h", ["confidence,halton"]),
        ("sweep m --schedule arccos,", [f"arccos,{name}" for name in SCHEDULES]),
        ("decode t.h5 out --views ", ["first", "all"]),
        ("bench --dtype b", ["bf16"]),
        ("bench --device c", ["cpu", "cuda"]),
        ("pull halton", [name for name in CATALOGUE if name.startswith("halton")]),
        ("--install-completion z", ["zsh"]),
    ],
)
def test_words_are_completed(line, words):
    assert words
    assert offered(line) == words


def test_paths_are_left_to_the_shell():
    complete = BashComplete(group, {}, "maskgit", "_MASKGIT_COMPLETE")
    for arguments in (["train"], ["sample"], ["fid", "--ref"]):
        assert [item.type for item in complete.get_completions(arguments, "")] == ["file"]


def test_completion_is_quick_and_imports_nothing_heavy():
    environment = os.environ | {"_MASKGIT_COMPLETE": "bash_complete", "COMP_CWORD": "3"}
    environment["COMP_WORDS"] = "maskgit sample --sampler h"
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(COMPLETE, env=environment, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert done.stdout == "plain,halton\n"
    assert min(times) < 0.2


@pytest.mark.parametrize(
    ("shell", "kind", "place"),
    [
        ("bash", BashComplete, ".local/share/bash-completion/completions/maskgit"),
        ("zsh", ZshComplete, ".zfunc/_maskgit"),
        ("fish", FishComplete, ".config/fish/completions/maskgit.fish"),
    ],
)
def test_the_script_is_written_once(maskgit, monkeypatch, tmp_path, shell, kind, place):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(BashComplete, "_check_version", staticmethod(lambda: None))
    path = tmp_path / place
    script = kind(group, {}, "maskgit", "_MASKGIT_COMPLETE").source()
    assert maskgit("--show-completion", shell).stdout == script
    assert not path.exists()
    first = maskgit("--install-completion")  # of the user's shell
    assert (first.status, first.stdout) == (0, f"{path}\n")
    assert path.read_text() == script
    assert f"start a new {shell}" in first.stderr
    again = maskgit("--install-completion", shell)
    assert (again.status, again.stdout) == (0, f"{path}\n")
    assert "already" in again.stderr
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]
    path.write_text("an older script")
    maskgit("--install-completion", shell)
    assert path.read_text() == script


def test_places_follow_the_xdg_variables(maskgit, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "conf"))
    done = maskgit("--install-completion", "fish")
    assert done.stdout == f"{tmp_path}/conf/fish/completions/maskgit.fish\n"


def test_a_shell_that_is_unknown_is_a_usage_error(maskgit, monkeypatch):
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    done = maskgit("--install-completion")
    assert (done.status, done.stdout) == (2, "")
    assert "tcsh" in done.stderr
    assert maskgit("--show-completion", "tcsh").status == 2
