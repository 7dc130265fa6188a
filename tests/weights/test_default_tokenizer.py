"""The user's three lines, in their order, on a miniature ImageNet: with a hub on loopback, and without."""

import shutil
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_pulling import Heard, hub  # noqa: F401 (a fixture)
from tiny_models import make_tokenizer

from maskgit_cli.config.catalogue import CATALOGUE
from maskgit_cli.config.networks import SIZES, Size
from maskgit_cli.config.stages import TokenizeConfig
from maskgit_cli.data.tokenizing import tokenize, tokens_at
from maskgit_cli.errors import ConfigError, InputError
from maskgit_cli.formats.models import builtin_tokenizer
from maskgit_cli.formats.tokens import open_tokens
from maskgit_cli.networks.pixels import psnr
from maskgit_cli.weights.default_tokenizer import default_tokenizer

OWN = Path("tokenizers/maskgit-256")


@pytest.fixture
def network(hub, monkeypatch):  # noqa: F811
    """A hub that has a small tokenizer in the place of the published one."""
    monkeypatch.setitem(CATALOGUE, "maskgit-256", CATALOGUE["tiny-v1"]._replace(name="maskgit-256"))
    return hub


def picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (5, 5, 3), np.uint8)
    Image.fromarray(pixels).resize((150, 140)).save(path)


@pytest.fixture
def imagenet(tmp_path) -> Path:
    """Three classes of ImageNet as Kaggle distributes it."""
    root = tmp_path / "imagenet" / "ILSVRC"
    for label, word in enumerate(("n01440764", "n01443537", "n01484850")):
        for i in range(3):
            picture(root / "Data/CLS-LOC/train" / word / f"{word}_{i}.JPEG", 10 * label + i)
    picture(root / "Data/CLS-LOC/val" / "ILSVRC2012_val_00000001.JPEG", 99)
    return root.parent


