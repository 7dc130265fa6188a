"""The documents tell the truth: their commands run, their tables are what files hold, their links lead on."""

import ast
import importlib
import json
import re
import shlex
import zipfile
from pathlib import Path

import click
import h5py
import numpy as np
import pytest
import torch
from documents import CODE, ROOT, Block, Document, Specification, check_shape
from PIL import Image
from safetensors.numpy import load_file
from tiny_models import NAMES
from tiny_training import train_tiny, train_tiny_vqgan

import maskgit_cli
from maskgit_cli import artifacts
from maskgit_cli.artifacts.models import builtin_pictures
from maskgit_cli.artifacts.statistics import Statistics, moments, sums_of, write_statistics
from maskgit_cli.cli import COMMANDS, group, main
from maskgit_cli.config import (
    TOKENIZER_SIZES,
    InpaintConfig,
    SampleConfig,
    ScoreConfig,
    TokenizeConfig,
    TransformerConfig,
)
from maskgit_cli.decoding import decode
from maskgit_cli.exporting import export
from maskgit_cli.features import INCEPTION, INCEPTION_SHA256, PUBLISHED, metric_name
from maskgit_cli.inpainting import inpaint
from maskgit_cli.models.vqgan import VQGAN
from maskgit_cli.sampling import sample
from maskgit_cli.scoring import fid_stats, score
from maskgit_cli.tokenizing import tokenize

README = Document(ROOT / "README.md")
FORMATS = Document(ROOT / "docs" / "artifacts.md")
DOCUMENTS = [README, *(Document(path) for path in sorted((ROOT / "docs").glob("*.md")))]
RUN, PARSED, PYTHON = "sh", ("bash", ""), "python"
IDS = [document.path.name for document in DOCUMENTS]


# --- blocks -----------------------------------------------------------------------------------------


def commands(block: Block) -> list[list[str]]:
    """The ``maskgit`` calls of a shell block, each as its words."""
    calls = []
    for line in block.text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|;|\|", line):
            words = shlex.split(part, comments=True) if part.strip().startswith("maskgit ") else []
            if words:
                calls.append(words[1:])
    return calls


def run(words: list[str], where: str) -> None:
    try:
        main(words)
    except SystemExit as end:
        assert end.code == 0, f"{where}: maskgit {shlex.join(words)} ended with {end.code}"


def unpack_pictures(folder: Path, texts: str) -> None:
    """Three of the built-in pictures of each class, and those that a document names."""
    with zipfile.ZipFile(builtin_pictures()) as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
        classes = sorted({name.split("/")[0] for name in names})
        few = [name for kind in classes for name in [n for n in names if n.startswith(f"{kind}/")][:3]]
        archive.extractall(folder, sorted({*few, *(name for name in names if name in texts)}))


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_blocks_run(document, tmp_path, monkeypatch):
    """Everything in sh blocks ends well and Python blocks run, in order, where the pictures are."""
    blocks = [block for block in document.blocks if block.language in (RUN, PYTHON)]
    if any(block.language == RUN for block in blocks):
        unpack_pictures(tmp_path / "maskgit-demo" / "pictures", "".join(block.text for block in blocks))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MASKGIT_OFFLINE", "1")
    for block in blocks:
        where = f"{document.path.name}:{block.line}"
        if block.language == PYTHON:
            exec(compile(block.text, where, "exec"), {"__name__": "__main__"})
            continue
        calls = commands(block)
        lines = [line for line in block.text.splitlines() if line.strip() and not line.startswith("#")]
        assert len(calls) == len(lines), f"{where}: only lines of maskgit can be run"
        for words in calls:
            run(words, where)


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_blocks_parse(document):
    """What is too large to run has commands and options that there are, with values of their types."""
    for block in document.blocks:
        assert block.language in (RUN, *PARSED, PYTHON, "json", "text"), f"{document.path.name}:{block.line}"
        if block.language == PYTHON:
            ast.parse(block.text)
        for words in commands(block) if block.language in PARSED else []:
            try:
                parse(words)
            except click.ClickException as error:
                pytest.fail(f"{document.path.name}:{block.line}: {shlex.join(words)}: {error.format_message()}")


def parse(words: list[str]) -> None:
    with group.make_context("maskgit", list(words)) as above:
        rest = [*above._protected_args, *above.args]
        name, command, rest = group.resolve_command(above, rest)
        command.make_context(name, rest, parent=above).close()


def test_wrong_words_would_be_found():
    """The parser above sees what it is there to see."""
    for words in (["no-such"], ["train", "t.h5", "--no-such"], ["train", "t.h5", "--steps", "x"], ["train"]):
        with pytest.raises(click.UsageError):
            parse(words)
    assert commands(Block("", "pip install . && maskgit demo\nmaskgit info \\\n  x # y\n", 1)) == [
        ["demo"],
        ["info", "x"],
    ]


# --- names ------------------------------------------------------------------------------------------


def test_every_command_is_in_the_readme():
    words = [name.split()[1] for name in README.column("commands")]
    assert sorted(words) == sorted(COMMANDS)


def test_arguments_in_the_readme_are_those_of_the_commands():
    for text in README.column("commands"):
        _, name, *words = text.split()
        command = group.get_command(click.Context(group), name)
        wanted = [p.make_metavar(click.Context(command)) for p in command.params if p.param_type_name == "argument"]
        shown = [word.strip("[]").rstrip("/") for word in words if word.strip("[]/.").isupper() or ".h5" in word or ".npz" in word]
        assert len(shown) >= len([w for w in wanted if not w.startswith("[")]), text


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_links_lead_somewhere(document):
    for link in document.links():
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.path.parent / path).resolve() if path else document.path
        assert target.exists(), f"{document.path.name} links to {link}"
        if anchor:
            assert anchor in Document(target).tables, f"{document.path.name} links to {link}"


def test_public_names_are_those_of_the_readme():
    for name in maskgit_cli.__all__:
        assert getattr(maskgit_cli, name) is not None
    assert dir(maskgit_cli) == sorted(maskgit_cli.__all__)
    listed = README.column("from-python")
    assert sorted(listed) == sorted(set(listed)), "a name is listed twice"
    assert set(listed) == set(maskgit_cli.__all__)
    with pytest.raises(AttributeError):
        maskgit_cli.no_such_name  # noqa: B018
