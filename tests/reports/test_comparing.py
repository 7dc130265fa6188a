"""Stage `compare`: which images are shown, where, and what is reported about the sets."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import NAMES, make_model

from maskgit_cli.config.stages import CompareConfig, SampleConfig, TokenizeConfig
from maskgit_cli.data.decoding import decode
from maskgit_cli.data.images import read_image, views
from maskgit_cli.data.tokenizing import tokenize
from maskgit_cli.errors import ConfigError, InputError, OutputError
from maskgit_cli.figures.sheets import captioned_sheet
from maskgit_cli.formats.samples import read_png
from maskgit_cli.reports.comparing import compare
from maskgit_cli.runtime.progress import SILENT
from maskgit_cli.sampling.images import sample


class Listener:
    """A reporter that records its messages."""

    def __init__(self):
        self.messages = []
        self.task, self.warn = SILENT.task, SILENT.warn

    def info(self, text):
        self.messages.append(text)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Three sample directories: two of nine images, and one of six without PNGs, of one step."""
    root = tmp_path_factory.mktemp("sets")
    model = make_model(root / "model")
    for name, n, changes, kind in (
        ("a", 9, {"steps": 2}, "png"),
        ("b", 9, {"steps": 2, "cfg": 0.0}, "png"),
        ("c", 6, {"steps": 1}, "tokens"),
    ):
        sample(model, root / name, SampleConfig(n=n, format=kind), changes, device="cpu")
    return root


def sheet_of(path):
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)


def images_of(folder, numbers):
    return torch.stack(
        [torch.from_numpy(read_png(folder / "images" / f"{i:06d}.png")).permute(2, 0, 1) for i in numbers]
    )


def test_rows_are_sets_and_columns_matching_images(sets, tmp_path):
    done = compare([sets / "a", sets / "b"], tmp_path / "x.png", CompareConfig(per_class=2), device="cpu")
    numbers = [0, 3, 1, 4, 2, 5]
    assert done.columns == [(NAMES[i % 3], f"{i:06d}") for i in numbers]
    assert done.names == ["a", "b"]
    images = torch.cat([images_of(sets / name, numbers) for name in "ab"])
    headers = [f"{NAMES[i % 3]} #{i}" for i in numbers]
    assert torch.equal(
        sheet_of(tmp_path / "x.png"), captioned_sheet(images, 6, headers=headers, row_names=["a", "b"])
    )


def test_many_images_are_split_into_bands_of_about_one_length(sets, tmp_path):
    compare([sets / "a", sets / "b"], tmp_path / "x.png", CompareConfig(columns=4), device="cpu")
    sheet = sheet_of(tmp_path / "x.png")
    headers = ["cat #0", "cat #3", "cat #6"]  # nine images: not 4, 4 and 1 of them
    images = torch.cat([images_of(sets / name, [0, 3, 6]) for name in "ab"])
    band = captioned_sheet(images, 3, headers=headers, row_names=["a", "b"])
    assert torch.equal(sheet[:, : band.shape[1]], band)
    assert sheet.shape[1:] == (3 * band.shape[1], band.shape[2])


def test_images_not_in_every_set_are_left_out_and_reported(sets, tmp_path):
    listener = Listener()
    done = compare(
        [sets / "a", sets / "c"],
        tmp_path / "x.png",
        names=["first", "one step"],
        tokenizer=sets / "model",
        device="cpu",
        reporter=listener,
    )
    assert done.common == len(done.columns) == 6
    assert any("6 images" in text and "9 in first, 6 in one step" in text for text in listener.messages)
    assert done.differences["n"] == [9, 6]
    assert done.differences["steps"] == [2, 1]
    assert done.differences["format"] == ["png", "tokens"]
    assert "seed" not in done.differences
    assert "model" not in done.differences


@pytest.mark.parametrize(
    ("config", "shown"),
    [
        (CompareConfig(n=4), [0, 3, 1, 2]),
        (CompareConfig(n=2), [0, 1]),
        (CompareConfig(per_class=1), [0, 1, 2]),
        (CompareConfig(per_class=2, n=4), [0, 3, 1, 2]),
        (CompareConfig(classes="owl,cat", per_class=2), [2, 5, 0, 3]),
        (CompareConfig(classes="1-2", n=3), [1, 4, 2]),
        (CompareConfig(), [0, 3, 6, 1, 4, 7, 2, 5, 8]),
    ],
)
def test_which_images(sets, tmp_path, config, shown):
    done = compare([sets / "a", sets / "b"], tmp_path / "x.png", config, device="cpu")
    assert [int(name) for _, name in done.columns] == shown


