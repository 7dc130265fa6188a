"""Measures of pixels against independent implementations."""

import numpy as np
import pytest
import torch

from maskgit_cli.networks.pixels import psnr, ssim


def image(height, width, phase):
    """A pattern of stripes, uint8 (1, 3, height, width)."""
    y, x, c = np.mgrid[:height, :width, :3]
    values = np.sin(0.7 * y + 0.3 * x + c + phase) * np.cos(0.11 * x * y + phase)
    pixels = np.rint(127.5 + 127.5 * values).astype(np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


# skimage.metrics.structural_similarity of scikit-image 0.26.0 with gaussian_weights=True, sigma=1.5,
# use_sample_covariance=False, data_range=255 and channel_axis, of phase 0 and these.
PHASES = (0.1, 0.5, 3.0)
SKIMAGE = {
    (11, 11): (0.9827642678033323, 0.6085501222599486, 0.9645302165249269),
    (16, 16): (0.9867113864141414, 0.6942752270894359, 0.9733242695229517),
    (40, 23): (0.989478224473506, 0.7590263655581618, 0.9791235491352223),
}


@pytest.mark.parametrize("size", SKIMAGE)
def test_ssim_is_that_of_scikit_image(size):
    others = torch.cat([image(*size, phase) for phase in PHASES])
    found = ssim(image(*size, 0.0).expand_as(others), others)
    assert found.tolist() == pytest.approx(SKIMAGE[size], abs=1e-9)


def test_equal_images_are_most_similar():
    images = torch.cat([image(16, 16, phase) for phase in PHASES])
    assert ssim(images, images).tolist() == pytest.approx([1.0] * 3, abs=1e-12)
    assert (psnr(images, images) > 140).all()
    black = torch.zeros_like(images)
    # Constant images differ in luminance alone: C1 / (255² + C1).
    assert ssim(black, black + 255).tolist() == pytest.approx([1e-4 / (1 + 1e-4)] * 3)
