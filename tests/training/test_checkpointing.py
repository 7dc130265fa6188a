"""Checkpoints that a thread writes while the training goes on."""

import os
import signal
import threading
import time

import pytest
import torch
from tiny_training import Warnings, contents, in_processes, train_tiny, train_tiny_vqgan

from maskgit_cli.errors import MaskGITError, OutputError
from maskgit_cli.formats import runs
from maskgit_cli.formats.runs import checkpoints, load_checkpoint
from maskgit_cli.runtime.progress import SILENT
from maskgit_cli.training import common, objective
from maskgit_cli.training import transformer as training
from maskgit_cli.training import vqgan as vqgan_training
from maskgit_cli.training.checkpointing import CheckpointWriter

SETTINGS = {"steps": 6, "checkpoint_every": 2}


# --- the writer -------------------------------------------------------------------------------------


def test_it_writes_what_the_tensors_were():
    weights, written, go = torch.zeros(3), {}, threading.Event()

    def save(groups):
        go.wait(10)
        written.update(groups["model"])

    with CheckpointWriter(SILENT) as writer:
        writer.write(1, {"model": {"w": weights}}, save)
        weights += 1
        assert written == {}
        go.set()
    assert torch.equal(written["w"], torch.zeros(3))
    assert writer.newest == 1


def test_one_at_a_time_and_all_before_the_end():
    running, most, done = [], [], []

    def save(groups):
        running.append(1)
        most.append(len(running))
        time.sleep(0.05)
        running.pop()
        done.append(groups)

    def interrupted():
        with CheckpointWriter(SILENT) as writer:
            for step in range(3):
                writer.write(step, {}, save)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (max(most), len(done)) == (1, 3)


def refuse(*arguments):
    raise OutputError("the disk is full")


def test_an_error_comes_out_of_the_next_call_once():
    with CheckpointWriter(SILENT) as writer:
        writer.write(1, {}, refuse)
        with pytest.raises(OutputError, match="full"):
            writer.wait()
        writer.write(2, {}, lambda groups: None)
        writer.check()
    with pytest.raises(OutputError, match="full"), CheckpointWriter(SILENT) as writer:
        writer.write(1, {}, refuse)


def test_another_error_goes_first():
    reporter = Warnings()

    def fail():
        with CheckpointWriter(reporter) as writer:
            writer.write(1, {}, refuse)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert "full" in reporter.warnings[0]


# --- the trainings ----------------------------------------------------------------------------------


def test_a_slow_disk_does_not_hold_up_the_steps(tokens, tmp_path, monkeypatch):
    """Steps after a checkpoint are done while it is being written, and it does not hold their changes."""
    wanted = train_tiny(tokens, tmp_path / "wanted", **SETTINGS)
    steps, whole, whole_step = [], common.save_checkpoint, training.train_step

    def slow(out, step, *rest):
        """Lasts until the steps up to the next checkpoint are done."""
        until = time.monotonic() + 60
        while len(steps) < min(step + 2, SETTINGS["steps"]):
            assert time.monotonic() < until
            time.sleep(0.01)
        return whole(out, step, *rest)

    def counted(*arguments):
        values = whole_step(*arguments)
        steps.append(1)
        return values

    monkeypatch.setattr(common, "save_checkpoint", slow)
    monkeypatch.setattr(training, "train_step", counted)
    train_tiny(tokens, tmp_path / "run", **SETTINGS)
    assert contents(tmp_path / "run") == contents(wanted)


@pytest.mark.parametrize(("keep", "least"), [(1, 1), (2, 2), (3, 3)])
def test_the_earlier_ones_stay_while_one_is_written(tokens, tmp_path, monkeypatch, keep, least):
    whole, seen = runs.write_tensors, {}

    def write(path, tensors):
        seen[path.parent.name.split(".")[1]] = len(checkpoints(tmp_path / "run"))
        whole(path, tensors)

    monkeypatch.setattr(runs, "write_tensors", write)
    run = train_tiny(tokens, tmp_path / "run", checkpoint_every=1, keep=keep)
    assert list(seen.values())[-1] == least
    assert len(checkpoints(run)) == keep


