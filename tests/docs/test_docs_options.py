"""Options, choices and defaults that documents name are those of the settings' fields."""

import re

import click
import pytest
from documents import CODE, ROOT, Document

from maskgit_cli.cli import COMMANDS, PANELS, group
from maskgit_cli.cli.options import fields_of
from maskgit_cli.config.base import option
from maskgit_cli.config.samplers import PRESETS, SAMPLERS

DOCUMENTS = [Document(ROOT / "README.md"), *map(Document, sorted((ROOT / "docs").glob("*.md")))]
SAMPLER_PAGE = Document(ROOT / "docs" / "samplers.md")
COMMAND = {name: group.get_command(click.Context(group), name) for name in COMMANDS}
FLAGS = {
    flag
    for command in (group, *COMMAND.values())
    for parameter in command.params
    if isinstance(parameter, click.Option)
    for flag in (*parameter.opts, *parameter.secondary_opts)
} | {"--help"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=[document.path.name for document in DOCUMENTS])
def test_every_option_in_a_document_exists(document):
    """Those of prose in backticks; blocks of commands are parsed by another test."""
    named = {
        flag for text in CODE.findall("\n".join(document.prose)) for flag in re.findall(r"--[a-z-]+", text)
    }
    assert named - FLAGS == set()


def table_of(head: str) -> list[list[str]]:
    """The rows of the table of docs/samplers.md whose first head this is."""
    tables = [table for tables in SAMPLER_PAGE.tables.values() for table in tables]
    (table,) = [table for table in tables if table[0][0] == head]
    return table[1:]


def test_samplers_are_listed_with_their_own_options():
    common = set.intersection(*(set(fields_of(kind)) for kind in SAMPLERS.values()))
    listed = {
        CODE.findall(row[0])[0]: set(re.findall(r"--[a-z-]+", " ".join(row[1:])))
        for row in table_of("`--sampler`")
    }
    assert listed.keys() == SAMPLERS.keys()
    for method, kind in SAMPLERS.items():
        own = {option(name) for name in fields_of(kind) if name not in common}
        assert own <= listed[method], method
        assert listed[method] <= {option(name) for name in fields_of(kind)}, method
    prose = set(re.findall(r"--[a-z-]+", "\n".join(SAMPLER_PAGE.prose)))
    assert {option(name) for name in common} <= prose


def test_presets_are_listed_with_their_settings():
    for row in table_of("`--preset`"):
        names = CODE.findall(row[0])
        for name in names:
            config = PRESETS[name]
            assert row[1] == config.method
            numbers = set(re.findall(r"\d+(?:\.\d+)?", row[2]))
            steps = getattr(config, "steps", None)
            assert steps is None or str(steps) in numbers, name
            if "w " in row[2]:
                assert f"{config.cfg:g}" in numbers, name
    assert {name for row in table_of("`--preset`") for name in CODE.findall(row[0])} == set(PRESETS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_choice_is_in_the_help_text(name):
    for parameter in COMMAND[name].params:
        if isinstance(parameter.type, click.Choice) and parameter.metavar:
            missing = [choice for choice in parameter.type.choices if choice not in parameter.help]
            assert missing == [], parameter.name


def test_panels_hold_every_command_once():
    names = [name for panel in PANELS.values() for name in panel]
    assert sorted(names) == sorted(COMMANDS)
