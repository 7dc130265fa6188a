"""Help pages: quick, complete, readable on 80 columns and where stdout is not a terminal."""

import contextlib
import os
import pty
import re
import resource
import select
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from maskgit_cli import __version__
from maskgit_cli.cli import COMMANDS, PANELS, command, group, launch
from maskgit_cli.config.sizes import tokenizer_table, transformer_table

COMMAND = [sys.executable, "-m", "maskgit_cli"]
NAMES = list(COMMANDS)
HEAVY = ("torch", "numpy", "PIL", "h5py", "accelerate", "safetensors", "matplotlib")


def command_of(name):
    return group.get_command(click.Context(group), name)


def cpu_seconds(arguments):
    """Seconds of work, not of waiting: tests may share their machine with others."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*COMMAND, *arguments], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def on_a_terminal(arguments, columns):
    """The output of a command on a terminal of so many columns, without colors, and its exit status."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm"}
    process = subprocess.Popen([*COMMAND, *arguments], env=environment, stdout=theirs, stderr=theirs)
    os.close(theirs)
    text = b""
    while select.select([ours], [], [], 30)[0]:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux reports the closed terminal so
            break
        if not piece:
            break
        text += piece
    os.close(ours)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text.decode()).replace("\r\n", "\n")
    return plain, process.wait(timeout=30)


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_help_is_quick(arguments):
    """0.17 s on a quiet machine; twice the design's 0.2 s leaves room for a busy one, and none for torch."""
    assert min(cpu_seconds(arguments) for _ in range(5)) < 0.4


def test_no_help_imports_torch():
    script = (
        "import sys\n"
        "from maskgit_cli.cli import main\n"
        "import maskgit_cli\n"
        "for words in [['--help'], ['--version'], *([name, '--help'] for name in sys.argv[1:])]:\n"
        "    try:\n        main(words)\n    except SystemExit as end:\n        assert end.code == 0, words\n"
        f"    heavy = set({HEAVY}) & sys.modules.keys()\n"
        "    assert not heavy, (words, heavy)\n"
    )
    subprocess.run([sys.executable, "-c", script, *NAMES], check=True, stdout=subprocess.DEVNULL)


def test_the_list_of_commands_imports_none_of_them():
    script = (
        "import sys\nfrom maskgit_cli.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not [name for name in sys.modules if 'cli.cmd_' in name]"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_commands_are_listed_in_panels(maskgit):
    done = maskgit("--help")
    assert (done.status, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    for panel, commands in PANELS.items():
        start = lines.index(f"{panel}:") + 1
        listed = [line.split(maxsplit=1) for line in lines[start : start + len(commands)]]
        assert [name for name, _ in listed] == list(commands)
    assert maskgit("-h").stdout == done.stdout
    assert maskgit("--version").stdout == f"maskgit {__version__}\n"


@pytest.mark.parametrize("name", NAMES)
def test_the_lists_line_is_the_commands_own(name):
    first = command_of(name).help.split("\n\n")[0]
    assert " ".join(first.split()) == COMMANDS[name]


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_a_help_text_and_a_panel_of_the_order(name):
    for parameter in command_of(name).params:
        assert parameter.help.endswith((".", "]"))
        assert parameter.panel is None or parameter.panel in command.PANELS, parameter.name
        assert parameter.help.count("[default:") <= 1
        assert not parameter.show_default if isinstance(parameter, click.Option) else True


@pytest.mark.parametrize("name", NAMES)
def test_plain_help_has_panels_in_order_and_fits_80_columns(maskgit, name):
    done = maskgit(name, "--help")
    assert (done.status, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"Usage: maskgit {name} ")
    assert all(len(line) <= 80 and line == line.rstrip() for line in lines)
    assert not set(done.stdout) & set("╭╮╰╯│─\x1b\b")
    panels = [line[:-1] for line in lines if line[:-1] in command.PANELS and line.endswith(":")]
    assert panels == sorted(panels, key=command.PANELS.index)
    assert panels[-1] == "Output"
    flags = [flag for p in command_of(name).params for flag in p.opts if flag.startswith("--")]
    shown = done.stdout.replace(",", " ").replace("/", " ").split()
    assert [flag for flag in (*flags, "--help") if flag not in shown] == []
    assert maskgit(name, "--help").stdout == done.stdout, "a second page in one process is the same"


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_on_lines_of_their_own_and_parse(maskgit, name):
    text = maskgit(name, "--help").stdout
    examples = [shlex.split(line) for line in text.split("\nExample")[1].splitlines()[1:]]
    assert examples
    assert [" ".join(words) for words in examples] == command_of(name).examples
    for words in examples:
        assert words[0] == "maskgit"
        called = next(word for word in words if word in NAMES)  # --procs 8 may come before
        rest = words[words.index(called) + 1 :]
        with contextlib.suppress(click.exceptions.Exit):  # `pull --list` ends here
            command_of(called).make_context(called, rest)  # raises if an argument is wrong


@pytest.mark.parametrize(("name", "table"), [("train", transformer_table), ("train-vqgan", tokenizer_table)])
def test_named_sizes_are_a_table(maskgit, name, table):
    text = maskgit(name, "--help").stdout
    start, end = text.index("\nSizes:\n"), text.index("\nExample")
    rows = [line.split() for line in text[start:end].splitlines()[2:]]
    assert rows[: len(table())] == [" ".join(row).split() for row in table()]


@pytest.mark.parametrize("columns", [80, 120])
def test_help_on_a_terminal_has_boxes_of_its_width(columns):
    for arguments in (["--help"], ["train", "--help"]):
        text, status = on_a_terminal(arguments, columns)
        assert status == 0
        tops = [line for line in text.splitlines() if line.startswith("╭")]
        assert {len(line) for line in tops} == {min(columns, 100)}
        assert max(map(len, text.splitlines())) <= columns


def test_a_usage_error_on_a_terminal_shows_the_usage():
    text, status = on_a_terminal(["train", "--no-such"], 80)
    assert status == 2
    assert "Usage: maskgit train" in text
    assert "--no-such" in text
    assert "╭─ Error" in text


def test_every_command_file_is_listed():
    files = {p.stem for p in Path(launch.__file__).parent.glob("cmd_*.py")}
    assert files == {"cmd_" + name.replace("-", "_") for name in NAMES}