def test_the_users_three_lines(network, imagenet, monkeypatch, maskgit, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(SIZES, "tiny", Size(32, 1, 4, 64))
    done = maskgit("tokenize", "imagenet/", "tokens.h5", "--workers", "0")
    assert (done.status, done.stdout) == (0, "tokens.h5\n")
    assert str(OWN) in done.stderr
    assert "dB" in done.stderr
    first = open_tokens(tmp_path / "tokens.h5")
    assert (len(first), first.meta.resolution, first.meta.source) == (9, 32, "imagenet")
    assert f"{first.meta.psnr:.1f} dB" in done.stderr
    # Twice the resolution, as 512 is of the paper's 256 px.
    few = ("--size", "tiny", "--steps", "2", "--batch-size", "4", "--preview-every", "0")
    done = maskgit("train", "tokens.h5", "--res", "64", *few)
    assert (done.status, done.stdout) == (0, "runs/tokens-64-tiny-64\n")
    larger = open_tokens(tmp_path / "tokens-64.h5")
    assert larger.meta.grid == 2 * first.meta.grid
    assert (larger.names, larger.meta.parents) == (first.names, first.meta.parents)
    done = maskgit("sample", "--n", "2", "--cfg", "3", "--steps", "2")
    assert done.status == 0
    assert len(list(Path(done.stdout.strip(), "images").iterdir())) == 2


def test_only_the_tokenizers_files_are_fetched_and_only_once(network):
    heard = Heard()
    assert default_tokenizer(reporter=heard) == OWN
    fetched = {request.name for request in network.requests if request.method == "GET"}
    assert fetched == {"user/v1/VQGAN/last.ckpt", "user/v1/VQGAN/model.yaml"}
    network.requests.clear()
    assert default_tokenizer(reporter=heard) == OWN
    assert network.requests == []
    # A pulled model has one, too.
    shutil.move(OWN, "models/maskgit-256/tokenizer")
    assert default_tokenizer(reporter=heard) == Path("models/maskgit-256/tokenizer")
    # What the cache has is not asked for.
    shutil.rmtree("models")
    questions = []
    assert default_tokenizer(lambda text: questions.append(text) or True, heard) == OWN
    assert questions == []


def test_a_download_can_be_declined(network):
    heard, questions = Heard(), []
    assert default_tokenizer(lambda text: questions.append(text), heard) == builtin_tokenizer()
    assert len(questions) == 1
    assert "MB" in questions[0]
    assert [r.method for r in network.requests] == ["HEAD"]
    (warning,) = heard.texts
    assert "maskgit pull maskgit-256" in warning
    assert "maskgit train-vqgan" in warning
    assert not Path("tokenizers").exists()


def test_without_any_network(network, monkeypatch, imagenet, maskgit, tmp_path):
    """A hub that takes the call and says nothing is the slowest way to be unreachable."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        heard = Heard()
        assert default_tokenizer(reporter=heard) == builtin_tokenizer()
        assert time.monotonic() - start < 5
    assert "cannot be reached" in heard.texts[0]
    monkeypatch.setenv("MASKGIT_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    done = maskgit("tokenize", "imagenet", "tokens.h5", "--workers", "0")
    assert done.status == 0
    warning, *rest = done.stderr.splitlines()
    assert "built-in" in warning
    assert "MASKGIT_OFFLINE" in warning
    assert "maskgit pull maskgit-256" in warning
    assert "maskgit train-vqgan" in warning
    assert any("8×8 tokens" in line for line in rest)


# --- another resolution -----------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    for i in range(5):
        picture(tmp_path / "photos" / "ab"[i % 2] / f"{i}.png", i)
    return tmp_path / "photos"


@pytest.fixture
def small(photos, tmp_path):
    """Tokens of these at 16 px, and their tokenizer."""
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    tokenize(photos, tmp_path / "sub" / "t.h5", tokenizer, workers=0, device="cpu")
    return tmp_path / "sub" / "t.h5", tokenizer


def test_images_that_cannot_be_opened_ask_for_no_tokenizer(network, maskgit, tmp_path):
    (tmp_path / "empty").mkdir()
    done = maskgit("tokenize", tmp_path / "empty", tmp_path / "t.h5")
    assert done.status == 1
    assert "empty" in done.stderr
    assert "tokenizer" not in done.stderr
    assert not network.requests


def test_another_resolution_is_what_tokenize_makes(small, photos, tmp_path):
    tokens, tokenizer = small
    assert tokens_at(tokens, 16, tokenizer) == tokens
    made = tokens_at(tokens, 32, tokenizer, workers=0, device="cpu")
    assert made == tokens.with_name("t-32.h5")
    tokenize(photos, tmp_path / "sub/u.h5", tokenizer, TokenizeConfig(res=32), workers=0, device="cpu")
    assert made.read_bytes() == (tmp_path / "sub/u.h5").read_bytes()
    # It is used again, also where the images have gone.
    shutil.rmtree(photos)
    assert tokens_at(tokens, 32, tokenizer) == made


def test_images_that_moved_or_changed(small, photos, tmp_path):
    tokens, tokenizer = small
    photos.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"photos any more; use `maskgit tokenize .*t-32\.h5 --res 32"):
        tokens_at(tokens, 32, tokenizer)
    (tmp_path / "elsewhere").rename(photos)
    (photos / "a" / "0.png").unlink()
    with pytest.raises(InputError, match=r"not those in .*; use `maskgit tokenize .*t-32\.h5 --res 32"):
        tokens_at(tokens, 32, tokenizer)
    assert not tokens.with_name("t-32.h5").exists()


def test_tokens_and_images_may_move_together(photos, tmp_path, monkeypatch):
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    monkeypatch.chdir(tmp_path)
    tokenize(Path("photos"), Path("t.h5"), tokenizer, workers=0, device="cpu")
    (tmp_path / "new").mkdir()
    for path in (photos, tmp_path / "t.h5"):
        shutil.move(path, tmp_path / "new")
    made = tokens_at(Path("new/t.h5"), 32, tokenizer, workers=0, device="cpu")
    assert len(open_tokens(made)) == 5
    # From where they were made it is the path that was typed.
    monkeypatch.chdir(tmp_path / "new")
    assert tokens_at(Path("t.h5"), 32, tokenizer) == Path("t-32.h5")


@pytest.mark.parametrize("views", ["none", "random:2"])
def test_a_split_at_another_resolution_holds_out_the_same_images(views, photos, tmp_path):
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    config = TokenizeConfig(val_split=0.4, seed=3, views=views)
    done = tokenize(photos, tmp_path / "t.h5", tokenizer, config, workers=0, device="cpu")
    made = tokens_at(done.path, 32, tokenizer, workers=0, device="cpu")
    val = tokens_at(done.val.path, 32, tokenizer, workers=0, device="cpu")
    assert (made.name, val.name) == ("t-32.h5", "t-32-val.h5")
    assert open_tokens(made).names == open_tokens(done.path).names
    assert open_tokens(val).names == open_tokens(done.val.path).names


def test_a_resolution_that_the_tokenizer_does_not_have(small):
    tokens, tokenizer = small
    with pytest.raises(ConfigError, match="multiple of 4"):
        tokens_at(tokens, 30, tokenizer)


# --- what is measured -------------------------------------------------------------------------------


def test_the_psnr_is_that_of_the_first_images(small, photos, tmp_path):
    """Whatever the batch size, and left as it is when a file is resumed."""
    tokens, tokenizer = small
    found = open_tokens(tokens).meta.psnr
    assert 0 < found < 60
    tokenize(photos, tmp_path / "sub/v.h5", tokenizer, batch_size=1, workers=0, device="cpu")
    assert (tmp_path / "sub/v.h5").read_bytes() == tokens.read_bytes()


def test_psnr():
    zeros = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    other = zeros.clone()
    other[1] = 16
    assert psnr(zeros, other)[1] == pytest.approx(10 * np.log10(255**2 / 256))
    assert psnr(zeros, other)[0] > 140


def test_few_tokens_are_pointed_out(photos, tmp_path):
    heard = Heard()
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    tokenize(photos, tmp_path / "t.h5", tokenizer, workers=0, device="cpu", reporter=heard)
    assert any("4×4 tokens are few" in text and "--res 32" in text for text in heard.texts)
    heard.texts.clear()
    tokenize(
        photos, tmp_path / "u.h5", tokenizer, TokenizeConfig(res=32), workers=0, device="cpu", reporter=heard
    )
    assert not any("are few" in text for text in heard.texts)