def test_folders_match_samples_by_name(sets, tmp_path):
    """Without classes on one side only names count; smaller images are enlarged, which is reported."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in (1, 4):
        image = Image.open(sets / "a" / "images" / f"{i:06d}.png")
        image.resize((32, 32), Image.Resampling.NEAREST).save(folder / f"{i:06d}.png")
    listener = Listener()
    done = compare([sets / "b", folder], tmp_path / "x.png", device="cpu", reporter=listener)
    assert done.columns == [("", "000001"), ("", "000004")]
    assert done.differences == {}
    assert any(text.startswith("b ") and "16×16" in text and "32×32" in text for text in listener.messages)
    images = torch.cat([images_of(sets / name, [1, 4]) for name in "ba"])
    large = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = captioned_sheet(large, 2, headers=["#1", "#4"], row_names=["b", "folder"])
    assert torch.equal(sheet_of(tmp_path / "x.png"), expected)


def test_aspect_ratios_are_kept(tmp_path):
    for name, size in (("wide", (30, 10)), ("tall", (7, 20))):
        (tmp_path / name).mkdir()
        Image.new("RGB", size, (200, 0, 0)).save(tmp_path / name / "x.png")
    compare([tmp_path / "wide", tmp_path / "tall"], tmp_path / "x.png", device="cpu")
    red = sheet_of(tmp_path / "x.png")[0].eq(200) & sheet_of(tmp_path / "x.png")[1].eq(0)
    # Both fit 30×20 pixels, which are enlarged five times: 30×10 and 7×20, each centered.
    assert red.sum() == 25 * (30 * 10 + 7 * 20)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photographs of several shapes in two classes, a nested one and two of equal names among them."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for i, (name, width, height) in enumerate(
        [("cat/a.jpeg", 40, 20), ("cat/b.png", 21, 33), ("dog/a.png", 24, 24), ("dog/old/c.png", 50, 30)]
    ):
        path = root / "originals" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.repeat(np.repeat(random.integers(0, 256, (height, width, 3), np.uint8), 1, 0), 1, 1)
        Image.fromarray(np.sort(pixels, axis=i % 2)).save(path)
    return root


@pytest.mark.parametrize("kind", ["none", "flip", "ten-crop"])
def test_originals_show_the_region_that_was_decoded(photos, tokenizer, tmp_path, kind):
    """The pairs are those of class and name, and each original is exactly what was tokenized."""
    originals, tokens = photos / "originals", tmp_path / "tokens.h5"
    tokenize(originals, tokens, tokenizer, TokenizeConfig(views=kind), workers=0, device="cpu")
    decoded = decode(tokens, tmp_path / "decoded", tokenizer, device="cpu").path
    listener = Listener()
    done = compare([originals, decoded], tmp_path / "x.png", device="cpu", reporter=listener)
    assert done.columns == [("cat", "a"), ("cat", "b"), ("dog", "a"), ("dog", "c")]
    assert any(text == "originals: cropped to 16×16 as tokenize does" for text in listener.messages)
    files = ["cat/a", "cat/b", "dog/a", "dog/old/c"]
    paths = [next(originals.glob(f"{file}.*")) for file in files]
    seen = torch.stack([views(read_image(path), 16, kind)[0] for path in paths])
    shown = torch.stack([read_image(decoded / f"{file}.png") for file in files])
    headers = ["cat a", "cat b", "dog a", "dog c"]
    expected = captioned_sheet(
        torch.cat([seen, shown]), 4, headers=headers, row_names=["originals", "decoded"]
    )
    assert torch.equal(sheet_of(tmp_path / "x.png"), expected)
    # The token file itself is such a set, too.
    compare([originals, tokens], tmp_path / "y.png", names=["originals", "decoded"], tokenizer=tokenizer)
    assert torch.equal(sheet_of(tmp_path / "y.png"), expected)


def test_squares_are_not_made_smaller(photos, tokenizer, tmp_path):
    """They show the same region, in more detail."""
    originals = tmp_path / "squares"
    originals.mkdir()
    for name in "ab":
        Image.new("RGB", (48, 48), (200, 10, 10)).save(originals / f"{name}.png")
    tokenize(originals, tmp_path / "tokens.h5", tokenizer, workers=0, device="cpu")
    compare([originals, tmp_path / "tokens.h5"], tmp_path / "x.png", tokenizer=tokenizer, device="cpu")
    assert int((sheet_of(tmp_path / "x.png") == torch.tensor([200, 10, 10])[:, None, None]).all(0).sum()) >= (
        2 * 48 * 48
    )


def test_two_sets_of_one_name_are_distinguished(sets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for parent in ("x", "y"):
        shutil.copytree(sets / "a", tmp_path / parent / "a")
    done = compare([tmp_path / "x" / "a", tmp_path / "y" / "a"], device="cpu")
    assert done.names == [str(tmp_path / parent / "a") for parent in ("x", "y")]
    assert (tmp_path / "comparison.png").exists()
    with pytest.raises(OutputError, match="exists"):
        compare([sets / "a", sets / "b"], device="cpu")
    compare([sets / "a", sets / "b"], overwrite=True, device="cpu")


def test_invalid_comparisons(sets, tmp_path):
    (tmp_path / "twice").mkdir()
    for kind in ("jpg", "png"):
        Image.new("RGB", (4, 4)).save(tmp_path / "twice" / f"x.{kind}")
    out = tmp_path / "no.png"
    with pytest.raises(InputError, match=r"twice.* x"):
        compare([sets / "a", tmp_path / "twice"], out)
    (tmp_path / "twice" / "x.jpg").rename(tmp_path / "twice" / "000001.jpg")
    with pytest.raises(ConfigError, match="--classes cat: "):
        compare([sets / "a", tmp_path / "twice"], out, CompareConfig(classes="cat"))
    with pytest.raises(ConfigError, match=r"--classes owls: .*owl"):
        compare([sets / "a", sets / "b"], out, CompareConfig(classes="owls"))
    assert not out.exists()


def test_the_command_prints_settings_that_differ(sets, tmp_path, maskgit):
    arguments = (
        "compare",
        sets / "a",
        sets / "c",
        "--out",
        tmp_path / "x.png",
        "--per-class",
        1,
        "--tokenizer",
        sets / "model",
    )
    done = maskgit(*arguments, "--json")
    assert done.status == 0
    record = json.loads(done.stdout)
    assert [column["class"] for column in record["columns"]] == NAMES
    lines = [line.split() for line in done.stderr.splitlines()]
    assert ["a", "c"] in lines
    assert ["steps", "2", "1"] in lines
    assert maskgit(*arguments, "--overwrite", "--quiet").stderr == ""
