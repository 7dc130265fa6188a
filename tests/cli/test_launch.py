"""``--procs``: several processes of one stage, and commands that run on rank 0 only."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from maskgit_cli.cli import COMMANDS, group, launch
from maskgit_cli.formats.runs import newest_checkpoint
from maskgit_cli.networks.loading import load_model

COMMAND = [sys.executable, "-m", "maskgit_cli"]
SINGLE = ("demo", "merge", "fid-diff", "compare", "doctor", "pull", "import", "export", "info", "bench")
linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


def wait_for(seen, seconds=30.0):
    """The value of ``seen`` once it is true; until then it may fail for lack of a file."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(FileNotFoundError):
            if found := seen():
                return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def running(process):
    """Whether a process, which need not be a child of this one, runs."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # an orphan's status may never be collected


def children(process):
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


# --- how many ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["train tokens.h5", "info tokens.h5"])
@pytest.mark.parametrize("number", ["0", "-2", "1000000000"])
def test_the_number_of_processes_is_bounded(maskgit, monkeypatch, number, stage):
    monkeypatch.setattr(launch.subprocess, "Popen", lambda *_, **__: pytest.fail("started a process"))
    done = maskgit("--procs", number, *stage.split())
    assert (done.status, done.stdout) == (1, "")
    assert done.stderr.startswith(f"maskgit: --procs {number}: must be ")
    assert done.stderr.count("\n") == 1


def test_the_bound_is_that_of_the_machine(maskgit, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert "12 or less" in maskgit("--procs", 13, "train", "tokens.h5").stderr
    launch.check_procs(12)
    assert maskgit("--procs", "two", "train", "tokens.h5").status == 2


def test_usage_errors_and_help_come_once_before_any_process(maskgit, monkeypatch):
    monkeypatch.setattr(launch.subprocess, "Popen", lambda *_, **__: pytest.fail("started a process"))
    assert maskgit("--procs", 2, "train").status == 2
    assert maskgit("--procs", 2, "train", "--help").stdout == maskgit("train", "--help").stdout


@pytest.mark.parametrize("minutes", ["0", "-1", "1e9", "nan"])
def test_the_time_that_ranks_wait_is_bounded(maskgit, minutes):
    done = maskgit("--nccl-timeout", minutes, "train", "tokens.h5")
    assert (done.status, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("maskgit: --nccl-timeout ")
    assert maskgit("--nccl-timeout", "soon", "train", "tokens.h5").status == 2


def test_ranks_join_with_the_time_that_was_given(maskgit, monkeypatch):
    asked = []

    def join(minutes):
        asked.append(minutes)
        raise KeyboardInterrupt  # before the stage

    monkeypatch.setattr("maskgit_cli.runtime.distributed.join", join)
    words = ("--nccl-timeout", "2.5", "train", "tokens.h5")
    assert maskgit(*words).status == 1  # there is no such file, and nobody to wait for
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert maskgit(*words).status == 130
    assert asked == [2.5]


# --- other launchers --------------------------------------------------------------------------------


def test_accelerate_launch_without_gpus_starts_one_process(tmp_path):
    """It is refused, with what to type instead; and its single process is not."""
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_machines", "1"]
    rest = ["--mixed_precision", "no", "-m", "maskgit_cli", "train", "tokens.h5", "--device", "cpu"]
    environment = {key: value for key, value in os.environ.items() if key != "MASTER_ADDR"}
    lines = {}
    for count in ("1", "2"):
        done = subprocess.run(
            [*accelerate, "--num_processes", count, *rest],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 1
        lines[count] = [line for line in done.stderr.splitlines() if line.startswith("maskgit: ")]
    assert "tokens.h5" in lines["1"][0]
    (line,) = lines["2"]
    assert {"--num_processes", "--procs"} <= set(re.findall(r"--[a-z_]+", line))


# --- commands on rank 0 only ------------------------------------------------------------------------


def test_which_commands_share_their_work():
    parallel = {name for name in COMMANDS if group.get_command(click.Context(group), name).parallel}
    assert parallel == set(COMMANDS) - set(SINGLE)


def test_a_command_of_one_process_runs_once_under_procs(maskgit, monkeypatch, tokens):
    monkeypatch.setattr(launch.subprocess, "Popen", lambda *_, **__: pytest.fail("started a process"))
    assert maskgit("--procs", 2, "info", tokens, "--json") == maskgit("info", tokens, "--json")


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_command_of_one_process_runs_on_rank_0_under_another_launcher(run, tmp_path, rank):
    """Without the launcher's variables: nothing it calls may wait for the other ranks."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    environment = os.environ | {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    arguments = ["export", str(run), str(tmp_path / "model")]
    done = subprocess.run(
        [*COMMAND, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == ("" if rank == "1" else f"{tmp_path / 'model'}\n")
    assert (tmp_path / "model").exists() == (rank == "0")


# --- stages in several processes --------------------------------------------------------------------


def test_two_processes_make_one_run_and_report_it_once(maskgit, tokens, tmp_path):
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
    ("number", "name"),
    [
        (signal.SIGKILL, "SIGKILL"),
        (signal.SIGSEGV, "SIGSEGV"),
        *([(signal.SIGRTMIN + 3, f"signal {signal.SIGRTMIN + 3}")] if hasattr(signal, "SIGRTMIN") else []),
    ],
)
def test_a_killed_process_is_reported_before_those_that_fail_without_it(number, name, monkeypatch, capfd):
    """The first fails because the second does not answer any more, and looks like the cause."""
    rank = (
        f"import os, sys; os.kill(os.getpid(), {int(number)}) if os.environ['RANK'] == '1' else sys.exit(1)"
    )
    start = subprocess.Popen

    def popen(words, **options):
        process = start([words[0], "-c", rank, *words[1:]], **options)
        process.wait()  # so that both statuses are there at the first poll
        return process

    monkeypatch.setattr(launch.subprocess, "Popen", popen)
    words = ["--procs", "2", "--device", "cpu", "tokenize"]
    assert launch.start_processes(2, words) == 128 + number
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"maskgit: process 2 of 2 was killed ({name}")
    assert ("memory" in line) == (number == signal.SIGKILL)


