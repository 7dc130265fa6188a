"""A model that was pulled is known by its name, wherever a model or a tokenizer is asked for."""

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
    """A working directory: a model called as a published one, pictures, and their tokens."""
    root = tmp_path_factory.mktemp("work")
    model = root / "models" / NAME
    import_weights([V1.transformer], model, tokenizer=V1.tokenizer, heads=4)
    (root / "pictures").mkdir()
    for i in range(3):
        Image.new("RGB", (32, 32), (80 * i, 90, 200)).save(root / "pictures" / f"{i}.png")
    tokenize(root / "pictures", root / "tokens.h5", model, workers=0, device="cpu")
    return root


@pytest.fixture
def here(pulled, monkeypatch):
    monkeypatch.chdir(pulled)
    return pulled


COMMANDS = [
    "sample NAME --n 2 --steps 2 --out new",
    "inpaint pictures/0.png NAME --box 8,8,8,8 --n 1 --steps 2 --out new",
    "tokenize pictures new --tokenizer NAME --workers 0",
    "decode tokens.h5 new --tokenizer NAME",
    "fid tokens.h5 --ref pictures --features vqgan --tokenizer NAME --metrics fid --out new",
    "train tokens.h5 --tokenizer NAME --steps 1 --batch-size 2 --size tiny --preview-every 0 --out new",
    "train tokens.h5 --init-from NAME --steps 1 --batch-size 2 --preview-every 0 --out new",
    "export NAME new",
    "info NAME",
    f"import {V1.transformer} new --tokenizer NAME --heads 4",
]


@pytest.fixture(params=COMMANDS, ids=lambda line: line.split(" --tokenizer")[0].split(" NAME")[0][-30:])
def words(request):
    """The words of a command that takes a model or a tokenizer."""
    return shlex.split(request.param)


def test_every_command_takes_the_name(words, here, tmp_path, maskgit):
    names = {"NAME": NAME, "new": tmp_path / "new"}
    outcome = maskgit(*(names.get(word, word) for word in words))
    assert outcome.status == 0, outcome.stderr
    assert words[0] == "info" or (tmp_path / "new").exists()


def test_a_published_model_that_was_not_pulled(words, here, tmp_path, maskgit):
    """One line, which says how to get it; nothing is written."""
    names = {"NAME": "maskgit-512", "new": tmp_path / "new"}
    outcome = maskgit(*(names.get(word, word) for word in words), "--quiet")
    assert outcome.status == 1
    assert (
        "at maskgit-512, nor at models/maskgit-512; `maskgit pull maskgit-512`" in outcome.stderr
    )
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    assert not (tmp_path / "new").exists()


def test_what_is_here_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/mine").mkdir(parents=True)
    (tmp_path / "models/builtin").mkdir()
    assert named(Path("mine")) == Path("models/mine")
    assert named(Path("builtin")) == builtin_model()
    (tmp_path / "mine").mkdir()
    assert named(Path("mine")) == Path("mine")


def test_a_folder_called_builtin(tmp_path, monkeypatch, maskgit):
    """One of pictures does not hide the built-in model, and `info` tells what is there; a model does."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "builtin"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(folder / "one.png")
    assert named(Path("builtin")) == builtin_model()
    assert '"images": 1' in maskgit("info", "builtin", "--json").stdout
    (folder / "config.json").write_text("{}")
    assert named(Path("builtin")) == Path("builtin")


def test_a_name_that_is_nearly_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for word, end in [("halton-384-basse", "; did you mean the published halton-384-base\\?"), ("zebra", "")]:
        with pytest.raises(InputError, match=f"^no tokenizer at {word}: it does not exist{end}$"):
            find_named(Path(word), "tokenizer")
