"""Grids of images, and PNGs."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from maskgit_cli.figures.grids import image_grid, png_bytes, save_png


def constant_images(n, height=3, width=5):
    """Image i has the value i everywhere."""
    return torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 3, height, width)


def test_images_are_arranged_row_by_row_on_white():
    grid = image_grid(constant_images(5), columns=2, margin=1)
    assert grid.dtype == torch.uint8
    assert grid.shape == (3, 3 * 4 + 1, 2 * 6 + 1)
    for i in range(5):
        top, left = 1 + i // 2 * 4, 1 + i % 2 * 6
        assert grid[:, top : top + 3, left : left + 5].eq(i).all()
        grid[:, top : top + 3, left : left + 5] = 255
    assert grid.eq(255).all()


def test_the_grid_is_about_square_by_default():
    assert image_grid(constant_images(16, 4, 4), margin=0).shape == (3, 16, 16)
    assert image_grid(constant_images(8, 2, 8), margin=0).shape == (3, 8, 16)
    assert torch.equal(image_grid(constant_images(1), margin=2), constant_images(1)[0])
    assert image_grid(constant_images(3, 4, 4), columns=9, margin=0).shape == (3, 4, 12)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (4, 6), (33, 17)])
def test_a_png_holds_the_exact_pixels(tmp_path, size):
    whole = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    for image in (whole, whole.flip(-1), whole.transpose(1, 2)):
        save_png(tmp_path / "deep" / "x.png", image)
        data = (tmp_path / "deep" / "x.png").read_bytes()
        assert data == png_bytes(image)
        with Image.open(io.BytesIO(data)) as opened:
            assert (opened.format, opened.mode) == ("PNG", "RGB")
            assert np.array_equal(np.array(opened), image.permute(1, 2, 0).numpy())
