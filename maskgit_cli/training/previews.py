"""Preview grids of both trainings: samples of the EMA weights, and reconstructions."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from maskgit_cli.config.samplers import PRESETS, SamplerConfig, preset_for
from maskgit_cli.figures.grids import image_grid, save_png
from maskgit_cli.networks.base import MaskedTransformer
from maskgit_cli.networks.inference import decode_tokens
from maskgit_cli.networks.loading import load_tokenizer
from maskgit_cli.networks.pixels import to_pixels
from maskgit_cli.networks.registry import build
from maskgit_cli.runtime.distributed import world
from maskgit_cli.sampling.model import predictor
from maskgit_cli.sampling.samplers.registry import sample_tokens
from maskgit_cli.training.init_from import InitialWeights
from maskgit_cli.training.optim import EMA
from maskgit_cli.training.sharding import whole

SAMPLES = 36
RECONSTRUCTIONS = 8


def preview_path(out: Path, step: int) -> Path:
    """The preview of a step in a training directory."""
    return out / "previews" / f"step-{step:08d}.png"


class Previews:
    """Preview grids of ``train``: samples of the EMA weights, decoded with the run's own tokenizer.

    Args:
        out: the run directory.
        initial: entry and sizes of the network.
        device: device of the networks.
        seed: random seed.
    """

    def __init__(self, out: Path, initial: InitialWeights, device: torch.device, seed: int) -> None:
        self.out, self.initial, self.device, self.seed = out, initial, device, seed
        self.tokenizer = load_tokenizer(out / "tokenizer", device)
        self._network: MaskedTransformer | None = None

    def network(self, ema: EMA) -> MaskedTransformer:
        """The same network at every call, with the newest EMA weights, in evaluation mode; for all ranks."""
        if self._network is None:
            network = build(self.initial.entry, self.initial.config)
            self._network = network.to(self.device).eval().requires_grad_(False)
        self._network.load_state_dict({name: whole(tensor) for name, tensor in ema.tensors.items()})
        return self._network

    def save(self, step: int, ema: EMA) -> None:
        """Write the grid of a step on rank 0, classes in order, with the default preset of the sampler.

        The sampler's arithmetic runs on the CPU, because Apple GPUs have no float64; the networks run in
        float32 on their own device.
        """
        config, network = self.initial.config, self.network(ema)
        if not world().main:
            return
        index = torch.arange(SAMPLES)
        classes = max(1, config.classes)
        labels = index % classes if config.classes else torch.full_like(index, -1)
        mask = network.mask_token
        blank = torch.full((SAMPLES, config.grid, config.grid), mask)
        predict = predictor(network, self.device, torch.float32)
        tokens = sample_tokens(
            predict, blank, labels, index, self._sampler(), seed=self.seed, mask_token=mask
        )
        images = decode_tokens(self.tokenizer, tokens, self.device)
        columns = classes if 4 <= classes <= 12 else 6
        save_png(preview_path(self.out, step), image_grid(images, columns))

    def _sampler(self) -> SamplerConfig:
        """The default preset, with no more steps than tokens, and no guidance without a null class."""
        config = self.initial.config
        resolution = config.grid * self.tokenizer.config.factor
        preset = PRESETS[preset_for(resolution, self.initial.entry.sampler)]
        return preset.limited(steps=config.grid**2, guided=config.has_null_class)


def save_reconstructions(path: Path, images: Tensor, reconstruction: Tensor) -> None:
    """Write a grid of images (B, 3, H, W) in -1..1 above their reconstructions."""
    pair = torch.cat([images[:RECONSTRUCTIONS], reconstruction[:RECONSTRUCTIONS]])
    save_png(path, image_grid(to_pixels(pair.float()), columns=min(RECONSTRUCTIONS, len(images))))
