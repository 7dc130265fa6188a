"""Output of the commands: the result on stdout; progress, messages and tables on stderr."""

import io
import json
import re
import sys
import time

import pytest
import torch
from tiny_training import train_tiny

from maskgit_cli.cli import console


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that is moved by hand."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (59.9, "59s"), (60, "1m00s"), (185, "3m05s"), (3600, "1h00m"), (7800, "2h10m"),
        (86400, "1d0h"), (273600, "3d4h"),
    ],
)  # fmt: skip
def test_lengths_of_time(seconds, text):
    assert console.duration(seconds) == text


def test_without_a_terminal_there_is_a_plain_line_now_and_then(clock, capsys):
    with console.ConsoleReporter().task("train", 100, 10, "steps") as task:
        for _ in range(40):
            clock[0] += 1
            task.advance(1, loss=torch.tensor(2.5))
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert [line.split(",")[0] for line in lines] == [
        "train: 25/100 steps", "train: 40/100 steps", "train: 50/100 steps"
    ]  # fmt: skip
    # The rate is that of this process; what an earlier one did is not counted.
    assert lines[0].startswith("train: 25/100 steps, 1/s, 1m15s left, loss 2.5, ")
    assert lines[0].endswith(" GB")
    assert "\x1b" not in err
    assert "\r" not in err


def test_the_last_plain_line_is_not_printed_again(clock, capsys):
    with console.ConsoleReporter().task("sample", 45) as task:
        for _ in range(3):
            clock[0] += 15
            task.advance(15)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"sample: {n}/45 images" for n in (15, 30, 45)]


