"""Captioned sheets: layout, wrapping and drawing of text; animations."""

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont, ImageSequence

from maskgit_cli.errors import ConfigError
from maskgit_cli.figures.sheets import (
    MIN_SIDE,
    TEXT_COLOR,
    animation_bytes,
    captioned_sheet,
    lay_out,
    stack_sheets,
    wrap,
)

LONG = "a very long name of a class that could never be read at one glance below a small image"


def random_images(n, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=generator)


def texts(n, kind=""):
    return [f"{kind}{i} {LONG[: 9 * i]}" for i in range(n)]


def overlap(a, b):
    return (
        a.left < b.left + b.width
        and b.left < a.left + a.width
        and a.top < b.top + b.height
        and b.top < a.top + a.height
    )


CASES = {
    "nothing": {},
    "captions": {"captions": texts(5)},
    "headers": {"headers": texts(2, "column ")},
    "row names": {"row_names": texts(3, "row ")},
    "title": {"title": LONG * 4},
    "all": {
        "captions": texts(5),
        "headers": texts(2, "column "),
        "row_names": texts(3, "row "),
        "title": LONG,
    },
}


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (128, 128), (200, 40), (40, 300), (100, 128)])
@pytest.mark.parametrize("case", CASES)
def test_images_are_complete_and_nothing_overlaps(case, size):
    height, width = size
    images, arguments = random_images(5, height, width), CASES[case]
    sheet = captioned_sheet(images, 2, **arguments)
    layout = lay_out(5, height, width, 2, **arguments)
    assert sheet.dtype == torch.uint8
    assert sheet.shape == (3, layout.height, layout.width)
    assert max(height, width) * layout.scale >= MIN_SIDE
    assert layout.scale == 1 or max(height, width) < MIN_SIDE

    for image, rect in zip(images, layout.images, strict=True):
        shown = sheet[:, *rect.slices]
        assert torch.equal(shown[:, :: layout.scale, :: layout.scale], image)
        larger = torch.nn.functional.interpolate(image[None].float(), scale_factor=layout.scale)[0]
        assert torch.equal(shown.float(), larger)

    rects = [*layout.images, *(rect for rect, _, _ in layout.texts)]
    for a, b in itertools.combinations(rects, 2):
        assert not overlap(a, b), (a, b)
    for rect in rects:
        assert rect.left >= 0
        assert rect.top >= 0
        assert rect.left + rect.width <= layout.width
        assert rect.top + rect.height <= layout.height


def test_every_text_is_drawn_in_its_rectangle_and_nowhere_else():
    arguments = CASES["all"]
    sheet = captioned_sheet(torch.full((5, 3, 64, 64), 255, dtype=torch.uint8), 2, **arguments)
    layout = lay_out(5, 64, 64, 2, **arguments)
    assert len(layout.texts) == 5 + 2 + 3 + 1
    for rect, lines, _ in layout.texts:
        area = sheet[:, *rect.slices]
        darkest = torch.tensor(TEXT_COLOR, dtype=torch.uint8).view(3, 1, 1)
        assert area.eq(darkest).all(0).any(), lines
        rows = area.lt(200).all(0).any(1).nonzero()
        assert int(rows.max() - rows.min()) >= 9, "digits of less than 10 px"
        area.fill_(255)
    assert sheet.eq(255).all()


def test_a_caption_changes_its_own_cell_only():
    blank = torch.full((4, 3, 64, 64), 255, dtype=torch.uint8)
    captions = ["same"] * 4
    before = captioned_sheet(blank, 2, captions=captions)
    after = captioned_sheet(blank, 2, captions=["same", "same", "new", "same"])
    rect = [rect for rect, _, _ in lay_out(4, 64, 64, 2, captions).texts][2]
    rows, columns = before.ne(after).any(0).nonzero().unbind(1)
    assert rect.top <= rows.min()
    assert rows.max() < rect.top + rect.height
    assert rect.left <= columns.min()
    assert columns.max() < rect.left + rect.width


def test_a_caption_is_nearer_to_its_own_image():
    layout = lay_out(4, 64, 64, 2, captions=["x"] * 4)
    caption, upper, lower = layout.texts[0][0], layout.images[0], layout.images[2]
    assert caption.top - (upper.top + upper.height) < lower.top - (caption.top + caption.height)


