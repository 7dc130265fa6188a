"""Stage `inpaint`: what is masked, which codes are drawn, and that nothing else ever changes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_models import CODES, make_model

from maskgit_cli import inpainting
from maskgit_cli.artifacts.models import load_tokenizer
from maskgit_cli.artifacts.samples import open_samples
from maskgit_cli.config import InpaintConfig
from maskgit_cli.data import read_image, to_model
from maskgit_cli.errors import ConfigError, InputError, OutputError
from maskgit_cli.inpainting import (
    Window,
    blend_weights,
    choose_window,
    inpaint,
    masked_cells,
    paste,
    read_mask,
)
from maskgit_cli.sampler_config import ConfidenceConfig

STEPS = ConfidenceConfig(steps=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def photo(tmp_path):
    """Make a picture of some size with no two pixels alike."""

    def make(width, height, name="photo.png"):
        rng = np.random.default_rng(width * height)
        path = tmp_path / name
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)
        return path

    return make


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


class Says:
    """A reporter that remembers."""

    def __init__(self):
        self.said = []

    def info(self, text):
        self.said.append(text)

    def __getattr__(self, name):
        return getattr(inpainting.SILENT, name)


def draw(image, model, out, mask=None, sampler=STEPS, reporter=inpainting.SILENT, **config):
    return inpaint(image, model, out, mask, InpaintConfig(**config), sampler, device="cpu", reporter=reporter)


def test_variants_of_a_box(model, photo, tmp_path):
    image = photo(16, 16)
    result = draw(image, model, tmp_path / "s", box=(4, 8, 6, 3), n=3, label="dog")
    assert (result.images, result.tokens, result.window) == (3, 2, Window(0, 0, 16))
    samples = open_samples(tmp_path / "s")
    assert samples.tokens.labels.tolist() == [1, 1, 1]
    assert [parent["kind"] for parent in samples.record["parents"]] == ["model", "tokenizer", "image"]
    before = pixels(image)
    inside = np.zeros((16, 16), bool)
    inside[8:11, 4:10] = True
    known = load_tokenizer(model).network.encode(to_model(read_image(image))[None])[0].numpy()
    cells = np.zeros((4, 4), bool)
    cells[2, 1:3] = True
    for i in range(3):
        after = pixels(tmp_path / "s" / "images" / f"{i:06d}.png")
        assert (after[~inside] == before[~inside]).all()
        assert (after[inside] != before[inside]).any()
        assert np.array_equal(samples.tokens.codes[i, 0][~cells], known[~cells])
    assert len({samples.tokens.codes[i].tobytes() for i in range(3)}) > 1
    assert pixels(tmp_path / "s" / "grid.png").shape == (16 + 4, 5 * 18 + 2, 3)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_pixels_outside_the_mask_come_back_bit_for_bit(data):
    height, width = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))
    picture = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    masked = torch.zeros(height, width, dtype=torch.bool)
    for _ in range(data.draw(st.integers(1, 3))):
        y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        masked[y : y + data.draw(st.integers(1, 60)), x : x + data.draw(st.integers(1, 60))] = True
    window = choose_window(masked, 16)
    square = masked.nonzero()
    assert window.x <= square[:, 1].min() <= square[:, 1].max() < window.x + window.side
    assert window.y <= square[:, 0].min() <= square[:, 0].max() < window.y + window.side

    white = torch.full((3, 16, 16), 255, dtype=torch.uint8)
    hard = paste(picture, white, window, blend_weights(masked, 0))
    assert torch.equal(hard, torch.where(masked, 255, picture))
    soft = paste(picture, white, window, blend_weights(masked, data.draw(st.integers(1, 9))))
    assert torch.equal(soft[:, ~masked], picture[:, ~masked])
    assert (soft >= picture).all()


def test_feathering_rises_inside_the_mask_alone():
    masked = torch.zeros(1, 9, dtype=torch.bool)
    masked[0, 2:] = True
    assert blend_weights(masked, 3)[0].tolist() == [
        0,
        0,
        0.25,
        0.5,
        0.75,
        1,
        1,
        1,
        1,
    ]  # the border is no edge
    assert blend_weights(masked, 0)[0].tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 1]


def test_a_large_picture_of_any_shape(model, photo, tmp_path):
    image = photo(90, 50)
    result = draw(image, model, tmp_path / "s", box=(70, 5, 10, 20), feather=2)
    assert result.window == Window(50, 0, 40)  # twice the longer side, moved inside the picture
    before, after = pixels(image), pixels(tmp_path / "s" / "images" / "000000.png")
    changed = (before != after).any(2)
    assert changed[5:25, 70:80].mean() > 0.9
    changed[5:25, 70:80] = False
    assert not changed.any()


@pytest.mark.parametrize(
    ("size", "box", "window"),
    [
        ((16, 16), (0, 0, 1, 1), (0, 0, 16)),
        ((100, 100), (50, 50, 4, 4), (44, 44, 16)),  # as large as the model's resolution
        ((100, 100), (0, 90, 12, 10), (0, 76, 24)),  # twice the mask, at the corner
        ((100, 40), (10, 0, 30, 40), (5, 0, 40)),  # the picture's shorter side
        ((100, 40), (10, 0, 60, 10), (10, -10, 60)),  # longer than the picture is high: beyond it
        ((8, 8), (2, 2, 4, 4), (0, 0, 8)),  # smaller than the model's resolution
        ((1, 1), (0, 0, 1, 1), (0, 0, 1)),
    ],
)
def test_windows(size, box, window):
    picture = torch.zeros(3, size[1], size[0], dtype=torch.uint8)
    assert choose_window(inpainting.box_mask(box, picture), 16) == window


def test_a_strip_that_no_square_inside_the_picture_covers(model, photo, tmp_path):
    image = photo(60, 12)
    result = draw(image, model, tmp_path / "s", box=(0, 4, 60, 4))
    assert result.window == Window(0, -24, 60)
    assert result.tokens == 16  # nothing is known above and below the picture, nor in the strip
    after, before = pixels(tmp_path / "s" / "images" / "000000.png"), pixels(image)
    assert (after[:4] == before[:4]).all()
    assert (after[8:] == before[8:]).all()
    assert (after[4:8] != before[4:8]).any()


def test_a_picture_of_one_pixel(model, photo, tmp_path):
    result = draw(photo(1, 1), model, tmp_path / "s", box=(0, 0, 1, 1))
    assert (result.window, result.tokens) == (Window(0, 0, 1), 16)
    assert pixels(tmp_path / "s" / "images" / "000000.png").shape == (1, 1, 3)


def test_mask_rules():
    masked = torch.zeros(16, 16, dtype=torch.bool)
    masked[0, 4] = True  # one pixel of cell (0, 1)
    masked[4:8, 0:2] = True  # half of cell (1, 0)
    masked[8:12, 8:11] = True  # three quarters of cell (2, 2)
    assert masked_cells(masked, 4, "any").nonzero().tolist() == [[0, 1], [1, 0], [2, 2]]
    assert masked_cells(masked, 4, "majority").nonzero().tolist() == [[2, 2]]
    # Seven pixels a side in four cells of 1.75: a cell's edge goes through pixels 1, 3 and 5.
    masked = torch.zeros(7, 7, dtype=torch.bool)
    masked[1, 0] = True
    assert masked_cells(masked, 4, "any").nonzero().tolist() == [[0, 0], [1, 0]]
    masked[:, :] = True
    assert masked_cells(masked, 4, "majority").all()


def test_mask_images(model, photo, tmp_path):
    image = photo(20, 12)
    picture = read_image(image)
    grey = np.zeros((12, 20), np.uint8)
    grey[2:5, 3:9] = 128
    grey[8, :] = 127
    expected = torch.from_numpy(grey == 128)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    alpha = np.full((12, 20, 4), 255, np.uint8)
    alpha[..., 3] = np.where(grey == 128, 255, 0)  # white strokes on a transparent layer
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    for name in ("grey.png", "alpha.png"):
        assert torch.equal(read_mask(tmp_path / name, picture), expected)
    result = draw(image, model, tmp_path / "s", mask=tmp_path / "grey.png")
    after, before = pixels(tmp_path / "s" / "images" / "000000.png"), pixels(image)
    assert (after[~expected.numpy()] == before[~expected.numpy()]).all()
    assert [p["kind"] for p in open_samples(result.path).record["parents"]][-1] == "mask"


def test_masks_that_cannot_be_used(photo, tmp_path):
    picture = read_image(photo(20, 12))
    Image.new("L", (20, 12), 127).save(tmp_path / "dark.png")
    Image.new("L", (12, 20), 255).save(tmp_path / "turned.png")
    with pytest.raises(InputError, match="nothing is masked; paint white"):
        read_mask(tmp_path / "dark.png", picture)
    with pytest.raises(
        InputError, match="the mask is 12×20 pixels, the image 20×12; they must have one size"
    ):
        read_mask(tmp_path / "turned.png", picture)
    with pytest.raises(InputError, match="no such file"):
        read_mask(tmp_path / "absent.png", picture)


def test_settings_that_cannot_be(model, photo, tmp_path):
    image, out = photo(16, 16), tmp_path / "s"
    cases = [
        ({}, "either --mask or --box"),
        ({"box": (0, 0, 4, 4), "mask": image}, "either --mask or --box"),
        ({"box": (0, 0, 0, 4)}, "--box 0,0,0,4: width and height must be 1 or more"),
        ({"box": (8, 8, 9, 4)}, "--box 8,8,9,4: reaches beyond the image, which is 16×16 pixels"),
        ({"box": (-1, 8, 4, 4)}, "--box -1,8,4,4: reaches beyond"),
        ({"box": (0, 0, 4, 4), "label": "cow"}, "--label cow: no class has this name"),
        ({"box": (0, 0, 4, 4), "label": "3"}, "--label 3: the model's classes are 0 to 2"),
        ({"box": (3, 3, 2, 2), "mask_rule": "majority"}, "--mask-rule majority: none of the 4×4 cells"),
    ]
    for options, message in cases:
        with pytest.raises(ConfigError) as caught:
            draw(image, model, out, **options)
        assert message in str(caught.value)
    assert not out.exists()


def test_everything_may_be_masked(model, photo, tmp_path):
    result = draw(photo(16, 16), model, tmp_path / "s", box=(0, 0, 16, 16), label="1")
    assert result.tokens == 16
    assert open_samples(result.path).record["settings"]["sampler"]["cfg"] == STEPS.cfg


def test_more_steps_than_codes_and_no_label(model, photo, tmp_path):
    reporter = Says()
    result = draw(
        photo(16, 16), model, tmp_path / "s", box=(5, 5, 2, 5), sampler={"steps": 9}, reporter=reporter
    )
    assert "2 codes to draw: 2 steps instead of 9" in reporter.said
    assert result.settings["sampler"]["steps"] == 2
    assert result.settings["sampler"]["cfg"] == 0  # without a class guidance has no effect
    assert result.settings["label"] == -1


def test_the_same_call_resumes_and_another_is_refused(model, photo, tmp_path, monkeypatch):
    image = photo(16, 16)
    monkeypatch.chdir(tmp_path)
    first = draw(image, model, None, box=(0, 0, 4, 4))
    assert first.path.name.startswith("photo-")
    again = draw(image, model, None, box=(0, 0, 4, 4))
    assert again == first._replace(resumed=True)
    with pytest.raises(OutputError, match="made with --box 0,0,4,4, not 0,0,4,5"):
        draw(image, model, first.path, box=(0, 0, 4, 5))
    photo(16, 17)
    with pytest.raises(OutputError, match="made with --image"):
        draw(image, model, first.path, box=(0, 0, 4, 4), n=1)


def test_a_variant_does_not_depend_on_how_many_there_are(model, photo, tmp_path):
    image = photo(16, 16)
    one = open_samples(draw(image, model, tmp_path / "one", box=(2, 2, 9, 9)).path).tokens.codes
    five = open_samples(draw(image, model, tmp_path / "five", box=(2, 2, 9, 9), n=5).path).tokens.codes
    assert np.array_equal(one[0], five[0])
    assert five.max() < CODES
