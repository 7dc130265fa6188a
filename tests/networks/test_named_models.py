"""A pulled model can be named wherever a command takes a model or a tokenizer."""

import shlex
from pathlib import Path

import pytest
from PIL import Image
from published import V1

from maskgit_cli.data.tokenizing import tokenize
from maskgit_cli.errors import InputError
from maskgit_cli.formats.models import builtin_model, find_named, named
from maskgit_cli.weights.importing import import_weights

NAME = "maskgit-256"


@pytest.fixture(scope="module")
def pulled(tmp_path_factory):
    """A working directory: a model named like a published one, images, and their tokens."""
    root = tmp_path_factory.mktemp("work")
    model = root / "models" / NAME
    import_weights([V1.transformer], model, tokenizer=V1.tokenizer, heads=4)
    (root / "photos").mkdir()
    for i in range(3):
        Image.new("RGB", (32, 32), (80 * i, 90, 200)).save(root / "photos" / f"{i}.png")
    tokenize(root / "photos", root / "tokens.h5", model, workers=0, device="cpu")
    return root


@pytest.fixture
def here(pulled, monkeypatch):
    monkeypatch.chdir(pulled)
    return pulled


COMMANDS = [
    "sample NAME --n 2 --steps 2 --out new",
    "inpaint photos/0.png NAME --box 8,8,8,8 --n 1 --steps 2 --out new",
    "tokenize photos new --tokenizer NAME --workers 0",
    "decode tokens.h5 new --tokenizer NAME",
    "fid tokens.h5 --ref photos --features vqgan --tokenizer NAME --metrics fid --out new.json",
    "train tokens.h5 --tokenizer NAME --steps 1 --batch-size 2 --size tiny --preview-every 0 --out new",
    "train tokens.h5 --init-from NAME --steps 1 --batch-size 2 --preview-every 0 --out new",
    "export NAME new",
    "info NAME",
    f"import {V1.transformer} new --tokenizer NAME --heads 4",
]


@pytest.fixture(params=COMMANDS, ids=lambda line: line.split(" --tokenizer")[0].split(" NAME")[0][-30:])
def arguments(request):
    """The arguments of a command that takes a model or a tokenizer."""
    return shlex.split(request.param)


def test_every_command_takes_the_name(arguments, here, tmp_path, maskgit):
    names = {"NAME": NAME, "new": tmp_path / "new", "new.json": tmp_path / "new.json"}
    outcome = maskgit(*(names.get(word, word) for word in arguments))
    assert outcome.status == 0, outcome.stderr
    assert arguments[0] == "info" or [*tmp_path.glob("new*")]


def test_a_published_model_that_was_not_pulled(arguments, here, tmp_path, maskgit):
    """One line, with the command that fetches it; nothing is written."""
    names = {"NAME": "maskgit-512", "new": tmp_path / "new", "new.json": tmp_path / "new.json"}
    outcome = maskgit(*(names.get(word, word) for word in arguments), "--quiet")
    assert outcome.status == 1
    assert "`maskgit pull maskgit-512`" in outcome.stderr
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    assert not [*tmp_path.glob("new*")]


def test_local_directories_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/mine").mkdir(parents=True)
    (tmp_path / "models/builtin").mkdir()
    assert named(Path("mine")) == Path("models/mine")
    assert named(Path("builtin")) == builtin_model()
    (tmp_path / "mine").mkdir()
    assert named(Path("mine")) == Path("mine")


def test_a_folder_called_builtin(tmp_path, monkeypatch, maskgit):
    """A folder of images does not hide the built-in model, and `info` describes it; a model does."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "builtin"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(folder / "one.png")
    assert named(Path("builtin")) == builtin_model()
    assert '"images": 1' in maskgit("info", "builtin", "--json").stdout
    (folder / "config.json").write_text("{}")
    assert named(Path("builtin")) == Path("builtin")


def test_a_misspelled_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"halton-384-basse.*halton-384-base"):
        find_named(Path("halton-384-basse"), "tokenizer")
    with pytest.raises(InputError, match="zebra"):
        find_named(Path("zebra"), "tokenizer")
