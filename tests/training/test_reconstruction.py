"""Reconstruction quality of a tokenizer."""

import math
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from maskgit_cli.data.images import fit_square, read_image
from maskgit_cli.data.sources import open_source
from maskgit_cli.errors import InputError
from maskgit_cli.networks.loading import load_tokenizer
from maskgit_cli.networks.pixels import ssim, to_model, to_pixels
from maskgit_cli.scoring.features import Features
from maskgit_cli.scoring.metrics.frechet import frechet_distance
from maskgit_cli.scoring.perceptual import Perceptual
from maskgit_cli.scoring.reconstruction import ReconstructionFeatures, ReconstructionMeter, load_features
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


def test_ssim_perceptual_and_frechet_distance(images, tokenizer):
    network = load_tokenizer(tokenizer).network
    source = open_source(images)
    originals = torch.stack([fit_square(read_image(path), 16) for path in source.paths])
    decoded = torch.cat([to_pixels(network.reconstruct(to_model(image[None]))) for image in originals])

    class Means:
        """Features: the mean of each color."""

        sha256, dimension, side = "0" * 64, 3, 8

        def __call__(self, images):
            assert images.shape[2:] == (8, 8)
            return Features(images.float().mean((2, 3)).numpy())

    def distance(images, others):
        return (images - others).abs().mean((1, 2, 3))

    found = [
        reconstruction_quality(
            network, source, size, Perceptual("st-lpips", distance), ReconstructionFeatures("rfid", Means())
        )
        for size in (5, 12)
    ]
    assert found[0] == found[1]
    assert found[0].keys() == {"psnr", "ssim", "st_lpips", "rfid", "usage", "perplexity"}
    assert found[0]["ssim"] == pytest.approx(float(ssim(originals, decoded).mean()), abs=1e-5)
    error = (originals.double() - decoded.double()).abs().mean() / 127.5
    assert found[0]["st_lpips"] == pytest.approx(float(error), abs=1e-5)
    a, b = (
        torch.stack([fit_square(x, 8) for x in side]).float().mean((2, 3)).numpy()
        for side in (originals, decoded)
    )
    wanted = frechet_distance(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))
    assert found[0]["rfid"] == pytest.approx(wanted, rel=1e-4)


def test_small_and_single_images_lack_some_measures():
    meter = ReconstructionMeter()
    assert meter.result() == {}
    meter.add(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.ones(1, 3, 8, 8, dtype=torch.uint8))
    assert meter.result() == {"psnr": pytest.approx(20 * math.log10(255))}
    features = load_features("vqgan", torch.device("cpu"))
    assert features.key == "frechet_vqgan"
    meter = ReconstructionMeter(features=features)
    image = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    meter.add(image[:1], image[:1])
    assert "frechet_vqgan" not in meter.result()
    meter.add(image[1:], image[1:])
    assert meter.result()["frechet_vqgan"] == pytest.approx(0, abs=1e-6)


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
