"""Pipes, devices, absurd records, and text that would command the terminal."""

import os
import shlex
import signal

import pytest
from PIL import Image

from maskgit_cli.cli import console
from maskgit_cli.errors import ArtifactError, InputError
from maskgit_cli.formats.atomic import LARGEST_RECORD, read_json, regular

FID = "--features vqgan --tokenizer TOKENIZER"
CALLS = [
    "info p.npz",
    "info p.json",
    "info p.safetensors",
    "info p.h5",
    "info p.csv",
    "info piped",
    "sample RUN --n 1 --labels @p --out new",
    "sample RUN --n 1 --labels @/dev/zero --out new",
    "sample piped --n 1 --out new",
    "inpaint p.csv RUN --out new",
    "inpaint p.png RUN --box 1,1,4,4 --out new",
    "tokenize p.csv new --tokenizer TOKENIZER",
    "train p.h5 --out new",
    "import p new",
    "import p.pth new",
    "import p.yaml new",
    f"fid p.npz --ref p.npz --out new.json {FID}",
]


@pytest.fixture
def pipes(tmp_path, monkeypatch):
    """A working directory of named pipes; waiting for one for half a minute is an error."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "p",
        *(f"p.{end}" for end in ["npz", "json", "safetensors", "h5", "csv", "png", "pth", "yaml"]),
    ):
        os.mkfifo(name)
    (tmp_path / "piped").mkdir()
    os.mkfifo("piped/config.json")

    def waited(*_):
        raise TimeoutError("the pipe was opened")

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(30)
    yield tmp_path
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("call", CALLS)
def test_a_pipe_is_one_line(call, pipes, run, tokenizer, maskgit):
    names = {"RUN": run, "TOKENIZER": tokenizer}
    arguments = [names.get(word, word) for word in shlex.split(call)]
    outcome = maskgit(*arguments)
    assert outcome.status == 1
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    named = next(word for word in ("/dev/zero", "piped", "p") if word in call)
    assert named in outcome.stderr
    assert not (pipes / "new").exists()


def test_files_folders_and_missing_paths_pass(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    for name in ("file", ".", "missing"):
        assert regular(tmp_path / name, 3) == tmp_path / name
    with pytest.raises(InputError, match="3 bytes"):
        regular(tmp_path / "file", 2)
    with pytest.raises(InputError, match="zero"):
        regular(tmp_path.joinpath("/dev/zero"))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"a": ' + "1" * 9999 + "}"])
def test_absurd_records_are_errors(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"config\.json"):
        read_json(tmp_path / "config.json", "a record")


def test_a_record_of_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "config.json"
    path.touch()
    os.truncate(path, LARGEST_RECORD + 1)
    with pytest.raises(InputError, match=f"{LARGEST_RECORD:,}"):
        read_json(path, "a record")


@pytest.mark.parametrize(
    "call",
    [
        "info ''",
        "train '' --out new",
        "train tokens.h5 --out ''",
        "tokenize images ''",
        "sample --out ''",
        "fid samples --ref ''",
        "demo ''",
    ],
)
def test_an_empty_path_is_not_the_working_directory(call, tmp_path, monkeypatch, maskgit):
    monkeypatch.chdir(tmp_path)
    outcome = maskgit(*shlex.split(call))
    assert outcome.status == 2
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    assert not list(tmp_path.iterdir())


# --- text that would command the terminal -----------------------------------------------------------

EVIL = "a\x1b]0;title\x07\x9b31m\x08b"


def test_control_characters_are_escaped():
    assert console.printable(EVIL) == r"a\x1b]0;title\x07\x9b31m\x08b"
    assert console.printable("\u202ereversed") == r"\u202ereversed"
    for harmless in ("plain text", "naïve 図 🧑\u200d🚀", "two\nlines"):
        assert console.printable(harmless) == harmless


def test_names_of_files_are_escaped_in_errors_and_warnings(tmp_path, tokenizer, maskgit, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (["info", EVIL], ["train", f"{EVIL}.h5"]):
        stderr = maskgit(*call).stderr
        assert r"a\x1b]0;title" in stderr
        assert "\x1b]" not in stderr
        assert "\x9b" not in stderr
    (tmp_path / "images").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "images" / "good.png")
    (tmp_path / "images" / f"{EVIL}.png").write_bytes(b"no image")
    outcome = maskgit("tokenize", "images", "t.h5", "--tokenizer", tokenizer, "--workers", "0")
    assert outcome.status == 0, outcome.stderr
    assert r"a\x1b]0;title" in outcome.stderr
    assert "\x1b]" not in outcome.stderr
