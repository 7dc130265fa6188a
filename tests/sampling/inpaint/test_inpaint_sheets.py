"""The sheet of ``inpaint``: what stands where, at which size, and what is marked."""

import pytest
import torch

from maskgit_cli.sampling.inpaint import sheets as inpaint_sheets
from maskgit_cli.sampling.inpaint.regions import Region
from maskgit_cli.sampling.inpaint.sheets import DARK, EMPTY, LIGHT, SheetRow, inpaint_sheet


@pytest.fixture
def asked(monkeypatch):
    """What the sheet's pictures and texts are, instead of the sheet."""
    calls = []

    def keep(images, columns, **texts):
        calls.append((images, columns, texts))
        return images[0]

    monkeypatch.setattr(inpaint_sheets, "captioned_sheet", keep)
    return calls


def row(height, width, n, name=""):
    """A picture of which the left half is drawn, and the upper quarter was added."""
    masked = torch.zeros(height, width, dtype=torch.bool)
    masked[:, : width // 2] = True
    inside = slice(height // 4, height), slice(0, width)
    region = Region(torch.full((3, height, width), 30, dtype=torch.uint8), masked, inside, [])
    return SheetRow(region, [torch.full((3, height, width), 90 + i) for i in range(n)], name)


def test_before_what_is_drawn_and_after(asked):
    inpaint_sheet(1, 1, lambda i, n: row(300, 400, n))
    ((images, columns, texts),) = asked
    assert (images.shape, columns) == ((3, 3, 302, 402), 3)  # a frame around each
    assert texts == {"captions": ["before", "drawn anew", "after"]}
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
    inpaint_sheet(1, n, lambda i, n: row(*size, n))
    ((images, got, texts),) = asked
    assert (tuple(images.shape[2:]), got, len(images)) == (shown, columns, n + 2)
    assert texts["captions"][2:] == (["after"] if n == 1 else [f"variant {i}" for i in range(n)])
    assert columns * shown[1] < 1700


def test_many_images_have_a_row_each(asked):
    sizes = [(64, 64), (1024, 2048)]
    inpaint_sheet(2, 20, lambda i, n: row(*sizes[i], n, f"picture {i}"))
    ((images, columns, texts),) = asked
    assert (len(images), columns) == (20, 10)  # eight variants of twenty
    assert texts["row_names"] == ["picture 0", "picture 1"]
    assert texts["headers"][:3] == ["before", "drawn anew", "variant 0"]
    assert tuple(images.shape[2:]) == (130, 162)  # a small one stands in the middle of a wide place
    assert (images[0, :, :, :16] == 255).all()


def test_a_sheet_shows_no_more_than_a_hundred(asked):
    inpaint_sheet(1, 500, lambda i, n: row(16, 16, n))
    inpaint_sheet(500, 2, lambda i, n: row(16, 16, n))
    assert [len(images) for images, _, _ in asked] == [100, 100]


def test_the_smallest_mask_is_marked(asked):
    def large(_i, n):
        region = row(1000, 1000, n).region
        region.masked[:] = False
        region.masked[500, 500] = True
        return SheetRow(region, [], "")

    inpaint_sheet(1, 1, large)
    before, marked = asked[0][0][:2]
    assert (before != marked).any()
