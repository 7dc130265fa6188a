"""Batches of images for ``train-vqgan``."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from maskgit_cli.config.training import VQGANTrainConfig
from maskgit_cli.data.loading import ImageDataset, load_batches
from maskgit_cli.data.sources import ImageSource
from maskgit_cli.errors import InputError
from maskgit_cli.runtime.distributed import world
from maskgit_cli.runtime.progress import Reporter
from maskgit_cli.runtime.rng import FLIP, batch_rows, uniform


def image_order(n: int, config: VQGANTrainConfig, step: int) -> Iterator[list[int]]:
    """The images of this rank at each step after ``step``, a pure function of (seed, step)."""
    share = config.batch_size // world().size
    for done in range(step, config.steps):
        first = done * config.batch_size + world().rank * share
        yield batch_rows(config.seed, n, first, share).tolist()


def image_batches(
    source: ImageSource, config: VQGANTrainConfig, step: int, workers: int, reporter: Reporter
) -> Iterator[Tensor]:
    """This rank's uint8 batches (B, 3, H, W) of the steps after ``step``.

    Unreadable images are left out, with one warning for each.

    Raises:
        InputError: no image of a batch can be read.
    """
    assert config.res is not None
    dataset = ImageDataset(source, config.res)
    order = image_order(len(dataset), config, step)
    named: set[int] = set()
    for offset, batch in enumerate(load_batches(dataset, order, workers, torch.cuda.is_available())):
        if batch.images is None:
            index, reason = batch.skipped[0]
            raise InputError(
                f"no image of a whole batch can be read; the first, {source.location(index)}: {reason}"
            )
        for index, reason in batch.skipped:
            if index not in named:
                reporter.warn(f"skipped {source.location(index)}: {reason}")
                named.add(index)
        images = batch.images[:, 0]  # (B, views, 3, H, W) -> (B, 3, H, W)
        if config.flip:
            flipped = uniform(config.seed, batch.indices, step + offset, 1, FLIP)[:, 0] < 0.5  # (B,)
            images = torch.where(flipped.view(-1, 1, 1, 1), images.flip(-1), images)
        yield images