def test_without_text_images_are_close():
    assert captioned_sheet(random_images(4, 128, 128), 2).shape == (3, 2 * 128 + 6 + 20, 2 * 128 + 6 + 20)
    assert captioned_sheet(random_images(9, 128, 128)).shape == (3, 3 * 128 + 12 + 20, 3 * 128 + 12 + 20)


def test_sheets_are_deterministic():
    assert torch.equal(
        captioned_sheet(random_images(2, 20, 20), captions=["a", "b"]),
        captioned_sheet(random_images(2, 20, 20), captions=["a", "b"]),
    )


def test_empty_captions_take_no_space_and_line_breaks_are_spaces():
    images = random_images(2, 20, 20)
    assert torch.equal(captioned_sheet(images, 2, captions=["", ""]), captioned_sheet(images, 2))
    layout = lay_out(2, 20, 20, 2, captions=["two\nwords", "\t tab"])
    assert [lines for _, lines, _ in layout.texts] == [["two words"], ["tab"]]


def test_sheets_are_stacked_on_white():
    wide, narrow = random_images(1, 5, 9)[0], random_images(1, 4, 6)[0]
    both = stack_sheets([wide, narrow])
    assert both.shape == (3, 9, 9)
    assert torch.equal(both[:, :5], wide)
    assert torch.equal(both[:, 5:, :6], narrow)
    assert both[:, 5:, 6:].eq(255).all()


# --- wrapping ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["short", LONG, "x" * 300, "one " + "y" * 80 + " two three", "ä ö ü 中 🙂 é"]
)
@pytest.mark.parametrize("lines", [1, 2, 3])
@pytest.mark.parametrize("width", [60, 128, 600])
def test_wrapped_lines_fit_and_cuts_are_marked(text, lines, width):
    font = ImageFont.load_default(size=14)
    found = wrap(text, font, width, lines)
    assert 1 <= len(found) <= lines
    assert all(font.getlength(line) <= width for line in found)
    kept, whole = "".join(found).replace(" ", ""), text.replace(" ", "")
    assert kept == whole or (kept.endswith("…") and whole.startswith(kept[:-1]))


def test_lines_break_at_spaces():
    font = ImageFont.load_default(size=14)
    width = font.getlength("alpha beta gam")
    assert wrap("alpha beta gamma delta", font, width, 2) == ["alpha beta", "gamma delta"]
    assert wrap("alpha beta gamma delta", font, width, 1) == ["alpha beta ga…"]
    assert wrap("", font, width, 2) == []
    assert wrap("alpha beta gam", font, width, 1) == ["alpha beta gam"]


# --- animations -------------------------------------------------------------------------------------


def opened(data):
    with Image.open(io.BytesIO(data)) as image:
        frames = [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
        image.seek(image.n_frames - 1)
        return image.format, frames, image.info


def test_webp_is_lossless_and_holds_the_last_frame():
    frames = random_images(3, 24, 40)
    data = animation_bytes(frames, 120, "webp", hold_last_ms=1000)
    kind, found, info = opened(data)
    assert kind == "WEBP"
    assert info["loop"] == 0
    assert info["duration"] == 1120
    for frame, shown in zip(frames, found, strict=True):
        assert np.array_equal(frame.permute(1, 2, 0).numpy(), shown)
    assert data == animation_bytes(frames, 120, "webp", hold_last_ms=1000)


def test_gif_has_all_frames_with_their_durations():
    # Up to 256 colors are exact.
    frames = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    for i in range(4):
        frames[i, :, :, 4 * i :] = 60 * i + 20
    data = animation_bytes(frames, 200, "gif", hold_last_ms=800)
    kind, found, info = opened(data)
    assert kind == "GIF"
    assert info["loop"] == 0
    assert info["duration"] == 1000
    assert [frame[0, -1, 0] for frame in found] == [20, 80, 140, 200]


def test_one_frame_is_a_still_image():
    for kind in ("webp", "gif"):
        assert len(opened(animation_bytes(random_images(1, 8, 8), 100, kind))[1]) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"format": "mp4"}, "--format mp4.*webp, gif"),
        ({"milliseconds": 0}, "--milliseconds 0"),
        ({"hold_last_ms": -1}, "--hold-last-ms -1"),
    ],
)
def test_invalid_animations(arguments, text):
    with pytest.raises(ConfigError, match=text):
        animation_bytes(random_images(2, 8, 8), **arguments)
