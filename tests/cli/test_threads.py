"""``--threads``: of every command that computes, and of each of several processes."""

import json

import click
import pytest
import torch

from maskgit_cli.cli import COMMANDS, group
from maskgit_cli.errors import MaskGITError

COMPUTING = [
    name
    for name in COMMANDS
    if any("--device" in p.opts for p in group.get_command(click.Context(group), name).params)
]


@pytest.fixture
def asked(monkeypatch):
    """The numbers of threads that ``decode`` was called with; it does nothing else."""
    seen = []

    def decode(*arguments, **settings):
        seen.append(torch.get_num_threads())
        raise MaskGITError("decoded")

    monkeypatch.setattr("maskgit_cli.data.decoding.decode", decode)
    return seen


@pytest.mark.parametrize("name", COMPUTING)
def test_every_command_with_a_device_has_it(name):
    flags = {flag for p in group.get_command(click.Context(group), name).params for flag in p.opts}
    assert "--threads" in flags


def test_it_holds_for_the_command_alone(maskgit, asked):
    before = torch.get_num_threads()
    for count in (before + 1, 1):
        done = maskgit("decode", "t.h5", "out", "--threads", count)
        assert done.stderr == "maskgit: decoded\n"
    assert asked == [before + 1, 1]
    assert torch.get_num_threads() == before
    maskgit("decode", "t.h5", "out")
    assert asked[2:] == [before]


@pytest.mark.parametrize("count", [0, -1, 1025])
def test_a_number_out_of_range_is_one_line(maskgit, asked, count):
    for processes in ([], ["--procs", 2]):
        done = maskgit(*processes, "decode", "t.h5", "out", "--threads", count)
        assert (done.status, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert f"--threads {count}: must be between 1 and 1,024" in done.stderr
    assert asked == []


def test_a_benchmark_reports_it(maskgit):
    words = "--size tiny --tokenizer tiny --res 32 --batch-size 1 --seconds 0.01 --stages decode --device cpu"
    done = maskgit("bench", *words.split(), "--threads", 3, "--json")
    assert json.loads(done.stdout)["machine"]["threads"] == 3, done.stderr
