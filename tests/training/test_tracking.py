"""The log in TensorBoard or Weights & Biases."""

import json
import math

import pytest
from accelerate import tracking as theirs
from tiny_training import MEASURED, in_processes, metrics, train_tiny, train_tiny_vqgan

from maskgit_cli.errors import ConfigError
from maskgit_cli.formats.atomic import read_json

SETTINGS = {"log_with": "wandb", "steps": 4}


MADE = []


class Fake(theirs.GeneralTracker):
    """Records what Accelerate hands to a tracker."""

    name = "wandb"
    requires_logging_directory = False

    def __init__(self, run_name, **options):
        super().__init__()
        self.project, self.options, self.lines, self.state = run_name, options, [], "made"
        MADE.append(self)

    @property
    def tracker(self):
        return self

    def start(self):
        self.state = "started"

    def log(self, values, step=None, **options):
        assert self.state == "started"
        self.lines.append({"step": step, **values})

    def finish(self):
        self.state = "finished"


@pytest.fixture
def fake(monkeypatch):
    MADE.clear()
    monkeypatch.setitem(theirs.LOGGER_TYPE_TO_CLASS, "wandb", Fake)
    monkeypatch.setattr(theirs, "_available_trackers", [theirs.LoggerType.WANDB])
    return MADE


def logged(run):
    """The lines of a log, without values that are not finite numbers."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    return [{key: value for key, value in line.items() if value is not None} for line in lines]


def test_a_tracker_gets_the_lines_of_the_log(tokens, tmp_path, fake):
    run = train_tiny(tokens, tmp_path / "run", {"val": tokens}, **SETTINGS)
    (tracker,) = fake
    assert tracker.lines == logged(run)
    assert any("val_loss" in line for line in tracker.lines)
    assert (tracker.project, tracker.state, tracker.options["name"]) == ("maskgit", "finished", "run")
    assert tracker.options["config"]["lr"] == 1e-3
    assert tracker.options["dir"] == str(run / "tracking")


def test_a_resumed_run_is_the_same_run_and_repeats_no_step(tokens, tmp_path, fake):
    run = train_tiny(tokens, tmp_path / "run", **SETTINGS)
    moved = run.rename(tmp_path / "moved")
    train_tiny(tokens, moved, **SETTINGS | {"steps": 6})
    first, second = fake
    assert first.options["id"] == second.options["id"]
    assert second.options["resume"] == "allow"
    assert [line["step"] for line in first.lines + second.lines] == [1, 2, 3, 4, 5, 6]
    train_tiny(tokens, moved, steps=8)  # it may be left out again
    assert len(fake) == 2
    assert read_json(moved / "config.json", "a run")["settings"]["log_with"] is None


def test_an_error_ends_the_tracker(tokens, tmp_path, fake, monkeypatch):
    monkeypatch.setattr("maskgit_cli.training.transformer.learning_rate", lambda *rest: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_tiny(tokens, tmp_path / "run", **SETTINGS)
    assert fake[0].state == "finished"


def test_numbers_that_are_not_finite_are_left_out(tokens, tmp_path, fake, monkeypatch):
    monkeypatch.setattr("maskgit_cli.training.transformer.learning_rate", lambda *rest: math.nan)
    train_tiny(tokens, tmp_path / "run", **SETTINGS)
    assert all("lr" not in line and "loss" in line for line in fake[0].lines)


def test_a_tokenizer_is_tracked_too(images, tmp_path, fake):
    out = train_tiny_vqgan(images, tmp_path / "out", **SETTINGS)
    assert fake[0].lines == logged(out)


def test_nothing_else_changes(tokens, tmp_path, fake):
    run = train_tiny(tokens, tmp_path / "run", **SETTINGS)
    plain = train_tiny(tokens, tmp_path / "plain", steps=4)
    assert metrics(run) == metrics(plain)
    assert not (plain / "tracking").exists()


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_named_before_anything_is_written(tokens, tmp_path, monkeypatch, name):
    monkeypatch.setattr(theirs, "_available_trackers", [])
    with pytest.raises(ConfigError, match=f"pip install {name}"):
        train_tiny(tokens, tmp_path / "run", log_with=name)
    assert not (tmp_path / "run").exists()


def test_what_a_tracker_refuses_is_one_line(tokens, tmp_path, fake, monkeypatch):
    def refuse(self):
        raise RuntimeError("no API key\nlog in")

    monkeypatch.setattr(Fake, "start", refuse)
    with pytest.raises(ConfigError, match=r"--log-with wandb.*no API key log in"):
        train_tiny(tokens, tmp_path / "run", **SETTINGS)


# --- TensorBoard ------------------------------------------------------------------------------------


def points(run):
    """Values of all scalars by step, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    reader = EventMultiplexer().AddRunsFromDirectory(str(run / "tracking")).Reload()
    (name,) = reader.Runs()
    return {
        tag: {event.step: event.value for event in reader.Scalars(name, tag)}
        for tag in reader.Runs()[name]["scalars"]
    }


def test_tensorboard_shows_every_step_once(tokens, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    settings = {"log_with": "tensorboard", "checkpoint_every": 3}
    run = train_tiny(tokens, tmp_path / "run", **settings | {"steps": 5})
    (run / "checkpoints" / "step-00000005" / "state.json").unlink()  # as if killed after step 5
    in_processes(2, train_tiny, tokens, run, **settings)
    shown = points(run)
    assert shown.keys() >= {"loss", "accuracy", "lr", *MEASURED - {"mfu"}}
    assert shown["loss"] == pytest.approx({line["step"]: line["loss"] for line in metrics(run)})
    assert list(shown["loss"]) == [1, 2, 3, 4, 5, 6]
