"""Sheets of pictures."""

import io

import numpy as np
import torch
from PIL import Image

from maskgit_cli.figures.grids import image_grid, png_bytes, save_png


def pictures(n, height=3, width=5):
    """Picture i has the value i everywhere."""
    return torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 3, height, width)


def test_pictures_stand_row_by_row_on_white():
    sheet = image_grid(pictures(5), columns=2, margin=1)
    assert sheet.dtype == torch.uint8
    assert sheet.shape == (3, 3 * 4 + 1, 2 * 6 + 1)
    for i in range(5):
        top, left = 1 + i // 2 * 4, 1 + i % 2 * 6
        assert sheet[:, top : top + 3, left : left + 5].eq(i).all()
        sheet[:, top : top + 3, left : left + 5] = 255
    assert sheet.eq(255).all()


def test_the_sheet_is_about_square_unless_told():
    assert image_grid(pictures(16, 4, 4), margin=0).shape == (3, 16, 16)
    assert image_grid(pictures(8, 2, 8), margin=0).shape == (3, 8, 16)
    assert image_grid(pictures(1), margin=2).shape == (3, 7, 9)
    assert image_grid(pictures(3, 4, 4), columns=9, margin=0).shape == (3, 4, 12)


def test_a_png_holds_the_very_pixels(tmp_path):
    image = torch.randint(0, 256, (3, 4, 6), dtype=torch.uint8)
    save_png(tmp_path / "deep" / "x.png", image)
    data = (tmp_path / "deep" / "x.png").read_bytes()
    assert data == png_bytes(image)
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.format == "PNG"
        assert np.array_equal(np.array(opened), image.permute(1, 2, 0).numpy())
