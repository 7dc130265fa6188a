"""The command line as a whole: help, exit statuses, and what every command has in common."""

import contextlib
import dataclasses
import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from maskgit_cli import __version__
from maskgit_cli.cli import COMMANDS, cmd_demo, group, launch
from maskgit_cli.config import stages as config
from maskgit_cli.errors import InputError
from maskgit_cli.networks.loading import load_model
from maskgit_cli.training import transformer as training

COMMAND = [sys.executable, "-m", "maskgit_cli"]
NAMES = list(COMMANDS)


def command(name):
    return group.get_command(click.Context(group), name)


def wait_for(seen, seconds=30.0):
    """What ``seen`` gives once that is something; it may fail for lack of a file until then."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(FileNotFoundError):
            if found := seen():
                return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def running(process):
    """Whether a process that need not be a child of this one is at work."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # nobody may come to collect an orphan's status


def children(process):
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def options_of(name):
    return {parameter.name: parameter for parameter in command(name).params}


# --- help -------------------------------------------------------------------------------------------


def test_help_is_quick():
    def worked():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    times = []
    for _ in range(3):
        before = worked()
        done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True)
        times.append(worked() - before)
    assert "Usage: maskgit" in done.stdout
    # Seconds of work, not of waiting: tests may share their machine with others.
    assert min(times) < 0.2


def test_no_help_imports_torch():
    script = (
        "import sys\n"
        "from maskgit_cli.cli import main\n"
        "import maskgit_cli\n"
        "for words in [['--help'], ['--version'], *([name, '--help'] for name in sys.argv[1:])]:\n"
        "    try:\n        main(words)\n    except SystemExit as end:\n        assert end.code == 0, words\n"
        "    heavy = {'torch', 'numpy', 'PIL', 'h5py', 'rich', 'accelerate'} & sys.modules.keys()\n"
        "    assert not heavy, (words, heavy)\n"
    )
    subprocess.run([sys.executable, "-c", script, *NAMES], check=True, stdout=subprocess.DEVNULL)


def test_help_lists_every_command_in_order(maskgit):
    done = maskgit("--help")
    assert (done.status, done.stderr) == (0, "")
    listed = done.stdout.split("Commands:")[1]
    places = [listed.index(f"\n  {name}  ") for name in NAMES]
    assert places == sorted(places)
    assert maskgit("-h").stdout == done.stdout
    assert maskgit("--version").stdout == f"maskgit {__version__}\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_commands_help_has_its_line_and_an_example(maskgit, name):
    done = maskgit(name, "--help")
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: maskgit {name} ")
    first = command(name).help.split("\n\n")[0]
    assert " ".join(first.split()) == COMMANDS[name]
    examples = [line.split() for line in done.stdout.split("\n  Example")[1].splitlines()[1:]]
    assert examples[0][:2] == ["maskgit", name]
    for words in examples:
        called = next(word for word in words if word in NAMES)  # --procs 8 may come before
        rest = words[words.index(called) + 1 :]
        with contextlib.suppress(click.exceptions.Exit):  # `pull --list` ends here
            command(called).make_context(called, rest)  # raises if a word of it is wrong


def test_every_command_file_is_listed():
    files = {p.stem for p in Path(launch.__file__).parent.glob("cmd_*.py")}
    assert files == {"cmd_" + name.replace("-", "_") for name in NAMES}


# --- what commands share ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_command_speaks_the_same_words(name):
    found = options_of(name)
    for shared in ("as_json", "quiet", "debug"):
        assert shared in found
    for option in found.keys() & {"device", "dtype"}:
        assert found[option].default == "auto"
    for option in found.keys() & {"overwrite", "as_json", "quiet", "debug"}:
        assert found[option].is_flag
    for parameter in found.values():
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{parameter.name} says nothing of itself"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tokenize", config.TokenizeConfig),
        ("train", config.TrainConfig),
        ("train-vqgan", config.VQGANTrainConfig),
        ("sample", config.SampleConfig),
        ("fid", config.ScoreConfig),
        ("sweep", config.SweepConfig),
        ("compare", config.CompareConfig),
    ],
)
def test_defaults_are_those_of_the_settings(name, kind):
    found = options_of(name)
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    common = found.keys() & fields.keys()
    assert len(common) >= 2
    for field in common:
        default = found[field].default
        if isinstance(fields[field], tuple):
            fields[field] = ",".join(fields[field])
        # click marks an option without a default by a value of its own.
        assert default == fields[field] or (fields[field] is None and not isinstance(default, int | str)), (
            field
        )


