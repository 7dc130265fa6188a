"""Stage `decode`."""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import CODES, make_model, make_tokenizer

from maskgit_cli.data import decoding
from maskgit_cli.data.decoding import decode
from maskgit_cli.errors import ArtifactError, ConfigError, OutputError
from maskgit_cli.formats.token_writer import TokenWriter
from maskgit_cli.formats.tokens import TokenMeta, open_tokens
from maskgit_cli.networks.inference import decode_tokens
from maskgit_cli.networks.loading import load_tokenizer


@pytest.fixture
def tokenizer(tmp_path):
    return make_tokenizer(tmp_path / "vqgan")


@pytest.fixture
def tokens(tmp_path, tokenizer):
    """A token file of five images with two views each."""
    return write_tokens(tmp_path / "tokens.h5", tokenizer)


def write_tokens(path, tokenizer, views="flip"):
    sha256 = load_tokenizer(tokenizer).sha256
    meta = TokenMeta(CODES, 4, 16, views, [], tokenizer.name, sha256, {}, [])
    writer = TokenWriter.create_or_resume(path, meta, list("abcde"), np.full(5, -1))
    writer.write(np.arange(5), np.random.default_rng(0).integers(0, CODES, (5, *meta.row_shape)))
    return writer.finish()


def contents(path):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(path.iterdir())}


def test_first_view_and_all(tokens, tokenizer, tmp_path):
    result = decode(tokens, tmp_path / "first", tokenizer, device="cpu")
    assert result == (tmp_path / "first", 5, False)
    assert list(contents(tmp_path / "first")) == [*(f"{i:06d}.png" for i in range(5)), "decoded.json"]
    result = decode(tokens, tmp_path / "all", tokenizer, views="all", device="cpu", batch_size=3)
    assert result.images == 10
    assert (tmp_path / "first" / "000003.png").read_bytes() == (
        tmp_path / "all" / "000003-0.png"
    ).read_bytes()

    grids = torch.from_numpy(open_tokens(tokens).codes[3].astype(np.int64))
    expected = decode_tokens(load_tokenizer(tokenizer), grids, torch.device("cpu"))
    for view in range(2):
        stored = np.asarray(Image.open(tmp_path / "all" / f"000003-{view}.png"))
        assert np.array_equal(stored, expected[view].permute(1, 2, 0).numpy())


def test_an_interrupted_call_is_resumed(tokens, tokenizer, tmp_path, monkeypatch):
    whole = contents(decode(tokens, tmp_path / "whole", tokenizer, device="cpu").path)
    out, original, left = tmp_path / "out", decoding.save_png, [3]

    def stop(path, image):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        original(path, image)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "save_png", stop)
        with pytest.raises(KeyboardInterrupt):
            decode(tokens, out, tokenizer, device="cpu", batch_size=2)
    assert json.loads((out / "decoded.json").read_text())["complete"] is False
    (out / ".000004.png.0123456789ab.tmp").write_bytes(b"half")
    kept = (out / "000001.png").stat().st_mtime_ns
    assert decode(tokens, out, tokenizer, device="cpu").resumed
    assert contents(out) == whole
    assert (out / "000001.png").stat().st_mtime_ns == kept
    assert decode(tokens, out, tokenizer, device="cpu").resumed  # complete: nothing is done


def test_other_tokens_or_views_are_refused(tokens, tokenizer, tmp_path):
    out = decode(tokens, tmp_path / "out", tokenizer, device="cpu").path
    before = contents(out)
    with pytest.raises(OutputError, match="--views first, not all"):
        decode(tokens, out, tokenizer, views="all", device="cpu")
    other = write_tokens(tmp_path / "other.h5", tokenizer, views="none")
    with pytest.raises(OutputError, match="tokens"):
        decode(other, out, tokenizer, device="cpu")
    assert contents(out) == before
    (out / "mine.txt").write_text("")
    decode(tokens, out, tokenizer, views="all", device="cpu", overwrite=True)
    names = [f"{i:06d}-{view}.png" for i in range(5) for view in range(2)]
    assert list(contents(out)) == [*names, "decoded.json", "mine.txt"]


def test_a_folder_of_something_else_is_left_alone(tokens, tokenizer, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "000000.png").write_bytes(b"mine")
    with pytest.raises(OutputError, match="photos"):
        decode(tokens, tmp_path / "photos", tokenizer, device="cpu", overwrite=True)
    assert contents(tmp_path / "photos").keys() == {"000000.png"}


def test_which_tokenizer(tokens, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sha256 = load_tokenizer(tokenizer).sha256
    with pytest.raises(ArtifactError, match=f"{sha256[:12]}.*--tokenizer"):
        decode(tokens, tmp_path / "out", device="cpu")
    with pytest.raises(ArtifactError, match=sha256[:12]):
        decode(tokens, tmp_path / "out", make_model(tmp_path / "m", seed=1), device="cpu")
    assert not (tmp_path / "out").exists()
    tokenizer.rename(tmp_path / "tokenizer")  # next to the token file
    assert decode(tokens, tmp_path / "out", device="cpu").images == 5


def test_settings_out_of_range(tokens, tokenizer, tmp_path):
    with pytest.raises(ConfigError, match="--batch-size 0"):
        decode(tokens, tmp_path / "out", tokenizer, batch_size=0)
    with pytest.raises(ConfigError, match=r"--views last.*first, all"):
        decode(tokens, tmp_path / "out", tokenizer, views="last")
    with pytest.raises(ArtifactError, match=r"absent\.h5"):
        decode(tmp_path / "absent.h5", tmp_path / "out", tokenizer)
