"""The command line as a whole: exit statuses, and what every command has in common."""

import dataclasses
import errno
import json
import os
import subprocess
import sys

import click
import pytest

from maskgit_cli.cli import COMMANDS, cmd_demo, ending, group, main
from maskgit_cli.config import stages as config
from maskgit_cli.config.training import TrainConfig, VQGANTrainConfig
from maskgit_cli.errors import InputError
from maskgit_cli.training import transformer as training

COMMAND = [sys.executable, "-m", "maskgit_cli"]
NAMES = list(COMMANDS)


def command(name):
    return group.get_command(click.Context(group), name)


def options_of(name):
    return {parameter.name: parameter for parameter in command(name).params}


# --- what commands share ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_options_that_commands_share_mean_the_same(name):
    found = options_of(name)
    for shared in ("as_json", "quiet", "debug"):
        assert shared in found
    for option in found.keys() & {"device", "dtype"}:
        assert found[option].default == "auto"
    for option in found.keys() & {"overwrite", "as_json", "quiet", "debug"}:
        assert found[option].is_flag
    for parameter in found.values():
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{parameter.name} has no help text"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tokenize", config.TokenizeConfig),
        ("train", TrainConfig),
        ("train-vqgan", VQGANTrainConfig),
        ("sample", config.SampleConfig),
        ("fid", config.ScoreConfig),
        ("sweep", config.SweepConfig),
        ("compare", config.CompareConfig),
        ("doctor", config.DoctorConfig),
    ],
)
def test_defaults_are_those_of_the_settings(name, kind):
    found = options_of(name)
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    common = found.keys() & fields.keys()
    assert len(common) >= 2
    for field in common:
        # Of what the user gives; click marks an option without a default by a value of its own.
        default = found[field].get_default(click.Context(command(name)))
        if (name, field) in (("sweep", "metrics"), ("sample", "trace")):  # of the command's own
            continue
        assert default == fields[field] or (fields[field] is None and not isinstance(default, int | str))


@pytest.mark.parametrize("name", ["tokenize", "train", "train-vqgan", "decode", "info", "export", "inpaint"])
def test_a_usage_error_is_one_line_and_status_2(maskgit, name):
    for words, culprit in (([], "argument"), (["--no-such-option", "x"], "--no-such-option")):
        done = maskgit(name, *words)
        assert (done.status, done.stdout) == (2, "")
        assert done.stderr.startswith("maskgit: ")
        assert done.stderr.count("\n") == 1
        assert culprit in done.stderr
        assert f"maskgit {name} --help" in done.stderr or f"maskgit {name} -h" in done.stderr


def test_an_unknown_command_is_answered_with_the_nearest(maskgit):
    done = maskgit("trian", "x")
    assert (done.status, done.stdout) == (2, "")
    assert "'trian'" in done.stderr
    assert "'train'" in done.stderr
    assert ", ".join(NAMES) in maskgit("xyzzy").stderr


# --- how it ends ------------------------------------------------------------------------------------


def train_ends_with(monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(training, "train", fail)


def test_interruption_is_status_130(maskgit, monkeypatch):
    train_ends_with(monkeypatch, KeyboardInterrupt())
    done = maskgit("train", "tokens.h5")
    assert (done.status, done.stdout) == (130, "")
    # A blank line comes first: it ends the one in which the terminal wrote ^C.
    blank, line = done.stderr.splitlines()
    assert blank == ""
    assert line.startswith("maskgit: interrupted")


def test_an_error_of_the_user_is_one_line(maskgit, monkeypatch):
    train_ends_with(monkeypatch, InputError("the file\nis gone"))
    done = maskgit("train", "tokens.h5")
    assert (done.status, done.stdout, done.stderr) == (1, "", "maskgit: the file is gone\n")


@pytest.mark.parametrize(
    ("error", "texts"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "secret/t.h5"), ["secret/t.h5", "permission"]),
        (OSError(errno.ENOSPC, "No space left"), ["standard output", "disk is full"]),
    ],
)
def test_an_error_of_the_system_is_one_line(maskgit, monkeypatch, error, texts):
    train_ends_with(monkeypatch, error)
    done = maskgit("train", "tokens.h5")
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr.startswith("maskgit: ")
    assert done.stderr.count("\n") == 1
    assert all(text in done.stderr for text in texts)
    assert "--debug" not in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_an_unreadable_path_is_not_a_usage_error(name):
    paths = [p.type for p in command(name).params if isinstance(p.type, click.Path)]
    assert not any(kind.readable for kind in paths)


def test_an_unexpected_error_is_one_line(maskgit, monkeypatch):
    train_ends_with(monkeypatch, ZeroDivisionError("by\nzero " + "x" * 1000))
    done = maskgit("train", "tokens.h5")
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr.startswith("maskgit: ZeroDivisionError: by zero xxx")
    assert "--debug" in done.stderr
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 450


def test_only_rank_0_reports_what_all_ranks_found(monkeypatch):
    """Other ranks give the launcher time to end them."""
    waited = []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(ending.time, "sleep", waited.append)
    with pytest.raises(SystemExit) as end:
        ending.fail("x", 2)
    assert end.value.code == 2
    assert waited == [ending.OTHERS_WAIT]


@pytest.mark.parametrize("error", [InputError("gone"), ZeroDivisionError("zero")])
def test_debug_shows_the_traceback(monkeypatch, error):
    train_ends_with(monkeypatch, error)
    with pytest.raises(type(error)):
        main(["train", "tokens.h5", "--debug"])


def test_a_closed_stdout_is_not_reported():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*COMMAND, "--help"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


# --- the demo ---------------------------------------------------------------------------------------


def test_the_demo_can_be_run_again(maskgit, tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(cmd_demo, "_run", lambda line, quiet: lines.append(line))
    out = tmp_path / "demo"
    assert maskgit("demo", str(out)).stdout == f"{out}\n"
    scores = next(i for i, line in enumerate(lines) if line.startswith("fid "))
    assert not any("--overwrite" in line for line in lines)
    (out / "samples").mkdir()
    (out / "samples" / "scores.json").touch()
    first = lines.copy()
    lines.clear()
    again = maskgit("demo", str(out), "--quiet")
    assert (again.status, again.stderr) == (0, "")
    assert lines == [line + " --overwrite" if i == scores else line for i, line in enumerate(first)]


# --- stdout has the result and nothing else ---------------------------------------------------------


def test_results_alone_are_on_stdout(maskgit, run, tokens, tmp_path):
    exported = maskgit("export", run, tmp_path / "model")
    assert (exported.status, exported.stdout) == (0, f"{tmp_path / 'model'}\n")
    again = maskgit("export", run, tmp_path / "model", "--json")
    assert (again.status, json.loads(again.stdout)["path"]) == (0, str(tmp_path / "model"))
    assert "already complete" in again.stderr
    replaced = maskgit("export", run, tmp_path / "model", "--json", "--overwrite", "--quiet")
    assert json.loads(replaced.stdout)["path"] == str(tmp_path / "model")
    assert replaced.stderr == ""
    for path in (run, tokens, tmp_path / "model"):
        shown = maskgit("info", path, "--json")
        assert shown.status == 0, shown.stderr
        assert json.loads(shown.stdout)
    record = tmp_path / "model" / "config.json"
    assert maskgit("info", record).stdout == maskgit("info", record.parent).stdout
