"""The grid of ``inpaint``: its images, their sizes, and how the region is marked."""

import pytest
import torch

from maskgit_cli.sampling.inpaint import sheets as inpaint_sheets
from maskgit_cli.sampling.inpaint.regions import Region
from maskgit_cli.sampling.inpaint.sheets import DARK, EMPTY, LIGHT, SheetRow, inpaint_sheet, shown_on_sheet


@pytest.fixture
def asked(monkeypatch):
    """The images and texts of the sheet, instead of the sheet."""
    calls = []

    def keep(images, columns, **texts):
        calls.append((images, columns, texts))
        return images[0]

    monkeypatch.setattr(inpaint_sheets, "captioned_sheet", keep)
    return calls


def row(height, width, n, name=""):
    """An image whose left half is inpainted, and whose upper quarter is an added border."""
    masked = torch.zeros(height, width, dtype=torch.bool)
    masked[:, : width // 2] = True
    inside = slice(height // 4, height), slice(0, width)
    region = Region(torch.full((3, height, width), 30, dtype=torch.uint8), masked, inside, [])
    return SheetRow(region, [torch.full((3, height, width), 90 + i) for i in range(n)], name)


def test_before_region_and_after(asked):
    inpaint_sheet([row(300, 400, 1)])
    ((images, columns, texts),) = asked
    assert (images.shape, columns) == ((3, 3, 302, 402), 3)  # a frame around each
    assert texts == {"captions": ["before", "region", "after"]}
    before, marked, after = images[:, 0, 1:-1, 1:-1]
    assert (before[:75] == EMPTY).all()
    assert (before[75:] == 30).all()
    assert sorted(marked[:, :200].unique().tolist()) == [DARK, LIGHT]
    assert torch.equal(marked[:, 201:], before[:, 201:])
    assert (after == 90).all()


@pytest.mark.parametrize(
    ("size", "n", "shown", "columns"),
    [
        ((64, 64), 8, (258, 258), 5),  # small ones are enlarged, rows are of about one length
        ((1024, 2048), 8, (258, 514), 3),  # large ones are made smaller
        ((1024, 2048), 1, (258, 514), 3),
        ((480, 640), 2, (386, 514), 2),
        ((300, 20), 1, (302, 22), 3),
    ],
)
def test_sizes(asked, size, n, shown, columns):
    inpaint_sheet([row(*size, n)])
    ((images, got, texts),) = asked
    assert (tuple(images.shape[2:]), got, len(images)) == (shown, columns, n + 2)
    assert texts["captions"][2:] == (["after"] if n == 1 else [f"variant {i}" for i in range(n)])
    assert columns * shown[1] < 1700


def test_many_images_have_a_row_each(asked):
    sizes = [(64, 64), (1024, 2048)]
    images, shown = shown_on_sheet(2, 20)
    inpaint_sheet([row(*sizes[i], shown, f"image {i}") for i in range(images)])
    ((images, columns, texts),) = asked
    assert (len(images), columns) == (20, 10)  # eight variants of twenty
    assert texts["row_names"] == ["image 0", "image 1"]
    assert texts["headers"][:3] == ["before", "region", "variant 0"]
    assert tuple(images.shape[2:]) == (130, 162)  # a small one is centered in a wide cell
    assert (images[0, :, :, :16] == 255).all()


def test_a_sheet_shows_no_more_than_a_hundred():
    for images, n in [(1, 500), (500, 2), (500, 20)]:
        rows, variants = shown_on_sheet(images, n)
        assert rows * (2 + variants) == 100


def test_the_smallest_mask_is_marked(asked):
    region = row(1000, 1000, 1).region
    region.masked[:] = False
    region.masked[500, 500] = True
    inpaint_sheet([SheetRow(region, [], "")])
    before, marked = asked[0][0][:2]
    assert (before != marked).any()