@pytest.mark.parametrize("name", ["tokenize", "train", "train-vqgan", "decode", "info", "export", "inpaint"])
def test_wrong_words_are_status_2(maskgit, name):
    for words in ([], ["--no-such-option", "x"]):
        done = maskgit(name, *words)
        assert (done.status, done.stdout) == (2, "")
        assert done.stderr.startswith(f"Usage: maskgit {name} ")
        assert "Error: " in done.stderr


def test_a_command_that_is_none_suggests_the_nearest(maskgit):
    done = maskgit("trian", "x")
    assert (done.status, done.stdout) == (2, "")
    assert "No such command 'trian'. Did you mean 'train'?" in done.stderr
    assert f"There are: {', '.join(NAMES)}." in " ".join(maskgit("xyzzy").stderr.split())


# --- how it ends ------------------------------------------------------------------------------------


def train_ends_with(monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(training, "train", fail)


def test_interruption_is_status_130(maskgit, monkeypatch):
    train_ends_with(monkeypatch, KeyboardInterrupt())
    done = maskgit("train", "tokens.h5")
    assert done.status == 130
    # A blank line comes first: it ends the one that the terminal wrote ^C in.
    assert done.stderr.splitlines() == ["", "maskgit: interrupted; run the same command again to go on"]


def test_what_a_user_can_mend_is_one_line(maskgit, monkeypatch):
    train_ends_with(monkeypatch, InputError("the file\nis gone"))
    done = maskgit("train", "tokens.h5")
    assert (done.status, done.stdout, done.stderr) == (1, "", "maskgit: the file is gone\n")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "secret/t.h5"),
            "secret/t.h5: no permission for it; change that, or name another place",
        ),
        (OSError(errno.ENOSPC, "No space left"), "standard output: the disk is full"),
    ],
)
def test_what_the_system_refuses_is_one_line(maskgit, monkeypatch, error, line):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(training, "train", refuse)
    assert maskgit("train", "tokens.h5") == (1, "", f"maskgit: {line}\n")


@pytest.mark.parametrize("name", NAMES)
def test_what_one_may_not_read_is_no_matter_of_words(name):
    paths = [p.type for p in command(name).params if isinstance(p.type, click.Path)]
    assert not any(kind.readable for kind in paths)


def test_a_defect_of_ours_is_one_line_too(maskgit, monkeypatch):
    train_ends_with(monkeypatch, ZeroDivisionError("by\nzero " + "x" * 1000))
    done = maskgit("train", "tokens.h5")
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr.startswith("maskgit: ZeroDivisionError: by zero xxx")
    assert done.stderr.endswith("(run it again with --debug for the whole story)\n")
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 450


@pytest.mark.parametrize("error", [InputError("gone"), ZeroDivisionError("zero")])
def test_debug_shows_all_of_it(monkeypatch, error):
    from maskgit_cli.cli import main

    train_ends_with(monkeypatch, error)
    with pytest.raises(type(error)):
        main(["train", "tokens.h5", "--debug"])


def test_a_reader_that_has_left_is_no_defect():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*COMMAND, "--help"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


# --- several processes ------------------------------------------------------------------------------


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


def test_processes_are_at_least_one(maskgit):
    for number in ("0", "-2"):
        done = maskgit("--procs", number, "train", "tokens.h5")
        assert (done.status, done.stdout) == (1, "")
        assert done.stderr == f"maskgit: --procs {number}: must be 1 or more\n"
    assert maskgit("--procs", "two", "train", "tokens.h5").status == 2


def test_two_processes_make_one_run_and_say_it_once(maskgit, tokens, tmp_path):
    words = ["--size", "tiny", "--steps", 2, "--batch-size", 4, "--preview-every", 0, "--device", "cpu"]
    done = maskgit("--procs", 2, "train", tokens, "--out", tmp_path / "run", *words, "--json")
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout) == {"path": str(tmp_path / "run")}
    assert done.stderr.count("train: 2/2 steps") == 1
    assert load_model(tmp_path / "run").step == 2


