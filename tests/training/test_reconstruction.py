"""Reconstruction quality of a tokenizer."""

import math
import shutil

import pytest
import torch
from torch import nn

from maskgit_cli.data.images import fit_square, read_image
from maskgit_cli.data.sources import open_source
from maskgit_cli.errors import InputError
from maskgit_cli.networks.loading import load_tokenizer
from maskgit_cli.networks.pixels import to_model, to_pixels
from maskgit_cli.training.reconstruction import codebook_use, reconstruction_quality


class OneIndex(nn.Module):
    """A tokenizer that encodes every image as index 0, and decodes to gray."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(1, 1)

    def encode(self, images):
        return torch.zeros(len(images), 4, 4, dtype=torch.int64)

    def decode(self, indices):
        return torch.zeros(len(indices), 3, 16, 16)


def test_psnr_is_the_mean_of_the_images(images, tokenizer):
    network = load_tokenizer(tokenizer).network
    source = open_source(images)
    found = reconstruction_quality(network, source, batch_size=5)
    wanted = []
    for path in source.paths:
        image = fit_square(read_image(path), 16)
        pixels = to_pixels(network.reconstruct(to_model(image)[None]))[0]
        wanted.append(10 * math.log10(255**2 / float((pixels.double() - image.double()).square().mean())))
    assert found["psnr"] == pytest.approx(sum(wanted) / len(wanted), abs=2e-3)
    assert found == reconstruction_quality(network, source, batch_size=12)


def test_codebook_use():
    assert codebook_use(torch.tensor([5, 5, 0, 0])) == (0.5, 2.0)
    assert codebook_use(torch.tensor([1, 1, 1, 1])) == (1.0, 4.0)
    assert codebook_use(torch.tensor([7, 0])) == (0.5, 1.0)


def test_one_index_for_everything_is_a_perplexity_of_one(images, tokenizer):
    found = reconstruction_quality(OneIndex(load_tokenizer(tokenizer).config), open_source(images))
    assert found["perplexity"] == 1.0
    assert found["usage"] == pytest.approx(1 / 12, abs=1e-4)


def test_unreadable_images_are_left_out_unless_all_are(images, tokenizer, tmp_path):
    network = load_tokenizer(tokenizer).network
    folder = shutil.copytree(images, tmp_path / "images")
    (folder / "cat" / "0.png").write_bytes(b"")
    some = reconstruction_quality(network, open_source(folder), batch_size=1)
    (folder / "cat" / "0.png").unlink()
    assert some == reconstruction_quality(network, open_source(folder))
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="11 images"):
        reconstruction_quality(network, open_source(folder))
