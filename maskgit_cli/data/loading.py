"""Batches of images, read by ``DataLoader`` workers."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from maskgit_cli.data.images import views
from maskgit_cli.data.sources import ImageSource
from maskgit_cli.errors import InputError
from maskgit_cli.runtime.interrupts import outlive_interrupts


class ImageDataset(Dataset):
    """Images as (index, uint8 (V, 3, side, side), ""), or as (index, None, reason) if unreadable.

    Args:
        source: the images.
        side: side of the views in pixels.
        kind: which :func:`~maskgit_cli.data.images.views`.
        seed: of random views.
    """

    def __init__(self, source: ImageSource, side: int, kind: str = "none", seed: int = 0) -> None:
        self.source = source
        self.side = side
        self.kind = kind
        self.seed = seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[int, Tensor | None, str]:
        try:
            image = self.source.open(index, self.side)
            return index, views(image, self.side, self.kind, self.seed, index), ""
        except InputError as error:
            return index, None, str(error).removeprefix(f"{self.source.location(index)}: ")


class ImageBatch(NamedTuple):
    """B items of an :class:`ImageDataset`, R of them readable.

    Attributes:
        indices: of the readable images, int64 (R,).
        images: uint8 (R, V, 3, side, side); None if R is 0.
        skipped: (index, reason) of the B - R others.
    """

    indices: Tensor
    images: Tensor | None
    skipped: list[tuple[int, str]]


def collate_images(items: list[tuple[int, Tensor | None, str]]) -> ImageBatch:
    """Collate items of an :class:`ImageDataset`: a ``collate_fn``."""
    images = [image for _, image, _ in items if image is not None]
    indices = torch.tensor([index for index, image, _ in items if image is not None], dtype=torch.int64)
    skipped = [(index, reason) for index, image, reason in items if image is None]
    return ImageBatch(indices, torch.stack(images) if images else None, skipped)


def load_batches(
    dataset: ImageDataset, batches: Iterable[list[int]], workers: int, pinned: bool
) -> Iterator[ImageBatch]:
    """The images of each batch of indices, read by worker processes.

    Args:
        dataset: the images.
        batches: the indices of each batch.
        workers: number of processes; 0 reads in the calling one.
        pinned: return images in pinned memory, for a GPU.

    Raises:
        InputError: a worker was killed, as happens when memory runs out.
    """
    with warnings.catch_warnings():
        # The number of workers is the user's choice, even above the number of cores.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=_Batches(batches),
            num_workers=workers,
            collate_fn=collate_images,
            pin_memory=pinned,
            worker_init_fn=outlive_interrupts,
        )
        iterator = iter(loader)
    try:
        yield from iterator
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputError(
            "a DataLoader worker was killed, likely out of memory; use fewer --workers"
        ) from error


class _Batches(Sampler[list[int]]):
    """A batch sampler from any iterable."""

    def __init__(self, batches: Iterable[list[int]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)