def test_a_terminal_gets_a_bar_with_rate_loss_and_memory(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with console.ConsoleReporter().task("train", 4, 1, "steps") as task:
        for _ in range(3):
            task.advance(1, loss=torch.tensor(2.5))
    text = screen.getvalue()
    assert "train" in text
    assert "4/4" in text
    assert "loss 2.5" in text
    assert "GB" in text
    assert "\x1b[" in text


def test_a_task_within_another_has_a_bar_below_it(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    reporter = console.ConsoleReporter()
    with reporter.task("train", 4, unit="steps") as outer:
        outer.advance(2)
        with reporter.task("features", 8) as inner:
            inner.advance(8)
            both = outer.progress
            assert inner.progress is both
            assert [task.description for task in both.tasks] == ["train", "features"]
        outer.advance(2)
        assert [(task.description, task.finished) for task in both.tasks] == [("train", True)]
    with reporter.task("sample", 2) as next_one:
        assert next_one.progress is not both
    assert "features" in screen.getvalue()


def test_a_bar_never_wraps(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    name = "features of a-folder-with-quite-a-long-name"
    with console.ConsoleReporter().task(name, 50_000, 12_345, "steps") as task:
        task.advance(1, loss=42.46)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).replace("\r", "\n").splitlines()
    shown = [line for line in lines if line.strip()]
    assert shown
    assert all(line.startswith("features of a-folder-wi…") for line in shown)
    assert shown[-1].endswith("GB  loss 42.46")


def test_quiet_still_shows_warnings(capsys, clock):
    reporter = console.ConsoleReporter(quiet=True)
    with reporter.task("train", 2) as task:
        clock[0] += 100
        task.advance()
    reporter.info("news")
    reporter.warn("beware")
    assert capsys.readouterr() == ("", "warning: beware\n")


def test_only_rank_0_prints(monkeypatch, capsys, clock):
    monkeypatch.setenv("RANK", "1")
    reporter = console.reporter(False)
    with reporter.task("train", 2) as task:
        clock[0] += 100
        task.advance()
    reporter.info("news")
    reporter.warn("beware")
    console.result(None, {"a": 1}, True)
    console.log("line")
    console.table("Settings", {"a": 1})
    console.columns("Settings", ["a"], {"x": [1]})
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("RANK", "0")
    console.reporter(False).info("news")
    assert capsys.readouterr() == ("", "news\n")


def test_a_result_is_a_path_or_one_object(tmp_path, capsys):
    console.result(tmp_path / "x", {"path": "ü", "n": 2}, False)
    assert capsys.readouterr().out == f"{tmp_path / 'x'}\n"
    console.result(tmp_path / "x", {"path": "ü", "n": 2}, True)
    out = capsys.readouterr().out
    assert json.loads(out) == {"path": "ü", "n": 2}
    assert out.count("\n") == 1


def test_tables_go_to_stderr(capsys):
    console.table("Settings", {"a": 1, "long name": "x"})
    assert capsys.readouterr() == ("", "Settings\n  a          1\n  long name  x\n")


def test_a_failing_stage_leaves_its_task_behind(capsys):
    with pytest.raises(KeyboardInterrupt), console.ConsoleReporter().task("train", 2):
        raise KeyboardInterrupt
    assert "train" not in capsys.readouterr().err


def test_a_training_shows_its_loss(tokens, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(console, "LINE_EVERY", 0.0)
    train_tiny(tokens, tmp_path / "run", {"reporter": console.ConsoleReporter()}, steps=2)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0].startswith("train: 1/2 steps, ")
    assert ", loss 2." in err.splitlines()[1]


def test_bytes_have_readable_units(capsys):
    assert [console.size(n) for n in (0, 645, 12_345, 2_090_306_069)] == [
        "0 bytes",
        "645 bytes",
        "12.3 kB",
        "2.09 GB",
    ]
    with console.ConsoleReporter().task("fetching x.pth", 4_000_000, 1_000_000, unit="bytes") as task:
        task.advance(1_000_000)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fetching x.pth: 2 MB of 4 MB, ")
    assert line.count("B/s") == 1


def test_a_summary(clock, tmp_path, capsys):
    console.reporter(False)
    clock[0] += 75
    (tmp_path / "grid.png").touch()
    facts = {"images": 1234, "loss": 0.123456, "skipped": None}
    console.summary(False, tmp_path, facts, look=tmp_path / "grid.png", then="maskgit info x")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"{tmp_path}: images 1,234, loss 0.1235, 1m15s",
        f"  look at {tmp_path / 'grid.png'}",
        "  next: maskgit info x",
    ]
    console.summary(False, tmp_path, {}, resumed=True, look=tmp_path / "none.png")
    assert capsys.readouterr().err == f"{tmp_path}: 1m15s since it was resumed\n"
    console.summary(True, tmp_path, facts)
    assert capsys.readouterr().err == ""


def test_the_final_numbers_of_a_training(run):
    found = console.final_metrics(run, ("step", "loss", "val_loss"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert found == {"step": 6, "loss": lines[-1]["loss"]}


def test_every_stage_says_what_is_next(run, tmp_path, maskgit):
    done = maskgit("sample", run, "--out", tmp_path / "s", "--n", "2", "--steps", "2", "--device", "cpu")
    assert done.status == 0
    assert f"look at {tmp_path / 's' / 'grid.png'}" in done.stderr
    assert f"next: maskgit fid {tmp_path / 's'}" in done.stderr
    done = maskgit("export", run, tmp_path / "m")
    assert f"next: maskgit sample {tmp_path / 'm'}" in done.stderr
    assert "next:" not in maskgit("export", run, tmp_path / "quiet", "--quiet").stderr


def test_info_has_final_numbers_and_a_line_for_each_setting(run, tokens, maskgit):
    lines = maskgit("info", run).stdout.splitlines()
    assert any(line.split()[:1] == ["loss"] for line in lines)
    assert any(line.startswith("  batch_size ") for line in lines)
    assert sum("─ " in line for line in lines) >= 2
    counts = json.loads(maskgit("info", tokens, "--json").stdout)["class_counts"]
    assert counts["smallest"] + counts["largest"] > 0
