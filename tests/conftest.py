"""Small artifacts that tests share. They are read-only: a test that changes one takes a copy."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

# Networks this small gain nothing from more threads, and lose much where processes share few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from PIL import Image, ImageDraw
from tiny_models import NAMES, make_tokenizer
from tiny_training import train_tiny, write_tokens

from maskgit_cli.cli import main
from maskgit_cli.cli.ending import ENDING


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    """The command line sets signal handlers of its process, which is that of the tests here."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *ENDING)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests need no internet: a connection to another machine is an error."""
    connect = socket.socket.connect

    def only_here(self: socket.socket, address) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"a test tried to reach {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_here)


class Outcome(NamedTuple):
    """Exit status and output of a call of the command line."""

    status: int
    stdout: str
    stderr: str


@pytest.fixture
def maskgit(capfd: pytest.CaptureFixture) -> Callable[..., Outcome]:
    """The command line as a function: ``maskgit("train", tokens, "--steps", 3)``."""

    def call(*words: object) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        return Outcome(end.value.code, *capfd.readouterr())

    return call


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a tokenizer of 16 px images, 4×4 tokens, codebook of 12."""
    return make_tokenizer(tmp_path_factory.mktemp("artifacts") / "tokenizer")


@pytest.fixture(scope="session")
def tokens(tokenizer: Path) -> Path:
    """A token file of 24 images in three classes, of that tokenizer, in the same folder."""
    return write_tokens(tokenizer.parent / "tokens.h5", tokenizer)


@pytest.fixture(scope="session")
def run(tokens: Path) -> Path:
    """A run directory: six steps on that token file."""
    return train_tiny(tokens, tokens.parent / "run", preview_every=6)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 images of several sizes, four in each of three classes."""
    root = tmp_path_factory.mktemp("images")
    for label, name in enumerate(NAMES):
        (root / name).mkdir()
        for i in range(4):
            picture = Image.new("RGB", (20 + 2 * i, 24), (60 * i, 80 * label, 200))
            ImageDraw.Draw(picture).ellipse((2 + i, 4, 14 + i, 18), fill=(255, 220 - 90 * label, 40 * i))
            picture.save(root / name / f"{i}.png")
    return root
