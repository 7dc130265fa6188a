"""Stage `decode`."""

import csv
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import CODES, make_model, make_tokenizer

from maskgit_cli.data import decoding
from maskgit_cli.data.decoding import decode
from maskgit_cli.data.sources import open_source
from maskgit_cli.errors import ArtifactError, ConfigError, OutputError
from maskgit_cli.formats.decoded import named_files
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


def write_tokens(path, tokenizer, views="flip", names=tuple("abcde"), labels=None, classes=(), **settings):
    sha256, n = load_tokenizer(tokenizer).sha256, len(names)
    meta = TokenMeta(CODES, 4, 16, views, list(classes), tokenizer.name, sha256, settings, [])
    labels = np.full(n, -1) if labels is None else np.array(labels)
    writer = TokenWriter.create_or_resume(path, meta, list(names), labels)
    writer.write(np.arange(n), np.random.default_rng(0).integers(0, CODES, (n, *meta.row_shape)))
    return writer.finish()


def contents(path):
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def images_in(path):
    return [name for name in contents(path) if name.endswith(".png")]


def test_first_view_and_all(tokens, tokenizer, tmp_path):
    result = decode(tokens, tmp_path / "first", tokenizer, device="cpu")
    assert result == (tmp_path / "first", 5, False)
    assert images_in(tmp_path / "first") == [f"{name}.png" for name in "abcde"]
    assert contents(tmp_path / "first").keys() - images_in(tmp_path / "first") == {
        "decoded.json",
        "files.csv",
    }
    result = decode(tokens, tmp_path / "all", tokenizer, views="all", device="cpu", batch_size=3)
    assert result.images == 10
    assert (tmp_path / "first" / "d.png").read_bytes() == (tmp_path / "all" / "d-0.png").read_bytes()

    grids = torch.from_numpy(open_tokens(tokens).codes[3].astype(np.int64))
    expected = decode_tokens(load_tokenizer(tokenizer), grids, torch.device("cpu"))
    for view in range(2):
        stored = np.asarray(Image.open(tmp_path / "all" / f"d-{view}.png"))
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
    (out / ".e.png.0123456789ab.tmp").write_bytes(b"half")
    kept = (out / "b.png").stat().st_mtime_ns
    assert decode(tokens, out, tokenizer, device="cpu").resumed
    assert contents(out) == whole
    assert (out / "b.png").stat().st_mtime_ns == kept
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
    names = [f"{x}-{view}.png" for x in "abcde" for view in range(2)]
    assert set(contents(out)) == {*names, "decoded.json", "files.csv", "mine.txt"}


def test_classes_and_names_are_kept(tokenizer, tmp_path):
    names = ["cats/mew.JPEG", "cats/old/mew.png", "dogs/wau.v2.jpg"]
    tokens = write_tokens(tmp_path / "t.h5", tokenizer, "none", names, [0, 0, 1], ["cats", "dogs"])
    out = decode(tokens, tmp_path / "out", tokenizer, device="cpu").path
    assert images_in(out) == ["cats/mew.png", "cats/old/mew.png", "dogs/wau.v2.png"]
    read = open_source(out)
    assert (read.class_names, read.labels.tolist()) == (["cats", "dogs"], [0, 0, 1])
    listed = open_source(out / "files.csv")
    assert [listed.class_names[label] for label in listed.labels] == ["cats", "cats", "dogs"]
    assert torch.equal(listed.open(2), read.open(2))
    with (out / "files.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == names


def test_samples_are_numbered_by_row(tokenizer, tmp_path):
    """Their names are numbers of a whole set, or those of windows."""
    tokens = write_tokens(
        tmp_path / "t.h5", tokenizer, "none", ["000007", "000008"], [0, 1], "ab", sampler={}
    )
    out = decode(tokens, tmp_path / "out", tokenizer, device="cpu").path
    assert images_in(out) == ["000000.png", "000001.png"]


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        # Names that lead out of the folder, or that sources would skip.
        (["../../etc/x.jpg", "/home/me/y.jpg", "a/../z.jpg"], None, ["x", "y", "z"]),
        ([".hidden.jpg", "..", ""], None, ["_hidden", "000001", "000002"]),
        # Folders of a list are not those of classes; an unlabeled image is not next to folders of others.
        (["/data/x.jpg", "b/x.jpg", "y.jpg"], [0, 1, -1], ["a/x", "b/x", "unlabeled/y"]),
        # Two images of one name; the number appended is no other image's name.
        (["x.jpg", "x.png", "x-000001.jpg"], None, ["x", "x-000001_", "x-000001"]),
        (["X.jpg", "x.jpg"], None, ["X", "x-000001"]),
        # A file of the name of a folder.
        (["a/x.jpg", "a/x.png/y.jpg"], [0, 0], ["a/x-000000", "a/x.png/y"]),
        # Files of the folder itself.
        (["decoded.json/x.jpg", "files.csv/x.jpg"], [2, 3], ["decoded.json_/x", "files.csv_/x"]),
        (["u/x.jpg"], [4], ["u_v/x"]),
    ],
)
def test_unusual_names(names, labels, expected):
    classes = ["a", "b", "decoded.json", "files.csv", "u/v"]
    files = named_files(names, labels or [-1] * len(names), classes, 1)
    assert [file.path for file in files] == [f"{path}.png" for path in expected]