@linux
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


@linux
def test_processes_write_a_checkpoint_when_asked_and_before_they_end(maskgit, tokens, tmp_path):
    out = tmp_path / "run"
    words = ["train", tokens, "--out", out, "--size", "tiny", "--batch-size", 4, "--preview-every", 0]
    words = [str(word) for word in [*words, "--log-every", 1, "--device", "cpu"]]
    training_run = subprocess.Popen(
        [*COMMAND, "--procs", "2", *words, "--steps", "100000"], stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: (out / "metrics.jsonl").read_text().count("\n") > 3, seconds=120)
        training_run.send_signal(signal.SIGUSR1)
        wait_for(lambda: newest_checkpoint(out), seconds=60)
    finally:
        # Like a job scheduler, which signals every process, and their launcher signals them again.
        for process in [*children(training_run.pid), training_run.pid, training_run.pid]:
            os.kill(process, signal.SIGTERM)
    stderr = training_run.communicate(timeout=60)[1]
    assert training_run.returncode == 130, stderr
    found = re.search(r"after step (\d+)", stderr)
    assert found, stderr
    assert "Traceback" not in stderr
    assert stderr.count("interrupted") == 1
    done = maskgit(*words, "--steps", found[1])
    assert done.status in (0, 1)
    assert found[1] in done.stderr, "the checkpoint is of that step"


def test_processes_get_the_arguments_without_their_number():
    for words in (["--procs", "3", "train", "--procs"], ["--procs=3", "train", "--procs"]):
        assert launch._without_procs(words) == ["train", "--procs"]
