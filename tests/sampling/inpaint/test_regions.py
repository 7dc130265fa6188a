"""The region to inpaint: masks, boxes, kept boxes and added borders, and their combinations."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from maskgit_cli.config.inpaint import Box, InpaintConfig, Outpaint
from maskgit_cli.data.images import read_image
from maskgit_cli.errors import ConfigError, InputError
from maskgit_cli.sampling.inpaint.regions import Edit, find_region, grow, read_mask

LABELS = {None: -1, "cat": 0, "dog": 1}


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def region(image, mask=None, box=(), keep_box=(), outpaint=None, label=None):
    boxes, kept = (tuple(map(Box.parse, texts)) for texts in (box, keep_box))
    sides = outpaint and Outpaint.parse(outpaint)
    edit = Edit(Path(image), mask, boxes, kept, sides, label, None, 0)
    return find_region(edit, lambda text, _option: LABELS[text])


def extent(mask):
    """x, y, width, height of what is True, which is a full box."""
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    y, x, high, wide = int(rows[0]), int(columns[0]), len(rows), len(columns)
    assert int(mask.sum()) == high * wide
    return x, y, wide, high


def test_mask_and_boxes_are_one_region(image, tmp_path):
    white = np.zeros((12, 20), np.uint8)
    white[1, 2] = 255
    Image.fromarray(white).save(tmp_path / "mask.png")
    found = region(image, tmp_path / "mask.png", ["4,0,3,2", "10,5,2,2"], label="dog")
    assert found.masked.nonzero().tolist() == [
        *([0, 4], [0, 5], [0, 6], [1, 2], [1, 4], [1, 5], [1, 6]),
        *([5, 10], [5, 11], [6, 10], [6, 11]),
    ]
    assert [part.label for part in found.parts] == [1]
    assert torch.equal(found.image, read_image(image))


def test_boxes_with_a_class_are_parts_of_their_own(image):
    found = region(image, box=["0,0,4,4=dog", "8,0,4,4", "2,2,4,4=cat"])
    assert [part.label for part in found.parts] == [-1, 1, 0]
    assert extent(found.parts[0].mask) == (8, 0, 4, 4)
    assert extent(found.parts[2].mask) == (2, 2, 4, 4)
    assert int(found.parts[1].mask.sum()) == 12  # where two overlap, the later one wins
    assert int(found.masked.sum()) == 16 + 16 + 12


def test_kept_boxes(image):
    alone = region(image, keep_box=["2,3,4,5", "10,0,1,1"])
    assert int(alone.masked.sum()) == 20 * 12 - 4 * 5 - 1
    assert not alone.masked[3:8, 2:6].any()
    within = region(image, box=["0,0,10,10=cat"], keep_box=["2,3,4,5"])
    assert int(within.masked.sum()) == 100 - 20
    # With borders too, the region is everything but the kept box.
    grown = region(image, keep_box=["2,3,4,5"], outpaint="left:3,bottom:1")
    assert int(grown.masked.sum()) == 23 * 13 - 20
    assert not grown.masked[3:8, 5:9].any()


def test_borders(image):
    found = region(image, outpaint="left:3,top:2,right:1,bottom:4")
    assert found.image.shape == (3, 18, 24)
    assert torch.equal(found.image[:, *found.inside], read_image(image))
    assert found.inside == (slice(2, 14), slice(3, 23))
    original = torch.zeros_like(found.masked)
    original[found.inside] = True
    assert torch.equal(found.masked, ~original)
    (part,) = found.parts
    area = torch.zeros(18, 24, dtype=torch.int32)
    for strip in part.strips:
        area[strip.top : strip.bottom, strip.left : strip.right] += 1
    assert torch.equal(area, found.masked.int())  # every pixel in one strip
    assert len(region(image, outpaint="top:1").parts[0].strips) == 1


def test_boxes_in_added_borders(image):
    found = region(image, box=["-2,0,4,3=cat"], outpaint="left:4")
    assert extent(found.parts[1].mask) == (2, 0, 4, 3)  # counted from the image's own corner
    assert not (found.parts[0].mask & found.parts[1].mask).any()
    assert [part.label for part in found.parts] == [-1, 0]
    assert found.parts[0].strips
    assert not found.parts[1].strips


def test_borders_repeat_the_nearest_pixels():
    image = torch.arange(6, dtype=torch.uint8).view(1, 2, 3).expand(3, -1, -1)
    grown, _ = grow(image, Outpaint(left=2, bottom=1))
    assert grown[0].tolist() == [[0, 0, 0, 1, 2], [3, 3, 3, 4, 5], [3, 3, 3, 4, 5]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--mask, --box, --keep-box or --outpaint"),
        ({"box": ["8,8,13,4"]}, "--box 8,8,13,4: reaches beyond the image, which is 20×12"),
        ({"box": ["-1,8,4,4"]}, "--box -1,8,4,4: reaches beyond"),
        (
            {"box": ["-5,0,4,4=cat"], "outpaint": "left:4"},
            "--box -5,0,4,4=cat: reaches beyond the image, which is 20×12 pixels (24×12",
        ),
        ({"box": ["0,0,4,4=cat", "0,0,9,9"]}, "--box 0,0,4,4=cat: later boxes cover all of it"),
        ({"keep_box": ["0,0,20,12"]}, "--keep-box"),
        ({"box": ["0,0,4,4"], "keep_box": ["8,8,2,2"]}, "--keep-box 8,8,2,2: does not overlap"),
        ({"keep_box": ["8,8,2,9"]}, "--keep-box 8,8,2,9: reaches beyond"),
        ({"outpaint": "left:99999999"}, "makes 100000019×12 pixels, more than 150 megapixels"),
    ],
)
def test_impossible_regions(image, options, message):
    with pytest.raises(ConfigError) as caught:
        region(image, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"box": (Box(0, 0, 0, 4),)}, "--box 0,0,0,4: "),
        ({"keep_box": (Box(0, 0, 4, -1),)}, "--keep-box 0,0,4,-1: "),
        ({"keep_box": (Box(0, 0, 4, 4, "cat"),)}, "--keep-box 0,0,4,4=cat: "),
        ({"box": (0, 0, 4, 4)}, "--box 0: "),
        ({"outpaint": Outpaint()}, "--outpaint 0: "),
        ({"outpaint": Outpaint(left=-1)}, "--outpaint"),
        ({"window": 0}, "--window 0: "),
    ],
)
def test_impossible_settings(options, message):
    with pytest.raises(ConfigError) as caught:
        InpaintConfig(**options)
    assert message in str(caught.value)


def test_boxes_and_borders_as_text():
    assert Box.parse(" 1, -2,3,4 = a, b=c ") == Box(1, -2, 3, 4, "a, b=c")
    assert str(Box.parse("1,2,3,4=5")) == "1,2,3,4=5"
    assert Outpaint.parse("top:3, left:0064") == Outpaint(left=64, top=3)
    assert str(Outpaint(left=64, top=3)) == "left:64,top:3"
    for text in ("1,2,3", "1,2,3,x", "1,2,3,4=", "", "1,2,3,4,5"):
        with pytest.raises(ValueError, match=r"X,Y,W,H|no class"):
            Box.parse(text)
    for text in ("", "left", "left:", "left:-3", "middle:3", "left:1;right:1", "left:1.5"):
        with pytest.raises(ValueError, match="is not SIDE:PIXELS"):
            Outpaint.parse(text)
    with pytest.raises(ValueError, match="left twice"):
        Outpaint.parse("left:1,left:2")


# --- masks ------------------------------------------------------------------------------------------


def test_mask_images(image, tmp_path):
    original = read_image(image)
    gray = np.zeros((12, 20), np.uint8)
    gray[2:5, 3:9] = 128
    expected = torch.from_numpy(gray == 128)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    alpha = np.full((12, 20, 4), 255, np.uint8)
    alpha[..., 3] = np.where(gray == 128, 255, 0)  # white strokes on a transparent layer
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    for name in ("gray.png", "alpha.png"):
        assert torch.equal(read_mask(tmp_path / name, original), expected)
    found = region(image, tmp_path / "gray.png", outpaint="left:2")
    assert torch.equal(found.masked[:, 2:], expected)


def test_a_photograph_is_a_mask_only_with_a_threshold(image, tmp_path):
    """Given instead of the mask, or as the image itself; its bright pixels are not a region."""
    original = read_image(image)
    ramp = np.tile(np.linspace(0, 255, 20).astype(np.uint8), (12, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    spot = np.zeros((12, 20), np.uint8)  # one gray pixel far from any edge
    spot[:, 15:], spot[6, 3] = 255, 100
    Image.fromarray(spot).save(tmp_path / "spot.png")
    for path in (image, tmp_path / "ramp.png", tmp_path / "spot.png"):
        with pytest.raises(InputError, match=f"{path.name}: not a mask: .*--mask-threshold"):
            read_mask(path, original)
    for threshold in (1, 100, 101, 128, 255):
        masked = read_mask(tmp_path / "ramp.png", original, threshold)
        assert torch.equal(masked, torch.from_numpy(ramp >= threshold))
    assert int(read_mask(tmp_path / "spot.png", original, 100).sum()) == 12 * 5 + 1


def test_masks_of_drawing_programs_are_two_valued(tmp_path):
    """Antialiased edges, noise of JPEG, and any two values."""
    original = torch.zeros(3, 64, 64, dtype=torch.uint8)
    disk = Image.new("L", (512, 512))
    ImageDraw.Draw(disk).ellipse((100, 60, 400, 420), fill=255)
    soft = disk.resize((64, 64), Image.Resampling.LANCZOS)
    soft.save(tmp_path / "soft.png")
    soft.save(tmp_path / "soft.jpg", quality=75)
    expected = torch.from_numpy(np.asarray(soft) >= 128)
    assert len(np.unique(np.asarray(soft))) > 20
    assert torch.equal(read_mask(tmp_path / "soft.png", original), expected)
    assert (read_mask(tmp_path / "soft.jpg", original) != expected).sum() < 10
    values = np.where(np.asarray(disk.resize((64, 64), Image.Resampling.NEAREST)) > 0, 1, 0).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "zero-one.png")
    with pytest.raises(InputError, match="the brightest pixel has 1"):
        read_mask(tmp_path / "zero-one.png", original)
    assert torch.equal(read_mask(tmp_path / "zero-one.png", original, 1), torch.from_numpy(values > 0))


def test_unusable_masks(image, tmp_path):
    original = read_image(image)
    Image.new("L", (20, 12), 127).save(tmp_path / "dark.png")
    Image.new("L", (12, 20), 255).save(tmp_path / "turned.png")
    with pytest.raises(InputError, match=r"dark\.png: nothing is masked"):
        read_mask(tmp_path / "dark.png", original)
    with pytest.raises(InputError, match="12×20 pixels, the image 20×12"):
        read_mask(tmp_path / "turned.png", original)
    with pytest.raises(InputError, match=r"absent\.png"):
        read_mask(tmp_path / "absent.png", original)