def test_long_names_fit_and_differ():
    long = ["ä" * 120 + end for end in ("1.jpg", "2.jpg")]
    first, second = (Path(file.path) for file in named_files(long, [-1, -1], [], 2)[::2])
    assert first != second
    assert first.name.startswith("ä" * 90)
    assert all(len(os.fsencode(path.name)) + len(".0123456789ab.tmp.") <= 255 for path in (first, second))
    (deep,) = named_files(["a/" + "b/" * 3000 + "c.jpg"], [0], ["a"], 1)
    assert deep.path == "a/c.png"


def test_views_of_different_images_never_share_a_name():
    files = named_files(["x.jpg", "x-0.jpg", "x-1.jpg"], [-1] * 3, [], 2)
    assert len({file.path for file in files}) == 6


def test_overwriting_removes_what_was_decoded_and_nothing_else(tokenizer, tmp_path):
    names = ["cats/mew.jpg", "dogs/wau.jpg"]
    tokens = write_tokens(tmp_path / "t.h5", tokenizer, "flip", names, [0, 1], ["cats", "dogs"])
    out = decode(tokens, tmp_path / "out", tokenizer, device="cpu").path
    (out / "dogs" / "mine.png").write_bytes(b"mine")
    other = write_tokens(tmp_path / "o.h5", tokenizer, "flip", ["a.jpg"])
    decode(other, out, tokenizer, device="cpu", overwrite=True)
    assert set(contents(out)) == {"a.png", "dogs/mine.png", "decoded.json", "files.csv"}
    assert not (out / "cats").exists()


def test_a_list_that_names_other_files_is_refused(tokens, tokenizer, tmp_path):
    """A folder that someone else made must not make --overwrite remove files elsewhere."""
    out = decode(tokens, tmp_path / "out", tokenizer, device="cpu").path
    (tmp_path / "mine.png").write_bytes(b"mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine.png").write_bytes(b"mine")
    (out / "link").symlink_to(tmp_path / "elsewhere")
    for path in ("../mine.png", str(tmp_path / "mine.png"), "decoded.json"):
        (out / "files.csv").write_text(f"path,label,name\n{path},,x\n")
        with pytest.raises(ArtifactError, match=r"files\.csv is damaged"):
            decode(tokens, out, tokenizer, views="all", device="cpu", overwrite=True)
    (out / "files.csv").write_text("path,label,name\nlink/mine.png,,x\n")
    decode(tokens, out, tokenizer, views="all", device="cpu", overwrite=True)
    assert (tmp_path / "mine.png").exists()
    assert (tmp_path / "elsewhere" / "mine.png").exists()


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