def test_a_full_disk_ends_the_training_and_the_one_before_stays(tokens, tmp_path, monkeypatch):
    whole = common.save_checkpoint

    def full(out, step, *rest):
        if step == 4:
            raise OutputError("the disk is full")
        return whole(out, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(common, "save_checkpoint", full)
        with pytest.raises(OutputError, match="full"):
            train_tiny(tokens, tmp_path / "run", **SETTINGS)
    assert load_checkpoint(tmp_path / "run").step == 2
    train_tiny(tokens, tmp_path / "run", **SETTINGS)
    wanted = train_tiny(tokens, tmp_path / "wanted", **SETTINGS)
    assert contents(tmp_path / "run") == contents(wanted)


def test_a_divergence_waits_for_the_last_good_checkpoint(tokens, tmp_path, monkeypatch):
    whole, whole_loss, calls = common.save_checkpoint, objective.masked_loss, []

    def slow(*arguments):
        time.sleep(0.3)
        return whole(*arguments)

    def spoiled(*arguments):
        calls.append(1)
        return whole_loss(*arguments) * (float("nan") if len(calls) == 3 else 1.0)

    monkeypatch.setattr(common, "save_checkpoint", slow)
    monkeypatch.setattr(objective, "masked_loss", spoiled)
    with pytest.raises(MaskGITError, match="step-00000002"):
        train_tiny(tokens, tmp_path / "run", **SETTINGS)
    assert load_checkpoint(tmp_path / "run").step == 2


# --- SIGUSR1 ----------------------------------------------------------------------------------------


def signal_at(patch, module, at, number=signal.SIGUSR1):
    whole_step = module.train_step

    def signaled(*arguments):
        if at in [argument for argument in arguments[:2] if isinstance(argument, int)]:
            os.kill(os.getpid(), number)
        return whole_step(*arguments)

    patch.setattr(module, "train_step", signaled)


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN])
def test_it_saves_and_goes_on(tokens, tmp_path, monkeypatch, before):
    settings = {"steps": 6, "checkpoint_every": 4, "keep": 9}
    wanted = train_tiny(tokens, tmp_path / "wanted", **settings)
    signal.signal(signal.SIGUSR1, before)
    with monkeypatch.context() as patch:
        signal_at(patch, training, 3)
        run = train_tiny(tokens, tmp_path / "run", **settings)
    assert [int(path.name[-8:]) for path in checkpoints(run)] == [3, 4, 6]
    for step in (4, 6):
        name = f"checkpoints/step-{step:08d}"
        assert contents(run / name) == contents(wanted / name)
    assert signal.getsignal(signal.SIGUSR1) == before
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def test_it_saves_a_tokenizer_too(images, tmp_path, monkeypatch):
    signal_at(monkeypatch, vqgan_training, 3)
    out = train_tiny_vqgan(images, tmp_path / "out", steps=4, checkpoint_every=4)
    assert [int(path.name[-8:]) for path in checkpoints(out)] == [3, 4]


def test_an_own_handler_stays(tokens, tmp_path, monkeypatch):
    seen = []
    signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    signal_at(monkeypatch, training, 1)
    run = train_tiny(tokens, tmp_path / "run", steps=2, checkpoint_every=2)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    assert seen == [signal.SIGUSR1]
    assert [path.name for path in checkpoints(run)] == ["step-00000002"]


def test_one_process_asks_for_all(tokens, tmp_path):
    """The checkpoint is that of a step at which all ranks have agreed; a hanging rank would time out."""
    in_processes(2, train_signaled, tokens, tmp_path / "run")
    assert [int(path.name[-8:]) for path in checkpoints(tmp_path / "run")] == [1, 40]


def train_signaled(tokens, out):
    with pytest.MonkeyPatch.context() as patch:
        if os.environ["RANK"] == "1":
            signal_at(patch, training, 1)
        train_tiny(tokens, out, steps=40, checkpoint_every=40, log_every=40)