def test_the_first_failure_ends_all_processes(monkeypatch):
    """A rank that fails while another would wait for it for ever."""
    rank = "import os, sys, time; sys.exit(3) if os.environ['RANK'] == '1' else time.sleep(60)"
    start = subprocess.Popen
    monkeypatch.setattr(
        launch.subprocess,
        "Popen",
        lambda words, **options: start([words[0], "-c", rank, *words[1:]], **options),
    )
    began = time.monotonic()
    assert launch.start_processes(3, ["--procs", "3", "--device", "cpu", "train"]) == 3
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("number", "how"),
    [
        (signal.SIGKILL, "SIGKILL; the system does so when memory runs out"),
        (signal.SIGSEGV, "SIGSEGV"),
        *([(signal.SIGRTMIN + 3, f"signal {signal.SIGRTMIN + 3}")] if hasattr(signal, "SIGRTMIN") else []),
    ],
)
def test_a_killed_process_is_named_before_those_it_leaves_behind(number, how, monkeypatch, capfd):
    """The first fails because the second no longer answers, and looks like the cause."""
    rank = (
        f"import os, sys; os.kill(os.getpid(), {int(number)}) if os.environ['RANK'] == '1' else sys.exit(1)"
    )
    start = subprocess.Popen

    def popen(words, **options):
        process = start([words[0], "-c", rank, *words[1:]], **options)
        process.wait()  # so that both statuses are there at the first look
        return process

    monkeypatch.setattr(launch.subprocess, "Popen", popen)
    words = ["--procs", "2", "--device", "cpu", "tokenize"]
    assert launch.start_processes(2, words) == 128 + number
    said = f"maskgit: process 2 of 2 was killed ({how}); run the same command again to go on\n"
    assert capfd.readouterr().err == said


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc what runs")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_processes_end_with_their_launcher(number, tmp_path):
    """Orphans would go on training, and hold the run's lock."""
    # Each waits without end, and does what the command line does before it comes to a stage.
    rank = (
        "import os, pathlib, time; from maskgit_cli.cli import launch; launch.end_with_launcher();"
        "pathlib.Path(os.environ['RANK']).write_text(str(os.getpid())); time.sleep(60)"
    )
    script = (
        "import signal, subprocess, sys; from maskgit_cli.cli import launch, main\n"
        "start = subprocess.Popen; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        f"rank = {rank!r}\n"
        "launch.subprocess.Popen = lambda words, **options: start([sys.executable, '-c', rank], **options)\n"
        "main(['--procs', '2', 'train', 'tokens.h5', '--device', 'cpu'])"
    )
    launcher = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
    try:
        ranks = [int(wait_for(lambda file=tmp_path / name: file.read_text())) for name in "01"]
    finally:
        launcher.send_signal(number)
    assert launcher.wait(timeout=60) == (-number if number == signal.SIGKILL else 130)
    for rank_id in ranks:
        wait_for(lambda process=rank_id: not running(process))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc what runs")
def test_processes_told_to_end_write_a_checkpoint_first(maskgit, tokens, tmp_path):
    out = tmp_path / "run"
    words = ["train", tokens, "--out", out, "--size", "tiny", "--batch-size", 4, "--preview-every", 0]
    words = [str(word) for word in [*words, "--log-every", 1, "--device", "cpu"]]
    training_run = subprocess.Popen(
        [*COMMAND, "--procs", "2", *words, "--steps", "100000"], stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: (out / "metrics.jsonl").read_text().count("\n") > 3, seconds=120)
    finally:
        # As a batch system does it, which tells every process, and their launcher tells them again.
        for process in [*children(training_run.pid), training_run.pid, training_run.pid]:
            os.kill(process, signal.SIGTERM)
    stderr = training_run.communicate(timeout=60)[1]
    assert training_run.returncode == 130, stderr
    found = re.search(r"stopped after step (\d+), with a checkpoint", stderr)
    assert found, stderr
    assert "Traceback" not in stderr
    assert stderr.count("interrupted") == 1
    step = int(found[1])
    done = maskgit(*words, "--steps", step)
    assert f"has its {step} steps already" in done.stderr


def test_processes_get_the_words_less_their_number():
    for words in (["--procs", "3", "train", "--procs"], ["--procs=3", "train", "--procs"]):
        assert launch._without_procs(words) == ["train", "--procs"]


# --- stdout is the result and nothing else ----------------------------------------------------------


def test_results_alone_are_on_stdout(maskgit, run, tokens, tmp_path):
    exported = maskgit("export", run, tmp_path / "model")
    assert (exported.status, exported.stdout) == (0, f"{tmp_path / 'model'}\n")
    again = maskgit("export", run, tmp_path / "model", "--json")
    assert (again.status, again.stdout) == (1, "")
    assert again.stderr == (
        f"maskgit: {tmp_path / 'model'} exists; choose another place, or pass --overwrite to replace it\n"
    )
    replaced = maskgit("export", run, tmp_path / "model", "--json", "--overwrite", "--quiet")
    assert json.loads(replaced.stdout)["path"] == str(tmp_path / "model")
    assert replaced.stderr == ""
    for path in (run, tokens, tmp_path / "model"):
        told = maskgit("info", path, "--json")
        assert told.status == 0, told.stderr
        assert json.loads(told.stdout)
    record = tmp_path / "model" / "config.json"
    assert maskgit("info", record).stdout == maskgit("info", record.parent).stdout
